//! Held ports: bound sockets that do not listen, so that no process of the host takes a port that is a container's; and the
//! one way that cannot be routed: connections and datagrams to `[::1]` are led on.

use super::datagrams::{Flows, Limits, Room, Way};
use super::protocol::{Hold, Port, Transport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections to `[::1]` at a time, over all ports.
const CONNECTIONS: usize = 1024;
/// Clients of UDP at a time, over all ports.
const FLOWS: usize = 4096;
/// How long a container may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Where connections are led; nowhere before the container is attached.
pub(super) type Target = Arc<Mutex<Option<SocketAddr>>>;

/// What keeps a port.
#[derive(Debug)]
enum Kept {
    /// A socket that only stands there.
    Bound { _socket: OwnedFd },
    /// One that listens for `[::1]`, and where it leads.
    Spliced { task: JoinHandle<()>, target: Target },
    /// One that stands there, where it is asked for all addresses, and one for `[::1]` whose datagrams are led on.
    Datagrams { _socket: Option<OwnedFd>, task: JoinHandle<()>, way: Arc<Way> },
    /// The kernel has no such family: nobody else can have it either.
    Nobody,
}

impl Kept {
    fn target(&self) -> Option<&Target> {
        match self {
            Self::Spliced { target, .. } => Some(target),
            Self::Datagrams { way, .. } => Some(way.target()),
            Self::Bound { .. } | Self::Nobody => None,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        match self {
            Self::Spliced { task, .. } | Self::Datagrams { task, .. } => task.abort(),
            Self::Bound { .. } | Self::Nobody => {}
        }
    }
}

/// All held ports.
#[derive(Debug)]
pub(super) struct Ports {
    held: BTreeMap<Port, (Hold, Kept)>,
    places: Arc<Semaphore>,
    room: Arc<Room>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { held: BTreeMap::new(), places: Arc::new(Semaphore::new(CONNECTIONS)), room: Room::new(FLOWS) }
    }
}

impl Ports {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.held.values().map(|(hold, _)| hold)
    }

    /// What became of datagrams to `[::1]`, port by port.
    pub(super) fn flows(&self) -> Vec<Flows> {
        let led = self.held.iter().filter_map(|(port, (_, kept))| match kept {
            Kept::Datagrams { way, .. } => Some(way.flows(port.to_string())),
            Kept::Spliced { .. } | Kept::Bound { .. } | Kept::Nobody => None,
        });
        led.collect()
    }

    /// Takes all of `holds` or none; the port that could not be had comes with the reason.
    pub(super) fn hold(&mut self, holds: &[Hold]) -> Result<(), (Port, io::Error)> {
        let mut taken: Vec<Port> = Vec::new();
        for hold in holds {
            match self.hold_one(hold) {
                Ok(true) => taken.push(hold.port),
                Ok(false) => {}
                Err(error) => {
                    self.release(&taken);
                    return Err((hold.port, error));
                }
            }
        }
        Ok(())
    }

    /// Answers whether it is new.
    fn hold_one(&mut self, hold: &Hold) -> io::Result<bool> {
        if let Some((held, kept)) = self.held.get_mut(&hold.port) {
            if held.owner != hold.owner {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("container {} has it", held.owner)));
            }
            // Held without a word of where it leads, it goes on leading where it does.
            if held == hold || hold.splice.is_none() {
                return Ok(false);
            }
            if let Some(target) = kept.target() {
                *target.lock().unwrap_or_else(PoisonError::into_inner) = hold.splice;
            }
            *held = hold.clone();
            return Ok(false);
        }
        let kept = self.keep(hold)?;
        self.held.insert(hold.port, (hold.clone(), kept));
        Ok(true)
    }

    fn keep(&self, hold: &Hold) -> io::Result<Kept> {
        let at = SocketAddr::new(hold.port.address, hold.port.port);
        let loopback = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST].iter().any(|own| at.ip() == *own);
        match hold.port.transport {
            Transport::Tcp if loopback => self.splice(at, hold.splice),
            Transport::Udp if loopback => self.lead(at, hold.splice),
            transport => {
                let Some(socket) = socket(at, transport)? else { return Ok(Kept::Nobody) };
                Ok(if stand(&socket, at)? { Kept::Bound { _socket: socket } } else { Kept::Nobody })
            }
        }
    }

    /// Listens, and leads what comes to `[::1]` on.
    fn splice(&self, at: SocketAddr, to: Option<SocketAddr>) -> io::Result<Kept> {
        let Some(socket) = socket(at, Transport::Tcp)? else { return Ok(Kept::Nobody) };
        // Connections of an earlier holder may linger in TIME_WAIT. As this one listens at once, it is nobody else's.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if !stand(&socket, at)? {
            return Ok(Kept::Nobody);
        }
        listen(&socket, 128)?;
        let listener = TcpListener::from_std(socket.into())?;
        let target = Arc::new(Mutex::new(to));
        let task = tokio::spawn(splice_all(listener, Arc::clone(&target), Arc::clone(&self.places)));
        Ok(Kept::Spliced { task, target })
    }

    /// Holds a port of UDP, and leads what comes to `[::1]` on. A socket of that address alone hears nothing else, and answers
    /// come from there; beside one for all addresses it stands by SO_REUSEADDR of both, which is taken back at once: the kernel
    /// looks at it when somebody binds (udp(7)).
    fn lead(&self, at: SocketAddr, to: Option<SocketAddr>) -> io::Result<Kept> {
        let own = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.port());
        let Some(led) = socket(own, Transport::Udp)? else { return Ok(Kept::Nobody) };
        let held = if at == own {
            None
        } else {
            let Some(held) = socket(at, Transport::Udp)? else { return Ok(Kept::Nobody) };
            if !stand(&held, at)? {
                return Ok(Kept::Nobody);
            }
            Some(held)
        };
        held.iter().chain([&led]).try_for_each(|socket| sockopt::set_socket_reuseaddr(socket, held.is_some()))?;
        let stands = stand(&led, own);
        held.iter().chain([&led]).try_for_each(|socket| sockopt::set_socket_reuseaddr(socket, false))?;
        match (stands, held) {
            (Ok(true), held) => {
                let target = Arc::new(Mutex::new(to));
                let way = Arc::new(Way::new(led.into(), target, Arc::clone(&self.room), Limits::default())?);
                let task = tokio::spawn(Arc::clone(&way).lead());
                Ok(Kept::Datagrams { _socket: held, task, way })
            }
            // IPv6, but not on the loopback.
            (Ok(false), Some(held)) => Ok(Kept::Bound { _socket: held }),
            (Err(error), Some(held)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                Ok(Kept::Bound { _socket: held })
            }
            (Ok(false), None) => Ok(Kept::Nobody),
            (Err(error), _) => Err(error),
        }
    }

    /// Lets ports go; one that is not held is no matter.
    pub(super) fn release(&mut self, ports: &[Port]) {
        for port in ports {
            self.held.remove(port);
        }
    }

    /// Lets go what is not in `holds`, and takes the rest; answers what could not be had.
    pub(super) fn replace(&mut self, holds: &[Hold]) -> Vec<(Port, io::Error)> {
        self.held.retain(|port, _| holds.iter().any(|hold| hold.port == *port));
        holds.iter().filter_map(|hold| self.hold_one(hold).err().map(|error| (hold.port, error))).collect()
    }
}

