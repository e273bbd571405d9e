//! The port of CNI: networks that are made by plugins of others (CNI specification 1.1).

use async_trait::async_trait;
use crated_types::Result;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

/// A container's wish to be attached by plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniAttachment {
    /// The container, `CNI_CONTAINERID`.
    pub container: String,
    /// Path of its network namespace, `CNI_NETNS`; empty at a DEL where it is gone.
    pub netns: String,
    /// Name of the network: of a list in the configuration folder.
    pub network: String,
    /// Name of the link inside, `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`; neither keys nor values hold `;` or `=`.
    pub args: BTreeMap<String, String>,
    /// What is passed to the plugins that declare the capability.
    pub capabilities: Capabilities,
}

/// Conventions of `runtimeConfig` (CNI: CONVENTIONS.md); what is empty is not passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `portMappings`.
    pub ports: Vec<PortMapping>,
    /// `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// `ips`, with the length of the prefix or without.
    pub ips: Vec<String>,
    /// `mac`.
    pub mac: String,
    /// `dns`: servers, searches, options.
    pub dns: Option<CniDns>,
    /// `aliases`: names on this network.
    pub aliases: Vec<String>,
    /// `cgroupPath`.
    pub cgroup_path: String,
}

/// A port that a plugin is to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Port of the host.
    pub host_port: u16,
    /// Port of the container.
    pub container_port: u16,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// Address of the host; none: all.
    pub host_ip: Option<IpAddr>,
}

/// Limits of what goes in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bits a second into the container; 0: no limit.
    pub ingress_rate: u64,
    /// Bits at once.
    pub ingress_burst: u64,
    /// Bits a second out of it.
    pub egress_rate: u64,
    /// Bits at once.
    pub egress_burst: u64,
}

/// Name servers, as wish or result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniDns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domain of the network.
    pub domain: String,
    /// Searched domains.
    pub searches: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// What plugins made, whatever version of the specification they spoke.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Links.
    pub interfaces: Vec<CniInterface>,
    /// Addresses.
    pub addresses: Vec<CniAddress>,
    /// Routes: destination and gateway (empty: of the address).
    pub routes: Vec<(String, String)>,
    /// Name servers.
    pub dns: CniDns,
}

/// A link that plugins made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniInterface {
    /// Name.
    pub name: String,
    /// MAC.
    pub mac: String,
    /// Path of the namespace that it is in; empty: the host's.
    pub sandbox: String,
}

/// An address that plugins gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniAddress {
    /// `10.1.0.2/24`.
    pub address: String,
    /// Gateway; empty for none.
    pub gateway: String,
    /// Which of the interfaces has it; none where the plugin did not say.
    pub interface: Option<usize>,
}

/// A list of the configuration folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniNetwork {
    /// Name.
    pub name: String,
    /// Version of the specification that it is written for.
    pub version: String,
    /// Types of its plugins, in order.
    pub plugins: Vec<String>,
    /// The file.
    pub file: String,
}

/// Networks of plugins. Each call has a deadline; calls for one container follow one another.
#[async_trait]
pub trait Cni: Send + Sync + Debug {
    /// The lists that can be used, in the order of their files; a file that cannot be read is left out and told in the log.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    async fn networks(&self) -> Result<Vec<CniNetwork>>;

    /// ADD, in the order of the list. What was made is remembered until [`Cni::del`].
    ///
    /// # Errors
    /// `NotFound` for network or plugin; a plugin's own, with its code and words: then everything was taken back by DEL.
    async fn add(&self, attachment: &CniAttachment) -> Result<CniResult>;

    /// CHECK, where the list's version has it.
    ///
    /// # Errors
    /// What a plugin found missing.
    async fn check(&self, attachment: &CniAttachment) -> Result<()>;

    /// DEL, in reverse order, to its end whatever fails, by what was remembered; what is not there is a success.
    ///
    /// # Errors
    /// What plugins could not remove: it stays remembered and can be tried again.
    async fn del(&self, attachment: &CniAttachment) -> Result<()>;

    /// DEL for what is remembered and belongs to no container of `valid` (pairs of container and interface), then GC of the
    /// plugins, where the list's version has it. Answers how many attachments went.
    ///
    /// # Errors
    /// What could not be removed.
    async fn gc(&self, valid: &[(String, String)]) -> Result<usize>;

    /// STATUS: whether the network would take a container now.
    ///
    /// # Errors
    /// Why not.
    async fn status(&self, network: &str) -> Result<()>;

    /// What a container was given, by memory.
    ///
    /// # Errors
    /// Where the memory cannot be read.
    async fn remembered(&self, container: &str) -> Result<Vec<(CniAttachment, CniResult)>>;
}
