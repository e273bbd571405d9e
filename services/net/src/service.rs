//! The service: what it stands on, and what it remembers.

use crated_core::MetadataStore;
use crated_core::network::record::{ADDRESSES, ATTACHMENTS, NETWORK_NAMES, NETWORKS};
use crated_core::network::{Attachment, DEFAULT_NETWORK, Network, Phase};
use crated_core::{Op, Revision};
use crated_types::{ContainerId, Error, Fault, Kind, Result, Scope};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{Holder, Subnet};
use crate::kernel::{Kernel, Plug};
use crate::options::Settings;
use crate::pools::{Base, default_bases};
use crate::ports::{Holder as PortHolder, Sockets};

/// Settings of the daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// Identifier of the installation: what marks our links and our table.
    pub id: String,
    /// Link of the default bridge, at most 13 bytes: where it is somebody else's, a number is put behind it.
    pub bridge: String,
    /// Pools of subnets, in order.
    pub pools: Vec<Base>,
    /// Largest packet in bytes; 0: as the host's default route.
    pub mtu: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { id: String::new(), bridge: "crated0".into(), pools: default_bases(), mtu: 0 }
    }
}

/// The port [`crated_core::Networks`] over records, netlink and nftables.
#[derive(Debug)]
pub struct Service {
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) config: Config,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) ports: Arc<dyn PortHolder>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) boot_id: String,
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
    /// Networks are made and removed one after another: each looks at the subnets of all.
    pub(crate) making: tokio::sync::Mutex<()>,
}

/// What is remembered beside the records.
#[derive(Debug)]
pub(crate) struct Memory {
    inner: Mutex<Inner>,
    pub(crate) changes: tokio::sync::watch::Sender<u64>,
    /// Host links whose namespaces are dying: looked after once their time is over.
    pub(crate) dying: Mutex<Vec<String>>,
    pub(crate) wake: tokio::sync::Notify,
}

/// Where an attachment's links are.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) path: String,
    pub(crate) inode: u64,
    /// The namespace itself, where a link has no end outside by which it could be removed (macvlan, ipvlan).
    pub(crate) netns: Option<OwnedFd>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// Subnets of networks, by the network's identifier.
    pub(crate) subnets: HashMap<String, Vec<Subnet>>,
    /// Who is in a network, from the reservation on.
    pub(crate) users: HashMap<String, BTreeSet<Holder>>,
    /// Networks that are being removed.
    pub(crate) closing: HashSet<String>,
    /// Namespaces of what is attached.
    pub(crate) attached: HashMap<Holder, Attached>,
}

impl Memory {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Frees what an attachment has.
    pub(crate) fn free(&self, attachment: &Attachment) {
        let holder = holder_of(attachment);
        let mut inner = self.lock();
        for endpoint in &attachment.endpoints {
            for address in addresses(endpoint) {
                for subnet in inner.subnets.get_mut(&endpoint.network).into_iter().flatten() {
                    subnet.release(address, &holder);
                }
            }
            if let Some(users) = inner.users.get_mut(&endpoint.network) {
                users.remove(&holder);
            }
        }
    }
}

