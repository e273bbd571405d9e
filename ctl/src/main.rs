//! cratectl: containers from the command line, with the verbs that people know from docker.

#![allow(rustdoc::broken_intra_doc_links, reason = "the doc lines of flags are their help texts")]

mod cmd;
mod format;
mod output;
mod progress;
mod terminal;

use clap::{Parser, Subcommand};
use cmd::prelude::*;
use cmd::{container, copy, events, exec, image, inspect, list, network, run, session, stats, system};
use std::process::ExitCode;

/// Containers from the command line.
#[derive(Debug, Parser)]
#[command(name = "cratectl", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli<V: Subcommand> {
    /// Socket of the daemon
    #[arg(short, long, env = "CRATED_ADDRESS", default_value = "/run/crated/crated.sock")]
    address: String,
    /// Namespace to work in
    #[arg(short, long, env = "CRATED_NAMESPACE", default_value = "default")]
    namespace: String,
    #[command(subcommand)]
    verb: V,
}

impl<V: Subcommand> Cli<V> {
    fn with(self, verb: impl FnOnce(V) -> Verb) -> Cli<Verb> {
        Cli { address: self.address, namespace: self.namespace, verb: verb(self.verb) }
    }
}

/// One of the two verbs that scripts call again and again: to describe all flags of all verbs takes longer than to parse.
#[derive(Debug, Subcommand)]
enum OnlyExec {
    Exec(exec::Exec),
}

/// The other one.
#[derive(Debug, Subcommand)]
enum OnlyRun {
    Run(Box<run::Run>),
}

/// The command line. Where it is not a sound one of the two, all verbs parse it again, for their messages and help.
fn parse() -> Cli<Verb> {
    let verb = std::env::args_os().find(|word| word == "exec" || word == "run");
    let quick = match verb.as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("exec") => Cli::try_parse().ok().map(|cli| cli.with(|OnlyExec::Exec(verb)| Verb::Exec(verb))),
        Some(_) => Cli::try_parse().ok().map(|cli| cli.with(|OnlyRun::Run(verb)| Verb::Run(verb))),
        None => None,
    };
    quick.unwrap_or_else(Cli::parse)
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a container from an image and run it
    Run(Box<run::Run>),
    /// Create a container without starting it
    Create(Box<run::Create>),
    /// Start containers
    Start(session::Start),
    /// Stop containers: a signal, then after a while SIGKILL
    Stop(container::Stop),
    /// Stop and start containers
    Restart(container::Restart),
    /// Send a signal to containers
    Kill(container::Kill),
    /// Freeze the processes of containers
    Pause(container::Names),
    /// Thaw the processes of containers
    Unpause(container::Names),
    /// Remove containers
    Rm(container::Remove),
    /// Rename a container
    Rename(container::Rename),
    /// Change limits and restart policy of containers
    Update(container::Update),
    /// Wait until containers end, and print their exit statuses
    Wait(container::Wait),
    /// List containers
    Ps(list::Ps),
    /// Run a command in a running container
    Exec(exec::Exec),
    /// Attach to a running container
    Attach(session::Attach),
    /// Show the output of a container
    Logs(events::Logs),
    /// Copy files between a container and the host
    Cp(copy::Copy),
    /// Show everything about containers or images as JSON
    Inspect(inspect::Inspect),
    /// Show the processes of a container
    Top(list::Top),
    /// Show what containers use
    Stats(stats::Stats),
    /// Show the steps of a container's operations, in microseconds
    Timeline(inspect::Timeline),
    /// Pull images from a registry
    Pull(image::Pull),
    /// Load images from an archive
    Load(image::Load),
    /// Save images to an archive
    Save(image::Save),
    /// List images
    Images(image::Images),
    /// Remove images
    Rmi(image::Remove),
    /// Give an image another name
    Tag(image::Tag),
    /// Make, list, look at, connect and remove networks
    Network(network::Network),
    /// Show where ports of a container are published
    Port(network::Port),
    /// Look for what is wrong, and say how to mend it
    Doctor(network::Doctor),
    /// Follow what happens
    Events(events::Events),
    /// List the daemon's plugins
    Plugins(system::Plugins),
    /// List namespaces
    Namespaces(system::Namespaces),
    /// Show the versions of cratectl and the daemon
    Version(system::Version),
    /// Show the daemon's state and host
    Info(system::Info),
    /// Check the daemon's store
    System(system::System),
}

