//! Links, addresses and routes (rtnetlink(7), include/uapi/linux/{rtnetlink,if_link,if_addr}.h).
//!
//! What stands in a struct literal here is a request; [`Route`] sends several at once where nothing depends on their answers.

use super::{Attributes, Family, Message, Socket};
use crate::error::{Errno, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

mod links;

pub use links::{Kind, NewLink, Port};

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
/// RTEXT_FILTER_SKIP_STATS: without counters an answer is a third as long.
const SKIP_STATS: u32 = 1 << 3;
const IFF_UP: u32 = 1;

/// A link as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Number, unique in its namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Free text that somebody gave it.
    pub alias: String,
    /// `bridge`, `veth` …; empty for hardware.
    pub kind: String,
    /// Index of its bridge; 0 for none.
    pub master: u32,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Its address.
    pub mac: Vec<u8>,
    /// IFF_UP is set.
    pub up: bool,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Link.
    pub link: u32,
    /// Address.
    pub address: IpAddr,
    /// Bits of its network.
    pub length: u8,
}

/// A route of any table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// First address of what it leads to; none: everything.
    pub destination: Option<IpAddr>,
    /// Bits of the destination.
    pub length: u8,
    /// Next hop; none: on the link.
    pub gateway: Option<IpAddr>,
    /// Link; 0 for none.
    pub link: u32,
    /// Table: 254 main, 255 local.
    pub table: u32,
    /// RTN_*: 1 is a unicast route.
    pub kind: u8,
    /// Lower is preferred.
    pub metric: u32,
}

/// A socket for links, addresses and routes of one namespace.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
}

impl Route {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(Family::Route, 0)? })
    }

    /// Sends requests, one after another in one call.
    ///
    /// # Errors
    /// The first that failed; the others were carried out nevertheless.
    pub fn send(&mut self, requests: Vec<Message>) -> Result<()> {
        self.socket.batch(requests)
    }

    /// A link by name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let message = Message::new(GET_LINK, 0, format!("get link {name}"))
            .fixed(&link_header(0, 0, 0))
            .text(IFLA_IFNAME, name)
            .number(IFLA_EXT_MASK, SKIP_STATS);
        match self.socket.get(message, read_link) {
            Err(error) if error.errno == Errno::ENODEV => Ok(None),
            answer => answer,
        }
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let make = || {
            Message::new(GET_LINK, NLM_F_DUMP, "list links")
                .fixed(&link_header(0, 0, 0))
                .number(IFLA_EXT_MASK, SKIP_STATS)
        };
        self.socket.dump(make, |kind, body| if kind == NEW_LINK { read_link(body) } else { None })
    }

    /// All addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let make = || Message::new(GET_ADDRESS, NLM_F_DUMP, "list addresses").fixed(&[0; 8]);
        self.socket.dump(make, |kind, body| if kind == NEW_ADDRESS { read_address(body) } else { None })
    }

    /// All routes of a family.
    pub fn routes(&mut self, v6: bool) -> Result<Vec<RouteEntry>> {
        let mut header = [0; 12];
        header[0] = family(v6);
        let make = || Message::new(GET_ROUTE, NLM_F_DUMP, "list routes").fixed(&header);
        self.socket.dump(make, |kind, body| if kind == NEW_ROUTE { read_route(body) } else { None })
    }
}

/// Removes a link by name.
pub fn remove_link(name: &str) -> Message {
    Message::new(DEL_LINK, 0, format!("remove link {name}")).fixed(&link_header(0, 0, 0)).text(IFLA_IFNAME, name)
}

/// Removes every link of a group in one go: one wait of the kernel instead of one for each.
pub fn remove_group(group: u32) -> Message {
    Message::new(DEL_LINK, 0, format!("remove links of group {group}"))
        .fixed(&link_header(0, 0, 0))
        .number(IFLA_GROUP, group)
}

/// Puts a link into a group.
pub fn set_group(index: u32, group: u32) -> Message {
    Message::new(SET_LINK, 0, format!("group of link {index}"))
        .fixed(&link_header(index, 0, 0))
        .number(IFLA_GROUP, group)
}

/// Sets a link up.
pub fn set_up(index: u32) -> Message {
    Message::new(SET_LINK, 0, format!("set link {index} up")).fixed(&link_header(index, IFF_UP, IFF_UP))
}

/// Puts a link into a bridge.
pub fn set_master(index: u32, master: u32) -> Message {
    Message::new(SET_LINK, 0, format!("bridge of link {index}"))
        .fixed(&link_header(index, 0, 0))
        .number(IFLA_MASTER, master)
}

