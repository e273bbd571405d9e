//! The command line: flags over the configuration file, and the commands that print.

use crate::config::{self, Config, LogFormat};
use crate::metadata::{self, MetadataCommand};
use crate::{builtin, daemon, docs};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Most threads for calls; more gain nothing, they wait for disks and shims.
const WORKERS_MAX: usize = 8;

#[derive(Debug, Parser)]
#[command(name = "crated", version = crate::VERSION, about = "The container daemon crated", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What can be said on the command line; it wins over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct Flags {
    /// Configuration file [default: /etc/crated/config.toml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of what survives a reboot [default: /var/lib/crated]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Folder of sockets and bundles [default: /run/crated]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Socket for clients [default: crated.sock in the state folder]
    #[arg(long, short, value_name = "SOCKET")]
    pub address: Option<PathBuf>,
    /// Level (error, warn, info, debug, trace) or directives
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print pages of the documentation that are made from the code
    #[command(subcommand)]
    Docs(DocsCommand),
    /// Check, export, import or repair the metadata store while no daemon runs
    #[command(subcommand)]
    Metadata(MetadataCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its default
    Default,
    /// Read a configuration and say what is wrong with it
    Check(Flags),
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum DocsCommand {
    /// docs/errors.md
    Errors,
    /// docs/config.md
    Config,
}

/// Runs the program; 0 ended well, 1 failed, 2 was used wrongly.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve(&cli.flags),
        Some(Command::Config(ConfigCommand::Default)) => print(&config::docs::default_toml()),
        Some(Command::Config(ConfigCommand::Check(flags))) => match load(&flags) {
            Ok(_) => print("the configuration is good\n"),
            Err(error) => usage(&error),
        },
        Some(Command::Metadata(command)) => metadata::run(&command),
        Some(Command::Docs(DocsCommand::Errors)) => print(&docs::errors()),
        Some(Command::Docs(DocsCommand::Config)) => print(&config::docs::page()),
    }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage(error: &str) -> ExitCode {
    eprintln!("crated: {error}");
    ExitCode::from(2)
}

/// The configuration of file and flags.
///
/// # Errors
/// What is wrong, with file, line and key.
pub fn load(flags: &Flags) -> Result<Config, String> {
    let (file, optional) = match &flags.config {
        Some(file) => (file.clone(), false),
        None => (PathBuf::from(config::DEFAULT_FILE), true),
    };
    let mut config = config::load::read(&file, optional).map_err(|error| error.to_string())?;
    builtin::check_config(&config, &file).map_err(|error| error.to_string())?;
    let flag = |name: &str, path: &PathBuf| {
        std::path::absolute(path).map_err(|error| format!("--{name} {}: {error}", path.display()))
    };
    if let Some(root) = &flags.root {
        config.root = flag("root", root)?;
    }
    if let Some(state) = &flags.state {
        config.state = flag("state", state)?;
    }
    if let Some(address) = &flags.address {
        config.listeners.address = flag("address", address)?;
    }
    if let Some(level) = &flags.log_level {
        crate::log::filter(level).map_err(|error| format!("--log-level: {error}"))?;
        config.log.level.clone_from(level);
    }
    if let Some(format) = flags.log_format {
        config.log.format = format;
    }
    Ok(config)
}

fn serve(flags: &Flags) -> ExitCode {
    let config = match load(flags) {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    if let Err(error) = crate::log::init(&config.log) {
        return usage(&error);
    }
    // Many threads that allocate a little each would keep an arena each: two are enough.
    crated_sys::malloc::bound_arenas(2);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, WORKERS_MAX))
        .max_blocking_threads(usize::try_from(config.limits.blocking_threads).unwrap_or(64))
        .thread_name("crated")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("crated: cannot start: threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(daemon::run(config));
    // What is still blocked after the drain is left to the end of the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crated: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
