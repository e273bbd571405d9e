//! IPv6, and networks that lie on a link of the host; and who may say where the way out is.

use super::*;

/// The name servers' answer for IPv6, by what ping makes of it.
fn pings6(daemon: &Daemon, container: &str, name: &str) -> String {
    daemon.ctl(&["exec", container, "ping", "-6", "-c", "1", "-W", "5", name]).ok()
}

#[test]
fn containers_speak_ipv6_by_name_and_to_the_outside() {
    let (world, daemon) = world();
    daemon.ctl(&["network", "create", "--ipv6", "--subnet", "fd00:20::/64", "six"]).ok();
    daemon
        .ctl(&[
            "network",
            "create",
            "--subnet",
            "10.25.0.0/24",
            "--subnet",
            "fd00:25::/64",
            "--gateway",
            "fd00:25::9",
            "both",
        ])
        .ok();
    serve(
        &daemon,
        "web",
        "hello",
        &["--network", "six", "--ip6", "fd00:20::99", "-p", "8080:80", "-p", "[2001:db8::1]:8081:80"],
    );
    daemon.ctl(&["run", "-d", "--name", "client", "--network", "six", "bb:1", "sleep", "1000"]).ok();
    let template = "{{(index .NetworkSettings.Networks \"six\").GlobalIPv6Address}}";
    assert_eq!(daemon.ctl(&["inspect", "--format", template, "web"]).word(), "fd00:20::99");
    // By its AAAA, and the other way by the short id; back by PTR.
    let said = pings6(&daemon, "client", "web");
    assert!(said.contains("(fd00:20::99)") && said.contains("1 packets received"), "{said}");
    let said = pings6(&daemon, "web", &daemon.id("client")[..12]);
    assert!(said.contains("(fd00:20::2)"), "{said}");
    let said = daemon.ctl(&["exec", "client", "nslookup", "fd00:20::99"]);
    assert!(said.stdout.contains("web.six"), "{said:?}");
    wgets(&daemon, "client", "http://[fd00:20::99]/", "hello");
    // Published: from outside with the client's own address, from the host, from a neighbour and from itself.
    let outside = Netns::of(daemon.container_pid("client"));
    for (from, to) in [
        (&world.outside, "[2001:db8::1]:8080"),
        (&world.outside, "[2001:db8::1]:8081"),
        (&world.outside, "192.0.2.1:8080"),
        (&world.host, "[2001:db8::1]:8080"),
        (&world.host, "[::1]:8080"),
        (&outside, "[2001:db8::1]:8080"),
    ] {
        gets(from, to, "hello");
    }
    wgets(&daemon, "web", "http://[2001:db8::1]:8080/", "hello");
    assert_eq!(get(&world.outside, "192.0.2.1:8081"), None, "published on IPv6 alone");
    drop(outside);
    // Out, with the host's address; not from another network, and not in by a direct route.
    let listener = world.outside.inside(|| TcpListener::bind("[2001:db8::2]:7000").unwrap());
    let asked = std::thread::spawn(move || listener.accept().unwrap().1.ip().to_string());
    daemon.ctl(&["exec", "client", "nc", "-w", "5", "2001:db8::2", "7000"]).ok();
    assert_eq!(asked.join().unwrap(), "2001:db8::1");
    daemon.ctl(&["run", "-d", "--name", "far", "--network", "both", "bb:1", "sleep", "1000"]).ok();
    assert_eq!(wget(&daemon, "far", "http://[fd00:20::99]/"), None);
    world.outside.ip("-6 route add fd00:20::/64 via 2001:db8::1");
    assert_eq!(get(&world.outside, "[fd00:20::99]:80"), None);
    // What was asked for is kept and refused as for IPv4.
    let route = daemon.ctl(&["exec", "far", "ip", "-6", "route"]).ok();
    assert!(route.contains("default via fd00:25::9"), "{route}");
    daemon.ctl(&["network", "connect", "--ip6", "fd00:25::77", "both", "client"]).ok();
    assert!(pings6(&daemon, "far", "client").contains("(fd00:25::77)"));
    daemon.ctl(&["restart", "-t", "0", "web"]).ok();
    assert!(pings6(&daemon, "client", "web").contains("(fd00:20::99)"));
    let run = |flags: &[&str]| daemon.ctl(&[&["run", "--rm"], flags, &["bb:1", "true"]].concat());
    run(&["--network", "six", "--ip6", "fd00:20::99"]).fails(125, "fd00:20::99");
    run(&["--network", "six", "--ip6", "fd00:21::1"]).fails(125, "fd00:21::1");
    run(&["--ip6", "fd00:20::5"]).fails(125, "no IPv6");
    run(&["-p", "[2001:db8::1]:8082:80"]).fails(125, "IPv6");
    daemon.finish();
}

