//! Networks as people use them: a daemon whose host is a network namespace, a client outside of it, and real traffic.

mod cni;
mod crash;
mod families;
mod modes;
mod names;
mod ports;

use crated_tests::{Daemon, HOST, Netns, Options, Run, World, eventually};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// How long one attempt of a client takes at most; who waits for something tries again.
const TRY: Duration = Duration::from_secs(5);
/// The address that the resolver outside answers with.
const ELSEWHERE: &str = "203.0.113.7";

/// A world with a daemon in it that has the busybox image. Its resolvers are one that is dead, and one outside.
fn world() -> (World, Daemon) {
    world_with("", vec![])
}

fn world_with(more: &str, env: Vec<(String, String)>) -> (World, Daemon) {
    let world = World::new();
    let place =
        std::env::temp_dir().join(format!("crated-resolv-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&place, "nameserver 192.0.2.99\nnameserver 192.0.2.2\nsearch lan\n").unwrap();
    let config = format!("[network]\nresolv_conf = {:?}\n{more}", place.display().to_string());
    let daemon = Daemon::with(Options { config, env, netns: Some(world.host.clone()), ..Options::default() });
    daemon.load_busybox();
    (world, daemon)
}

/// Starts a container that serves `text` over HTTP on port 80.
fn serve(daemon: &Daemon, name: &str, text: &str, flags: &[&str]) {
    let script = format!("echo {text} >/tmp/index.html; exec httpd -f -p 80 -h /tmp");
    let words = [&["run", "-d", "--name", name][..], flags, &["bb:1", "sh", "-c", &script]].concat();
    daemon.ctl(&words).ok();
}

/// What a server says to one request; none where it cannot be reached.
fn get(from: &Netns, to: &str) -> Option<String> {
    from.inside(|| {
        let mut stream = TcpStream::connect_timeout(&to.parse::<SocketAddr>().unwrap(), TRY).ok()?;
        stream.set_read_timeout(Some(TRY)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.split("\r\n\r\n").nth(1).map(|body| body.trim().to_owned())
    })
}

/// The same, until it answers: servers take a moment to come up.
#[track_caller]
fn gets(from: &Netns, to: &str, text: &str) {
    let mut last = None;
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("an answer", || {
            last = get(from, to);
            (last.as_deref() == Some(text)).then_some(())
        });
    }));
    assert!(done.is_ok(), "{to}: wanted {text:?}, got {last:?}");
}

/// What wget in a container gets.
fn wget(daemon: &Daemon, container: &str, url: &str) -> Option<String> {
    let said = daemon.ctl(&["exec", container, "timeout", "5", "wget", "-q", "-O", "-", url]);
    (said.status == 0).then(|| said.stdout.trim().to_owned())
}

#[track_caller]
fn wgets(daemon: &Daemon, container: &str, url: &str, text: &str) {
    let mut last = None;
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("an answer", || {
            last = wget(daemon, container, url);
            (last.as_deref() == Some(text)).then_some(())
        });
    }));
    let said = daemon.ctl(&["exec", container, "timeout", "5", "wget", "-O", "-", url]);
    assert!(done.is_ok(), "{container} {url}: wanted {text:?}, got {last:?}: {said:?}");
}

/// A container's address on a network.
#[track_caller]
fn address(daemon: &Daemon, container: &str, network: &str) -> String {
    let template = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    daemon.ctl(&["inspect", "--format", &template, container]).word()
}

/// A server outside that tells each client its address, for ever.
fn who_are_you(world: &World) -> SocketAddr {
    let listener = world.outside.inside(|| TcpListener::bind("192.0.2.2:0").unwrap());
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let mut request = [0; 512];
            let _ = stream.read(&mut request);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{}", from.ip());
        }
    });
    at
}

/// A resolver outside: every name has [`ELSEWHERE`]; it keeps what it was asked.
fn resolver(world: &World) -> std::sync::Arc<std::sync::Mutex<Vec<String>>> {
    let socket = world.outside.inside(|| UdpSocket::bind("192.0.2.2:53").unwrap());
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let (mut at, mut name) = (12, String::new());
            while at < length && packet[at] != 0 {
                let label = usize::from(packet[at]);
                name += &String::from_utf8_lossy(&packet[at + 1..at + 1 + label]);
                name.push('.');
                at += 1 + label;
            }
            kept.lock().unwrap().push(name.trim_end_matches('.').to_owned());
            let question = packet[12..at + 5].to_vec();
            let kind = packet[at + 2];
            let answers = u8::from(kind == 1);
            let mut reply = vec![packet[0], packet[1], 0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0];
            reply.extend(question);
            if answers == 1 {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                reply.extend(ELSEWHERE.parse::<std::net::Ipv4Addr>().unwrap().octets());
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    asked
}

#[test]
fn by_default_a_container_is_on_a_bridge_that_leads_outside() {
    let (world, daemon) = world();
    let outside = who_are_you(&world);
    serve(&daemon, "web", "hello", &[]);
    assert_eq!(address(&daemon, "web", "bridge"), "172.17.0.2");
    wgets(&daemon, "web", &format!("http://{outside}/"), HOST);
    // The one that stands beside it reaches it, the host does, too, and nobody outside, even who knows the way.
    daemon.ctl(&["run", "-d", "--name", "client", "bb:1", "sleep", "1000"]).ok();
    wgets(&daemon, "client", "http://172.17.0.2/", "hello");
    gets(&world.host, "172.17.0.2:80", "hello");
    world.outside.ip("route add 172.17.0.0/16 via 192.0.2.1");
    assert_eq!(get(&world.outside, "172.17.0.2:80"), None);
    let looks: serde_json::Value = serde_json::from_str(&daemon.ctl(&["network", "inspect", "bridge"]).ok()).unwrap();
    assert_eq!(looks[0]["IPAM"]["Config"][0]["Subnet"], "172.17.0.0/16");
    assert_eq!(looks[0]["Containers"].as_object().unwrap().len(), 2);
    // What its files say.
    let hosts = daemon.ctl(&["exec", "web", "cat", "/etc/hosts"]).ok();
    let short = daemon.id("web")[..12].to_owned();
    assert!(hosts.contains(&format!("172.17.0.2\t{short}")), "{hosts}");
    assert_eq!(
        daemon.ctl(&["exec", "web", "cat", "/etc/resolv.conf"]).ok(),
        "nameserver 192.0.2.99\nnameserver 192.0.2.2\nsearch lan\n"
    );
    // Router advertisements are not heard (CVE-2020-13401), and there is no IPv6 where the network has none.
    let off = daemon.ctl(&["exec", "web", "cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"]).word();
    assert_eq!(off, "1");
    daemon.ctl(&["restart", "-t", "0", "client"]).ok();
    wgets(&daemon, "client", "http://172.17.0.2/", "hello");
    assert_eq!(daemon.ctl(&["doctor", "network"]).ok(), "networks: nothing is wrong\n");
    daemon.finish();
}
