//! Own networks: names, addresses that were asked for, connecting while running, isolation.

use super::*;

#[test]
fn containers_find_one_another_by_name() {
    let (world, mut daemon) = world();
    let asked = resolver(&world);
    daemon.ctl(&["network", "create", "--subnet", "10.20.0.0/24", "own"]).ok();
    serve(&daemon, "web", "hello", &["--network", "own", "--network-alias", "www"]);
    serve(&daemon, "web2", "second", &["--network", "own", "--ip", "10.20.0.77", "--hostname", "named"]);
    daemon.ctl(&["run", "-d", "--name", "client", "--network", "own", "bb:1", "sleep", "1000"]).ok();
    let short = daemon.id("web")[..12].to_owned();
    for name in ["web", "WWW", "web.own", &short] {
        wgets(&daemon, "client", &format!("http://{name}/"), "hello");
    }
    for name in ["web2", "10.20.0.77", "named"] {
        wgets(&daemon, "client", &format!("http://{name}/"), "second");
    }
    let resolv = daemon.ctl(&["exec", "client", "cat", "/etc/resolv.conf"]).ok();
    assert_eq!(resolv, "nameserver 10.20.0.1\nsearch lan\noptions ndots:0\n");
    let look = |name: &str| {
        let said = daemon.ctl(&["exec", "client", "nslookup", name]);
        said.stdout + &said.stderr
    };
    assert!(look("10.20.0.77").contains("web2.own"), "{}", look("10.20.0.77"));
    // What is not ours is asked of the host's resolvers, the first of which is dead; what is ours never leaves.
    assert!(look("example.org").contains(ELSEWHERE));
    let _ = look("nobody.own");
    daemon.ctl(&["network", "create", "other"]).ok();
    daemon.ctl(&["run", "-d", "--name", "hidden", "--network", "other", "bb:1", "sleep", "1000"]).ok();
    let _ = look("hidden");
    let left: Vec<String> = asked.lock().unwrap().clone();
    assert!(left.iter().any(|name| name == "example.org"));
    assert!(!left.iter().any(|name| ["web", "hidden", "nobody.own"].contains(&name.as_str())), "{left:?}");
    // A new name counts at once.
    daemon.ctl(&["rename", "web", "shop"]).ok();
    wgets(&daemon, "client", "http://shop/", "hello");
    assert_eq!(wget(&daemon, "client", "http://web/"), None);
    // So it is shown, also by a daemon that comes back, and after a restart of the container.
    let shown = |daemon: &Daemon| {
        let id = daemon.id("shop");
        let network: serde_json::Value =
            serde_json::from_str(&daemon.ctl(&["network", "inspect", "own"]).ok()).unwrap();
        assert_eq!(network[0]["Containers"][&id]["Name"], "shop", "{network}");
        let called = daemon
            .ctl(&["inspect", "--format", "{{json (index .NetworkSettings.Networks \"own\").DNSNames}}", "shop"])
            .ok();
        assert!(called.contains("\"shop\"") && !called.contains("\"web\""), "{called}");
        let refused = daemon.ctl(&["network", "rm", "own"]).fails(1, "is used by");
        assert!(refused.contains(&format!("\"shop\" ({})", &id[..12])) && !refused.contains(&id), "{refused}");
    };
    shown(&daemon);
    daemon.kill();
    daemon.restart();
    shown(&daemon);
    daemon.ctl(&["restart", "-t", "0", "shop"]).ok();
    wgets(&daemon, "client", "http://shop/", "hello");
    assert_eq!(wget(&daemon, "client", "http://web/"), None);
    shown(&daemon);
    let report: serde_json::Value =
        serde_json::from_str(&daemon.ctl(&["network", "inspect", "--verbose", "own"]).ok()).unwrap();
    assert!(report[0]["Resolver"]["counters"]["own"].as_u64().unwrap() > 4, "{report}");
    daemon.finish();
}

