//! SCTP by the rules: with packets made by hand, so that a kernel without sockets of SCTP can be asked, too.

use super::host::*;
use crated_core::network::Published;
use crated_net::ports::Holder;
use crated_net::{Config, Service};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

/// Says that every port is held: the kernel need not have a socket for it.
#[derive(Debug)]
struct Anyone;

impl Holder for Anyone {
    fn hold(&self, _owner: &(String, String), ports: &mut [Published]) -> crated_types::Result<()> {
        ports.iter_mut().for_each(|port| port.host_port = port.first);
        Ok(())
    }

    fn release(&self, _owner: &(String, String), _ports: &[Published]) {}
}

/// CRC-32C, which RFC 9260 (appendix A) wants at the place of the checksum.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// An INIT from port 40000 (RFC 9260, 3.3.2).
fn init(to: u16) -> Vec<u8> {
    let mut packet = 40_000_u16.to_be_bytes().to_vec();
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 9]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// A raw socket of SCTP in a namespace.
fn raw(netns: &OwnedFd) -> UdpSocket {
    let socket = inside(netns, || {
        socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::SCTP)).unwrap()
    });
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Sends an INIT to a port of the host until one comes out in the container; its sender and both ports.
fn arrives(from: &UdpSocket, at: &UdpSocket, port: u16, patience: Duration) -> Option<(String, u16, u16)> {
    let until = Instant::now() + patience;
    let mut buffer = [0; 256];
    while Instant::now() < until {
        from.send_to(&init(port), (HOST, 0)).unwrap();
        let Ok(length) = at.recv(&mut buffer) else { continue };
        let packet = &buffer[..length];
        let source = std::net::Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        let body = &packet[usize::from(packet[0] & 15) * 4..];
        let mut unsummed = body.to_vec();
        unsummed[8..12].fill(0);
        assert_eq!(crc32c(&unsummed).to_le_bytes(), body[8..12], "a checksum that its receiver believes");
        let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        return Some((source.to_string(), number(0), number(2)));
    }
    None
}

#[test]
fn a_published_port_of_sctp_leads_to_its_container_alone() {
    in_host(|host| async move {
        let config = Config { id: "0123456789abcdef".into(), ..Config::default() };
        let service = Service::with_ports(host.metadata.clone(), config, Arc::new(Anyone), TaskTracker::new());
        crated_core::Networks::reconcile(&*service, Vec::new()).await.unwrap();
        let web =
            start(&host, &service, wish("web", on(&["bridge"]), &["9000:9001/sctp", "9002:9002/tcp"])).await.unwrap();
        let (outside, container) = (raw(&host.outside), raw(&web.netns));
        let came = arrives(&outside, &container, 9000, PATIENCE);
        assert_eq!(came, Some(("192.0.2.2".to_owned(), 40_000, 9001)), "with the client's own address");
        assert_eq!(arrives(&outside, &container, 9002, NEVER), None, "TCP's port is not SCTP's");
        stop(&host, &service, "web", true).await;
        assert_eq!(arrives(&outside, &container, 9000, NEVER), None, "not published any more");
    });
}
