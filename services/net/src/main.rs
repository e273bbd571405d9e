//! crated-netd: the process that answers for container names and holds published ports while the daemon is away.
//!
//! It is started by crated, with its listening socket as standard input, and never by hand.

#![forbid(unsafe_code)]

use crated_net::helper::{Arguments, run};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "crated-netd --socket PATH --root PATH --resolv-conf PATH (its listening socket is standard input)";

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "crated-netd");
            eprintln!("crated-netd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Option<Arguments> {
    let (mut socket, mut root, mut resolv_conf): (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>) =
        (None, None, None);
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        let place = match word.to_str()? {
            "--socket" => &mut socket,
            "--root" => &mut root,
            "--resolv-conf" => &mut resolv_conf,
            _ => return None,
        };
        *place = Some(std::path::absolute(words.next()?).ok()?);
    }
    Some(Arguments { socket: socket?, root: root?, resolv_conf: resolv_conf? })
}

/// Ports and flows are a file each, thousands of them: as many as we may open.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

fn serve() -> std::io::Result<()> {
    let Some(arguments) = arguments() else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("usage: {USAGE}")));
    };
    // A session of its own: what ends the daemon's terminal does not end us.
    let _ = rustix::process::setsid(); // it fails where we lead one already
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    // No folder is kept busy by us.
    std::env::set_current_dir("/")?;
    more_files();
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(listener, arguments))
}