/// A socket that does not block; none where the kernel has no such family.
fn socket(at: SocketAddr, transport: Transport) -> io::Result<Option<OwnedFd>> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match transport {
        Transport::Tcp => (SocketType::STREAM, None),
        Transport::Udp => (SocketType::DGRAM, None),
        Transport::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let socket = match socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol) {
        Ok(socket) => socket,
        Err(rustix::io::Errno::AFNOSUPPORT) => return Ok(None),
        Err(rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::SOCKTNOSUPPORT) => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no such transport"));
        }
        Err(error) => return Err(error.into()),
    };
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if transport == Transport::Udp && at.ip() != Ipv6Addr::LOCALHOST {
        // Nobody reads what strays there: it is not to fill memory.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, 0);
    }
    Ok(Some(socket))
}

/// Binds; false where all of IPv6 is switched off.
fn stand(socket: &OwnedFd, at: SocketAddr) -> io::Result<bool> {
    match bind(socket, &at) {
        Err(rustix::io::Errno::ADDRNOTAVAIL) if at.ip() == Ipv6Addr::UNSPECIFIED => Ok(false),
        bound => bound.map(|()| true).map_err(Into::into),
    }
}

async fn splice_all(listener: TcpListener, target: Target, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
                tokio::spawn(async move {
                    if let Err(error) = splice(stream, target).await {
                        tracing::debug!(%error, ?target, "a connection to [::1] was not led on");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn splice(mut inner: TcpStream, target: Option<SocketAddr>) -> io::Result<()> {
    let Some(target) = target.filter(|_| inner.local_addr().is_ok_and(|own| own.ip() == Ipv6Addr::LOCALHOST)) else {
        // It came past the rules, to an address that nothing is published on: nobody is here.
        return sockopt::set_socket_linger(&inner, Some(Duration::ZERO)).map_err(Into::into);
    };
    let mut outer = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await??;
    let (_, _) = (inner.set_nodelay(true), outer.set_nodelay(true));
    tokio::io::copy_bidirectional(&mut inner, &mut outer).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn hold(address: &str, port: u16, owner: &str, splice: Option<SocketAddr>) -> Hold {
        let port = Port { transport: Transport::Tcp, address: address.parse().unwrap(), port };
        Hold { port, owner: owner.into(), splice }
    }

    /// A port that is free on every address now.
    async fn free() -> u16 {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_held_port_is_taken_for_everybody_else_and_all_or_none_are() {
        let (first, second) = (free().await, free().await);
        let mut ports = Ports::default();
        ports.hold(&[hold("0.0.0.0", first, "a", None)]).unwrap();
        ports.hold(&[hold("0.0.0.0", first, "a", None)]).unwrap();
        assert!(TcpListener::bind(("127.0.0.1", first)).await.is_err(), "although it asks for SO_REUSEADDR");
        let (port, error) =
            ports.hold(&[hold("0.0.0.0", second, "b", None), hold("0.0.0.0", first, "b", None)]).unwrap_err();
        assert_eq!((port.port, error.kind()), (first, io::ErrorKind::AddrInUse));
        drop(TcpListener::bind(("127.0.0.1", second)).await.expect("the other was let go"));
        let held = TcpListener::bind(("127.0.0.1", second)).await.unwrap();
        let (port, error) = ports.hold(&[hold("0.0.0.0", second, "b", None)]).unwrap_err();
        assert_eq!((port.port, error.kind()), (second, io::ErrorKind::AddrInUse));
        drop(held);
        assert!(ports.replace(&[hold("127.0.0.1", second, "b", None)]).is_empty());
        drop(TcpListener::bind(("127.0.0.1", first)).await.expect("what is not wanted any more is let go"));
        ports.release(&[hold("127.0.0.1", second, "b", None).port]);
        assert!(ports.is_empty());
    }

    #[tokio::test]
    async fn connections_to_the_loopback_of_ipv6_are_led_on() {
        if TcpListener::bind("[::1]:0").await.is_err() {
            eprintln!("skip: no IPv6 on the loopback");
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let port = free().await;
        let mut ports = Ports::default();
        ports.hold(&[hold("::", port, "a", Some(target))]).unwrap();
        let mut client = TcpStream::connect(("::1", port)).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut served, _) = server.accept().await.unwrap();
        let mut said = String::new();
        served.read_to_string(&mut said).await.unwrap();
        served.write_all(b"pong").await.unwrap();
        drop(served);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!((said.as_str(), heard.as_str()), ("ping", "pong"));
        assert!(TcpListener::bind(("::", port)).await.is_err(), "although it asks for SO_REUSEADDR");
        drop(client);
        // The next container gets it, whatever lingers of connections.
        ports.release(&[hold("::", port, "a", None).port]);
        tokio::task::yield_now().await;
        ports.hold(&[hold("::", port, "b", None)]).unwrap();
    }

    /// A socket of UDP that asks for the address as rudely as it can.
    fn rude(at: &str) -> io::Result<OwnedFd> {
        let at: SocketAddr = at.parse().unwrap();
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, &at)?;
        Ok(socket)
    }

    #[tokio::test]
    async fn datagrams_to_the_loopback_of_ipv6_are_led_on_and_their_port_is_nobody_elses() {
        if TcpListener::bind("[::1]:0").await.is_err() {
            eprintln!("skip: no IPv6 on the loopback");
            return;
        }
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        for address in ["::", "::1"] {
            let number = tokio::net::UdpSocket::bind("[::]:0").await.unwrap().local_addr().unwrap().port();
            let mut wanted = hold(address, number, "a", None);
            wanted.port.transport = Transport::Udp;
            let mut ports = Ports::default();
            ports.hold(&[wanted.clone()]).unwrap();
            assert!(rude(&format!("[::1]:{number}")).is_err(), "{address}");
            assert!(rude(&format!("[::]:{number}")).is_err(), "{address}");
            let client = tokio::net::UdpSocket::bind("[::1]:0").await.unwrap();
            client.connect(("::1", number)).await.unwrap();
            client.send(b"before anybody is there").await.unwrap();
            while ports.flows()[0].dropped == 0 {
                tokio::task::yield_now().await;
            }
            ports.hold(&[Hold { splice: Some(target), ..wanted.clone() }]).unwrap();
            client.send(b"ping").await.unwrap();
            let mut buffer = [0; 64];
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"ping");
            server.send_to(b"pong", from).await.unwrap();
            assert_eq!(client.recv(&mut buffer).await.unwrap(), 4, "a connected client takes answers of [::1] only");
            let flows = ports.flows().remove(0);
            assert_eq!((flows.open, flows.to_container, flows.to_clients), (1, 1, 1), "{flows:?}");
            ports.release(&[wanted.port]);
            tokio::task::yield_now().await;
            rude(&format!("[::1]:{number}")).expect("let go");
            // A socket that somebody has, however friendly, is a taken port.
            let other = rude(&format!("[::1]:{number}")).unwrap();
            assert_eq!(ports.hold(&[wanted.clone()]).unwrap_err().1.kind(), io::ErrorKind::AddrInUse);
            drop(other);
        }
    }
}
