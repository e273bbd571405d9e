//! The helper as a process: it answers while no daemon is there, is found again, comes back when it was killed, and ends by
//! itself. Each test has a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crated_net::helper::{Change, Config, Helper, Hold, Port, State, Transport};
use crated_net::names::{Endpoint, Network, Subnet};
use crated_types::Fault;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const GATEWAY: &str = "127.66.0.1";

fn in_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(|| {
        crated_sys::namespace::unshare(crated_sys::namespace::Kinds::NETWORK).expect("root makes namespaces");
        crated_sys::net::loopback_up().unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    })
    .join()
    .unwrap();
}

/// A folder with a daemon's root and state.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["root", "state"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    folder
}

/// What a daemon does at its start.
fn daemon(folder: &Path) -> (Helper, tokio::task::JoinHandle<()>) {
    let (helper, owner) = Helper::new(Config {
        program: Some(env!("CARGO_BIN_EXE_crated-netd").into()),
        root: folder.join("root"),
        state: folder.join("state"),
        resolv_conf: folder.join("resolv.conf"),
    });
    (helper, tokio::spawn(owner))
}

fn network() -> Network {
    Network {
        id: "n".into(),
        name: "net".into(),
        internal: false,
        names: true,
        subnets: vec![Subnet { address: GATEWAY.parse().unwrap(), length: 16 }],
        listen: vec![GATEWAY.parse().unwrap()],
    }
}

fn endpoint(id: &str, name: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        network: "n".into(),
        container: id.into(),
        addresses: vec!["127.66.0.9".parse().unwrap()],
        names: vec![name.into()],
        upstreams: Vec::new(),
    }
}

fn hold(port: u16) -> Hold {
    let address: IpAddr = "0.0.0.0".parse().unwrap();
    Hold { port: Port { transport: Transport::Tcp, address, port }, owner: "c".into(), splice: None }
}

/// Asks for an address as a client of the network would; the code and whether there was an answer with one.
fn ask(name: &str) -> Option<(u8, u8)> {
    let mut query = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.66.0.2:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send_to(&query, SocketAddr::new(GATEWAY.parse().unwrap(), 53)).unwrap();
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).ok()?;
    (length > 12).then(|| (reply[3] & 0xf, reply[7]))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| !text.contains(") Z "))
}

#[test]
fn it_answers_without_a_daemon_and_is_found_again() {
    in_host(|| async {
        let folder = place();
        let (helper, owner) = daemon(folder.path());
        assert!(helper.adopt(State::default()).await.unwrap().is_empty());
        assert!(helper.show().await.unwrap().is_none(), "nothing is started for nothing");
        let change = Change {
            networks: vec![network()],
            endpoints: vec![endpoint("c1", "web")],
            holds: vec![hold(8080)],
            ..Change::default()
        };
        helper.change(change.clone()).await.unwrap();
        assert_eq!(ask("web"), Some((0, 1)));
        let pid = helper.show().await.unwrap().unwrap().pid;
        // The daemon is killed: its side of the socket is closed, nothing else happens.
        owner.abort();
        drop(helper);
        for _ in 0..20 {
            assert_eq!(ask("web"), Some((0, 1)));
            assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err());
        }
        let (helper, _owner) = daemon(folder.path());
        let state = State { networks: vec![network()], endpoints: vec![endpoint("c2", "db")], holds: vec![] };
        assert!(helper.adopt(state).await.unwrap().is_empty());
        assert_eq!(helper.show().await.unwrap().unwrap().pid, pid, "the same process");
        assert_eq!((ask("db"), ask("nobody.net")), (Some((0, 1)), Some((3, 0))));
        assert_ne!(ask("web"), Some((0, 1)), "what ended meanwhile is forgotten");
        drop(std::net::TcpListener::bind("0.0.0.0:8080").expect("let go"));
        let gone =
            Change { forget_endpoints: vec!["c2".into()], forget_networks: vec!["n".into()], ..Change::default() };
        helper.change(gone).await.unwrap();
        drop(helper);
        until("it ends when nothing is left to serve", || !lives(pid)).await;
        assert!(!folder.path().join("state/netd.sock").exists());
    });
}

#[test]
fn killed_it_comes_back_with_everything() {
    in_host(|| async {
        let folder = place();
        let (helper, _owner) = daemon(folder.path());
        let change = Change {
            networks: vec![network()],
            endpoints: vec![endpoint("c1", "web")],
            holds: vec![hold(8081)],
            ..Change::default()
        };
        helper.change(change).await.unwrap();
        let pid = helper.show().await.unwrap().unwrap().pid;
        crated_sys::process::kill(pid.cast_signed(), 9).unwrap();
        // By itself, before anybody asks for a change.
        until("the resolver is back", || ask("web") == Some((0, 1))).await;
        until("the port is held", || std::net::TcpListener::bind("0.0.0.0:8081").is_err()).await;
        let report = helper.show().await.unwrap().unwrap();
        assert_ne!(report.pid, pid);
        assert_eq!((report.state.endpoints.len(), report.state.holds.len()), (1, 1));
        std::fs::remove_dir(folder.path().join("root")).unwrap();
        until("it ends with its daemon's root", || !lives(report.pid)).await;
    });
}

