//! Running hooks: a program, the state on its standard input, a deadline.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crated_sys::{memfd, pidfd, poll};
use serde_json::{Value, json};

use crate::{
    error::{OciError, Result},
    plan::HookPlan,
};

/// How much of what a hook writes to standard error is shown.
const STDERR_MAX: u64 = 2048;

/// Runs a list in order; the first failure ends it.
pub(crate) fn run(kind: &'static str, hooks: &[HookPlan], state: &str) -> Result<()> {
    for hook in hooks {
        run_one(hook, state).map_err(|reason| OciError::Hook { kind, path: hook.path.clone().into(), reason })?;
    }
    Ok(())
}

/// The state with status and pid of the moment.
pub(crate) fn state(base: &str, status: &str, pid: i32) -> String {
    let mut value: Value = serde_json::from_str(base).unwrap_or_else(|_| json!({}));
    value["status"] = json!(status);
    if pid == 0 {
        value.as_object_mut().map(|o| o.shift_remove("pid"));
    } else {
        value["pid"] = json!(pid);
    }
    value.to_string()
}

/// Runs one; the error is a reason for people.
pub(crate) fn run_one(hook: &HookPlan, state: &str) -> std::result::Result<(), String> {
    if !Path::new(&hook.path).is_absolute() {
        return Err("its path is not absolute".into());
    }
    let text = |e: crated_sys::SysError| e.to_string();
    let input = memfd::with_bytes("state", state.as_bytes()).map_err(text)?;
    let mut output = File::from(memfd::create("stderr", memfd::Use::Data).map_err(text)?);
    let mut command = Command::new(&hook.path);
    command.env_clear().envs(hook.env.iter().filter_map(|e| e.split_once('=')));
    if let Some((zero, rest)) = hook.args.split_first() {
        use std::os::unix::process::CommandExt;
        command.arg0(zero).args(rest);
    }
    let errors = output.try_clone().map_err(|e| e.to_string())?;
    command.stdin(Stdio::from(input)).stdout(Stdio::null()).stderr(Stdio::from(errors));
    let child = command.spawn().map_err(|e| e.to_string())?;
    let handle = pidfd::open(child.id() as i32).map_err(text)?;
    let ended = poll::readable(handle.as_fd(), hook.timeout.map(Duration::from_secs)).map_err(text)?;
    if !ended {
        pidfd::send_signal(handle.as_fd(), 9).map_err(text)?;
    }
    let status = pidfd::wait(handle.as_fd()).map_err(text)?;
    if !ended {
        return Err(format!("did not end within {} s", hook.timeout.unwrap_or(0)));
    }
    if status.code() == 0 {
        return Ok(());
    }
    let mut said = String::new();
    let _ = output.seek(SeekFrom::Start(0));
    let _ = output.take(STDERR_MAX).read_to_string(&mut said);
    Err(format!("ended with status {}: {}", status.code(), said.trim()))
}
