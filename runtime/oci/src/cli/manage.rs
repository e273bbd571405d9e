//! kill, delete, pause, resume, update.

use crated_sys::signal;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::{Context, args, args::Flag, args::Parsed, only_id, store, store::Status};
use crate::{
    error::{OciError, Result},
    hooks,
};

pub(super) fn kill(context: &Context, words: &[String]) -> Result<u8> {
    let parsed = args::parse(words, &[Flag::short("all", 'a')], args::Stop::AtDashes)?;
    let (id, name) = match parsed.rest.as_slice() {
        [id] => (id, "SIGTERM"),
        [id, name] => (id, name.as_str()),
        _ => return Err(OciError::spec("arguments", "a container id and at most one signal are wanted")),
    };
    let number = signal::parse(name).ok_or_else(|| OciError::spec("signal", format!("{name:?} is unknown")))?;
    let mut known = store::open(&context.root, id)?;
    if parsed.has("all") && known.status() == Status::Stopped {
        // Others may outlive the init of a shared pid namespace.
        if let Ok(cgroup) = known.cgroup() {
            cgroup.kill_all(number)?;
        }
        return Ok(0);
    }
    known.container("kill")?.kill(number, parsed.has("all"))?;
    Ok(0)
}

pub(super) fn delete(context: &Context, words: &[String]) -> Result<u8> {
    let parsed = args::parse(words, &[Flag::short("force", 'f')], args::Stop::AtDashes)?;
    let id = only_id(&parsed)?;
    let force = parsed.has("force");
    let mut known = match store::open(&context.root, id) {
        Err(OciError::NotFound { .. }) if force => {
            store::remove_remains(&context.root, id)?;
            return Ok(0);
        }
        other => other?,
    };
    match known.status() {
        Status::Running | Status::Paused if !force => return Err(known.wrong_state("delete")),
        Status::Running | Status::Paused | Status::Created => {
            let mut container = known.container("delete")?;
            if container.cgroup().is_frozen().unwrap_or(false) {
                container.kill(9, false)?;
                container.resume()?;
            }
            container.destroy()?;
        }
        Status::Stopped => {
            if let Ok(cgroup) = known.cgroup() {
                cgroup.kill_all(9)?;
                cgroup.remove()?;
            }
            let facets = known.facets()?;
            let outcome = hooks::run("poststop", &facets.poststop, &hooks::state(&facets.state, "stopped", 0));
            known.remove()?;
            outcome?;
            return Ok(0);
        }
    }
    known.remove()?;
    Ok(0)
}

pub(super) fn pause(context: &Context, words: &[String]) -> Result<u8> {
    let parsed = args::parse(words, &[], args::Stop::AtDashes)?;
    let known = store::open(&context.root, only_id(&parsed)?)?;
    match known.status() {
        Status::Running | Status::Created => known.cgroup()?.freeze()?,
        Status::Paused | Status::Stopped => return Err(known.wrong_state("pause")),
    }
    Ok(0)
}

pub(super) fn resume(context: &Context, words: &[String]) -> Result<u8> {
    let parsed = args::parse(words, &[], args::Stop::AtDashes)?;
    let known = store::open(&context.root, only_id(&parsed)?)?;
    let frozen = known.status() != Status::Stopped && known.cgroup()?.is_frozen()?;
    if !frozen {
        return Err(known.wrong_state("resume"));
    }
    known.cgroup()?.thaw()?;
    Ok(0)
}

/// Flag, path in the resources, whether a number.
const LIMITS: [(&str, &str, &str); 12] = [
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
    ("pids-limit", "pids", "limit"),
    ("blkio-weight", "blockIO", "weight"),
];

pub(super) fn update(context: &Context, words: &[String]) -> Result<u8> {
    let mut flags = vec![Flag::value_short("resources", 'r'), Flag::value("cpuset-cpus"), Flag::value("cpuset-mems")];
    flags.extend(LIMITS.iter().map(|(name, ..)| Flag::value(name)));
    let parsed = args::parse(words, &flags, args::Stop::AtDashes)?;
    let known = store::open(&context.root, only_id(&parsed)?)?;
    if known.status() == Status::Stopped {
        return Err(known.wrong_state("update"));
    }
    known.cgroup()?.set(&resources(&parsed)?)?;
    Ok(0)
}

fn resources(parsed: &Parsed) -> Result<LinuxResources> {
    let invalid = |e: serde_json::Error| OciError::spec("resources", e.to_string());
    if let Some(path) = parsed.get("resources") {
        let text = if path == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
        let text = text.map_err(|e| OciError::File { path: path.into(), reason: e.to_string() })?;
        return serde_json::from_str(&text).map_err(invalid);
    }
    let mut value = Value::Object(Map::new());
    for (flag, group, field) in LIMITS {
        if let Some(number) = parsed.get(flag).map(|text| quantity(flag, text)).transpose()? {
            value[group][field] = json!(number);
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(text) = parsed.get(flag) {
            value["cpu"][field] = json!(text);
        }
    }
    serde_json::from_value(value).map_err(invalid)
}

/// A number; sizes may end in k, m, g.
fn quantity(flag: &str, text: &str) -> Result<i64> {
    let lower = text.to_ascii_lowercase();
    let trimmed = lower.trim_end_matches('b');
    let (digits, factor) = match trimmed.chars().last() {
        Some('k') => (&trimmed[..trimmed.len() - 1], 1 << 10),
        Some('m') => (&trimmed[..trimmed.len() - 1], 1 << 20),
        Some('g') => (&trimmed[..trimmed.len() - 1], 1 << 30),
        _ => (trimmed, 1),
    };
    let number = digits.parse::<i64>().ok().and_then(|n| n.checked_mul(factor));
    number.ok_or_else(|| OciError::spec(format!("--{flag}"), format!("{text:?} is no quantity")))
}
