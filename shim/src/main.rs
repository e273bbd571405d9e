//! `containerd-shim-crated-v2`: keeps containers alive without the daemon.
//!
//! ```text
//! start ─▶ bind, spawn the server, print its address         (containerd's way)
//! serve ─▶ the daemon has bound and spawned it already       (crated's way: no second fork, no answer to read)
//!            │ one thread
//!            ├ ttrpc: Task v2 and v3 ──▶ keeper (owner of all containers) ──▶ crated_oci
//!            ├ SIGCHLD ──▶ keeper: exits of known processes, orphans reaped
//!            ├ copies: terminals and the log; attach clients
//!            └ events ──▶ the daemon, in order, until acknowledged
//! delete ─▶ what a dead shim left is killed and removed
//! ```

mod args;
mod bootstrap;
mod container;
mod delete;
mod events;
mod exit;
#[allow(dead_code, unreachable_pub, reason = "the daemon's, the same text")]
#[path = "../../services/core/src/fail.rs"]
mod fail;
mod info;
mod io;
mod keeper;
mod log;
mod process;
mod runtime;
mod serve;
mod service;
mod socket;
mod spec;
mod stats;
mod time;

use args::{Action, Args};
use std::process::ExitCode;

fn main() -> ExitCode {
    // The image inside of a container: nothing may come before it.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "init") {
        runtime::init_main();
    }
    // Half a keeper is worse than none: a dead shim is noticed, and what it left is swept.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("containerd-shim-crated-v2: {panic}");
        std::process::abort();
    }));
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("containerd-shim-crated-v2: {error}");
            return ExitCode::from(2);
        }
    };
    log::set_debug(args.debug);
    let result = match args.action {
        Action::Serve => serve::run(&args, serve::Owner::Foreign),
        Action::ServeOwn => serve::run(&args, serve::Owner::Crated),
        Action::Start => bootstrap::start(&args),
        Action::Delete => delete::delete(&args),
        Action::Info => info::print(),
        Action::Version => info::version(),
        Action::Logger => io::binary::exec_logger(&args.rest),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}
