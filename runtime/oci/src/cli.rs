//! The command line of runc over the library: what foreign shims, podman and conformance suites call.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::error::{OciError, Result};

mod args;
mod create;
mod exec;
mod inspect;
mod manage;
mod store;
mod terminal;

use args::{Flag, Parsed};

/// Where states are kept if nothing else is said.
const ROOT: &str = "/run/crated-oci";

const GLOBAL: &[Flag] = &[
    Flag::value("root"),
    Flag::value("log"),
    Flag::value("log-format"),
    Flag::value("criu"),
    Flag::value("rootless"),
    Flag::switch("debug"),
    Flag::switch("systemd-cgroup"),
    Flag::short("version", 'v'),
    Flag::short("help", 'h'),
];

const HELP: &str = "\
crated-oci: OCI containers by hand

crated-oci [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] COMMAND ...

  create [-b BUNDLE] [--console-socket S] [--pid-file F] [--no-pivot] [--no-new-keyring] [--preserve-fds N] ID
  run    as create; [-d|--detach] [--keep]
  start ID            state ID            kill [-a] ID [SIGNAL]      delete [-f] ID
  exec [-t] [-d] [-e K=V] [-u UID[:GID]] [--cwd DIR] [-c CAP] [-p process.json] [--pid-file F] [--console-socket S] ID COMMAND ...
  list [-q] [-f table|json]               ps [-f table|json] ID
  pause ID            resume ID           update [-r resources.json] [--memory N] ... ID
  spec [-b BUNDLE]    features
";

/// What the global flags say.
pub(crate) struct Context {
    root: PathBuf,
    log: Option<PathBuf>,
    json: bool,
    systemd_cgroup: bool,
}

/// A failure with the status that the program ends with.
pub(crate) struct Failed {
    error: OciError,
    status: u8,
}

impl From<OciError> for Failed {
    fn from(error: OciError) -> Self {
        Failed { error, status: 1 }
    }
}

/// Runs the command line that the process was started with.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let parsed = match args::parse(&arguments, GLOBAL, args::Stop::AtFirst) {
        Ok(parsed) => parsed,
        Err(error) => return complain(None, false, &error, 1),
    };
    if parsed.has("version") {
        return said(&format!("crated-oci version {}\nspec: 1.2.1\n", env!("CARGO_PKG_VERSION")));
    }
    let Some((command, rest)) = parsed.rest.split_first().filter(|_| !parsed.has("help")) else {
        return said(HELP);
    };
    let context = Context {
        root: parsed.get("root").unwrap_or(ROOT).into(),
        log: parsed.get("log").filter(|l| !l.is_empty()).map(PathBuf::from),
        json: parsed.get("log-format") == Some("json"),
        systemd_cgroup: parsed.has("systemd-cgroup"),
    };
    match dispatch(&context, command, rest) {
        Ok(status) => ExitCode::from(status),
        Err(failed) => complain(context.log.as_deref(), context.json, &failed.error, failed.status),
    }
}

fn dispatch(context: &Context, command: &str, rest: &[String]) -> Result<u8, Failed> {
    match command {
        "create" => create::create(context, rest),
        "run" => create::run(context, rest),
        "start" => create::start(context, rest),
        "exec" => exec::exec(context, rest).map_err(|error| Failed { error, status: 255 }),
        "state" => Ok(inspect::state(context, rest)?),
        "list" => Ok(inspect::list(context, rest)?),
        "ps" => Ok(inspect::ps(context, rest)?),
        "spec" => Ok(inspect::spec(rest)?),
        "features" => Ok(inspect::features()?),
        "kill" => Ok(manage::kill(context, rest)?),
        "delete" => Ok(manage::delete(context, rest)?),
        "pause" => Ok(manage::pause(context, rest)?),
        "resume" => Ok(manage::resume(context, rest)?),
        "update" => Ok(manage::update(context, rest)?),
        "help" => {
            say(HELP)?;
            Ok(0)
        }
        "checkpoint" | "restore" | "events" => Err(OciError::unsupported(command, "not offered").into()),
        other => Err(OciError::spec("command", format!("{other:?} is unknown; see crated-oci --help")).into()),
    }
}

/// Writes to standard output; a reader that went away is no reason to panic.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| OciError::File { path: "/dev/stdout".into(), reason: e.to_string() })
}

fn said(text: &str) -> ExitCode {
    if say(text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells people by standard error, and callers by the log, whose last line they read.
fn complain(log: Option<&Path>, json: bool, error: &OciError, status: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    eprintln!("crated-oci: {text}");
    if let Some(remedy) = error.remedy() {
        eprintln!("  {remedy}");
    }
    if let Some(log) = log {
        let time = store::now();
        let line = if json {
            format!("{}\n", serde_json::json!({"level": "error", "msg": text, "time": time}))
        } else {
            format!("time={time:?} level=error msg={text:?}\n")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(log);
        // Without its log there is still standard error.
        let _ = file.and_then(|mut f| f.write_all(line.as_bytes()));
    }
    ExitCode::from(status)
}

/// The one id that a command takes.
fn only_id(parsed: &Parsed) -> Result<&str> {
    match parsed.rest.as_slice() {
        [id] => Ok(id),
        other => {
            Err(OciError::spec("arguments", format!("one container id is wanted, {} words are there", other.len())))
        }
    }
}
