//! A disk that is really full below a whole daemon: what grows is refused with a clear error, what is there goes on, what is
//! removed makes room, and nothing is lost or left.

use crated_sys::mount::{MntFlags, MsFlags, mount, umount};
use crated_tests::{Daemon, Options, Outcome, Registry, busybox_archive, eventually, programs, true_archive};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A small file system of its own.
struct Disk(TempDir);

impl Disk {
    fn new(mib: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("crfull").tempdir_in("/tmp").unwrap();
        let options = format!("size={mib}m");
        mount(Some(Path::new("tmpfs")), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(&options)).unwrap();
        Self(folder)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Takes all room but about `left` KiB.
    fn fill(&self, left: u64) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        for block in [1 << 20, 4096] {
            while file.write_all(&vec![7; block]).is_ok() {}
        }
        let size = file.metadata().unwrap().len();
        file.set_len(size.saturating_sub(left << 10)).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount(self.0.path(), MntFlags::MNT_DETACH);
    }
}

/// It failed for want of room, and says so.
fn no_room(outcome: Outcome) {
    let said = outcome.stderr.to_lowercase();
    assert_ne!(outcome.status, 0, "{outcome:?}");
    assert!(said.contains("space") || said.contains("disk"), "{outcome:?}");
    assert!(said.contains("resource exhausted"), "{outcome:?}");
}

fn names(daemon: &Daemon) -> String {
    daemon.ctl(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).ok()
}

#[test]
fn a_full_disk_refuses_what_grows_and_keeps_what_is_there() {
    let registry = Registry::start();
    // an image of which the store has nothing
    let other = true_archive(&programs().join("crated-init"), "other:1");
    let reference = registry.push(&other, "other:1");
    let disk = Disk::new(64);
    let mut daemon = Daemon::with(Options { root: Some(disk.root()), ..Options::default() });
    daemon.load_busybox();
    daemon.ctl(&["run", "-d", "--name", "runs", "bb:1", "sh", "-c", "while :; do sleep 0.1; done"]).ok();
    daemon.ctl(&["create", "--name", "old", "bb:1", "echo", "old"]).ok();
    daemon.ctl(&["rmi", "bb:1"]).fails(1, "");
    let before = names(&daemon);
    disk.fill(0);
    for _ in 0..2 {
        no_room(daemon.ctl(&["create", "--name", "new", "bb:1", "true"]));
        no_room(daemon.ctl(&["run", "--rm", "--name", "new", "bb:1", "true"]));
        no_room(daemon.ctl(&["pull", &reference]));
        no_room(daemon.ctl_with(&["load"]).input(other.clone()).run());
    }
    assert_eq!(names(&daemon), before, "nothing of what was refused is there");
    assert_eq!(daemon.ctl(&["inspect", "--format", "{{.State.Running}}", "runs"]).word(), "true");
    // its end is told, and what is removed is gone, on a full disk, too
    daemon.ctl(&["kill", "runs"]).ok();
    assert_eq!(daemon.ctl(&["wait", "runs"]).word(), "137");
    daemon.ctl(&["rm", "runs"]).ok();
    // killed and started on a full disk it has all that it had
    daemon.kill();
    daemon.restart();
    assert_eq!(names(&daemon), "old created\n");
    disk.free();
    assert_eq!(daemon.ctl(&["start", "-a", "old"]).ok(), "old\n");
    assert_eq!(daemon.ctl(&["run", "--rm", "--name", "new", "bb:1", "echo", "room"]).ok(), "room\n");
    daemon.ctl(&["pull", &reference]).ok();
    daemon.ctl(&["create", "--name", "pulled", &reference, "true"]).ok();
    eventually("nothing is left of what was refused", || (daemon.ctl(&["system", "check"]).status == 0).then_some(()));
    daemon.finish();
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_nothing_half() {
    let registry = Registry::start();
    let reference = registry.push(&busybox_archive(), "other:1");
    let disk = Disk::new(64);
    let daemon = Daemon::with(Options { root: Some(disk.root()), ..Options::default() });
    daemon.ctl(&["ps"]).ok();
    // Room for the documents, for a part of the layer, for the layer and a part of its files.
    for left in [64, 400, 900, 1500, 2500] {
        disk.fill(left);
        let outcome = daemon.ctl(&["run", "--rm", "--name", "new", &reference, "echo", "done"]);
        disk.free();
        if outcome.status == 0 {
            assert_eq!(outcome.stdout, "done\n");
        } else {
            no_room(outcome);
        }
        assert_eq!(names(&daemon), "");
    }
    assert_eq!(daemon.ctl(&["run", "--rm", "--name", "new", &reference, "echo", "done"]).ok(), "done\n");
    eventually("nothing half is left", || (daemon.ctl(&["system", "check"]).status == 0).then_some(()));
    daemon.finish();
}
