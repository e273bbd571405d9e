//! The port of networks: what exists, what a container is attached to, and the kernel's side of both.
//!
//! ```text
//! create  configure ─ Change ──▶ Configured     wishes, in the commit that creates the container
//! start   reserve ─── Change ──▶ Reserved       addresses, host ports: in the commit that begins the start
//!         attach  (the task is created, its process waits at the gate) ──▶ Attached: links, routes, rules
//! exit    detach ──── Change ──▶ Configured     the kernel's side is gone, the commit frees the addresses
//! remove  forget ──── Change ──▶ nothing
//! ```
//! A [`Change`] is put into a commit of the caller's, who then says [`Change::kept`]; dropped without it, what was taken
//! in memory is given back. Every step may be repeated. A container with no attachment (`none`, `host`, `container:`, `ns:`)
//! has none of these calls.

pub mod record;

use async_trait::async_trait;
use crated_types::{Cidr, ContainerId, Namespace, Result, Scope};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use crate::metadata::Op;
pub use record::{ATTACHMENTS, Attachment, Endpoint, NETWORKS, Network, Phase, Pool, Published};

/// Name of the default network: it exists as soon as somebody asks for it.
pub const DEFAULT_NETWORK: &str = "bridge";

/// A network that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// `^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`, not `bridge`, `host`, `none`, `default`.
    pub name: String,
    /// `bridge`, `macvlan`, `ipvlan`; empty: `bridge`.
    pub driver: String,
    /// Subnets; where one of IPv4 is missing the first free pool is taken.
    pub pools: Vec<PoolSpec>,
    /// IPv6, too; a subnet of it is made up where none is given.
    pub ipv6: bool,
    /// Nothing goes out, nothing is published.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `com.docker.network.bridge.name`, `.driver.mtu`, `.bridge.enable_icc`, `.bridge.enable_ip_masquerade`,
    /// `.bridge.host_binding_ipv4`, `.container_iface_prefix`, `parent`, `macvlan_mode`, `ipvlan_mode`.
    pub options: BTreeMap<String, String>,
}

/// A subnet that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// The subnet.
    pub subnet: Cidr,
    /// Gateway; none: its first address.
    pub gateway: Option<IpAddr>,
    /// Part that addresses are chosen from.
    pub range: Option<Cidr>,
    /// Addresses that are never given out, by name.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// What a container wants of the networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Container.
    pub container: ContainerId,
    /// Its name for people; may be empty.
    pub name: String,
    /// Its host name; may be empty.
    pub hostname: String,
    /// Endpoints, `eth0` first.
    pub endpoints: Vec<Wanted>,
    /// Ports; more than [`PORTS_MAX`] are refused.
    pub ports: Vec<Publish>,
}

/// Most published ports of a container.
pub const PORTS_MAX: usize = 4096;
/// Most endpoints of a container.
pub const ENDPOINTS_MAX: usize = 32;

/// An endpoint that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Name or identifier of the network.
    pub network: String,
    /// Static address of IPv4.
    pub address: Option<Ipv4Addr>,
    /// Static address of IPv6.
    pub address6: Option<Ipv6Addr>,
    /// MAC; none: a random one, kept for the container's life.
    pub mac: Option<[u8; 6]>,
    /// Further names.
    pub aliases: Vec<String>,
    /// The highest takes the default route.
    pub priority: i32,
}

/// Transport of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp`, `sctp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// `IPPROTO_*`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.name() == name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A port that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Transport.
    pub protocol: Protocol,
    /// Port of the container, 1..=65535.
    pub container_port: u16,
    /// Address of the host; none: all of IPv4 and IPv6.
    pub host_ip: Option<IpAddr>,
    /// Port of the host, the first free one from..=to; (0, 0): any.
    pub host_ports: (u16, u16),
}

/// A network namespace that links are to be put into.
#[derive(Debug)]
pub struct Netns {
    /// It, open.
    pub fd: OwnedFd,
    /// Where it is found again, `/proc/PID/ns/net`.
    pub path: String,
}

/// A container that runs, for [`Networks::reconcile`].
#[derive(Debug)]
pub struct Running {
    /// Namespace of the container.
    pub namespace: Namespace,
    /// Container.
    pub container: ContainerId,
    /// Its network namespace.
    pub netns: Netns,
}

/// Changes of records, to be put into a commit.
#[must_use = "commit its operations and say `kept`"]
pub struct Change {
    /// The operations, with their expectations.
    pub ops: Vec<Op>,
    settle: Option<Box<dyn FnOnce(bool) + Send + Sync>>,
}

impl Change {
    /// Operations, and what is told (true: kept) once their fate is known.
    pub fn new(ops: Vec<Op>, settle: impl FnOnce(bool) + Send + Sync + 'static) -> Self {
        Self { ops, settle: Some(Box::new(settle)) }
    }

    /// Operations that nothing in memory hangs on.
    pub fn plain(ops: Vec<Op>) -> Self {
        Self { ops, settle: None }
    }

