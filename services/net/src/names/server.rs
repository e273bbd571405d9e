//! The resolver's sockets: UDP and TCP on port 53 of each gateway address; what is ours is answered at once, the rest forwarded.

use super::forward::{DEADLINE, Forwarder, Transport, read_message, write_message};
use super::upstream::{Upstreams, servers_of};
use super::wire::{self, Bad, Code, Query, Reply};
use super::zone::{Asker, Found, Zone};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Where resolvers listen.
const PORT: u16 = 53;
/// Seconds that an answer of ours may be kept: containers come and go.
const TTL: u32 = 5;
/// Longest question over UDP that is heard, in bytes.
const QUESTION_MAX: usize = 4096;
/// TCP connections of a network at a time.
const CONNECTIONS: usize = 64;
/// Questions over one TCP connection.
const QUESTIONS: usize = 100;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// What the resolver did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Questions.
    pub questions: u64,
    /// Answered from our names.
    pub own: u64,
    /// Put to other resolvers.
    pub forwarded: u64,
    /// Without an answer of theirs.
    pub failed: u64,
    /// Refused: an internal network's, too many at a time, or no question at all.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counts {
    questions: AtomicU64,
    own: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What is to be done about a message.
#[derive(Debug)]
enum Step {
    Ignore,
    Answer(Vec<u8>),
    Forward(Query, Vec<SocketAddr>),
}

/// The resolver of every network.
#[derive(Debug)]
pub struct Server {
    zone: Mutex<Zone>,
    forwarder: Forwarder,
    counts: Counts,
    turn: AtomicUsize,
}

