//! The resolver over real sockets of the loopback, with servers behind it that answer, are slow, dead, or cut their answers.

use super::super::wire::tests::{ask, read};
use super::super::zone::{Endpoint, Network, Subnet};
use super::*;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

fn server(upstreams: &[SocketAddr]) -> Arc<Server> {
    let server = Server::new("/nowhere/resolv.conf".into());
    *server.forwarder.upstreams() = Upstreams::fixed(upstreams);
    let subnets = vec![Subnet { address: "127.0.0.0".parse().unwrap(), length: 8 }];
    let network = |id: &str, internal| Network {
        id: id.into(),
        name: format!("{id}-net"),
        internal,
        names: true,
        subnets: subnets.clone(),
        listen: Vec::new(),
    };
    let mut zone = server.zone();
    zone.put_network(network("open", false));
    zone.put_network(network("shut", true));
    for (id, network, addresses) in
        [("1", "open", vec!["10.0.0.1"]), ("2", "open", vec!["10.0.0.2", "fd00::2"]), ("3", "shut", vec!["10.9.0.1"])]
    {
        zone.put_endpoint(Endpoint {
            id: id.into(),
            network: network.into(),
            container: id.into(),
            addresses: addresses.into_iter().map(|text| text.parse().unwrap()).collect(),
            names: vec![format!("c{id}"), "all".into()],
            upstreams: Vec::new(),
        });
    }
    drop(zone);
    server
}

async fn udp(at: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(packet, at).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

async fn tcp(at: SocketAddr, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut replies = Vec::new();
    for packet in packets {
        write_message(&mut stream, packet).await.unwrap();
        replies.push(timeout(PATIENCE, read_message(&mut stream)).await.expect("an answer").unwrap());
    }
    replies
}

/// A server elsewhere: answers every name with `address`; over UDP cut where `cut`.
async fn elsewhere(address: &'static str, cut: bool) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let listener = TcpListener::bind(at).await.unwrap();
    let answer = move |packet: &[u8], limit| {
        let query = Query::parse(packet).unwrap();
        let mut reply = Reply::new(&query, if address == "refuse" { Code::Refused } else { Code::NoError });
        if address != "refuse" {
            reply.address(address.parse().unwrap(), 60);
        }
        reply.finish(limit)
    };
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let limit = if cut { 20 } else { 512 };
            socket.send_to(&answer(&buffer[..length], limit), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Ok(packet) = read_message(&mut stream).await {
                write_message(&mut stream, &answer(&packet, wire::MESSAGE_MAX)).await.unwrap();
            }
        }
    });
    at
}