/// Sends what a router would say, from `link` of a namespace: a way out and a prefix `2001:db8:bad::/64`. To everybody's
/// stations, since a link without IPv6 has no socket for it: a frame as NET_RAW lets any container make one.
const ADVERTISE: &str = r#"
import socket, struct, sys
link = sys.argv[1]
mac = open(f"/sys/class/net/{link}/address").read().strip().split(":") if len(sys.argv) < 3 else sys.argv[2].split(":")
mac = bytes(int(part, 16) for part in mac)
source = bytes([0xfe, 0x80]) + bytes(6) + bytes([mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]])
target = bytes([0xff, 2]) + bytes(13) + bytes([1])
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xc0, 86400, 86400, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix + bytes([1, 1]) + mac
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
pseudo = source + target + struct.pack("!II", len(body), 58)
body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
packet = struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + source + target + body
frame = bytes([0x33, 0x33, 0, 0, 0, 1]) + mac + struct.pack("!H", 0x86dd) + packet
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((link, 0))
raw.send(frame)
"#;

#[test]
fn nobody_listens_to_a_router_that_a_container_plays() {
    let (world, daemon) = world();
    daemon.ctl(&["network", "create", "--ipv6", "--subnet", "fd00:20::/64", "six"]).ok();
    for (network, v6) in [("bridge", false), ("six", true)] {
        for name in ["liar", "victim"] {
            daemon
                .ctl(&[
                    "run",
                    "-d",
                    "--name",
                    &format!("{name}-{network}"),
                    "--network",
                    network,
                    "bb:1",
                    "sleep",
                    "1000",
                ])
                .ok();
        }
        let id = daemon.ctl(&["network", "inspect", "--format", "{{.Id}}", network]).word();
        let bridge = if v6 { format!("br-{}", &id[..12]) } else { "crated0".to_owned() };
        // One who does listen stands on the same bridge: the lie is a good one.
        let believer = Netns::new();
        world.host.ip(&format!("link add beliefs type veth peer name ear0 netns {}", believer.path()));
        world.host.ip(&format!("link set beliefs master {bridge} up"));
        believer.run("sh", &["-c", "echo 1 >/proc/sys/net/ipv6/conf/ear0/accept_ra"]).ok();
        believer.ip("link set ear0 up");
        let liar = daemon.container_pid(&format!("liar-{network}")).to_string();
        let wrong = |netns: &Netns| netns.ip("-6 route") + &netns.ip("-6 addr");
        eventually("the believer is deceived", || {
            Run::new("nsenter", &["-t", &liar, "-n", "python3", "-c", ADVERTISE, "eth0"]).run().ok();
            let all = wrong(&believer);
            (all.contains("2001:db8:bad") && all.contains("default via fe80")).then_some(())
        });
        let victim = Netns::of(daemon.container_pid(&format!("victim-{network}")));
        for (who, netns) in [("the victim", &victim), ("the host", &world.host)] {
            let all = wrong(netns);
            assert!(!all.contains("2001:db8:bad") && !all.contains("default via fe80"), "{who} on {network}: {all}");
        }
        if v6 {
            let route = victim.ip("-6 route show default");
            assert!(route.starts_with("default via fd00:20::1 dev eth0") && route.lines().count() == 1, "{route}");
        }
        world.host.ip("link del beliefs");
        daemon.ctl(&["rm", "-f", &format!("liar-{network}"), &format!("victim-{network}")]).ok();
    }
    daemon.finish();
}

#[test]
fn a_container_stands_beside_the_host_on_a_macvlan_or_ipvlan() {
    let (world, daemon) = world();
    let outside = who_are_you(&world);
    for driver in ["macvlan", "ipvlan"] {
        let made = [
            &["network", "create", "-d", driver, "-o", "parent=up0", "--subnet", "192.0.2.0/24"][..],
            &["--gateway", "192.0.2.2", "--ip-range", "192.0.2.128/25", driver],
        ]
        .concat();
        daemon.ctl(&made).ok();
        let script = "echo beside >/tmp/index.html; exec httpd -f -p 80 -h /tmp";
        let run =
            ["run", "-d", "--name", driver, "--network", driver, "--ip", "192.0.2.130", "bb:1", "sh", "-c", script];
        let said = daemon.ctl(&run);
        if driver == "ipvlan" && said.status != 0 {
            assert!(said.stderr.contains("ipvlan"), "{said:?}");
            println!("skip: ipvlan (not in this kernel)");
            daemon.ctl(&["rm", "-f", driver]).ok();
        } else {
            said.ok();
            // Its own address out, and all of its ports in: nobody stands between.
            wgets(&daemon, driver, &format!("http://{outside}/"), "192.0.2.130");
            gets(&world.outside, "192.0.2.130:80", "beside");
            daemon.ctl(&["restart", "-t", "0", driver]).ok();
            gets(&world.outside, "192.0.2.130:80", "beside");
            daemon.ctl(&["network", "rm", driver]).fails(1, &format!("\"{driver}\" ("));
            daemon.ctl(&["rm", "-f", driver]).ok();
        }
        daemon.ctl(&["run", "--rm", "--network", driver, "-p", "80:80", "bb:1", "true"]).fails(125, "bridge network");
        daemon.ctl(&["network", "rm", driver]).ok();
    }
    assert!(!world.host.ip("-o link").contains("crated0"), "no bridge was needed");
    daemon
        .ctl(&["network", "create", "-d", "macvlan", "-o", "parent=nowhere0", "--subnet", "10.99.0.0/24", "lost"])
        .ok();
    daemon.ctl(&["run", "--rm", "--network", "lost", "bb:1", "true"]).fails(125, "nowhere0");
    daemon.finish();
}
