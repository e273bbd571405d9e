//! Connections that the kernel tracks: those of a mapping that is gone would swallow packets of the next one.
//!
//! Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.

use super::{Attributes, Family, Message, Socket};
use crate::error::{Errno, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Who sends.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

/// A connection: its first packet's way, and its answers' way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// As it came.
    pub original: Way,
    /// As answers come: behind a DNAT their source is the true destination.
    pub reply: Way,
}

/// Removes the connections that `which` names; answers with how many. Costs a walk over all of them.
pub fn remove(which: impl Fn(&Flow) -> bool) -> Result<usize> {
    let mut socket = Socket::open(Family::Netfilter, 0)?;
    let make = || Message::new(SUBSYSTEM << 8 | GET, NLM_F_DUMP, "list connections").fixed(&[0; 4]);
    let take = |_: u16, body: &[u8]| {
        let attributes = Attributes(body.get(4..)?);
        let flow = flow(attributes)?;
        let keep = [ORIGINAL, ID, ZONE].into_iter().filter_map(|kind| Some((kind, attributes.find(kind)?.to_vec())));
        which(&flow).then(|| (*body.first().unwrap_or(&0), keep.collect::<Vec<_>>()))
    };
    let found = socket.dump(make, take)?;
    let mut removed = 0;
    for (family, attributes) in found {
        let mut message = Message::new(SUBSYSTEM << 8 | DELETE, 0, "remove a connection").fixed(&[family, 0, 0, 0]);
        for (kind, value) in attributes {
            let kind = if kind == ORIGINAL { kind | 0x8000 } else { kind };
            message = message.attribute(kind, &value);
        }
        match socket.request(message) {
            Ok(()) => removed += 1,
            Err(error) if error.errno == Errno::ENOENT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

fn flow(attributes: Attributes<'_>) -> Option<Flow> {
    let original = attributes.inner(ORIGINAL)?;
    let protocol = *original.inner(2)?.find(1)?.first()?;
    Some(Flow { protocol, original: way(original)?, reply: way(attributes.inner(REPLY)?)? })
}

fn way(tuple: Attributes<'_>) -> Option<Way> {
    let (addresses, ports) = (tuple.inner(1)?, tuple.inner(2)?);
    let address = |v4, v6| {
        let four = addresses.find(v4).and_then(|bytes| bytes.first_chunk::<4>()).map(|b| Ipv4Addr::from(*b).into());
        four.or_else(|| addresses.find(v6)?.first_chunk::<16>().map(|bytes| IpAddr::from(Ipv6Addr::from(*bytes))))
    };
    let port = |kind| {
        let bytes = ports.find(kind).and_then(|bytes| bytes.first_chunk::<2>());
        bytes.map_or(0, |bytes| u16::from_be_bytes(*bytes))
    };
    Some(Way { source: address(1, 3)?, destination: address(2, 4)?, source_port: port(2), destination_port: port(3) })
}
