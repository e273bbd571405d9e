//! Held ports: bound sockets that do not listen, so that no process of the host takes a port that is a container's; and the
//! one way that cannot be routed: connections to `[::1]` are led on.

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
/// How long a container may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Where connections are led; nowhere before the container is attached.
type Target = Arc<Mutex<Option<SocketAddr>>>;

/// What keeps a port.
#[derive(Debug)]
enum Kept {
    /// A socket that only stands there.
    Bound { _socket: OwnedFd },
    /// One that listens for `[::1]`, and where it leads.
    Spliced { task: JoinHandle<()>, target: Target },
    /// The kernel has no such transport or family: nobody else can have it either.
    Nobody,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Self::Spliced { task, .. } = self {
            task.abort();
        }
    }
}

/// All held ports.
#[derive(Debug)]
pub(super) struct Ports {
    held: BTreeMap<Port, (Hold, Kept)>,
    places: Arc<Semaphore>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { held: BTreeMap::new(), places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl Ports {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.held.values().map(|(hold, _)| hold)
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
            if let Kept::Spliced { target, .. } = kept {
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
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let (kind, protocol) = match hold.port.transport {
            Transport::Tcp => (SocketType::STREAM, None),
            Transport::Udp => (SocketType::DGRAM, None),
            Transport::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
        };
        let socket = match socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::PROTONOSUPPORT) => return Ok(Kept::Nobody),
            Err(error) => return Err(error.into()),
        };
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        let loopback = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST].iter().any(|own| at.ip() == *own);
        let listens = loopback && hold.port.transport == Transport::Tcp;
        if listens {
            // Connections of an earlier holder may linger in TIME_WAIT. As this one listens at once, it is nobody else's.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        if hold.port.transport == Transport::Udp {
            // Nobody reads what strays here: it is not to fill memory.
            let _ = sockopt::set_socket_recv_buffer_size(&socket, 0);
        }
        match bind(&socket, &at) {
            Err(rustix::io::Errno::ADDRNOTAVAIL) if at.ip() == Ipv6Addr::UNSPECIFIED => return Ok(Kept::Nobody),
            bound => bound?,
        }
        if !listens {
            return Ok(Kept::Bound { _socket: socket });
        }
        listen(&socket, 128)?;
        let listener = TcpListener::from_std(socket.into())?;
        let target = Arc::new(Mutex::new(hold.splice));
        let task = tokio::spawn(splice_all(listener, Arc::clone(&target), Arc::clone(&self.places)));
        Ok(Kept::Spliced { task, target })
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
}
