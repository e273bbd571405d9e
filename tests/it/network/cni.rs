//! Networks of CNI plugins: Debian's, with a list of the test's own.

use super::*;

#[test]
fn debians_plugins_attach_a_container_and_let_it_go() {
    let folder = tempfile::tempdir().unwrap();
    let lists = folder.path().join("net.d");
    std::fs::create_dir(&lists).unwrap();
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": {
            "type": "host-local", "dataDir": folder.path().join("ipam"), "ranges": [[{"subnet": "10.40.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "tuning", "capabilities": {"mac": true}},
    ]});
    std::fs::write(lists.join("10-pods.conflist"), list.to_string()).unwrap();
    let (world, mut daemon) = world_with(&format!("cni_config_dir = {:?}\n", lists.display().to_string()), vec![]);
    assert!(daemon.ctl(&["network", "ls"]).ok().contains("cni:pods"));
    serve(&daemon, "web", "hello", &["--network", "cni:pods", "--mac-address", "02:aa:bb:cc:dd:01"]);
    let link = daemon.ctl(&["exec", "web", "ip", "addr", "show", "eth0"]).ok();
    assert!(link.contains("10.40.0.2/24") && link.contains("02:aa:bb:cc:dd:01"), "{link}");
    gets(&world.host, "10.40.0.2:80", "hello");
    assert!(daemon.ctl(&["exec", "web", "cat", "/etc/hosts"]).ok().contains("10.40.0.2\t"));
    assert!(daemon.ctl(&["exec", "web", "cat", "/etc/resolv.conf"]).ok().contains("nameserver 192.0.2.2"));
    let given = folder.path().join("ipam/pods");
    assert!(given.join("10.40.0.2").exists());
    daemon.ctl(&["stop", "-t", "0", "web"]).ok();
    eventually("the address is given back", || (!given.join("10.40.0.2").exists()).then_some(()));
    daemon.ctl(&["start", "web"]).ok();
    gets(&world.host, "10.40.0.3:80", "hello");
    // Ended while no daemon was there.
    let pid = daemon.container_pid("web");
    daemon.kill();
    crated_sys::process::kill(pid, 9).unwrap();
    daemon.restart();
    eventually("the address is given back", || (!given.join("10.40.0.3").exists()).then_some(()));
    std::fs::write(
        lists.join("10-pods.conflist"),
        list.to_string().replace("\"bridge\",\"bridge\"", "\"bridge\",\"x\"").replace("host-local", "no-such-plugin"),
    )
    .unwrap();
    let said = daemon.ctl(&["run", "--rm", "--network", "cni:pods", "bb:1", "true"]);
    assert!(said.status == 125 && said.stderr.contains("no-such-plugin"), "{said:?}");
    daemon.finish();
}

#[test]
fn bandwidth_reaches_the_plugin_and_doctor_asks_all_plugins() {
    let folder = tempfile::tempdir().unwrap();
    let lists = folder.path().join("net.d");
    std::fs::create_dir(&lists).unwrap();
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {
            "type": "host-local", "dataDir": folder.path().join("ipam"), "ranges": [[{"subnet": "10.41.0.0/24"}]]}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
    ]});
    std::fs::write(lists.join("10-pods.conflist"), list.to_string()).unwrap();
    let (world, daemon) = world_with(&format!("cni_config_dir = {:?}\n", lists.display().to_string()), vec![]);
    let limit = |key: &str, text: &str| format!("kubernetes.io/{key}-bandwidth={text}");
    let shaped = || world.host.run("tc", &["qdisc", "show"]).ok();
    serve(&daemon, "free", "hello", &["--network", "cni:pods"]);
    assert!(!shaped().contains("tbf"), "{}", shaped());
    let (ingress, egress) = (limit("ingress", "12M"), limit("egress", "34M"));
    serve(&daemon, "web", "hello", &["--network", "cni:pods", "--annotation", &ingress, "--annotation", &egress]);
    let rates = shaped();
    assert!(rates.contains("rate 12Mbit") && rates.contains("rate 34Mbit"), "{rates}");
    gets(&world.host, "10.41.0.3:80", "hello");
    let bad = limit("ingress", "fast");
    daemon
        .ctl(&["run", "--rm", "--network", "cni:pods", "--annotation", &bad, "bb:1", "true"])
        .fails(125, "is no bandwidth of 1k to 1P");
    let said = daemon.ctl(&["run", "--rm", "--annotation", &ingress, "bb:1", "true"]);
    assert!(said.status == 0 && said.stderr.contains("limits none"), "{said:?}");

    // Version 1.1.1 of the plugin panics in the CHECK of a container that has no limit.
    daemon.ctl(&["rm", "-f", "free"]).ok();
    serve(&daemon, "whole", "hello", &["--network", "cni:pods", "--annotation", &ingress]);
    // CHECK finds nothing, and then what is missing, of the container that misses it.
    assert_eq!(daemon.ctl(&["doctor", "network"]).ok(), "networks: nothing is wrong\n");
    let pid = daemon.container_pid("web").to_string();
    Run::new("nsenter", &["-t", &pid, "-n", "ip", "addr", "flush", "dev", "eth0"]).run().ok();
    let said = daemon.ctl(&["doctor", "network"]);
    let id = &daemon.id("web")[..12];
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.stdout.contains(&format!("container web ({id}), cni:pods: plugin \"bridge\": CNI CHECK: ")),
        "{said:?}"
    );
    assert!(said.stdout.contains("cratectl restart web") && !said.stdout.contains("container whole"), "{said:?}");
    daemon.ctl(&["restart", "-t", "0", "web"]).ok();
    assert_eq!(daemon.ctl(&["doctor", "network"]).ok(), "networks: nothing is wrong\n");
    daemon.ctl(&["rm", "-f", "web", "whole"]).ok();
    eventually("the plugin lets go", || (!shaped().contains("tbf")).then_some(()));
    daemon.finish();
}