#[test]
fn a_taken_port_or_address_is_an_error_that_changes_nothing() {
    in_host(|| async {
        let folder = place();
        let (helper, _owner) = daemon(folder.path());
        let taken = std::net::TcpListener::bind("127.0.0.1:8082").unwrap();
        let change = Change {
            networks: vec![network()],
            endpoints: vec![endpoint("c1", "web")],
            holds: vec![hold(8083), hold(8082)],
            ..Change::default()
        };
        let error = helper.change(change.clone()).await.unwrap_err();
        assert_eq!(error.fault(), Fault::InUse);
        assert!(error.to_string().contains("8082/tcp"), "{error}");
        drop(std::net::TcpListener::bind("0.0.0.0:8083").expect("all or none"));
        assert!(helper.show().await.unwrap().unwrap().state.endpoints.is_empty());
        drop(taken);
        // Somebody else's resolver stands on the gateway: told, tried again, and no reason to fail.
        let other = UdpSocket::bind((GATEWAY, 53)).unwrap();
        // A process that a test beside this one starts holds a copy of `taken` between its fork and its exec.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = helper.change(change.clone()).await {
            assert!(error.fault() == Fault::InUse && Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let troubles = helper.show().await.unwrap().unwrap().troubles;
        assert!(troubles.len() == 1 && troubles[0].contains("port 53"), "{troubles:?}");
        drop(other);
        until("it listens once it can", || ask("web") == Some((0, 1))).await;
        drop(helper);
    });
}

#[test]
fn a_helper_that_cannot_be_started_is_told_with_its_remedy() {
    in_host(|| async {
        let folder = place();
        let (helper, owner) = Helper::new(Config {
            program: Some(folder.path().join("none")),
            root: folder.path().join("root"),
            state: folder.path().join("state"),
            resolv_conf: folder.path().join("resolv.conf"),
        });
        tokio::spawn(owner);
        let error = helper.change(Change { holds: vec![hold(8084)], ..Change::default() }).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Unsupported);
        assert!(error.to_string().contains("none") && error.remedy().is_some(), "{error}");
    });
}

#[test]
fn more_ports_are_held_than_the_daemon_may_open_files() {
    const NOFILE: u32 = 7;
    in_host(|| async {
        let (soft, hard) = crated_sys::process::limit(0, NOFILE).unwrap();
        let folder = place();
        let (helper, _owner) = daemon(folder.path());
        crated_sys::process::set_limit(0, NOFILE, 300, hard).unwrap();
        let holds: Vec<Hold> = (20_000..20_500).map(hold).collect();
        let held = helper.change(Change { holds, ..Change::default() }).await;
        crated_sys::process::set_limit(0, NOFILE, soft, hard).unwrap();
        held.unwrap();
        assert_eq!(helper.show().await.unwrap().unwrap().state.holds.len(), 500);
    });
}

#[test]
fn sctp_is_held_where_the_kernel_has_it_and_refused_clearly_elsewhere() {
    in_host(|| async {
        let folder = place();
        let (helper, _owner) = daemon(folder.path());
        let mut wanted = hold(9000);
        wanted.port.transport = Transport::Sctp;
        match helper.change(Change { holds: vec![wanted.clone()], ..Change::default() }).await {
            Ok(()) => {
                let other = Hold { owner: "d".into(), ..wanted };
                let error = helper.change(Change { holds: vec![other], ..Change::default() }).await.unwrap_err();
                assert_eq!(error.fault(), Fault::InUse);
                let at: SocketAddr = "127.0.0.1:9000".parse().unwrap();
                assert!(crated_sys::net::bind(132, at, false).is_err(), "held against the host's own processes");
            }
            Err(error) => {
                assert_eq!(error.fault(), Fault::Unsupported, "{error}");
                assert!(error.to_string().contains("9000/sctp") && error.remedy().unwrap().contains("modprobe sctp"));
                let none = crated_sys::net::bind(132, "127.0.0.1:0".parse().unwrap(), false).unwrap_err();
                assert_eq!(none.errno, crated_sys::Errno::EPROTONOSUPPORT);
                println!("skip: sctp (not in this kernel)");
            }
        }
    });
}
