//! Images that try to reach the host while their container is made (the classes of threats A and B).

use std::os::unix::fs::symlink;

use crated_oci::OciError;
use serde_json::json;

use super::harness::{Bundle, ready};

/// A host folder that must stay as it is.
fn outside() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn untouched(dir: &tempfile::TempDir) -> bool {
    std::fs::read_dir(dir.path()).unwrap().count() == 0
}

fn swap(bundle: &Bundle, name: &str, target: &std::path::Path) {
    std::fs::remove_dir_all(bundle.root().join(name)).unwrap();
    symlink(target, bundle.root().join(name)).unwrap();
}

#[test]
fn proc_and_sys_may_not_be_links() {
    if !ready() {
        return;
    }
    for name in ["proc", "sys"] {
        for target in ["/etc", "tmp/deep", "../../../../etc"] {
            let bundle = Bundle::new(&["true"]);
            swap(&bundle, name, target.as_ref());
            let error = bundle.run().unwrap_err();
            assert!(matches!(&error, OciError::Init { step, .. } if step.contains(name)), "{error}");
        }
    }
}

#[test]
fn a_linked_dev_stays_inside() {
    if !ready() {
        return;
    }
    let host = outside();
    let bundle = Bundle::sh("ls /dev/null && ls -d /tmp/x");
    swap(&bundle, "dev", &std::path::Path::new("../../../../../..").join(host.path().strip_prefix("/").unwrap()));
    let outcome = bundle.run();
    assert!(untouched(&host), "nodes were made outside");
    outcome.unwrap();
    // Without a mount on /dev the nodes go into the image's own tree, nowhere else.
    let mut bundle = Bundle::new(&["ls", "-l", "/dev"]);
    swap(&bundle, "dev", host.path());
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    bundle.run().unwrap();
    assert!(untouched(&host), "nodes were made outside");
}

#[test]
fn mount_targets_do_not_lead_out() {
    if !ready() {
        return;
    }
    let host = outside();
    let bundle = Bundle::sh("cat /etc/evil/sub/file").push(
        "/mounts",
        json!({"destination": "/etc/evil/sub", "type": "tmpfs", "source": "tmpfs", "options": ["rw"]}),
    );
    symlink(host.path(), bundle.root().join("etc/evil")).unwrap();
    let _ = bundle.run();
    assert!(untouched(&host));
    // A target that leads into procfs is refused, by name or through a link.
    for target in ["/proc/self/attr", "/link/sys"] {
        let bundle =
            Bundle::new(&["true"]).push("/mounts", json!({"destination": target, "type": "tmpfs", "source": "tmpfs"}));
        symlink("/proc", bundle.root().join("link")).unwrap();
        let error = bundle.run().unwrap_err();
        assert!(error.to_string().contains("proc"), "{error}");
    }
    let bundle = Bundle::new(&["true"]);
    let dir = bundle.root().join("etc");
    let covered =
        bundle.push("/mounts", json!({"destination": "/proc", "type": "bind", "source": dir, "options": ["rbind"]}));
    assert!(covered.run().is_err());
}

#[test]
fn a_null_device_that_is_none_is_replaced_or_refused() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::sh("stat -c '%F' /dev/null; cat /proc/keys | wc -c");
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    symlink("/proc/sys/kernel/core_pattern", bundle.root().join("dev/null")).unwrap();
    let (_, text) = bundle.run().unwrap();
    assert_eq!(text, "character special file\n0\n");
}

#[test]
fn links_in_masked_and_readonly_paths_stay_inside() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("cat /etc/passwd | wc -c").push("/linux/maskedPaths", json!("/evil/passwd"));
    symlink("/etc", bundle.root().join("evil")).unwrap();
    let host = std::fs::read("/etc/passwd").unwrap();
    let (_, text) = bundle.run().unwrap();
    assert_eq!(text, "0\n");
    assert_eq!(std::fs::read("/etc/passwd").unwrap(), host);
}

#[test]
fn a_console_behind_a_link_is_no_way_out() {
    if !ready() {
        return;
    }
    let host = outside();
    let mut bundle = Bundle::new(&["true"]);
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    symlink(host.path().join("made"), bundle.root().join("dev/console")).unwrap();
    let mut container = bundle.create(crated_oci::Stdio::Terminal { size: None }).unwrap();
    container.destroy().unwrap();
    assert!(untouched(&host));
}

#[test]
fn the_image_of_init_cannot_be_written() {
    if !ready() {
        return;
    }
    let fd = std::os::fd::AsFd::as_fd(&*super::harness::PROGRAM);
    assert!(crated_sys::memfd::is_sealed(fd));
    let again = crated_sys::fs::reopen(fd, crated_sys::OFlag::O_RDWR);
    let wrote = again.and_then(|f| crated_sys::fs::write_once(std::os::fd::AsFd::as_fd(&f), b"evil"));
    assert!(wrote.is_err());
}

#[test]
fn a_home_or_passwd_of_any_size_is_harmless() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("echo $HOME");
    std::fs::remove_file(bundle.root().join("etc/passwd")).unwrap();
    crated_sys::path::Root::at(&bundle.root()).unwrap().mknod("etc/passwd".as_ref(), 0o010_600, 0).unwrap();
    assert_eq!(bundle.run().unwrap().1, "/\n");
    let bundle = Bundle::sh("echo $HOME");
    std::fs::File::create(bundle.root().join("etc/passwd")).unwrap().set_len(8 << 30).unwrap();
    assert_eq!(bundle.run().unwrap().1, "/\n");
}

#[test]
fn links_swapped_during_the_start_lead_nowhere() {
    if !ready() {
        return;
    }
    let (host, volume) = (outside(), tempfile::tempdir().unwrap());
    let (target, aside) = (volume.path().join("target"), volume.path().join("aside"));
    std::fs::create_dir(&target).unwrap();
    symlink(std::path::Path::new("../../../../../../../../").join(host.path().strip_prefix("/").unwrap()), &aside)
        .unwrap();
    let bundle = Bundle::new(&["true"])
        .push("/mounts", json!({"destination": "/vol", "type": "bind", "source": volume.path(), "options": ["rbind"]}))
        .push(
            "/mounts",
            json!({"destination": "/vol/target/sub", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}),
        )
        .set("/linux/maskedPaths", json!(["/vol/target/masked"]));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = crated_sys::fs::open(volume.path(), crated_sys::OFlag::O_PATH, 0).unwrap();
            let dir = std::os::fd::AsFd::as_fd(&dir);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let exchange = crated_sys::fs::Rename::Exchange;
                crated_sys::fs::rename_at(dir, "target".as_ref(), dir, "aside".as_ref(), exchange).unwrap();
            }
        });
        for _ in 0..60 {
            // It may fail or not; what counts is what happens outside.
            let _ = bundle.run();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(untouched(&host));
}
