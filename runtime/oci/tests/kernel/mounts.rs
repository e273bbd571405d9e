//! What a container sees: mounts, devices, masks, namespaces, root file systems of every kind.

use crated_oci::{OciError, Rootfs};
use crated_types::Mount;
use serde_json::json;

use super::harness::{Bundle, ready};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn masked_and_readonly_paths_hold() {
    if !ready() {
        return;
    }
    let script = "cat /proc/keys | wc -c; ls /proc/scsi /sys/firmware 2>/dev/null | grep -v : ; \
        echo 1 > /proc/sys/kernel/pid_max; echo $?; touch /sys/firmware/x; echo $?; echo x > /sys/class/y; echo $?";
    let (_, text) = Bundle::sh(script).run().unwrap();
    let text: Vec<_> = lines(&text).into_iter().filter(|l| l.parse::<u32>().is_ok()).collect();
    assert_eq!(text, ["0", "1", "1", "1"]);
}

#[test]
fn devices_and_links_are_there() {
    if !ready() {
        return;
    }
    let script = "stat -c '%n %a %t:%T %F' /dev/null /dev/tty; for i in fd stdin ptmx core; do readlink /dev/$i; done; \
        echo x > /dev/null; head -c 3 /dev/zero | wc -c; stat -c %a /dev/extra; umask";
    let extra = json!([{"path": "/dev/extra", "type": "p", "fileMode": 0o640}]);
    let (status, text) = Bundle::sh(script).set("/linux/devices", extra).run().unwrap();
    let want = "/dev/null 666 1:3 character special file\n/dev/tty 666 5:0 character special file\n\
        /proc/self/fd\n/proc/self/fd/0\npts/ptmx\n/proc/kcore\n3\n640\n0022\n";
    assert_eq!((status, text.as_str()), (0, want));
}

#[test]
fn binds_keep_their_options() {
    if !ready() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), "content").unwrap();
    let file = outside.path().join("file");
    let script = "cat /data/file /etc/one /deep/er/dir/file; touch /data/x; echo $?; touch /deep/er/dir/y; echo $?; grep ' /data ' /proc/mounts";
    let bundle = Bundle::sh(script)
        .push("/mounts", json!({"destination": "/data", "type": "bind", "source": outside.path(), "options": ["rbind", "ro", "nosuid", "rprivate"]}))
        .push("/mounts", json!({"destination": "/etc/one", "type": "bind", "source": file, "options": ["bind"]}))
        .push("/mounts", json!({"destination": "/deep/er/dir", "type": "bind", "source": outside.path(), "options": ["rbind", "rro"]}));
    let (_, text) = bundle.run().unwrap();
    assert!(text.starts_with("contentcontentcontent"), "{text}");
    assert!(text.contains("ro,nosuid"), "{text}");
    assert_eq!(lines(&text).iter().filter(|l| **l == "1" || l.ends_with("content1")).count(), 2, "{text}");
    assert!(!outside.path().join("x").exists() && !outside.path().join("y").exists());
}

#[test]
fn a_missing_bind_source_is_named() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(&["true"]).push(
        "/mounts",
        json!({"destination": "/data", "type": "bind", "source": "/nonsense/x", "options": ["rbind"]}),
    );
    let error = bundle.run().unwrap_err();
    assert!(matches!(error, OciError::Host { .. }) && error.to_string().contains("/nonsense/x"), "{error}");
}

#[test]
fn a_readonly_root_is_read_only() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("touch /x; echo $?; touch /dev/shm/y; echo $?").set("/root/readonly", json!(true));
    assert_eq!(lines(&bundle.run().unwrap().1).last(), Some(&"0"));
    assert!(!bundle.root().join("x").exists());
}

#[test]
fn tmpcopyup_brings_what_was_there() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("cat /tmp/a/b; readlink /tmp/l; stat -c '%a %u' /tmp/a/b /tmp; echo new > /tmp/new").push(
        "/mounts",
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}),
    );
    let tmp = bundle.root().join("tmp");
    std::fs::create_dir(tmp.join("a")).unwrap();
    std::fs::write(tmp.join("a/b"), "old\n").unwrap();
    std::os::unix::fs::symlink("/etc", tmp.join("l")).unwrap();
    std::os::unix::fs::chown(tmp.join("a/b"), Some(1000), None).unwrap();
    assert_eq!(bundle.run().unwrap().1, "old\n/etc\n644 1000\n755 0\n");
    assert!(!tmp.join("new").exists());
}

