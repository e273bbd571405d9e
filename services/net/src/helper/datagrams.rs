//! Datagrams to `[::1]`, where no rule can lead: led on to the container. Each client has a flow, which is a socket of its own
//! towards the container, so that answers find their way back.
//!
//! ```text
//!   client [::1]:41000 ──▶ [::1]:53 ─▶ flow of [::1]:41000 ──▶ container:53
//!                      ◀───────────────                    ◀──
//! ```
//! A flow ends when nothing has come for [`Limits::idle`]. Where a port has [`Limits::flows`], or all ports have theirs, a new
//! client takes the place of the one that was silent longest.

use super::ports::Target;
use rustix::net::SendFlags;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

/// Datagrams that are moved before others have their turn.
const BURST: usize = 64;
/// Longest datagram, in bytes.
const LONGEST: usize = 65_535;

/// Bounds of one port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long a flow may be silent.
    pub(super) idle: Duration,
    /// Flows at a time.
    pub(super) flows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), flows: 1024 }
    }
}

/// What became of the datagrams to one port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flows {
    /// The port, `[::]:53/udp`.
    pub port: String,
    /// Clients that have a flow now.
    pub open: u64,
    /// Flows since the port is held.
    pub opened: u64,
    /// Flows that ended after their time of silence.
    pub idle: u64,
    /// Flows that ended for others' sake.
    pub evicted: u64,
    /// Datagrams to the container.
    pub to_container: u64,
    /// Datagrams to clients.
    pub to_clients: u64,
    /// Datagrams that were lost: no container is attached, or the kernel did not take them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    opened: AtomicU64,
    idle: AtomicU64,
    evicted: AtomicU64,
    to_container: AtomicU64,
    to_clients: AtomicU64,
    dropped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all ports share.
#[derive(Debug)]
pub(super) struct Room {
    /// Places of flows.
    places: Arc<Semaphore>,
    /// One for all: it is used between two waits only.
    buffer: Mutex<Box<[u8]>>,
}

impl Room {
    /// For so many flows over all ports.
    pub(super) fn new(flows: usize) -> Arc<Self> {
        let buffer = Mutex::new(vec![0; LONGEST].into_boxed_slice());
        Arc::new(Self { places: Arc::new(Semaphore::new(flows)), buffer })
    }
}

/// One port's way on.
#[derive(Debug)]
pub(super) struct Way {
    socket: UdpSocket,
    target: Target,
    limits: Limits,
    room: Arc<Room>,
    counts: Counts,
    begun: Instant,
}

/// A client's.
#[derive(Debug)]
struct Flow {
    serial: u64,
    upstream: Arc<UdpSocket>,
    target: SocketAddr,
    /// Milliseconds after the way's beginning at which something came last.
    used: Arc<AtomicU64>,
    task: AbortHandle,
    _place: OwnedSemaphorePermit,
}

