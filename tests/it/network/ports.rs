//! Published ports: from everywhere, changed while running, taken ones refused.

use super::*;

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let (world, daemon) = world();
    serve(&daemon, "web", "hello", &["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    gets(&world.outside, &format!("{HOST}:8080"), "hello");
    gets(&world.host, &format!("{HOST}:8080"), "hello");
    gets(&world.host, "127.0.0.1:8080", "hello");
    gets(&world.host, "127.0.0.1:8081", "hello");
    gets(&world.host, "[::1]:8080", "hello");
    assert_eq!(get(&world.outside, &format!("{HOST}:8081")), None, "on the loopback only");
    wgets(&daemon, "web", &format!("http://{HOST}:8080/"), "hello");
    daemon.ctl(&["run", "-d", "--name", "client", "bb:1", "sleep", "1000"]).ok();
    wgets(&daemon, "client", &format!("http://{HOST}:8080/"), "hello");
    daemon.ctl(&["network", "create", "own"]).ok();
    daemon.ctl(&["run", "-d", "--name", "far", "--network", "own", "bb:1", "sleep", "1000"]).ok();
    wgets(&daemon, "far", &format!("http://{HOST}:8080/"), "hello");
    let ports = daemon.ctl(&["port", "web"]).ok();
    assert!(ports.contains("80/tcp -> 0.0.0.0:8080") && ports.contains("80/tcp -> 127.0.0.1:8081"), "{ports}");
    assert!(daemon.ctl(&["ps"]).ok().contains("0.0.0.0:8080->80/tcp"));
    daemon.ctl(&["port", "web", "81"]).fails(1, "81/tcp");
    daemon.ctl(&["rm", "-f", "web"]).ok();
    assert_eq!(get(&world.host, "127.0.0.1:8080"), None);
    daemon.ctl(&["run", "-d", "--name", "again", "-p", "8080:80", "bb:1", "sleep", "1000"]).ok();
    daemon.finish();
}

#[test]
fn ports_change_while_the_container_runs() {
    let (world, daemon) = world();
    serve(&daemon, "web", "hello", &[]);
    assert_eq!(get(&world.outside, &format!("{HOST}:8080")), None);
    daemon.ctl(&["update", "--publish-add", "8080:80", "web"]).ok();
    gets(&world.outside, &format!("{HOST}:8080"), "hello");
    let pid = daemon.container_pid("web");
    daemon.ctl(&["update", "--publish-add", "8090:80", "--publish-rm", "8080:80", "web"]).ok();
    gets(&world.outside, &format!("{HOST}:8090"), "hello");
    assert_eq!(get(&world.outside, &format!("{HOST}:8080")), None);
    assert_eq!(daemon.container_pid("web"), pid, "the same life");
    daemon.ctl(&["update", "--publish-rm", "8080:80", "web"]).fails(1, "80/tcp");
    daemon.ctl(&["restart", "-t", "0", "web"]).ok();
    gets(&world.outside, &format!("{HOST}:8090"), "hello");
    daemon.finish();
}

#[test]
fn a_taken_port_is_an_error_before_anything_starts() {
    let (world, daemon) = world();
    let taken = world.host.inside(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    daemon.ctl(&["run", "--rm", "-p", "8080:80", "bb:1", "true"]).fails(125, "8080");
    drop(taken);
    daemon.ctl(&["run", "-d", "--name", "web", "-p", "8080-8081:80", "bb:1", "sleep", "1000"]).ok();
    daemon.ctl(&["run", "--rm", "-p", "8080:80", "bb:1", "true"]).fails(125, "8080");
    daemon.ctl(&["run", "-d", "--name", "next", "-p", "8080-8081:80", "bb:1", "sleep", "1000"]).ok();
    assert_eq!(daemon.ctl(&["port", "next", "80"]).ok().lines().next(), Some("0.0.0.0:8081"));
    assert!(world.host.inside(|| TcpListener::bind("0.0.0.0:8080")).is_err(), "held against the host's own processes");
    for bad in ["80:80:80:80", "0-5:0", "8080:80/icmp", "70000:80"] {
        let said = daemon.ctl(&["run", "--rm", "-p", bad, "bb:1", "true"]);
        assert_eq!(said.status, 125, "{said:?}");
        assert!(said.stderr.contains(bad), "{said:?}");
    }
    daemon.ctl(&["run", "-d", "--name", "any", "-p", "80", "bb:1", "sleep", "1000"]).ok();
    let chosen = daemon.ctl(&["port", "any", "80"]).ok();
    let chosen: u16 = chosen.lines().next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    assert!(chosen >= 1024);
    daemon.finish();
}
