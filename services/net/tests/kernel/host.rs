//! The host, its outside, and containers.

use crated_core::fake::MemoryMetadata;
use crated_core::network::{Attachment, Netns, NetworkSpec, PoolSpec, Protocol, Publish, Running, Wanted, Wish};
use crated_core::{MetadataStore, Networks};
use crated_net::{Config, Service};
use crated_sys::namespace::{self, Kinds};
use crated_sys::netlink::route::{self, Kind, NewLink, Route};
use crated_types::{Actor, ContainerId, Namespace, Scope};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

/// What a packet that is expected gets.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What a packet that must not come gets: long enough for one that would come.
pub(crate) const NEVER: Duration = Duration::from_millis(700);
/// Address of the host on the outer link.
pub(crate) const HOST: &str = "192.0.2.1";
pub(crate) const HOST6: &str = "2001:db8:1::1";
/// Address of the client outside.
pub(crate) const OUTSIDE: &str = "192.0.2.2";

/// A network namespace without a process.
pub(crate) fn netns() -> OwnedFd {
    std::thread::spawn(|| {
        namespace::unshare(Kinds::NETWORK).unwrap();
        crated_sys::net::loopback_up().unwrap();
        namespace::open(Path::new("/proc/thread-self/ns/net")).unwrap()
    })
    .join()
    .unwrap()
}

/// Runs `act` in a namespace.
pub(crate) fn inside<T: Send>(netns: &OwnedFd, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            namespace::join(netns.as_fd(), Kinds::NETWORK).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

/// Runs a test in a host of its own: this thread and all threads of its runtime are in the host's namespace.
pub(crate) fn in_host<F, Fut>(test: F)
where
    F: FnOnce(Host) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        namespace::unshare(Kinds::NETWORK).unwrap();
        crated_sys::net::loopback_up().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let outside = netns();
        let mut links = Route::open().unwrap();
        let pair = NewLink {
            name: "up0",
            kind: Kind::Veth { peer: "eth0", peer_mac: [2, 0, 0, 0, 0, 2], netns: outside.as_fd() },
            mtu: 1450,
            mac: None,
            master: 0,
            up: true,
        };
        links.send(vec![pair.message()]).unwrap();
        wire(&mut links, "up0", &[(HOST, 24), (HOST6, 64)], Some(OUTSIDE));
        inside(&outside, || {
            wire(&mut Route::open().unwrap(), "eth0", &[(OUTSIDE, 24), ("2001:db8:1::2", 64)], None);
        });
        let host = Host { outside: Arc::new(outside), metadata: Arc::new(MemoryMetadata::default()) };
        runtime.block_on(test(host));
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    thread.join().unwrap();
}

fn wire(links: &mut Route, name: &str, addresses: &[(&str, u8)], gateway: Option<&str>) {
    let index = links.link(name).unwrap().unwrap().index;
    let mut requests: Vec<_> = addresses
        .iter()
        .map(|(address, length)| route::add_address(index, address.parse().unwrap(), *length))
        .collect();
    requests.push(route::set_up(index));
    requests.extend(gateway.map(|gateway| route::default_route(index, gateway.parse().unwrap())));
    links.send(requests).unwrap();
}

/// The host.
pub(crate) struct Host {
    pub(crate) outside: Arc<OwnedFd>,
    pub(crate) metadata: Arc<MemoryMetadata>,
}

pub(crate) fn scope() -> Scope {
    Scope::new(Namespace::new("test").unwrap(), Actor::daemon("test"))
}

pub(crate) fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

impl Host {
    /// A daemon's service over the host's records.
    pub(crate) async fn service(&self) -> Arc<Service> {
        self.service_of("0123456789abcdef", Vec::new()).await
    }

    pub(crate) async fn service_of(&self, daemon: &str, running: Vec<Running>) -> Arc<Service> {
        let metadata: Arc<dyn MetadataStore> = self.metadata.clone();
        let config = Config { id: daemon.into(), ..Config::default() };
        let service = Service::new(metadata, config, TaskTracker::new());
        service.reconcile(running).await.unwrap();
        service
    }

    /// Whether the outside gets an answer of a TCP port.
    pub(crate) fn outside_gets(&self, to: &str) -> Option<String> {
        inside(&self.outside, || ask(to, PATIENCE))
    }

    /// As [`Host::outside_gets`], for what must not come.
    pub(crate) fn outside_never(&self, to: &str) -> bool {
        inside(&self.outside, || ask(to, NEVER)).is_none()
    }
}

/// A container: a namespace with a server on TCP and UDP 80 that answers `name peer-address`.
pub(crate) struct Box {
    pub(crate) name: String,
    pub(crate) netns: Arc<OwnedFd>,
    pub(crate) attachment: Attachment,
}

impl Box {
    pub(crate) fn handle(&self) -> Netns {
        handle(&self.netns)
    }

    pub(crate) fn running(&self) -> Running {
        Running { namespace: scope().namespace, container: id(&self.name), netns: self.handle() }
    }

    pub(crate) fn address(&self, at: usize) -> IpAddr {
        self.attachment.endpoints[at].address.split('/').next().unwrap().parse().unwrap()
    }

    pub(crate) fn address6(&self, at: usize) -> IpAddr {
        self.attachment.endpoints[at].address6.split('/').next().unwrap().parse().unwrap()
    }

    /// The answer that it gets from a TCP port.
    pub(crate) fn ask(&self, to: &str) -> Option<String> {
        inside(&self.netns, || ask(to, PATIENCE))
    }