/// Sockets of one address; dropped, they are closed.
#[derive(Debug)]
pub struct Listening {
    /// Where.
    pub at: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Listening {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Server {
    /// A resolver that forwards to the servers of the file `resolv_conf`.
    #[must_use]
    pub fn new(resolv_conf: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            zone: Mutex::default(),
            forwarder: Forwarder::new(Upstreams::of(resolv_conf)),
            counts: Counts::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// What is called what.
    pub fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            questions: read(&self.counts.questions),
            own: read(&self.counts.own),
            forwarded: read(&self.counts.forwarded),
            failed: read(&self.counts.failed),
            refused: read(&self.counts.refused),
        }
    }

    /// Listens for `network` on `address`, port 53; the address need not be there yet.
    ///
    /// # Errors
    /// The kernel's: the port is taken, or is not allowed.
    pub fn listen(self: &Arc<Self>, network: &str, address: IpAddr) -> io::Result<Listening> {
        self.listen_at(network, SocketAddr::new(address, PORT))
    }

    pub(super) fn listen_at(self: &Arc<Self>, network: &str, at: SocketAddr) -> io::Result<Listening> {
        let udp = UdpSocket::from_std(socket(at, Transport::Udp)?.into())?;
        let at = udp.local_addr()?;
        let tcp = TcpListener::from_std(socket(at, Transport::Tcp)?.into())?;
        let network: Arc<str> = network.into();
        let (datagrams, streams) = (Arc::clone(self), Arc::clone(self));
        Ok(Listening {
            at,
            tasks: [
                tokio::spawn(datagrams.serve_udp(Arc::clone(&network), Arc::new(udp))),
                tokio::spawn(streams.serve_tcp(network, tcp)),
            ],
        })
    }

    async fn serve_udp(self: Arc<Self>, network: Arc<str>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUESTION_MAX];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error of an earlier answer comes here, too.
                    tracing::debug!(%error, network = &*network, "receive a question");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
            };
            let packet = &buffer[..length];
            match self.step(&network, from.ip(), packet, Transport::Udp) {
                Step::Ignore => {}
                Step::Answer(reply) => {
                    let _ = socket.send_to(&reply, from).await; // who has gone needs no answer
                }
                Step::Forward(query, servers) => {
                    let (server, socket, packet) = (Arc::clone(&self), Arc::clone(&socket), packet.to_vec());
                    tokio::spawn(async move {
                        let reply = server.forward(&query, &packet, &servers, from.ip(), Transport::Udp).await;
                        let _ = socket.send_to(&reply, from).await; // who has gone needs no answer
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, network: Arc<str>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let (server, network) = (Arc::clone(&self), Arc::clone(&network));
                    tokio::spawn(async move {
                        let _ = server.serve_stream(&network, stream, from).await; // the client has gone
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, network = &*network, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve_stream(&self, network: &str, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
        for _ in 0..QUESTIONS {
            let packet = timeout(IDLE, read_message(&mut stream)).await??;
            let reply = match self.step(network, from.ip(), &packet, Transport::Tcp) {
                Step::Ignore => return Ok(()),
                Step::Answer(reply) => reply,
                Step::Forward(query, servers) => {
                    self.forward(&query, &packet, &servers, from.ip(), Transport::Tcp).await
                }
            };
            timeout(IDLE, write_message(&mut stream, &reply)).await??;
        }
        Ok(())
    }

    fn step(&self, network: &str, from: IpAddr, packet: &[u8], transport: Transport) -> Step {
        count(&self.counts.questions);
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(bad) => {
                count(&self.counts.refused);
                return match bad {
                    Bad::Silent => Step::Ignore,
                    Bad::Answer(reply) => Step::Answer(reply),
                };
            }
        };
        let zone = self.zone();
        let Some(asker) = zone.asker(network, from) else {
            count(&self.counts.refused);
            return Step::Ignore;
        };
        let limit = if transport == Transport::Tcp { wire::MESSAGE_MAX } else { query.udp_limit() };
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return Step::Answer(Reply::new(&query, Code::BadVers).finish(limit));
        }
        if !query.is_internet() {
            count(&self.counts.refused);
            return Step::Answer(Reply::new(&query, Code::Refused).finish(limit));
        }
        let found = zone.find(&asker, &query.name);
        if found == Found::Elsewhere {
            return self.elsewhere(&zone, query, asker, limit);
        }
        count(&self.counts.own);
        Step::Answer(self.own(&query, found).finish(limit))
    }

    /// The answer to a question about a name of ours; for a kind of record that it has not, an empty one (RFC 2308 §2.2).
    fn own<'q>(&self, query: &'q Query, found: Found) -> Reply<'q> {
        match found {
            Found::Nothing | Found::Elsewhere => Reply::new(query, Code::NxDomain),
            Found::Name(name) => {
                let mut reply = Reply::new(query, Code::NoError);
                if matches!(query.kind, wire::PTR | wire::ANY) {
                    reply.pointer(&name, TTL);
                }
                reply
            }
            Found::Addresses(mut addresses) => {
                addresses.retain(|address| match query.kind {
                    wire::A => address.is_ipv4(),
                    wire::AAAA => address.is_ipv6(),
                    wire::ANY => true,
                    _ => false,
                });
                if !addresses.is_empty() {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                    let turn = turn % addresses.len();
                    addresses.rotate_left(turn);
                }
                let mut reply = Reply::new(query, Code::NoError);
                for address in addresses {
                    reply.address(address, TTL);
                }
                reply
            }
        }
    }

    fn elsewhere(&self, zone: &Zone, query: Query, asker: Asker, limit: usize) -> Step {
        let refuse = |code| {
            count(&self.counts.refused);
            Step::Answer(Reply::new(&query, code).finish(limit))
        };
        // What is internal tells the world outside nothing, not even by a question (CVE-2024-29018).
        if asker.internal {
            return refuse(Code::Refused);
        }
        let mut upstreams = self.forwarder.upstreams();
        let mut servers =
            if asker.upstreams.is_empty() { upstreams.host() } else { upstreams.order(servers_of(&asker.upstreams)) };
        servers.retain(|server| !zone.is_own(server.ip()));
        if servers.is_empty() {
            return refuse(Code::ServFail);
        }
        Step::Forward(query, servers)
    }

    async fn forward(
        &self,
        query: &Query,
        packet: &[u8],
        servers: &[SocketAddr],
        from: IpAddr,
        transport: Transport,
    ) -> Vec<u8> {
        let limit = if transport == Transport::Tcp { wire::MESSAGE_MAX } else { query.udp_limit() };
        let failed = || Reply::new(query, Code::ServFail).finish(limit);
        let Some(_slot) = self.forwarder.slot(from) else {
            count(&self.counts.refused);
            return failed();
        };
        count(&self.counts.forwarded);
        let asked = timeout(DEADLINE + Duration::from_secs(1), self.forwarder.ask(query, packet, servers, transport));
        match asked.await {
            Ok(Some(reply)) => reply,
            _ => {
                count(&self.counts.failed);
                failed()
            }
        }
    }
}

/// A socket at an address that need not be there yet: the bridge may come later, or go and come again.
fn socket(at: SocketAddr, transport: Transport) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if transport == Transport::Udp { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else {
        sockopt::set_ipv6_freebind(&socket, true)?;
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if transport == Transport::Tcp {
        // Connections of the helper before us may linger in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &at)?;
    if transport == Transport::Tcp {
        listen(&socket, 128)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
