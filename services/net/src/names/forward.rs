//! Questions that are not ours, put to the host's resolvers: UDP, TCP where an answer was cut, the next server where one is
//! slow or refuses. A question costs at most one slot for at most [`DEADLINE`].

use super::upstream::Upstreams;
use super::wire::{self, Query};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

/// The longest that a client waits for an answer from elsewhere.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// After this long without an answer the next server is asked, too.
const HEDGE: Duration = Duration::from_millis(800);
/// A datagram may have been lost: it is sent again after this long.
const AGAIN: Duration = Duration::from_millis(1500);
/// Questions under way at a time, of everybody and of one asker.
const AT_ONCE: usize = 512;
const AT_ONCE_EACH: usize = 64;

/// How a question came, and so how far an answer may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Puts questions to servers.
#[derive(Debug)]
pub(super) struct Forwarder {
    upstreams: Mutex<Upstreams>,
    under_way: Mutex<HashMap<IpAddr, usize>>,
}

/// A place among the questions under way.
#[derive(Debug)]
pub(super) struct Slot<'f> {
    forwarder: &'f Forwarder,
    asker: IpAddr,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.forwarder.under_way);
        if let Some(count) = under_way.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.asker);
            }
        }
    }
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self { upstreams: Mutex::new(upstreams), under_way: Mutex::default() }
    }

    pub(super) fn upstreams(&self) -> MutexGuard<'_, Upstreams> {
        lock(&self.upstreams)
    }

    /// A place for a question of `asker`; none where it, or all together, have too many.
    pub(super) fn slot(&self, asker: IpAddr) -> Option<Slot<'_>> {
        let mut under_way = lock(&self.under_way);
        let all: usize = under_way.values().sum();
        let own = under_way.get(&asker).copied().unwrap_or(0);
        if all >= AT_ONCE || own >= AT_ONCE_EACH {
            return None;
        }
        under_way.insert(asker, own + 1);
        Some(Slot { forwarder: self, asker })
    }

    /// The first real answer of `servers` to `packet` (with the client's id), else the last refusal, else none.
    pub(super) async fn ask(
        &self,
        query: &Query,
        packet: &[u8],
        servers: &[SocketAddr],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        let (mut waiting, mut pending) = (servers.iter(), FuturesUnordered::new());
        let mut refused = None;
        let mut start = |pending: &mut FuturesUnordered<_>| {
            if let Some(server) = waiting.next() {
                pending.push(async move { (*server, ask_one(query, packet, *server, transport).await) });
            }
        };
        start(&mut pending);
        let mut hedge = Instant::now() + HEDGE;
        while !pending.is_empty() {
            tokio::select! {
                Some((server, answer)) = pending.next() => {
                    self.upstreams().note(server, answer.is_ok());
                    match answer {
                        Ok(reply) if !wire::is_refusal(&reply) => {
                            refused = Some(reply);
                            break;
                        }
                        Ok(reply) => refused = Some(reply),
                        Err(error) => tracing::debug!(%server, %error, "a resolver did not answer"),
                    }
                    start(&mut pending);
                }
                () = sleep_until(hedge) => {
                    hedge += HEDGE;
                    start(&mut pending);
                }
                () = sleep_until(deadline) => {
                    if let Some(server) = servers.first() {
                        self.upstreams().note(*server, false);
                    }
                    break;
                }
            }
        }
        let mut reply = refused?;
        wire::renumber(&mut reply, query.id);
        if transport == Transport::Udp && reply.len() > query.udp_limit() {
            reply = wire::truncated(query, &reply);
        }
        Some(reply)
    }
}

async fn ask_one(query: &Query, packet: &[u8], server: SocketAddr, transport: Transport) -> io::Result<Vec<u8>> {
    let id = random_id()?;
    let mut packet = packet.to_vec();
    wire::renumber(&mut packet, id);
    let reply = match transport {
        Transport::Udp => over_udp(query, id, &packet, server).await?,
        Transport::Tcp => return over_tcp(query, id, &packet, server).await,
    };
    if !wire::is_truncated(&reply) {
        return Ok(reply);
    }
    // Who cannot take the whole gets the cut answer: it says so, and he may come by TCP.
    match timeout(DEADLINE / 2, over_tcp(query, id, &packet, server)).await {
        Ok(Ok(whole)) => Ok(whole),
        _ => Ok(reply),
    }
}

async fn over_udp(query: &Query, id: u16, packet: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket of its own, with a port that nobody can guess, that hears nobody else.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut buffer = vec![0; wire::MESSAGE_MAX];
    loop {
        socket.send(packet).await?;
        let again = Instant::now() + AGAIN;
        loop {
            let received = tokio::select! {
                received = socket.recv(&mut buffer) => received?,
                () = sleep_until(again) => break,
            };
            if let Some(reply) = buffer.get(..received).filter(|reply| query.is_answered_by(id, reply)) {
                return Ok(reply.to_vec());
            }
        }
    }
}

async fn over_tcp(query: &Query, id: u16, packet: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, packet).await?;
    let reply = read_message(&mut stream).await?;
    if query.is_answered_by(id, &reply) {
        Ok(reply)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
    }
}

/// Writes a message behind its length (RFC 1035 §4.2.2).
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

/// Reads a message behind its length.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