#[test]
fn an_internal_network_lets_nothing_out() {
    let (world, daemon) = world();
    let (asked, outside) = (resolver(&world), who_are_you(&world));
    daemon.ctl(&["network", "create", "--internal", "cellar"]).ok();
    serve(&daemon, "db", "data", &["--network", "cellar"]);
    daemon.ctl(&["run", "-d", "--name", "client", "--network", "cellar", "bb:1", "sleep", "1000"]).ok();
    wgets(&daemon, "client", "http://db/", "data");
    assert_eq!(wget(&daemon, "client", &format!("http://{outside}/")), None);
    let said = daemon.ctl(&["exec", "client", "nslookup", "example.org"]);
    assert!((said.stdout + &said.stderr).contains("REFUSED"));
    assert!(asked.lock().unwrap().is_empty(), "a question left");
    daemon.ctl(&["run", "--rm", "--network", "cellar", "-p", "80", "bb:1", "true"]).fails(125, "internal");
    daemon.finish();
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    let (_world, daemon) = world();
    daemon.ctl(&["network", "create", "front"]).ok();
    daemon.ctl(&["network", "create", "--subnet", "10.21.0.0/24", "back"]).ok();
    serve(&daemon, "db", "data", &["--network", "back"]);
    daemon.ctl(&["run", "-d", "--name", "app", "--network", "front", "bb:1", "sleep", "1000"]).ok();
    let hosts = || daemon.ctl(&["exec", "app", "cat", "/etc/hosts"]).ok();
    assert_eq!(wget(&daemon, "app", "http://db/"), None);
    let db = address(&daemon, "db", "back");
    assert_eq!(wget(&daemon, "app", &format!("http://{db}/")), None, "networks are isolated");
    let inode = daemon.ctl(&["exec", "app", "stat", "-c", "%i", "/etc/hosts"]).word();
    daemon.ctl(&["network", "connect", "--ip", "10.21.0.9", "--alias", "api", "back", "app"]).ok();
    wgets(&daemon, "app", "http://db/", "data");
    assert_eq!(address(&daemon, "app", "back"), "10.21.0.9");
    assert!(hosts().contains("10.21.0.9\t"));
    assert_eq!(daemon.ctl(&["exec", "app", "stat", "-c", "%i", "/etc/hosts"]).word(), inode, "in place");
    let api = daemon.ctl(&["exec", "db", "ping", "-c", "1", "-W", "5", "api"]).stdout;
    assert!(api.contains("(10.21.0.9)"), "{api}");
    daemon.ctl(&["network", "connect", "back", "app"]).fails(1, "back");
    daemon.ctl(&["network", "rm", "back"]).fails(1, "is used by");
    daemon.ctl(&["restart", "-t", "0", "app"]).ok();
    wgets(&daemon, "app", "http://db/", "data");
    daemon.ctl(&["network", "disconnect", "back", "app"]).ok();
    assert_eq!(wget(&daemon, "app", "http://db/"), None);
    assert!(!hosts().contains("10.21.0.9"));
    daemon.ctl(&["network", "disconnect", "back", "app"]).fails(1, "back");
    // A file that its user changed is left alone.
    daemon.ctl(&["exec", "app", "sh", "-c", "echo 10.9.9.9 mine >>/etc/hosts"]).ok();
    daemon.ctl(&["network", "connect", "back", "app"]).ok();
    assert!(hosts().contains("mine") && !hosts().contains("10.21.0."));
    daemon.ctl(&["rm", "-f", "app", "db"]).ok();
    let pruned = daemon.ctl(&["network", "prune"]).ok();
    assert_eq!(pruned.split_whitespace().collect::<std::collections::BTreeSet<_>>(), ["back", "front"].into());
    daemon.finish();
}

#[test]
fn what_cannot_be_is_said_and_nothing_is_left() {
    let (_world, daemon) = world();
    daemon.ctl(&["network", "create", "--subnet", "10.22.0.0/30", "small"]).ok();
    let run = |flags: &[&str]| daemon.ctl(&[&["run", "--rm"], flags, &["bb:1", "true"]].concat());
    run(&["--network", "nowhere"]).fails(125, "nowhere");
    run(&["--network", "small", "--ip", "10.99.0.1"]).fails(125, "10.99.0.1");
    run(&["--network", "small", "--ip", "10.22.0.1"]).fails(125, "10.22.0.1");
    daemon
        .ctl(&["run", "-d", "--name", "first", "--network", "small", "--ip", "10.22.0.2", "bb:1", "sleep", "1000"])
        .ok();
    run(&["--network", "small", "--ip", "10.22.0.2"]).fails(125, "10.22.0.2");
    run(&["--network", "small"]).fails(125, "small");
    run(&["--network", "small", "--network", "small"]).fails(125, "twice");
    run(&["--hostname", "a b"]).fails(125, "host name");
    run(&["--add-host", "a:b:c"]).fails(125, "a:b:c");
    run(&["--dns", "nine"]).fails(125, "nine");
    run(&["--mac-address", "xx"]).fails(125, "xx");
    run(&["--network", "cni:nowhere"]).fails(125, "nowhere");
    for (words, text) in [
        (&["--subnet", "10.22.0.0/24", "x"][..], "10.22.0.0"),
        (&["--subnet", "10.23.0.0/24", "small"], "small"),
        (&["--subnet", "nonsense", "x"], "nonsense"),
        (&["bridge"], "bridge"),
        (&["-d", "telepathy", "x"], "telepathy"),
        (&["../x"], "../x"),
    ] {
        daemon.ctl(&[&["network", "create"], words].concat()).fails(1, text);
    }
    daemon.ctl(&["network", "rm", "bridge"]).fails(1, "bridge");
    daemon.ctl(&["network", "rm", "nowhere"]).fails(1, "nowhere");
    let left = daemon.ctl(&["ps", "-aq"]).ok();
    assert_eq!(left.lines().count(), 1, "only the first: {left}");
    daemon.finish();
}