/// The addresses that an endpoint has, without their lengths.
pub(crate) fn addresses(endpoint: &crated_core::network::Endpoint) -> Vec<IpAddr> {
    let texts = [&endpoint.address, &endpoint.address6].into_iter();
    texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

pub(crate) fn holder_of(attachment: &Attachment) -> Holder {
    (attachment.namespace.clone(), attachment.container.clone())
}

pub(crate) fn holder(scope: &Scope, container: &ContainerId) -> Holder {
    (scope.namespace.to_string(), container.to_string())
}

impl Service {
    /// A service whose host ports are held by sockets of this process.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>, config: Config, tracker: TaskTracker) -> Arc<Self> {
        Self::with_ports(metadata, config, Arc::new(Sockets::default()), tracker)
    }

    /// A service over its ports. Call `reconcile` once, before the first request.
    #[must_use]
    pub fn with_ports(
        metadata: Arc<dyn MetadataStore>,
        config: Config,
        ports: Arc<dyn PortHolder>,
        tracker: TaskTracker,
    ) -> Arc<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Arc::new(Self {
            kernel: Arc::new(Kernel::new(&config.id, config.mtu)),
            metadata,
            config,
            ports,
            memory: Arc::new(Memory {
                inner: Mutex::default(),
                changes: tokio::sync::watch::channel(0).0,
                dying: Mutex::default(),
                wake: tokio::sync::Notify::new(),
            }),
            boot_id,
            stop: CancellationToken::new(),
            tracker,
            making: tokio::sync::Mutex::new(()),
        })
    }

    /// A network by the identifier that an endpoint has.
    pub(crate) async fn by_id(&self, namespace: &str, id: &str) -> Result<Option<(Revision, Network)>> {
        if let Some(found) = NETWORKS.get(&*self.metadata, &NETWORKS.key(namespace, id)).await? {
            return Ok(Some(found));
        }
        NETWORKS.get(&*self.metadata, &NETWORKS.key("", id)).await
    }

    /// A network by name, identifier or the beginning of one; the default one is made by its first asker.
    pub(crate) async fn find(&self, namespace: &str, name: &str) -> Result<(Revision, Network)> {
        if name == DEFAULT_NETWORK || name == "default" || name.is_empty() {
            return self.default_network().await;
        }
        let named = NETWORK_NAMES.get(&*self.metadata, &NETWORK_NAMES.key(namespace, name)).await?;
        let id = named.map_or_else(|| name.to_owned(), |(_, record)| record.id);
        if let Some(found) = self.by_id(namespace, &id).await? {
            return Ok(found);
        }
        let absent = || {
            Error::not_found(Kind::Network, name)
                .in_namespace(namespace)
                .remedy_is("list the networks with `cratectl network ls`, or make it: `cratectl network create`")
        };
        if name.len() < 2 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(absent());
        }
        let mut found = Vec::new();
        for key in [NETWORKS.key(namespace, name), NETWORKS.key("", name)] {
            found.extend(NETWORKS.list(&*self.metadata, &key).await?);
        }
        match found.len() {
            0 => Err(absent()),
            1 => found.pop().map(|(_, revision, network)| (revision, network)).ok_or_else(absent),
            many => Err(Error::invalid("network", format_args!("{name:?} is the beginning of {many} identifiers"))),
        }
    }

    /// A container's record.
    pub(crate) async fn record(&self, namespace: &str, container: &str) -> Result<Option<(Revision, Attachment)>> {
        ATTACHMENTS.get(&*self.metadata, &ATTACHMENTS.key(namespace, container)).await
    }

    /// Reads the taken addresses of a network once.
    pub(crate) async fn load(&self, network: &Network) -> Result<()> {
        if self.memory.lock().subnets.contains_key(&network.id) {
            return Ok(());
        }
        let mut subnets = network.pools.iter().map(Subnet::new).collect::<Result<Vec<_>>>()?;
        for (key, _, record) in ADDRESSES.list(&*self.metadata, &ADDRESSES.prefix(&network.id)).await? {
            let Some(address) = ADDRESSES.parts(&key).and_then(|(_, text)| text.parse::<IpAddr>().ok()) else {
                continue;
            };
            for subnet in subnets.iter_mut().filter(|subnet| subnet.is_v6() == address.is_ipv6()) {
                subnet.recall(address, (record.namespace.clone(), record.container.clone()));
            }
        }
        self.memory.lock().subnets.entry(network.id.clone()).or_insert(subnets);
        Ok(())
    }

    /// Endpoints with their networks.
    ///
    /// # Errors
    /// `NotFound` where a network is gone.
    pub(crate) async fn plugs(&self, attachment: &Attachment) -> Result<Vec<Plug>> {
        let mut plugs = Vec::with_capacity(attachment.endpoints.len());
        for endpoint in &attachment.endpoints {
            let found = self.by_id(&attachment.namespace, &endpoint.network).await?;
            let (_, network) = found.ok_or_else(|| gone(&endpoint.network_name))?;
            plugs.push(Plug { endpoint: endpoint.clone(), settings: Settings::of(&network), network });
        }
        Ok(plugs)
    }

    /// Operations that free the addresses of a reserved attachment and leave its wishes.
    pub(crate) fn freeing(attachment: &Attachment) -> (Vec<Op>, Attachment) {
        let mut ops = Vec::new();
        let mut left = attachment.clone();
        for endpoint in &mut left.endpoints {
            for address in addresses(endpoint) {
                ops.push(Op::Delete(ADDRESSES.key(&endpoint.network, &address.to_string())));
            }
            for text in [
                &mut endpoint.address,
                &mut endpoint.address6,
                &mut endpoint.gateway,
                &mut endpoint.gateway6,
                &mut endpoint.host_link,
            ] {
                text.clear();
            }
        }
        for port in &mut left.ports {
            port.host_port = 0;
        }
        left.phase = Phase::Configured as i32;
        (left.netns, left.netns_inode, left.boot_id) = (String::new(), 0, String::new());
        (ops, left)
    }

    /// Whether an attachment's addresses are given, in this boot.
    pub(crate) fn is_reserved(&self, attachment: &Attachment) -> bool {
        attachment.phase != Phase::Configured as i32 && attachment.boot_id == self.boot_id
    }
}

/// The error for a network that a container wants and that was removed.
pub(crate) fn gone(name: &str) -> Error {
    Error::new(Fault::NotFound, "was removed while the container wants it")
        .on(Kind::Network, name)
        .remedy_is("make it again, or take the container out of it: `cratectl network disconnect`")
}
