//! The runtimes alone: `run` of one bundle by each.

use crate::series::{Contestant, Table};
use crate::{Bench, installed};
use crated_tests::{Run, programs};
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let folder = bench.folder.path();
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs/bin"))?;
    for name in ["proc", "dev", "sys"] {
        std::fs::create_dir_all(bundle.join("rootfs").join(name))?;
    }
    std::fs::copy(&bench.program, bundle.join("rootfs/bin/true"))?;
    std::fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&spec())?)?;
    let count = Cell::new(0);
    let root = |name: &str| folder.join(format!("state-{name}")).display().to_string();
    let runtimes: Vec<(&str, PathBuf)> =
        [("crated-oci", programs().join("crated-oci")), ("runc", "runc".into()), ("crun", "crun".into())]
            .into_iter()
            .filter(|(name, program)| runs(name, program, &root(name), &bundle.display().to_string()))
            .collect();
    let contestants: Vec<Contestant<'_>> = runtimes
        .iter()
        .map(|(name, program)| {
            let (count, root) = (&count, root(name));
            let bundle = bundle.display().to_string();
            let act = move || {
                count.set(count.get() + 1);
                let id = format!("b{}", count.get());
                Run::new(program, &["--root", &root, "run", "--bundle", &bundle, &id]).run().ok();
            };
            (*name, Box::new(act) as Box<dyn FnMut()>)
        })
        .collect();
    table.race("runtime alone: run true", bench.effort.rounds, contestants);
    Ok(())
}

/// Whether a runtime is there and can do it on this host: crun, for one, refuses some layouts of cgroups.
fn runs(name: &str, program: &Path, root: &str, bundle: &str) -> bool {
    if !program.is_absolute() && !installed(name) {
        return false;
    }
    let tried = Run::new(program, &["--root", root, "run", "--bundle", bundle, "probe"]).run();
    if tried.status != 0 {
        eprintln!("skip: {name}: {}", tried.stderr.trim());
    }
    tried.status == 0
}

/// What `runc spec` writes, for a program that only succeeds.
fn spec() -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
