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
