//! `run --rm` and `exec` of a program that only succeeds, from the client's start to its end.

use crate::series::{Contestant, Table, Unit};
use crate::{Bench, installed};
use crated_tests::{Containerd, Daemon, true_archive};
use std::cell::Cell;

/// The image's name.
pub(crate) const IMAGE: &str = "docker.io/library/true:1";
/// The image with busybox in it.
pub(crate) const BUSYBOX: &str = "docker.io/library/bb:1";

/// Loads an archive into containerd.
pub(crate) fn import(containerd: &Containerd, archive: Vec<u8>) {
    containerd.ctr_with(&["images", "import", "-"]).input(archive).run().ok();
}

pub(crate) fn measure(bench: &Bench, table: &mut Table, run: bool, exec: bool) {
    let daemon = Daemon::start();
    let archive = true_archive(&bench.program, "true:1");
    daemon.ctl_with(&["load"]).input(archive.clone()).run().ok();
    let containerd = installed("containerd").then(Containerd::start);
    if let Some(containerd) = &containerd {
        import(containerd, archive);
    }
    if run {
        runs(bench, table, &daemon, containerd.as_ref());
        split(bench, table, &daemon);
    }
    if exec {
        execs(bench, table, &daemon, containerd.as_ref());
    }
    daemon.finish();
}

fn runs(bench: &Bench, table: &mut Table, daemon: &Daemon, containerd: Option<&Containerd>) {
    let count = Cell::new(0);
    let fresh = || {
        count.set(count.get() + 1);
        format!("c{}", count.get())
    };
    let mut contestants: Vec<Contestant<'_>> = vec![(
        "crated, cratectl",
        Box::new(|| drop(daemon.ctl(&["run", "--rm", "--network", "none", "true:1", "/bin/true"]).ok())),
    )];
    if installed("ctr") {
        contestants
            .push(("crated, ctr", Box::new(|| drop(daemon.ctr(&["run", "--rm", IMAGE, &fresh(), "/bin/true"]).ok()))));
    }
    if let Some(containerd) = containerd {
        let act = || drop(containerd.ctr(&["run", "--rm", IMAGE, &fresh(), "/bin/true"]).ok());
        contestants.push(("containerd + runc, ctr", Box::new(act)));
    }
    if installed("ctr") {
        contestants.push(("ctr alone (version)", Box::new(|| drop(daemon.ctr(&["version"]).ok()))));
    }
    contestants.push(("cratectl alone (version)", Box::new(|| drop(daemon.ctl(&["version"]).ok()))));
    table.race("run --rm true", bench.effort.rounds, contestants);
}

/// What the daemon itself says about its steps.
fn split(bench: &Bench, table: &mut Table, daemon: &Daemon) {
    let mut took: Vec<(&str, Vec<f64>)> = vec![("create", vec![]), ("start", vec![])];
    for round in 0..bench.effort.rounds {
        let name = format!("split{round}");
        daemon.ctl(&["run", "--name", &name, "--network", "none", "true:1", "/bin/true"]).ok();
        let said = daemon.ctl(&["timeline", &name]).ok();
        for (kind, times) in &mut took {
            times.push(said.lines().filter_map(|line| operation(line, kind)).sum::<f64>() / 1e3);
        }
        // The client may be told of the end before the daemon is.
        daemon.ctl(&["wait", &name]).ok();
        daemon.ctl(&["rm", &name]).ok();
    }
    for (kind, times) in took {
        table.add("of it, by the daemon's clock", kind, Unit::Time, times);
    }
}

/// Microseconds that an operation of this kind took: `TIME KIND OUTCOME (N µs, by WHO)`.
fn operation(line: &str, kind: &str) -> Option<f64> {
    let (head, tail) = line.split_once('(')?;
    let is = !line.starts_with(' ') && head.split_whitespace().nth(1) == Some(kind);
    tail.split_once(' ')?.0.parse().ok().filter(|_| is)
}

fn execs(bench: &Bench, table: &mut Table, daemon: &Daemon, containerd: Option<&Containerd>) {
    let busybox = crated_tests::busybox_archive();
    daemon.load_busybox();
    daemon.ctl(&["run", "-d", "--name", "busy", "--network", "none", "bb:1", "sleep", "100000"]).ok();
    let count = Cell::new(0);
    let fresh = || {
        count.set(count.get() + 1);
        format!("e{}", count.get())
    };
    let mut contestants: Vec<Contestant<'_>> =
        vec![("crated, cratectl", Box::new(|| drop(daemon.ctl(&["exec", "busy", "/bin/true"]).ok())))];
    if let Some(containerd) = containerd {
        import(containerd, busybox);
        containerd.ctr(&["run", "-d", BUSYBOX, "busy", "sleep", "100000"]).ok();
        let act = || drop(containerd.ctr(&["tasks", "exec", "--exec-id", &fresh(), "busy", "/bin/true"]).ok());
        contestants.push(("containerd + runc, ctr", Box::new(act)));
    }
    table.race("exec true", bench.effort.rounds, contestants);
    if let Some(containerd) = containerd {
        containerd.ctr(&["tasks", "rm", "-f", "busy"]).ok();
        containerd.ctr(&["containers", "rm", "busy"]).ok();
    }
}