fn main() -> ExitCode {
    restore_pipe_signal();
    let cli = parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cratectl: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let answer = runtime.block_on(act(cli));
    // A thread may still be blocked in a read of the terminal: it must not hold us.
    runtime.shutdown_background();
    match answer {
        Ok(status) => ExitCode::from(status),
        Err(error) => ExitCode::from(complain(&error)),
    }
}

/// A closed pipe behind us (`| head`) is no error to speak of: print macros would panic on it.
fn restore_pipe_signal() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if text.contains("Broken pipe") {
            std::process::exit(0);
        }
        eprintln!("cratectl: internal error: {text}");
    }));
}

/// Prints an error and answers its exit status.
pub(crate) fn complain(error: &anyhow::Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        eprintln!("cratectl: {failure}");
        return failure.exit;
    }
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        let failure = Failure::from(status.clone());
        eprintln!("cratectl: {failure}");
        return failure.exit;
    }
    eprintln!("cratectl: {error:#}");
    1
}

async fn act(cli: Cli<Verb>) -> Result<u8> {
    let connected = Client::connect(&cli.address, &cli.namespace).await;
    if let Verb::Version(version) = &cli.verb {
        return version.act(connected.ok()).await;
    }
    let client = connected.map_err(|failure| match &cli.verb {
        Verb::Run(_) | Verb::Exec(_) => failure.of_run(),
        _ => failure,
    })?;
    match cli.verb {
        Verb::Run(verb) => verb.act(&client).await,
        Verb::Create(verb) => verb.act(&client).await,
        Verb::Start(verb) => verb.act(&client).await,
        Verb::Stop(verb) => verb.act(&client).await,
        Verb::Restart(verb) => verb.act(&client).await,
        Verb::Kill(verb) => verb.act(&client).await,
        Verb::Pause(verb) => verb.pause(&client).await,
        Verb::Unpause(verb) => verb.unpause(&client).await,
        Verb::Rm(verb) => verb.act(&client).await,
        Verb::Rename(verb) => verb.act(&client).await,
        Verb::Update(verb) => verb.act(&client).await,
        Verb::Wait(verb) => verb.act(&client).await,
        Verb::Ps(verb) => verb.act(&client).await,
        Verb::Exec(verb) => verb.act(&client).await,
        Verb::Attach(verb) => verb.act(&client).await,
        Verb::Logs(verb) => verb.act(&client).await,
        Verb::Cp(verb) => verb.act(&client).await,
        Verb::Inspect(verb) => verb.act(&client).await,
        Verb::Top(verb) => verb.act(&client).await,
        Verb::Stats(verb) => verb.act(&client).await,
        Verb::Timeline(verb) => verb.act(&client).await,
        Verb::Pull(verb) => verb.act(&client).await,
        Verb::Load(verb) => verb.act(&client).await,
        Verb::Save(verb) => verb.act(&client).await,
        Verb::Images(verb) => verb.act(&client).await,
        Verb::Rmi(verb) => verb.act(&client).await,
        Verb::Tag(verb) => verb.act(&client).await,
        Verb::Network(verb) => verb.act(&client).await,
        Verb::Port(verb) => verb.act(&client).await,
        Verb::Doctor(verb) => verb.act(&client).await,
        Verb::Events(verb) => verb.act(&client).await,
        Verb::Plugins(verb) => verb.act(&client).await,
        Verb::Namespaces(verb) => verb.act(&client).await,
        Verb::Version(verb) => verb.act(Some(client)).await,
        Verb::Info(verb) => verb.act(&client).await,
        Verb::System(verb) => verb.act(&client).await,
    }
}
