//! Making links.

use super::{
    AsRawFd, BorrowedFd, IFF_UP, IFLA_ADDRESS, IFLA_IFALIAS, IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, IFLA_MASTER,
    IFLA_MTU, IFLA_NET_NS_FD, Message, NEW_LINK, NLM_F_CREATE, NLM_F_EXCL, link_header,
};

const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;

/// What a link is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A bridge without spanning tree.
    Bridge,
    /// One end of a pair; the other is made in the namespace at once, down, under a name and an address of its own.
    Veth {
        /// Name of the other end.
        peer: &'a str,
        /// Address of the other end.
        peer_mac: [u8; 6],
        /// Namespace of the other end.
        netns: BorrowedFd<'a>,
    },
    /// A macvlan over a parent, in the namespace.
    Macvlan {
        /// MACVLAN_MODE_*: 1 private, 2 vepa, 4 bridge, 8 passthru.
        mode: u32,
        /// Index of the parent.
        parent: u32,
        /// Its namespace.
        netns: BorrowedFd<'a>,
    },
    /// An ipvlan over a parent, in the namespace.
    Ipvlan {
        /// IPVLAN_MODE_*: 0 L2, 1 L3, 2 L3S.
        mode: u16,
        /// Index of the parent.
        parent: u32,
        /// Its namespace.
        netns: BorrowedFd<'a>,
    },
    /// A link that goes nowhere, for tests and as a parent.
    Dummy,
}

/// A link that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewLink<'a> {
    /// Name, at most 15 bytes.
    pub name: &'a str,
    /// What it is.
    pub kind: Kind<'a>,
    /// Largest packet of both ends; 0: the kernel's default.
    pub mtu: u32,
    /// Address; none: random, and of a bridge it changes with its ports.
    pub mac: Option<[u8; 6]>,
    /// Index of its bridge; 0 for none.
    pub master: u32,
    /// Set up at once (of a pair: this end).
    pub up: bool,
}

impl NewLink<'_> {
    /// The request. EEXIST where the name is taken, here or in the namespace.
    pub fn message(&self) -> Message {
        let flags = if self.up { IFF_UP } else { 0 };
        let mut message = Message::new(NEW_LINK, NLM_F_CREATE | NLM_F_EXCL, format!("make link {}", self.name))
            .fixed(&link_header(0, flags, flags))
            .text(IFLA_IFNAME, self.name);
        if self.mtu > 0 {
            message = message.number(IFLA_MTU, self.mtu);
        }
        if let Some(mac) = self.mac {
            message = message.attribute(IFLA_ADDRESS, &mac);
        }
        if self.master > 0 {
            message = message.number(IFLA_MASTER, self.master);
        }
        match self.kind {
            Kind::Bridge => message.nest(IFLA_LINKINFO, |info| info.attribute(INFO_KIND, b"bridge")),
            Kind::Dummy => message.nest(IFLA_LINKINFO, |info| info.attribute(INFO_KIND, b"dummy")),
            Kind::Veth { peer, peer_mac, netns } => message.nest(IFLA_LINKINFO, |info| {
                info.attribute(INFO_KIND, b"veth").nest(INFO_DATA, |data| {
                    data.nest(VETH_PEER, |end| {
                        let end = end
                            .fixed(&link_header(0, 0, 0))
                            .text(IFLA_IFNAME, peer)
                            .attribute(IFLA_ADDRESS, &peer_mac)
                            .number(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
                        if self.mtu > 0 { end.number(IFLA_MTU, self.mtu) } else { end }
                    })
                })
            }),
            Kind::Macvlan { mode, parent, netns } => message
                .number(IFLA_LINK, parent)
                .number(IFLA_NET_NS_FD, netns.as_raw_fd() as u32)
                .nest(IFLA_LINKINFO, |info| {
                    info.attribute(INFO_KIND, b"macvlan").nest(INFO_DATA, |data| data.number(1, mode))
                }),
            Kind::Ipvlan { mode, parent, netns } => message
                .number(IFLA_LINK, parent)
                .number(IFLA_NET_NS_FD, netns.as_raw_fd() as u32)
                .nest(IFLA_LINKINFO, |info| {
                    info.attribute(INFO_KIND, b"ipvlan").nest(INFO_DATA, |data| data.attribute(1, &mode.to_ne_bytes()))
                }),
        }
    }
}

/// How a link behaves as a bridge's port, and its alias: one request for both.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Name of the link.
    pub name: &'a str,
    /// Its alias.
    pub alias: &'a str,
    /// Packets may leave by the port that they came from.
    pub hairpin: bool,
    /// No packets to and from other isolated ports.
    pub isolated: bool,
}

impl Port<'_> {
    /// The request.
    pub fn message(&self) -> Message {
        const MODE: u16 = 4;
        const ISOLATED: u16 = 33;
        Message::new(NEW_LINK, 0, format!("port of link {}", self.name))
            .fixed(&link_header(0, 0, 0))
            .text(IFLA_IFNAME, self.name)
            .attribute(IFLA_IFALIAS, self.alias.as_bytes())
            .nest(IFLA_LINKINFO, |info| {
                info.attribute(INFO_SLAVE_KIND, b"bridge").nest(INFO_SLAVE_DATA, |data| {
                    data.attribute(MODE, &[u8::from(self.hairpin)]).attribute(ISOLATED, &[u8::from(self.isolated)])
                })
            })
    }
}
