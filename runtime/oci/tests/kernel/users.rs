//! User namespaces: root inside, nobody outside.

use crated_oci::Rootfs;
use serde_json::json;

use super::harness::{Bundle, Output, exec, process, ready};

fn mapped(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    let bundle = bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    for entry in std::fs::read_dir(bundle.root()).unwrap() {
        std::os::unix::fs::chown(entry.unwrap().path(), Some(100000), Some(100000)).unwrap();
    }
    std::os::unix::fs::chown(bundle.root(), Some(100000), Some(100000)).unwrap();
    bundle
}

#[test]
fn root_inside_is_a_mapped_user_outside() {
    if !ready() {
        return;
    }
    let bundle = mapped(Bundle::sh(
        "id -u; cat /proc/self/uid_map; echo x > /dev/null; stat -c %t:%T /dev/null; echo mine > /made; exec sleep 1000 >/dev/null 2>&1 </dev/null",
    ));
    let output = Output::new();
    let mut container = bundle.create(output.stdio()).unwrap();
    container.start().unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{}", container.pid())).unwrap());
    let (status, text) = exec(
        &container,
        &process(&["sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; hostname; cat /made"]),
    )
    .unwrap();
    container.destroy().unwrap();
    assert_eq!(owner, 100000);
    let first: Vec<_> = output.text().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(first, ["0", "0 100000 65536", "1:3"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((status, lines[0], lines[1], lines[3], lines[4]), (0, "0", lines[2], "inside", "mine"));
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(bundle.root().join("made")).unwrap()), 100000);
}

#[test]
fn a_bundle_that_others_cannot_enter_still_works() {
    if !ready() {
        return;
    }
    let bundle = mapped(Bundle::sh("cat /data/secret; touch /data/x; echo $?"));
    let private = tempfile::tempdir().unwrap();
    std::fs::create_dir(private.path().join("inner")).unwrap();
    std::fs::write(private.path().join("inner/secret"), "shared\n").unwrap();
    let bundle = bundle.push(
        "/mounts",
        json!({"destination": "/data", "type": "bind", "source": private.path().join("inner"), "options": ["rbind"]}),
    );
    let (_, text) = bundle.run().unwrap();
    assert!(text.starts_with("shared\n") && text.ends_with("1\n"), "{text}");
}

#[test]
fn idmapped_binds_show_the_owner_inside() {
    if !ready() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("file"), "x").unwrap();
    let bundle = mapped(Bundle::sh("stat -c %u /data/file; touch /data/new; echo $?"));
    let bundle = bundle.push(
        "/mounts",
        json!({"destination": "/data", "type": "bind", "source": data.path(), "options": ["rbind", "ridmap"]}),
    );
    match bundle.run_from(Rootfs::Path(bundle.root())) {
        Ok((_, text)) => assert_eq!(text, "0\n0\n"),
        Err(error) if error.to_string().contains("EINVAL") => println!("skip: idmapped mounts (file system)"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_user_namespace_can_be_joined() {
    if !ready() {
        return;
    }
    let holder = mapped(Bundle::sh("exec sleep 1000"));
    let output = Output::new();
    let mut first = holder.create(output.stdio()).unwrap();
    first.start().unwrap();
    let path = |name: &str| format!("/proc/{}/ns/{name}", first.pid());
    let second = mapped(Bundle::sh("echo $$; id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/net; mount | grep -c proc")).set(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "cgroup"}, {"type": "user", "path": path("user")}, {"type": "network", "path": path("net")}]),
    );
    let outcome = second.run();
    let want = [std::fs::read_link(path("user")).unwrap(), std::fs::read_link(path("net")).unwrap()]
        .map(|p| p.display().to_string());
    first.destroy().unwrap();
    let (_, text) = outcome.unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], lines[1]), ("1", "0"));
    assert_eq!(lines[2..4], want);
}
