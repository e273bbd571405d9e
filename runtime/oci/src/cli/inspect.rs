//! state, list, ps, spec, features: what is shown.

use std::{fmt::Write, os::unix::fs::MetadataExt, path::Path};

use serde_json::{Value, json};

use super::{Context, args, args::Flag, only_id, say, store};
use crate::error::{OciError, Result};

pub(super) fn state(context: &Context, words: &[String]) -> Result<u8> {
    let parsed = args::parse(words, &[], args::Stop::AtDashes)?;
    let known = store::open(&context.root, only_id(&parsed)?)?;
    let mut value = describe(&known);
    value["annotations"] = json!(known.spec.annotations().clone().unwrap_or_default());
    say(&format!("{value:#}\n"))?;
    Ok(0)
}

fn describe(known: &store::Known) -> Value {
    let status = known.status();
    let rootfs = known.spec.root().as_ref().map(|r| known.record.bundle.join(r.path()));
    json!({
        "ociVersion": known.spec.version(),
        "id": known.record.id,
        "pid": if status == store::Status::Stopped { 0 } else { known.record.pid },
        "status": status.name(),
        "bundle": known.record.bundle,
        "rootfs": rootfs,
        "created": known.record.created,
        "owner": std::fs::metadata(&known.dir).map(|m| if m.uid() == 0 { "root".to_owned() } else { m.uid().to_string() }).unwrap_or_default(),
    })
}

pub(super) fn list(context: &Context, words: &[String]) -> Result<u8> {
    let parsed =
        args::parse(words, &[Flag::value_short("format", 'f'), Flag::short("quiet", 'q')], args::Stop::AtDashes)?;
    let mut rows = Vec::new();
    for id in store::ids(&context.root) {
        // One that is deleted while we look is none.
        if let Ok(known) = store::open(&context.root, &id) {
            rows.push(describe(&known));
        }
    }
    if parsed.has("quiet") {
        let ids: String = rows.iter().filter_map(|r| r["id"].as_str()).map(|id| format!("{id}\n")).collect();
        say(&ids)?;
        return Ok(0);
    }
    match parsed.get("format").unwrap_or("table") {
        "json" => say(&format!("{}\n", Value::Array(rows)))?,
        "table" => say(&table(&rows))?,
        other => return Err(OciError::spec("--format", format!("{other:?} is neither table nor json"))),
    }
    Ok(0)
}

fn table(rows: &[Value]) -> String {
    const COLUMNS: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let width = |c: &str| rows.iter().map(|r| text(&r[c]).len()).max().unwrap_or(0).max(c.len()) + 2;
    let widths = COLUMNS.map(width);
    let mut out = String::new();
    let mut line = |cells: Vec<String>| {
        let cells: String = cells.iter().zip(widths).map(|(c, w)| format!("{c:<w$}")).collect();
        let _ = writeln!(out, "{}", cells.trim_end());
    };
    line(COLUMNS.iter().map(|c| c.to_uppercase()).collect());
    rows.iter().for_each(|r| line(COLUMNS.iter().map(|c| text(&r[*c])).collect()));
    out
}

pub(super) fn ps(context: &Context, words: &[String]) -> Result<u8> {
    let parsed = args::parse(words, &[Flag::value_short("format", 'f')], args::Stop::After(1))?;
    let id = parsed.rest.first().ok_or_else(|| OciError::spec("arguments", "a container id is wanted"))?;
    let known = store::open(&context.root, id)?;
    if known.status() == store::Status::Stopped {
        return Err(known.wrong_state("ps"));
    }
    let pids = known.cgroup()?.pids()?;
    if parsed.get("format") == Some("json") {
        say(&format!("{}\n", json!(pids)))?;
        return Ok(0);
    }
    let mut out = format!("{:<8} {:>8} {:>8} CMD\n", "UID", "PID", "PPID");
    for pid in pids {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .and_then(|l| l.split_whitespace().next())
                .unwrap_or("?")
                .to_owned()
        };
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // Terminal escapes of a container's process must not reach the person's terminal.
        let command: String = command.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(out, "{:<8} {pid:>8} {:>8} {command}", field("Uid:"), field("PPid:"));
    }
    say(&out)?;
    Ok(0)
}

pub(super) fn spec(words: &[String]) -> Result<u8> {
    let parsed =
        args::parse(words, &[Flag::value_short("bundle", 'b'), Flag::switch("rootless")], args::Stop::AtDashes)?;
    if parsed.has("rootless") {
        return Err(OciError::unsupported("--rootless", "not offered"));
    }
    let path = Path::new(parsed.get("bundle").unwrap_or(".")).join("config.json");
    let failed = |e: std::io::Error| OciError::File { path: path.clone(), reason: e.to_string() };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
    std::io::Write::write_all(&mut file, format!("{:#}\n", default_spec()).as_bytes()).map_err(failed)?;
    Ok(0)
}

/// What runc's `spec` command gives: a shell with three capabilities.
fn default_spec() -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|t| json!({"type": t}));
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": "1.2.1",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "crated",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi", "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

pub(super) fn features() -> Result<u8> {
    let namespaces: Vec<_> = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"].into();
    let value = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": crate::plan::mount_words(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": crated_sys::caps::NAMES.as_slice(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {"enabled": crated_sys::kernel::has_seccomp()},
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": crated_sys::kernel::has_mount_setattr()}},
        },
    });
    say(&format!("{value:#}\n"))?;
    Ok(0)
}