#[test]
fn the_view_of_cgroups_starts_at_the_container() {
    if !ready() {
        return;
    }
    let script = "cat /proc/self/cgroup; ls /sys/fs/cgroup; touch /sys/fs/cgroup/x; echo $?; cat /sys/fs/cgroup/pids/cgroup.procs";
    let (_, text) = Bundle::sh(script).run().unwrap();
    assert!(lines(&text).iter().all(|l| !l.contains("crated")), "{text}");
    assert!(lines(&text).contains(&"1"), "{text}");
    // Without a cgroup namespace the same, by bind mounts.
    let mut bundle = Bundle::sh("cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "cgroup");
    assert!(lines(&bundle.run().unwrap().1).contains(&"1"));
}

#[test]
fn overlay_mounts_are_detached_and_may_be_long() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("cat /layer49 /layer0; echo up > /etc/passwd; ls /lib 2>/dev/null; true");
    let store = tempfile::tempdir().unwrap();
    // Fifty layers with long names: far more than a page of options.
    let long = "l".repeat(120);
    let mut lowers = Vec::new();
    for n in 0..50 {
        let dir = store.path().join(format!("{long}{n}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(format!("layer{n}")), format!("{n}\n")).unwrap();
        lowers.push(dir.display().to_string());
    }
    lowers.push(bundle.root().display().to_string());
    for dir in ["upper", "work"] {
        std::fs::create_dir(store.path().join(dir)).unwrap();
    }
    let mount = Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec![
            format!("lowerdir={}", lowers.join(":")),
            format!("upperdir={}", store.path().join("upper").display()),
            format!("workdir={}", store.path().join("work").display()),
        ],
    };
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let (status, text) = bundle.run_from(Rootfs::Mounts(vec![mount])).unwrap();
    assert_eq!((status, text.as_str()), (0, "49\n0\n"));
    assert_eq!(std::fs::read_to_string(store.path().join("upper/etc/passwd")).unwrap(), "up\n");
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!after.contains(&*store.path().to_string_lossy()), "nothing is attached in our namespace");
    let _ = before;
}

#[test]
fn a_readonly_bind_can_be_the_root() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("touch /x; echo $?; ls /");
    let mount = Mount {
        fstype: "bind".into(),
        source: bundle.root().display().to_string(),
        target: String::new(),
        options: vec!["rbind".into(), "ro".into()],
    };
    let (_, text) = bundle.run_from(Rootfs::Mounts(vec![mount])).unwrap();
    assert!(text.contains("Read-only file system") && text.contains("bin"), "{text}");
}

#[test]
fn a_broken_root_mount_says_what_the_kernel_said() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(&["true"]);
    let mount = Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec!["lowerdir=/nonsense".into()],
    };
    let error = bundle.run_from(Rootfs::Mounts(vec![mount])).unwrap_err();
    assert!(error.to_string().contains("/nonsense"), "{error}");
}

#[test]
fn sysctls_reach_the_container_only() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax")
        .set("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": "77", "kernel.msgmax": "4321"}));
    assert_eq!(bundle.run().unwrap().1, "77\n4321\n");
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), "4321\n");
}

#[test]
fn namespaces_can_be_joined_by_path() {
    if !ready() {
        return;
    }
    let holder = Bundle::sh("exec sleep 1000");
    let output = super::harness::Output::new();
    let mut first = holder.create(output.stdio()).unwrap();
    first.start().unwrap();
    let path = |name: &str| format!("/proc/{}/ns/{name}", first.pid());
    let spaces = json!([
        {"type": "mount"}, {"type": "cgroup"}, {"type": "pid", "path": path("pid")}, {"type": "network", "path": path("net")},
        {"type": "ipc", "path": path("ipc")}, {"type": "uts", "path": path("uts")},
    ]);
    let mut second = Bundle::sh("cat /proc/1/comm; for n in net ipc uts pid; do readlink /proc/self/ns/$n; done")
        .set("/linux/namespaces", spaces);
    second.spec["hostname"] = json!("renamed");
    let (_, text) = second.run().unwrap();
    let want: Vec<String> = ["net", "ipc", "uts", "pid"]
        .iter()
        .map(|n| std::fs::read_link(path(n)).unwrap().display().to_string())
        .collect();
    assert_eq!(lines(&text)[0], "sleep");
    assert_eq!(lines(&text)[1..], want);
    first.destroy().unwrap();
    let wrong = Bundle::new(&["true"])
        .set("/linux/namespaces", json!([{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/uts"}]));
    assert!(matches!(wrong.set("/hostname", json!("")).run(), Err(OciError::Spec { .. })));
}

#[test]
fn time_namespaces_have_their_offsets() {
    if !ready() {
        return;
    }
    if !crated_sys::kernel::has_namespace("time") {
        println!("skip: time namespaces (kernel)");
        return;
    }
    let bundle = Bundle::sh("read a b < /proc/uptime; echo ${a%%.*}")
        .push("/linux/namespaces", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1000000}}));
    let uptime: u64 = bundle.run().unwrap().1.trim().parse().unwrap();
    assert!(uptime >= 1_000_000, "{uptime}");
}

#[test]
fn a_new_network_has_its_loopback_up() {
    if !ready() {
        return;
    }
    let (_, text) =
        Bundle::sh("cat /sys/class/net/lo/flags; cat /proc/net/if_inet6 2>/dev/null | wc -l").run().unwrap();
    let flags = u32::from_str_radix(lines(&text)[0].trim_start_matches("0x"), 16).unwrap();
    assert_eq!(flags & 1, 1, "{text}");
}