impl Way {
    /// From a bound socket, which does not block.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        target: Target,
        room: Arc<Room>,
        limits: Limits,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            target,
            limits,
            room,
            counts: Counts::default(),
            begun: Instant::now(),
        })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// What it did, by the name of its port.
    pub(super) fn flows(&self, port: String) -> Flows {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        Flows {
            port,
            open: read(&counts.open),
            opened: read(&counts.opened),
            idle: read(&counts.idle),
            evicted: read(&counts.evicted),
            to_container: read(&counts.to_container),
            to_clients: read(&counts.to_clients),
            dropped: read(&counts.dropped),
        }
    }

    /// Leads datagrams on until it is dropped, and all flows with it.
    pub(super) async fn lead(self: Arc<Self>) {
        let (mut flows, mut tasks) = (HashMap::new(), JoinSet::new());
        let mut serial = 0;
        loop {
            tokio::select! {
                ready = self.socket.readable() => match ready {
                    Ok(()) => {
                        for _ in 0..BURST {
                            if !self.take_one(&mut flows, &mut tasks, &mut serial) {
                                break;
                            }
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a socket for datagrams to [::1]");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    let Ok((client, serial)) = ended else { continue }; // evicted: it is out of the table already
                    if flows.get(&client).is_some_and(|flow: &Flow| flow.serial == serial) {
                        flows.remove(&client);
                        count(&self.counts.idle);
                    }
                }
            }
            self.counts.open.store(flows.len() as u64, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    }

    /// Answers whether there may be more.
    fn take_one(
        self: &Arc<Self>,
        flows: &mut HashMap<SocketAddr, Flow>,
        tasks: &mut JoinSet<(SocketAddr, u64)>,
        serial: &mut u64,
    ) -> bool {
        let mut buffer = self.room.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let (length, client) = match self.socket.try_recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true, // a client that has gone (ICMP); the next is another's
        };
        let Some(target) = *self.target.lock().unwrap_or_else(PoisonError::into_inner) else {
            count(&self.counts.dropped);
            return true;
        };
        if flows.get(&client).is_some_and(|flow| flow.target != target) {
            // The container has another address now.
            self.evict(flows, client);
        }
        if !flows.contains_key(&client) {
            *serial += 1;
            match self.open(flows, tasks, (client, target, *serial)) {
                Ok(flow) => drop(flows.insert(client, flow)),
                Err(error) => {
                    tracing::debug!(%error, %target, "a datagram to [::1] was not led on");
                    count(&self.counts.dropped);
                    return true;
                }
            }
        }
        if let Some(flow) = flows.get(&client) {
            flow.used.store(self.now(), Ordering::Relaxed);
            // By the call itself: tokio does not know yet that a fresh socket can be written to.
            let send = || rustix::net::send(&*flow.upstream, &buffer[..length], SendFlags::DONTWAIT);
            // A refusal tells of a datagram before this one.
            let sent = match send() {
                Err(rustix::io::Errno::CONNREFUSED) => send(),
                sent => sent,
            };
            count(if sent.is_ok() { &self.counts.to_container } else { &self.counts.dropped });
        }
        true
    }

    fn open(
        self: &Arc<Self>,
        flows: &mut HashMap<SocketAddr, Flow>,
        tasks: &mut JoinSet<(SocketAddr, u64)>,
        (client, target, serial): (SocketAddr, SocketAddr, u64),
    ) -> io::Result<Flow> {
        let place = loop {
            let full = flows.len() >= self.limits.flows;
            match Arc::clone(&self.room.places).try_acquire_owned() {
                Ok(place) if !full => break place,
                _ => {
                    let silent = flows.iter().min_by_key(|(_, flow)| flow.used.load(Ordering::Relaxed));
                    let Some(silent) = silent.map(|(client, _)| *client) else {
                        return Err(io::Error::other("all flows are other ports'"));
                    };
                    self.evict(flows, silent);
                }
            }
        };
        let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let upstream = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
        upstream.set_nonblocking(true)?;
        upstream.connect(target)?;
        let upstream = Arc::new(UdpSocket::from_std(upstream)?);
        let used = Arc::new(AtomicU64::new(self.now()));
        let (way, from, last) = (Arc::clone(self), Arc::clone(&upstream), Arc::clone(&used));
        let task = tasks.spawn(async move {
            way.answer(client, &from, &last).await;
            (client, serial)
        });
        count(&self.counts.opened);
        Ok(Flow { serial, upstream, target, used, task, _place: place })
    }

    fn evict(&self, flows: &mut HashMap<SocketAddr, Flow>, client: SocketAddr) {
        if let Some(flow) = flows.remove(&client) {
            flow.task.abort();
            count(&self.counts.evicted);
        }
    }

    /// Takes answers back to a client until both have been silent for long enough.
    async fn answer(&self, client: SocketAddr, upstream: &UdpSocket, used: &AtomicU64) {
        loop {
            let silent = Duration::from_millis(self.now().saturating_sub(used.load(Ordering::Relaxed)));
            let Some(left) = self.limits.idle.checked_sub(silent).filter(|left| !left.is_zero()) else { return };
            tokio::select! {
                ready = upstream.readable() => {
                    if ready.is_ok() {
                        self.take_answers(client, upstream, used);
                    }
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    fn take_answers(&self, client: SocketAddr, upstream: &UdpSocket, used: &AtomicU64) {
        let mut buffer = self.room.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..BURST {
            match upstream.try_recv(&mut buffer) {
                Ok(length) => {
                    used.store(self.now(), Ordering::Relaxed);
                    let sent = rustix::net::sendto(&self.socket, &buffer[..length], SendFlags::DONTWAIT, &client);
                    count(if sent.is_ok() { &self.counts.to_clients } else { &self.counts.dropped });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {} // nobody listens in the container; its next process may
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A container that answers each datagram with who sent it and what, and a way to it.
    fn rig(limits: Limits, places: usize) -> (Arc<Way>, SocketAddr, tokio::task::JoinHandle<()>) {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                if &buffer[..length] == b"end" {
                    return;
                }
                let said = format!("{} {}", from.port(), String::from_utf8_lossy(&buffer[..length]));
                server.send_to(said.as_bytes(), from).unwrap();
            }
        });
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let at = socket.local_addr().unwrap();
        let target = Arc::new(Mutex::new(Some(target)));
        let way = Arc::new(Way::new(socket, target, Room::new(places), limits).unwrap());
        let task = tokio::spawn(Arc::clone(&way).lead());
        (way, at, task)
    }

    async fn client() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").await.unwrap()
    }

    /// One question and its answer: the port that the container saw, and the words.
    async fn ask(client: &UdpSocket, at: SocketAddr, words: &str) -> (u16, String) {
        client.send_to(words.as_bytes(), at).await.unwrap();
        let mut buffer = [0; 2048];
        let (length, from) = tokio::time::timeout(PATIENCE, client.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(from, at, "it comes from where the question went");
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let (port, words) = said.split_once(' ').unwrap();
        (port.parse().unwrap(), words.to_owned())
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn each_client_has_a_flow_of_its_own_that_ends_in_silence() {
        let (way, at, _task) = rig(Limits { idle: Duration::from_millis(400), flows: 8 }, 8);
        let (one, two) = (client().await, client().await);
        let first = ask(&one, at, "a").await;
        let other = ask(&two, at, "b").await;
        assert_eq!((first.1.as_str(), other.1.as_str()), ("a", "b"));
        assert_ne!(first.0, other.0);
        assert_eq!(ask(&one, at, "c").await, (first.0, "c".into()), "the same flow");
        until("silent flows end", || way.flows(String::new()).open == 0).await;
        let flows = way.flows("p".into());
        assert_eq!((flows.opened, flows.idle, flows.to_container, flows.to_clients), (2, 2, 3, 3), "{flows:?}");
        assert_eq!(way.room.places.available_permits(), 8);
        assert_eq!(ask(&one, at, "d").await.1, "d", "and begin again");
    }

    #[tokio::test]
    async fn the_most_silent_client_makes_room_and_no_more_are_open_than_may_be() {
        let (way, at, task) = rig(Limits { flows: 3, ..Limits::default() }, 64);
        let clients = clients_of(5).await;
        let mut seen = Vec::new();
        for one in &clients {
            seen.push(ask(one, at, "x").await.0);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let flows = way.flows(String::new());
        assert_eq!((flows.open, flows.opened, flows.evicted), (3, 5, 2), "{flows:?}");
        assert_eq!(ask(&clients[4], at, "y").await.0, seen[4], "the last is still there");
        // The first comes back with a flow that is new.
        ask(&clients[0], at, "z").await;
        assert_eq!(way.flows(String::new()).opened, 6);
        // Let go, all sockets are closed.
        task.abort();
        let _ = task.await;
        until("every flow ends with its port", || way.room.places.available_permits() == 64).await;
    }

    async fn clients_of(count: usize) -> Vec<UdpSocket> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(client().await);
        }
        all
    }

    #[tokio::test]
    async fn other_ports_places_are_not_taken_and_another_target_begins_anew() {
        let (way, at, _task) = rig(Limits::default(), 1);
        let one = client().await;
        let taken = Arc::clone(&way.room.places).acquire_owned().await.unwrap();
        one.send_to(b"lost", at).await.unwrap();
        until("it is counted", || way.flows(String::new()).dropped == 1).await;
        drop(taken);
        ask(&one, at, "a").await;
        let (other, ..) = rig(Limits::default(), 1);
        let next = *other.target.lock().unwrap();
        *way.target.lock().unwrap() = next;
        ask(&one, at, "b").await;
        let flows = way.flows(String::new());
        assert_eq!((flows.opened, flows.evicted, flows.open), (2, 1, 1), "{flows:?}");
        *way.target.lock().unwrap() = None;
        one.send_to(b"nobody", at).await.unwrap();
        until("it is counted", || way.flows(String::new()).dropped == 2).await;
    }
}
