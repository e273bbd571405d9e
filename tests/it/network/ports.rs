//! Published ports: from everywhere, changed while running, taken ones refused.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

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
    // Whether netfilter sees what passes a bridge or not.
    for seen in ["0", "1"] {
        world.host.inside(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", seen).ok());
        wgets(&daemon, "web", &format!("http://{HOST}:8080/"), "hello");
        wgets(&daemon, "client", &format!("http://{HOST}:8080/"), "hello");
        wgets(&daemon, "client", "http://172.17.0.2/", "hello");
    }
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

/// A server in a container; as long as it is there it keeps the container's network namespace.
struct Echo {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers every datagram on a port of a container with its sender's address, a space and what it said.
fn echo(daemon: &Daemon, container: &str, port: u16) -> Echo {
    let socket = Netns::of(daemon.container_pid(container)).inside(|| {
        UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port))).expect("a port of the container")
    });
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ends);
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !end.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let said = format!("{} {}", from.ip().to_canonical(), String::from_utf8_lossy(&buffer[..length]));
            let _ = socket.send_to(said.as_bytes(), from);
        }
    });
    Echo { ends, thread: Some(thread) }
}

/// One question to a port of UDP, asked again until it is answered or `tries` are over. The socket is connected: an answer that
/// comes from another address is none.
fn ask_udp(from: &Netns, to: &str, words: &str, tries: u32) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    from.inside(|| {
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        let mut buffer = [0; 2048];
        (0..tries).find_map(|_| {
            let _ = socket.send(words.as_bytes());
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    })
}

#[test]
fn udp_is_reached_from_everywhere_and_its_flows_are_counted() {
    let (world, mut daemon) = world();
    let flags = ["-p", "5300:53/udp", "-p", "[::1]:5301:53/udp", "-p", "127.0.0.1:5302:53/udp"];
    serve(&daemon, "dns", "hello", &flags);
    let server = echo(&daemon, "dns", 53);
    for (from, to, seen) in [
        (&world.outside, "192.0.2.1:5300", "192.0.2.2 q"),
        (&world.host, "192.0.2.1:5300", "192.0.2.1 q"),
        (&world.host, "127.0.0.1:5300", "172.17.0.1 q"),
        (&world.host, "127.0.0.1:5302", "172.17.0.1 q"),
        (&world.host, "[::1]:5300", "172.17.0.1 q"),
        (&world.host, "[::1]:5301", "172.17.0.1 q"),
    ] {
        assert_eq!(ask_udp(from, to, "q", 60).as_deref(), Some(seen), "{to}");
    }
    for to in ["192.0.2.1:5302", "[2001:db8::1]:5301", "[2001:db8::1]:5300"] {
        assert_eq!(ask_udp(&world.outside, to, "q", 3), None, "{to}");
    }
    let large = "x".repeat(1800);
    assert!(ask_udp(&world.host, "[::1]:5300", &large, 60).is_some_and(|said| said.ends_with(&large)));
    let flows = |daemon: &Daemon| {
        let said = daemon.ctl(&["network", "inspect", "--verbose", "bridge"]).ok();
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        let all = report[0]["Resolver"]["datagrams"].as_array().unwrap().clone();
        all.into_iter().find(|port| port["port"] == "[::]:5300/udp").unwrap_or_else(|| panic!("{report}"))
    };
    let counted = flows(&daemon);
    let number = |key: &str| counted[key].as_u64().unwrap();
    assert!(number("open") == 2 && number("opened") == 2 && number("to_clients") >= 2, "{counted}");
    assert_eq!((number("evicted"), number("idle")), (0, 0), "{counted}");
    // More clients than there is room for: the table stays as large as it may be, and the last is served.
    let ask_all = |clients: &[UdpSocket]| {
        for client in clients {
            client.send_to(b"m", "[::1]:5300").unwrap();
        }
    };
    let clients: Vec<UdpSocket> = world.host.inside(|| {
        let many = (0..1030).map(|_| UdpSocket::bind("[::1]:0").unwrap()).collect::<Vec<_>>();
        ask_all(&many);
        many
    });
    eventually("all were led on", || {
        // What the kernel dropped of so many at once is asked again.
        ask_all(&clients);
        (flows(&daemon)["evicted"].as_u64().unwrap() > 0).then_some(())
    });
    assert!(flows(&daemon)["open"].as_u64().unwrap() <= 1024, "{}", flows(&daemon));
    assert_eq!(ask_udp(&world.host, "[::1]:5300", "q", 60).as_deref(), Some("172.17.0.1 q"));
    drop(clients);
    // Without the daemon, and after it; also with a container that has another life.
    daemon.kill();
    assert_eq!(ask_udp(&world.host, "[::1]:5300", "k", 60).as_deref(), Some("172.17.0.1 k"));
    daemon.restart();
    assert_eq!(ask_udp(&world.host, "[::1]:5301", "r", 60).as_deref(), Some("172.17.0.1 r"));
    drop(server);
    daemon.ctl(&["restart", "-t", "0", "dns"]).ok();
    let server = echo(&daemon, "dns", 53);
    assert_eq!(ask_udp(&world.host, "[::1]:5300", "s", 60).as_deref(), Some("172.17.0.1 s"));
    assert!(world.host.inside(|| UdpSocket::bind("[::1]:5300")).is_err(), "held");
    drop(server);
    daemon.ctl(&["rm", "-f", "dns"]).ok();
    assert_eq!(ask_udp(&world.host, "[::1]:5300", "q", 2), None);
    drop(world.host.inside(|| UdpSocket::bind("[::1]:5300")).expect("let go"));
    daemon.finish();
}

#[test]
fn sctp_is_published_or_refused_before_anything_starts() {
    let (world, daemon) = world();
    let socket = |netns: &Netns| netns.inside(|| crated_sys::net::bind(132, "0.0.0.0:0".parse().unwrap(), false));
    let run = ["run", "-d", "--name", "stream", "-p", "9000:9000/sctp", "bb:1", "sleep", "1000"];
    if socket(&world.host).is_err() {
        let said = daemon.ctl(&run).fails(125, "9000/sctp");
        assert!(said.contains("this kernel has no such transport") && said.contains("modprobe sctp"), "{said}");
        assert_eq!(daemon.ctl(&["ps", "-q"]).word(), "", "nothing was started");
        println!("skip: sctp (not in this kernel)");
    } else {
        daemon.ctl(&run).ok();
        let rules = world.host.run("nft", &["list", "ruleset"]).ok();
        assert!(rules.contains("sctp . 9000 : 172.17.0.2 . 9000"), "{rules}");
        let taken = world.host.inside(|| crated_sys::net::bind(132, "127.0.0.1:9000".parse().unwrap(), false));
        assert!(taken.is_err(), "held");
        assert!(daemon.ctl(&["port", "stream"]).ok().contains("9000/sctp -> 0.0.0.0:9000"));
    }
    daemon.finish();
}
