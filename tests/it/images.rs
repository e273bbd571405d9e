//! Images: from registries, from archives, under names.

use crated_tests::{Daemon, Registry, busybox_archive};

#[test]
fn an_image_is_pulled_from_a_real_registry_and_run() {
    let registry = Registry::start();
    let reference = registry.push(&busybox_archive(), "test/bb:1");
    let daemon = Daemon::start();
    assert_eq!(daemon.ctl(&["pull", &reference]).word(), reference);
    assert_eq!(daemon.ctl(&["run", "--rm", &reference, "echo", "pulled"]).ok(), "pulled\n");
    daemon.ctl(&["rmi", &reference]).ok();
    let said = daemon.ctl(&["run", "--rm", &reference, "echo", "again"]);
    assert_eq!(said.stdout, "again\n", "{said:?}");
    daemon.finish();
}

#[test]
fn what_cannot_be_pulled_says_why() {
    let registry = Registry::start();
    let daemon = Daemon::start();
    daemon.ctl(&["pull", &format!("{}/absent:1", registry.host())]).fails(1, "absent");
    daemon.ctl(&["pull", "127.0.0.1:1/x:1"]).fails(1, "127.0.0.1:1");
    daemon.ctl(&["pull", "UPPER/case:1"]).fails(1, "UPPER");
    assert_eq!(daemon.ctl(&["images", "-q"]).ok(), "");
    daemon.finish();
}

#[test]
fn images_are_tagged_saved_loaded_and_removed() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ctl(&["tag", "bb:1", "other:2"]).ok();
    let listed = daemon.ctl(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["bb:1", "other:2"]);
    let archive = daemon.folder().join("saved.tar").display().to_string();
    daemon.ctl(&["save", "-o", &archive, "other:2"]).ok();
    daemon.ctl(&["rmi", "bb:1", "other:2"]).ok();
    assert_eq!(daemon.ctl(&["images", "-q"]).ok(), "");
    daemon.ctl(&["load", "-i", &archive]).ok();
    assert_eq!(daemon.ctl(&["run", "--rm", "other:2", "echo", "back"]).ok(), "back\n");
    daemon.ctl(&["rmi", "absent:1"]).fails(1, "absent");
    std::fs::write(daemon.folder().join("bad.tar"), b"this is no archive").unwrap();
    let bad = daemon.folder().join("bad.tar").display().to_string();
    daemon.ctl(&["load", "-i", &bad]).fails(1, "");
    daemon.finish();
}

#[test]
fn an_image_in_use_stays() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sleep", "100"]).ok();
    daemon.ctl(&["rmi", "bb:1"]).fails(1, "running");
    daemon.finish();
}