    /// The operations, for the batch of a commit.
    pub fn take(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops)
    }

    /// The commit holds.
    pub fn kept(mut self) {
        if let Some(settle) = self.settle.take() {
            settle(true);
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle(false);
        }
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Change({} ops)", self.ops.len())
    }
}

/// What is not as the records say, or what stands in the way of packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The thing: a link, a table, a setting of the kernel, a container.
    pub subject: String,
    /// What is missing or wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// What a reconciliation has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Attachments of containers that do not run, taken back.
    pub released: usize,
    /// Attachments put into the kernel again.
    pub restored: usize,
    /// Links without a record, removed.
    pub links: usize,
}

/// Networks and attachments.
#[async_trait]
pub trait Networks: Send + Sync + fmt::Debug {
    /// Makes a network's record; its links are made with its first container.
    ///
    /// # Errors
    /// `AlreadyExists` for the name; `Invalid` for a spec that cannot be, naming both sides of an overlap; `Exhausted` where no pool is free.
    async fn create(&self, scope: &Scope, spec: NetworkSpec) -> Result<Network>;

    /// A network by name, identifier or the beginning of one.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a beginning of several.
    async fn get(&self, scope: &Scope, name: &str) -> Result<Network>;

    /// The networks of the namespace by name, with the default one where it is in use.
    async fn list(&self, scope: &Scope) -> Result<Vec<Network>>;

    /// Removes a network with its links.
    ///
    /// # Errors
    /// `InUse`, naming the containers that are attached; `Denied` for the default network.
    async fn remove(&self, scope: &Scope, name: &str) -> Result<Network>;

    /// Removes the networks of the namespace that no container wants.
    async fn prune(&self, scope: &Scope) -> Result<Vec<Network>>;

    /// What a container is attached to, or wants to be.
    async fn attachment(&self, scope: &Scope, container: &ContainerId) -> Result<Option<Attachment>>;

    /// All attachments, of every namespace.
    async fn attachments(&self) -> Result<Vec<Attachment>>;

    /// Checks a wish against the networks and makes its record.
    ///
    /// # Errors
    /// `NotFound` for a network; `Invalid` for addresses out of range, too many ports, doubles.
    async fn configure(&self, scope: &Scope, wish: Wish) -> Result<Change>;

    /// Gives addresses and host ports; those that are given already stay.
    ///
    /// # Errors
    /// `InUse` for an address or a host port that is taken, naming who has it; `Exhausted` where a subnet is full; `NotFound`
    /// for a network that is gone.
    async fn reserve(&self, scope: &Scope, container: &ContainerId) -> Result<Change>;

    /// Puts a reserved attachment into the kernel, and writes down that it is.
    ///
    /// # Errors
    /// The kernel's; then nothing of it is left in the kernel and the reservation stands until [`Networks::detach`].
    async fn attach(&self, scope: &Scope, container: &ContainerId, netns: Netns) -> Result<Attachment>;

    /// Takes an attachment out of the kernel; the change frees its addresses. No attachment: an empty change.
    async fn detach(&self, scope: &Scope, container: &ContainerId) -> Result<Change>;

    /// [`Networks::detach`], and the record goes, too.
    async fn forget(&self, scope: &Scope, container: &ContainerId) -> Result<Change>;

    /// Gives the record of a container its new name, for the commit that renames it. No attachment: an empty change.
    async fn rename(&self, scope: &Scope, container: &ContainerId, name: &str) -> Result<Change>;

    /// Adds an endpoint; with a namespace (the container runs) the link comes at once.
    ///
    /// # Errors
    /// `AlreadyExists` where it is in the network; otherwise as [`Networks::reserve`] and [`Networks::attach`].
    async fn connect(
        &self,
        scope: &Scope,
        container: &ContainerId,
        wanted: Wanted,
        netns: Option<Netns>,
    ) -> Result<Endpoint>;

    /// Takes an endpoint away; with a namespace its link goes at once.
    ///
    /// # Errors
    /// `NotFound` where it is not in the network.
    async fn disconnect(
        &self,
        scope: &Scope,
        container: &ContainerId,
        network: &str,
        netns: Option<Netns>,
    ) -> Result<()>;

    /// Changes the published ports, at once where it is attached; answers with all of them.
    ///
    /// # Errors
    /// `InUse` for a taken port, `NotFound` for one that is not published: then nothing has changed.
    async fn publish(
        &self,
        scope: &Scope,
        container: &ContainerId,
        add: Vec<Publish>,
        remove: Vec<Publish>,
    ) -> Result<Vec<Published>>;

    /// Compares records and kernel and changes nothing.
    async fn check(&self) -> Result<Vec<Finding>>;

    /// Makes kernel and records agree: once at the start, with all containers that run, before the first request.
    async fn reconcile(&self, running: Vec<Running>) -> Result<Mended>;

    /// A number that grows with every change of attachments, for those who tell names.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Ends the watchers; what is attached stays.
    fn close(&self);
}
