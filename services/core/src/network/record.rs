//! Networks, attachments and addresses as they are stored.

use prost_types::Timestamp;
use std::collections::BTreeMap;

use crate::metadata::Table;

/// A network. The default bridge belongs to no namespace and is seen from all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Network {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name, unique in its namespace.
    #[prost(string, tag = "2")]
    pub name: String,
    /// `bridge`, `macvlan`, `ipvlan`, `cni`.
    #[prost(string, tag = "3")]
    pub driver: String,
    /// Its subnets, at most one of IPv4 and one of IPv6 for `bridge`.
    #[prost(message, repeated, tag = "4")]
    pub pools: Vec<Pool>,
    /// It has IPv6.
    #[prost(bool, tag = "5")]
    pub ipv6: bool,
    /// Nothing goes out, nothing is published.
    #[prost(bool, tag = "6")]
    pub internal: bool,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "7")]
    pub labels: BTreeMap<String, String>,
    /// Options as given, `com.docker.network.…`.
    #[prost(btree_map = "string, string", tag = "8")]
    pub options: BTreeMap<String, String>,
    /// The bridge's link, or the parent of macvlan and ipvlan.
    #[prost(string, tag = "9")]
    pub link: String,
    /// Creation.
    #[prost(message, optional, tag = "10")]
    pub created_at: Option<Timestamp>,
    /// Namespace that it belongs to; empty for the default bridge.
    #[prost(string, tag = "11")]
    pub namespace: String,
}

/// A subnet of a network.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pool {
    /// `172.18.0.0/16`.
    #[prost(string, tag = "1")]
    pub subnet: String,
    /// `172.18.0.1`; empty where there is none (macvlan, ipvlan).
    #[prost(string, tag = "2")]
    pub gateway: String,
    /// Part of the subnet that addresses are chosen from; empty: all of it.
    #[prost(string, tag = "3")]
    pub range: String,
    /// Addresses that are never given out, by name (`--aux-address`).
    #[prost(btree_map = "string, string", tag = "4")]
    pub reserved: BTreeMap<String, String>,
}

/// How far an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Wishes only: the container does not run, its endpoints have no addresses except those that were asked for.
    Configured = 0,
    /// Addresses and ports are given; the kernel may know them or not.
    Reserved = 1,
    /// Everything is in the kernel.
    Attached = 2,
}

/// All of a container's endpoints and published ports: one record, so that they change together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attachment {
    /// Container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Its name for people; empty for none.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its endpoints, `eth0` first.
    #[prost(message, repeated, tag = "3")]
    pub endpoints: Vec<Endpoint>,
    /// Its published ports.
    #[prost(message, repeated, tag = "4")]
    pub ports: Vec<Published>,
    /// How far it is.
    #[prost(enumeration = "Phase", tag = "5")]
    pub phase: i32,
    /// Path of its network namespace while attached, `/proc/PID/ns/net`.
    #[prost(string, tag = "6")]
    pub netns: String,
    /// Inode of that namespace: another one at the path is not it.
    #[prost(uint64, tag = "7")]
    pub netns_inode: u64,
    /// Boot that it was reserved in.
    #[prost(string, tag = "8")]
    pub boot_id: String,
    /// Namespace of the container.
    #[prost(string, tag = "9")]
    pub namespace: String,
    /// Its host name, for the resolver; empty: the short identifier.
    #[prost(string, tag = "10")]
    pub hostname: String,
}

/// A container's place in a network.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Identifier of the network.
    #[prost(string, tag = "2")]
    pub network: String,
    /// Name of the network.
    #[prost(string, tag = "3")]
    pub network_name: String,
    /// Link inside, `eth0`.
    #[prost(string, tag = "4")]
    pub interface: String,
    /// Link outside, `veth1a2b3c4`; empty where the driver has none.
    #[prost(string, tag = "5")]
    pub host_link: String,
    /// `02:…`, stable for the container's life.
    #[prost(string, tag = "6")]
    pub mac: String,
    /// `172.17.0.2/16`; empty while not reserved.
    #[prost(string, tag = "7")]
    pub address: String,
    /// Gateway of IPv4; empty for none.
    #[prost(string, tag = "8")]
    pub gateway: String,
    /// `fd00::2/64`; empty for none.
    #[prost(string, tag = "9")]
    pub address6: String,
    /// Gateway of IPv6; empty for none.
    #[prost(string, tag = "10")]
    pub gateway6: String,
    /// The IPv4 address that was asked for; empty: any.
    #[prost(string, tag = "11")]
    pub wanted: String,
    /// The IPv6 address that was asked for; empty: any.
    #[prost(string, tag = "12")]
    pub wanted6: String,
    /// Further names in this network.
    #[prost(string, repeated, tag = "13")]
    pub aliases: Vec<String>,
    /// The highest takes the default route.
    #[prost(sint32, tag = "14")]
    pub priority: i32,
    /// What a plugin answered, byte for byte.
    #[prost(bytes = "vec", tag = "15")]
    pub result: Vec<u8>,
    /// Bytes of a packet.
    #[prost(uint32, tag = "16")]
    pub mtu: u32,
    /// Driver of the network.
    #[prost(string, tag = "17")]
    pub driver: String,
    /// The network is internal: no default route.
    #[prost(bool, tag = "18")]
    pub internal: bool,
}

/// A published port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Published {
    /// `tcp`, `udp`, `sctp`.
    #[prost(string, tag = "1")]
    pub protocol: String,
    /// Port of the container.
    #[prost(uint32, tag = "2")]
    pub container_port: u32,
    /// Address of the host; empty: all of IPv4 and IPv6.
    #[prost(string, tag = "3")]
    pub host_ip: String,
    /// Port of the host; 0 while not reserved.
    #[prost(uint32, tag = "4")]
    pub host_port: u32,
    /// First port of the host that may be taken; 0: any free one.
    #[prost(uint32, tag = "5")]
    pub first: u32,
    /// Last one.
    #[prost(uint32, tag = "6")]
    pub last: u32,
}

/// An address that is taken.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// Namespace of the container.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Container.
    #[prost(string, tag = "2")]
    pub container: String,
}

/// The identifier behind a network's name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NetworkName {
    /// Identifier.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// Networks: `network/<namespace>/<id>`.
pub const NETWORKS: Table<Network> = Table::new("network");
/// Names of networks: `network-name/<namespace>/<name>`.
pub const NETWORK_NAMES: Table<NetworkName> = Table::new("network-name");
/// Attachments: `attachment/<namespace>/<container>`.
pub const ATTACHMENTS: Table<Attachment> = Table::new("attachment");
/// Addresses that are taken: `address/<network id>/<address>`.
pub const ADDRESSES: Table<Address> = Table::new("address");
