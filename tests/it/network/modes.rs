//! none, host, container:, ns:, and what goes with which.

use super::*;

#[test]
fn a_namespace_can_be_another_containers() {
    let (_world, daemon) = world();
    serve(&daemon, "web", "hello", &["--hostname", "shop"]);
    let joined = ["run", "-d", "--name", "side", "--network", "container:web", "bb:1", "sleep", "1000"];
    daemon.ctl(&joined).ok();
    wgets(&daemon, "side", "http://127.0.0.1/", "hello");
    let same = |file: &str| {
        let read = |name: &str| daemon.ctl(&["exec", name, "cat", file]).ok();
        assert_eq!(read("side"), read("web"), "{file}");
    };
    ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"].into_iter().for_each(same);
    assert_eq!(daemon.ctl(&["exec", "side", "hostname"]).word(), "shop");
    for flags in
        [["-p", "80:80"], ["--hostname", "x"], ["--dns", "9.9.9.9"], ["--ip", "10.0.0.1"], ["--add-host", "a:1.2.3.4"]]
    {
        let words = [&["run", "--rm", "--network", "container:web"][..], &flags, &["bb:1", "true"]].concat();
        let said = daemon.ctl(&words);
        assert_eq!(said.status, 125, "{said:?}");
        assert!(said.stderr.contains("container:web"), "{said:?}");
    }
    // The one may end, the other keeps the namespace.
    daemon.ctl(&["stop", "-t", "0", "web"]).ok();
    assert!(daemon.ctl(&["exec", "side", "ip", "addr"]).ok().contains("127.0.0.1"));
    daemon.ctl(&["run", "--rm", "--network", "container:web", "bb:1", "true"]).fails(125, "web");
    daemon.ctl(&["network", "connect", "bridge", "side"]).fails(1, "container:web");
    daemon.finish();
}

#[test]
fn none_host_and_a_path_are_what_they_say() {
    let (world, daemon) = world();
    let links = |network: &str| daemon.ctl(&["run", "--rm", "--network", network, "bb:1", "ip", "-o", "link"]).ok();
    assert_eq!(links("none").lines().count(), 1);
    assert!(links("host").contains("up0"));
    let other = Netns::new();
    other.ip("link add mark0 type veth peer name mark1");
    assert!(links(&format!("ns:{}", other.path())).contains("mark0"));
    let said = daemon.ctl(&["run", "--rm", "--network", "host", "-p", "80:80", "bb:1", "true"]);
    assert!(said.status == 0 && said.stderr.contains("warning"), "{said:?}");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(daemon.ctl(&["run", "--rm", "--network", "host", "bb:1", "hostname"]).word(), host.trim());
    assert!(!world.host.ip("-o link").contains("crated0"), "the bridge is made when it is needed, not before");
    let listed = daemon.ctl(&["network", "ls"]).ok();
    assert!(listed.contains("host") && listed.contains("none"), "{listed}");
    daemon.finish();
}