/// Gives a link an alias.
pub fn set_alias(index: u32, alias: &str) -> Message {
    Message::new(SET_LINK, 0, format!("alias of link {index}"))
        .fixed(&link_header(index, 0, 0))
        .attribute(IFLA_IFALIAS, alias.as_bytes())
}

/// Gives a link an address; one that it has stays. Duplicates are not looked for (IFA_F_NODAD): ours are unique by record.
pub fn add_address(link: u32, address: IpAddr, length: u8) -> Message {
    const NODAD: u8 = 2;
    let flags = if address.is_ipv6() { NODAD } else { 0 };
    let mut header = vec![family(address.is_ipv6()), length, flags, 0];
    header.extend(link.to_ne_bytes());
    let bytes = octets(address);
    let message = Message::new(NEW_ADDRESS, NLM_F_CREATE | NLM_F_REPLACE, format!("add address {address}/{length}"))
        .fixed(&header)
        .attribute(2, &bytes) // IFA_LOCAL
        .attribute(1, &bytes); // IFA_ADDRESS
    match address {
        IpAddr::V4(four) if length < 31 => {
            let broadcast = u32::from(four) | (u32::MAX >> length);
            message.attribute(4, &broadcast.to_be_bytes())
        }
        _ => message,
    }
}

/// Makes or replaces the default route of the gateway's family.
pub fn default_route(link: u32, gateway: IpAddr) -> Message {
    route(link, None, 0, Some(gateway))
}

/// Makes or replaces the default route over a link without a gateway.
pub fn default_link_route(link: u32, v6: bool) -> Message {
    let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    route(link, Some(any), 0, None)
}

fn route(link: u32, destination: Option<IpAddr>, length: u8, gateway: Option<IpAddr>) -> Message {
    let v6 = destination.or(gateway).is_some_and(|address| address.is_ipv6());
    let (main, boot, unicast) = (254, 3, 1);
    let scope = if gateway.is_some() { 0 } else { 253 };
    let header = [family(v6), length, 0, 0, main, boot, scope, unicast, 0, 0, 0, 0];
    let name = match gateway {
        Some(gateway) => format!("route to {length} bits by {gateway}"),
        None => format!("route to {length} bits over link {link}"),
    };
    let mut message = Message::new(NEW_ROUTE, NLM_F_CREATE | NLM_F_REPLACE, name).fixed(&header);
    if let (Some(destination), true) = (destination, length > 0) {
        message = message.attribute(1, &octets(destination));
    }
    if let Some(gateway) = gateway {
        message = message.attribute(5, &octets(gateway));
    }
    message.number(4, link)
}

const fn family(v6: bool) -> u8 {
    if v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

/// The bytes of an address, as the wire has them.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()),
        16 => bytes.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, mask: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&mask.to_ne_bytes());
    bytes
}

fn read_link(body: &[u8]) -> Option<Link> {
    let number = |at: usize| body.get(at..at + 4)?.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
    let attributes = Attributes(body.get(16..)?);
    Some(Link {
        index: number(4)?,
        up: number(8)? & IFF_UP != 0,
        name: attributes.text(IFLA_IFNAME)?,
        alias: attributes.text(IFLA_IFALIAS).unwrap_or_default(),
        kind: attributes.inner(IFLA_LINKINFO).and_then(|info| info.text(1)).unwrap_or_default(),
        master: attributes.number(IFLA_MASTER).unwrap_or_default(),
        mtu: attributes.number(IFLA_MTU).unwrap_or_default(),
        mac: attributes.find(IFLA_ADDRESS).unwrap_or_default().to_vec(),
    })
}

fn read_address(body: &[u8]) -> Option<Address> {
    let attributes = Attributes(body.get(8..)?);
    Some(Address {
        link: u32::from_ne_bytes(*body.get(4..8)?.first_chunk::<4>()?),
        address: address(attributes.find(2).or_else(|| attributes.find(1))?)?,
        length: *body.get(1)?,
    })
}

fn read_route(body: &[u8]) -> Option<RouteEntry> {
    let attributes = Attributes(body.get(12..)?);
    Some(RouteEntry {
        destination: attributes.find(1).and_then(address),
        length: *body.get(1)?,
        gateway: attributes.find(5).and_then(address),
        link: attributes.number(4).unwrap_or_default(),
        table: attributes.number(15).unwrap_or_else(|| u32::from(body[4])),
        kind: *body.get(7)?,
        metric: attributes.number(6).unwrap_or_default(),
    })
}