    pub(crate) fn never(&self, to: &str) -> bool {
        inside(&self.netns, || ask(to, NEVER)).is_none()
    }
}

pub(crate) fn handle(netns: &OwnedFd) -> Netns {
    Netns { fd: netns.try_clone().unwrap(), path: "/proc/self/ns/net".into() }
}

pub(crate) fn on(networks: &[&str]) -> Vec<Wanted> {
    networks.iter().map(|network| Wanted { network: (*network).into(), ..Wanted::default() }).collect()
}

pub(crate) fn publish(text: &str) -> Publish {
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (host, container) = text.rsplit_once(':').unwrap();
    let (ip, port) = host.rsplit_once(':').map_or((None, host), |(ip, port)| (Some(ip.trim_matches(['[', ']'])), port));
    let first = port.parse().unwrap();
    Publish {
        protocol: Protocol::from_name(protocol).unwrap(),
        container_port: container.parse().unwrap(),
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        host_ports: (first, first),
    }
}

pub(crate) fn wish(name: &str, networks: Vec<Wanted>, ports: &[&str]) -> Wish {
    Wish {
        container: id(name),
        name: name.into(),
        hostname: String::new(),
        endpoints: networks,
        ports: ports.iter().map(|port| publish(port)).collect(),
    }
}

/// Creates and starts a container.
pub(crate) async fn start(host: &Host, service: &Arc<Service>, wish: Wish) -> crated_types::Result<Box> {
    let name = wish.container.to_string();
    configure(host, service, wish).await?;
    let netns = Arc::new(netns());
    let attachment = up(host, service, &name, &netns).await?;
    Ok(Box { name, netns, attachment })
}

pub(crate) async fn configure(host: &Host, service: &Arc<Service>, wish: Wish) -> crated_types::Result<()> {
    let mut change = service.configure(&scope(), wish).await?;
    host.metadata.commit(change.take()).await?;
    change.kept();
    Ok(())
}

/// Reserves and attaches a container that is configured, with servers in it.
pub(crate) async fn up(
    host: &Host,
    service: &Arc<Service>,
    name: &str,
    netns: &Arc<OwnedFd>,
) -> crated_types::Result<Attachment> {
    let mut change = service.reserve(&scope(), &id(name)).await?;
    host.metadata.commit(change.take()).await?;
    change.kept();
    let attachment = service.attach(&scope(), &id(name), handle(netns)).await?;
    serve(netns, name, 80);
    Ok(attachment)
}

/// Ends a container: the namespace dies when the box is dropped.
pub(crate) async fn stop(host: &Host, service: &Arc<Service>, name: &str, forget: bool) {
    let container = id(name);
    let change =
        if forget { service.forget(&scope(), &container).await } else { service.detach(&scope(), &container).await };
    let mut change = change.unwrap();
    host.metadata.commit(change.take()).await.unwrap();
    change.kept();
}

pub(crate) fn spec(name: &str, subnet: &str) -> NetworkSpec {
    let pool = PoolSpec { subnet: subnet.parse().unwrap(), gateway: None, range: None, reserved: BTreeMap::new() };
    NetworkSpec { name: name.into(), ipv6: subnet.contains(':'), pools: vec![pool], ..NetworkSpec::default() }
}

/// Answers `name peer` on a TCP and a UDP port of a namespace, until the test ends.
pub(crate) fn serve(netns: &Arc<OwnedFd>, name: &str, port: u16) {
    let (tcp, udp) = inside(netns, || {
        // No IPv6 in it: IPv4 alone.
        let any = |v6: bool| -> IpAddr { if v6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() } };
        let tcp = TcpListener::bind(SocketAddr::new(any(true), port))
            .or_else(|_| TcpListener::bind(SocketAddr::new(any(false), port)));
        let udp = UdpSocket::bind(SocketAddr::new(any(true), port))
            .or_else(|_| UdpSocket::bind(SocketAddr::new(any(false), port)));
        (tcp.unwrap(), udp.unwrap())
    });
    let text = name.to_owned();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = tcp.accept() {
            let _ = stream.write_all(format!("{text} {}", peer.ip().to_canonical()).as_bytes());
        }
    });
    let text = name.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{text} {}", peer.ip().to_canonical()).as_bytes(), peer);
        }
    });
}

/// What a TCP port answers; tries again until `patience` is over.
pub(crate) fn ask(to: &str, patience: Duration) -> Option<String> {
    let address: SocketAddr = to.parse().unwrap();
    let until = Instant::now() + patience;
    while Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(50));
        if let Ok(mut stream) = TcpStream::connect_timeout(&address, left.min(Duration::from_secs(3))) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = String::new();
            if stream.read_to_string(&mut text).is_ok() && !text.is_empty() {
                return Some(text);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// What a UDP port answers.
pub(crate) fn ask_udp(to: &str, patience: Duration) -> Option<String> {
    let address: SocketAddr = to.parse().unwrap();
    let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let until = Instant::now() + patience;
    let mut buffer = [0; 64];
    while Instant::now() < until {
        let _ = socket.send_to(b"?", address);
        if let Ok((got, _)) = socket.recv_from(&mut buffer) {
            return Some(String::from_utf8_lossy(&buffer[..got]).into_owned());
        }
    }
    None
}

/// Names of the host's links.
pub(crate) fn links() -> Vec<String> {
    Route::open().unwrap().links().unwrap().into_iter().map(|link| link.name).collect()
}

/// Waits until a condition of the host holds.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
