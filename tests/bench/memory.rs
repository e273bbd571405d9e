//! Memory that is ours alone plus our share of what is shared (PSS): shims of idle containers, and the daemon.

use crate::latency::{BUSYBOX, import};
use crate::series::{Table, Unit};
use crate::{Bench, installed};
use crated_tests::{Containerd, Daemon, busybox_archive};
use std::fs;
use std::path::Path;

pub(crate) fn measure(bench: &Bench, table: &mut Table) {
    let (ours, theirs) = bench.effort.idle;
    let daemon = Daemon::start();
    daemon.load_busybox();
    let empty = pss(daemon.pid());
    for number in 0..ours {
        let name = format!("idle{number}");
        daemon.ctl(&["run", "-d", "--name", &name, "--network", "none", "bb:1", "sleep", "100000"]).ok();
    }
    table.add("idle shim", "crated", Unit::Memory, shims("containerd-shim-crated-v2", daemon.folder()));
    let full = pss(daemon.pid());
    if installed("containerd") {
        let containerd = Containerd::start();
        import(&containerd, busybox_archive());
        // runc's own folder is one for all of the host: no id must have been there before.
        let id = |number: usize| format!("idle-{}-{number}", std::process::id());
        for number in 0..theirs {
            containerd.ctr(&["run", "-d", BUSYBOX, &id(number), "sleep", "100000"]).ok();
        }
        table.add(
            "idle shim",
            "containerd, runc v2",
            Unit::Memory,
            shims("containerd-shim-runc-v2", containerd.folder()),
        );
        for number in 0..theirs {
            containerd.ctr(&["tasks", "rm", "-f", &id(number)]).ok();
            containerd.ctr(&["containers", "rm", &id(number)]).ok();
        }
    }
    table.add("idle daemon", "crated, no container", Unit::Memory, empty.into_iter().collect());
    table.add("idle daemon", &format!("crated, {ours} containers"), Unit::Memory, full.into_iter().collect());
    daemon.finish();
}

/// PSS of every shim of a daemon.
fn shims(name: &str, folder: &Path) -> Vec<f64> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        if line.split('\0').next().is_some_and(|program| program.ends_with(name)) && line.contains(&folder) {
            found.extend(pss(pid));
        }
    }
    found
}

/// MiB (proc_pid_smaps(5)).
fn pss(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