/// A server that hears and never answers.
async fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    (socket, at)
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn names_of_ours_are_answered_over_both_transports() {
    let server = server(&[]);
    let open = server.listen_at("open", local()).unwrap();
    let reply = udp(open.at, &ask(1, "C1", wire::A, None)).await;
    assert_eq!(read(&reply), (0, vec!["10.0.0.1".into()]));
    assert_eq!(
        read(&udp(open.at, &ask(1, "c1", wire::AAAA, None)).await),
        (0, vec![]),
        "no such record, but the name is"
    );
    assert_eq!(read(&udp(open.at, &ask(1, "c2", wire::AAAA, Some(1232))).await), (0, vec!["fd00::2".into()]));
    assert_eq!(read(&udp(open.at, &ask(1, "c1", 15, None)).await), (0, vec![]));
    assert_eq!(read(&udp(open.at, &ask(1, "c9.open-net", wire::A, None)).await), (3, vec![]));
    let replies =
        tcp(open.at, &[ask(1, "c2.open-net", wire::A, None), ask(2, "1.0.0.10.in-addr.arpa", wire::PTR, None)]).await;
    assert_eq!(read(&replies[0]), (0, vec!["10.0.0.2".into()]));
    assert_eq!(read(&replies[1]), (0, vec!["c1.open-net".into()]));
    let mut firsts = Vec::new();
    for id in 0..4 {
        firsts.push(read(&udp(open.at, &ask(id, "all", wire::A, None)).await).1.remove(0));
    }
    firsts.sort();
    assert_eq!(firsts, ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"], "all in turn");
    let counters = server.counters();
    assert_eq!((counters.questions, counters.own, counters.forwarded), (11, 11, 0));
}

#[tokio::test]
async fn the_rest_is_forwarded_and_nothing_of_an_internal_network() {
    let (trap, trapped) = silent().await;
    let server = server(&[elsewhere("192.0.2.1", false).await]);
    let open = server.listen_at("open", local()).unwrap();
    assert_eq!(read(&udp(open.at, &ask(5, "example.org", wire::A, None)).await), (0, vec!["192.0.2.1".into()]));
    let reply = udp(open.at, &ask(6, "nas", wire::A, None)).await;
    assert_eq!((read(&reply).1, &reply[..2]), (vec!["192.0.2.1".into()], &[0, 6][..]));
    assert_eq!(read(&tcp(open.at, &[ask(7, "example.org", wire::A, None)]).await[0]).1, ["192.0.2.1"]);
    assert_eq!(server.counters().forwarded, 3);
    // From here on a question that leaves falls into the trap.
    *server.forwarder.upstreams() = Upstreams::fixed(&[trapped]);
    let shut = server.listen_at("shut", local()).unwrap();
    assert_eq!(read(&udp(shut.at, &ask(8, "example.org", wire::A, None)).await), (5, vec![]));
    assert_eq!(read(&udp(open.at, &ask(9, "c3", wire::A, None)).await), (3, vec![]), "a name of another network");
    let mut buffer = [0; 512];
    assert!(trap.try_recv(&mut buffer).is_err(), "a question left");
    assert_eq!(server.counters().forwarded, 3);
}

#[tokio::test]
async fn a_dead_slow_or_refusing_server_costs_a_moment_and_the_next_answers() {
    let good = elsewhere("192.0.2.2", false).await;
    let dead = silent().await.1; // dropped: the kernel refuses
    let (_kept, slow) = silent().await;
    let refusing = elsewhere("refuse", false).await;
    for first in [dead, slow, refusing] {
        let server = server(&[first, good]);
        let open = server.listen_at("open", local()).unwrap();
        let begun = Instant::now();
        assert_eq!(read(&udp(open.at, &ask(1, "example.org", wire::A, None)).await).1, ["192.0.2.2"]);
        eprintln!("answered after {:?}", begun.elapsed());
    }
    let server = server(&[slow]);
    let open = server.listen_at("open", local()).unwrap();
    assert_eq!(read(&udp(open.at, &ask(1, "example.org", wire::A, None)).await), (2, vec![]));
    assert_eq!(server.counters().failed, 1);
}

#[tokio::test]
async fn a_cut_answer_is_fetched_whole() {
    let server = server(&[elsewhere("192.0.2.3", true).await]);
    let open = server.listen_at("open", local()).unwrap();
    assert_eq!(read(&udp(open.at, &ask(1, "example.org", wire::A, None)).await), (0, vec!["192.0.2.3".into()]));
}

#[tokio::test]
async fn one_asker_cannot_take_every_place() {
    let (_kept, slow) = silent().await;
    let server = server(&[slow]);
    let open = server.listen_at("open", local()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for id in 0..200 {
        socket.send_to(&ask(id, "example.org", wire::A, None), open.at).await.unwrap();
        tokio::task::yield_now().await;
    }
    // What is beyond its share is answered at once, names of ours always.
    let mut buffer = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("a refusal").unwrap();
    assert_eq!(read(&buffer[..length]).0, 2);
    assert_eq!(read(&udp(open.at, &ask(1, "c1", wire::A, None)).await).1, ["10.0.0.1"]);
    assert!(server.counters().forwarded <= 64);
}

#[tokio::test]
async fn garbage_is_survived() {
    let server = server(&[]);
    let open = server.listen_at("open", local()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 11, 12, 13, 100, 600, 5000] {
        socket.send_to(&vec![0xff; length], open.at).await.unwrap();
    }
    let mut stream = TcpStream::connect(open.at).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &[0xff; 70_000]).await.unwrap();
    drop(stream);
    assert_eq!(read(&udp(open.at, &ask(1, "c1", wire::A, None)).await).1, ["10.0.0.1"]);
}
