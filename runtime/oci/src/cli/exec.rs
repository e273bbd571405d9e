//! exec: another process in a running container.

use std::{os::fd::AsFd, path::Path};

use crated_sys::{caps, program};
use oci_spec::runtime::Process;
use serde_json::{Value, json};

use super::{Context, args, args::Flag, args::Parsed, create, store, terminal};
use crate::{
    error::{OciError, Result, Step},
    stdio::Stdio,
};

const FLAGS: &[Flag] = &[
    Flag::value("console-socket"),
    Flag::value("pidfd-socket"),
    Flag::value("cwd"),
    Flag::value_short("env", 'e'),
    Flag::short("tty", 't'),
    Flag::value_short("user", 'u'),
    Flag::value_short("additional-gids", 'g'),
    Flag::value_short("process", 'p'),
    Flag::short("detach", 'd'),
    Flag::value("pid-file"),
    Flag::value("process-label"),
    Flag::value("apparmor"),
    Flag::switch("no-new-privs"),
    Flag::value_short("cap", 'c'),
    Flag::value("preserve-fds"),
    Flag::value("cgroup"),
    Flag::switch("ignore-paused"),
];

pub(super) fn exec(context: &Context, words: &[String]) -> Result<u8> {
    let parsed = args::parse(words, FLAGS, args::Stop::AtFirst)?;
    let Some((id, command)) = parsed.rest.split_first() else {
        return Err(OciError::spec("arguments", "a container id is wanted"));
    };
    if parsed.get("cgroup").is_some() {
        return Err(OciError::unsupported("--cgroup", "not offered"));
    }
    let mut known = store::open(&context.root, id)?;
    match known.status() {
        store::Status::Running | store::Status::Created => {}
        store::Status::Paused if parsed.has("ignore-paused") => {}
        store::Status::Paused | store::Status::Stopped => return Err(known.wrong_state("exec")),
    }
    let process = process(&known, &parsed, command)?;
    let tty = process.terminal().unwrap_or(false);
    let (detach, console) = (parsed.has("detach"), parsed.get("console-socket"));
    if detach && tty && console.is_none() {
        return Err(OciError::spec("--console-socket", "needed for a detached terminal"));
    }
    let container = known.container("exec")?;
    // The lock is for the look-up only: an exec may last.
    drop(known);
    let stdio = if tty { Stdio::Terminal { size: None } } else { Stdio::Inherit };
    let image = program::sealed_self().step(|| "seal the program".into())?;
    let mut exec = container.exec_with(&process, stdio, image.as_fd(), create::preserved(&parsed)?)?;
    let master = exec.take_console();
    let session = match (console, master) {
        (Some(path), Some(master)) => {
            create::send_console(Path::new(path), master)?;
            None
        }
        (_, master) if !detach => Some(terminal::Session::open(master)?),
        _ => None,
    };
    create::pid_file(&parsed, exec.pid())?;
    exec.start()?;
    match session {
        _ if detach => Ok(0),
        Some(session) => session.follow(exec.pidfd()),
        None => create::status(exec.pidfd()),
    }
}

/// From a file, or the container's own process with what the flags change.
fn process(known: &store::Known, parsed: &Parsed, command: &[String]) -> Result<Process> {
    let invalid = |e: serde_json::Error| OciError::spec("process", e.to_string());
    if let Some(path) = parsed.get("process") {
        let text = std::fs::read(path).map_err(|e| OciError::File { path: path.into(), reason: e.to_string() })?;
        return serde_json::from_slice(&text).map_err(invalid);
    }
    if command.is_empty() {
        return Err(OciError::spec("arguments", "a command is wanted"));
    }
    let own = known.spec.process().as_ref().ok_or_else(|| OciError::spec("process", "missing"))?;
    let mut value = serde_json::to_value(own).map_err(invalid)?;
    value["args"] = json!(command);
    value["terminal"] = json!(parsed.has("tty"));
    if let Some(cwd) = parsed.get("cwd") {
        value["cwd"] = json!(cwd);
    }
    if parsed.has("no-new-privs") {
        value["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = parsed.get("apparmor") {
        value["apparmorProfile"] = json!(profile);
    }
    if let Some(label) = parsed.get("process-label") {
        value["selinuxLabel"] = json!(label);
    }
    let env = value["env"].as_array().cloned().unwrap_or_default();
    value["env"] = env.into_iter().chain(parsed.all("env").map(|e| json!(e))).collect();
    user(&mut value, parsed)?;
    capabilities(&mut value, parsed)?;
    serde_json::from_value(value).map_err(invalid)
}

/// `UID[:GID]`, numbers only: names would need the container's files (and `-u 1` is not root, CVE-2026-30892).
fn user(value: &mut Value, parsed: &Parsed) -> Result<()> {
    let number = |flag: &str, text: &str| {
        text.parse::<u32>().map_err(|_| OciError::spec(format!("--{flag}"), format!("{text:?} is no id")))
    };
    if let Some(user) = parsed.get("user") {
        let (uid, gid) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
        value["user"]["uid"] = json!(number("user", uid)?);
        if let Some(gid) = gid {
            value["user"]["gid"] = json!(number("user", gid)?);
        }
    }
    let more: Vec<u32> = parsed.all("additional-gids").map(|g| number("additional-gids", g)).collect::<Result<_>>()?;
    if !more.is_empty() {
        let mut gids = value["user"]["additionalGids"].as_array().cloned().unwrap_or_default();
        gids.extend(more.into_iter().map(|g| json!(g)));
        value["user"]["additionalGids"] = json!(gids);
    }
    Ok(())
}

/// Adds to every set but the inheritable and the ambient one (CVE-2022-29162).
fn capabilities(value: &mut Value, parsed: &Parsed) -> Result<()> {
    for cap in parsed.all("cap") {
        if caps::number(cap).is_none() {
            return Err(OciError::spec("--cap", format!("{cap:?} is no capability")));
        }
        for set in ["bounding", "effective", "permitted"] {
            let mut names = value["capabilities"][set].as_array().cloned().unwrap_or_default();
            names.push(json!(cap));
            value["capabilities"][set] = json!(names);
        }
    }
    Ok(())
}
