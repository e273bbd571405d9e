//! A container's attachment from its wish to its end.

use crated_core::network::record::{ADDRESSES, ATTACHMENTS, Address};
use crated_core::network::{
    Attachment, Change, ENDPOINTS_MAX, Endpoint, Netns, Network, PORTS_MAX, Phase, Published, Wanted, Wish,
};
use crated_core::{Op, Revision, fail};
use crated_types::{ContainerId, Error, Fault, Kind, Result, Scope};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::address::Holder;
use crate::kernel::Plug;
use crate::options::Settings;
use crate::ports::Holder as PortHolder;
use crate::published::{mappings, published, reachable};
use crate::service::{Attached, Memory, Service, gone, holder, holder_of};

/// What was taken in memory for a change: given back unless the change is kept.
pub(crate) struct Taken {
    memory: Arc<Memory>,
    ports: Arc<dyn PortHolder>,
    holder: Holder,
    addresses: Vec<(String, IpAddr)>,
    users: Vec<String>,
    held: Vec<Published>,
}

impl Taken {
    pub(crate) fn keep(mut self) {
        (self.addresses, self.users, self.held) = (Vec::new(), Vec::new(), Vec::new());
        self.memory.changed();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.ports.release(&self.holder, &self.held);
        let mut inner = self.memory.lock();
        for (network, address) in &self.addresses {
            for subnet in inner.subnets.get_mut(network).into_iter().flatten() {
                subnet.release(*address, &self.holder);
            }
        }
        for network in &self.users {
            if let Some(users) = inner.users.get_mut(network) {
                users.remove(&self.holder);
            }
        }
    }
}

impl Service {
    pub(crate) fn taken(&self, holder: Holder) -> Taken {
        let (memory, ports) = (Arc::clone(&self.memory), Arc::clone(&self.ports));
        Taken { memory, ports, holder, addresses: Vec::new(), users: Vec::new(), held: Vec::new() }
    }

    /// Gives an endpoint its addresses; answers with the operations that write them down.
    pub(crate) async fn assign(
        &self,
        taken: &mut Taken,
        endpoint: &mut Endpoint,
        network: &Network,
    ) -> Result<Vec<Op>> {
        self.load(network).await?;
        let holder = taken.holder.clone();
        let mut ops = Vec::new();
        let mut inner = self.memory.lock();
        if inner.closing.contains(&network.id) {
            return Err(gone(&network.name));
        }
        if inner.users.entry(network.id.clone()).or_default().insert(holder.clone()) {
            taken.users.push(network.id.clone());
        }
        for (subnet, pool) in inner.subnets.get_mut(&network.id).into_iter().flatten().zip(&network.pools) {
            let v6 = subnet.is_v6();
            let wanted = if v6 { &endpoint.wanted6 } else { &endpoint.wanted };
            let wanted = if wanted.is_empty() { None } else { wanted.parse().ok() };
            let named = |error: Error| error.on(Kind::Network, &network.name);
            let address = subnet.take(wanted, &holder).map_err(named)?;
            taken.addresses.push((network.id.clone(), address));
            let length = pool.subnet.rsplit('/').next().unwrap_or_default();
            let gateway =
                if network.driver == "bridge" || !network.internal { pool.gateway.clone() } else { String::new() };
            let text = format!("{address}/{length}");
            if v6 {
                (endpoint.address6, endpoint.gateway6) = (text, gateway);
            } else {
                (endpoint.address, endpoint.gateway) = (text, gateway);
            }
            let key = ADDRESSES.key(&network.id, &address.to_string());
            let record = Address { namespace: holder.0.clone(), container: holder.1.clone() };
            ops.extend([Op::Expect(key.clone(), Revision::ABSENT), ADDRESSES.put(key, &record)]);
        }
        if network.driver == "bridge" {
            endpoint.host_link = format!("veth{}", &crate::hex(&crate::random::<4>()?)[..7]);
        }
        Ok(ops)
    }

    /// Holds host ports beside those that are held.
    pub(crate) fn hold(&self, taken: &mut Taken, ports: &mut [Published]) -> Result<()> {
        let fresh: Vec<usize> = (0..ports.len()).filter(|index| ports[*index].host_port == 0).collect();
        self.ports.hold(&taken.holder, ports)?;
        taken.held.extend(fresh.into_iter().map(|index| ports[index].clone()));
        Ok(())
    }

    /// An endpoint as it is wished for.
    pub(crate) fn endpoint(wanted: &Wanted, network: &Network, others: &[Endpoint]) -> Result<Endpoint> {
        if others.iter().any(|other| other.network == network.id) {
            return Err(Error::already_exists(Kind::Network, &network.name)
                .caused_by("the container is in it already".to_owned()));
        }
        if others.len() >= ENDPOINTS_MAX {
            return Err(Error::invalid("networks", format_args!("more than {ENDPOINTS_MAX}")));
        }
        let settings = Settings::of(network);
        for (address, v6) in [(wanted.address.map(IpAddr::V4), false), (wanted.address6.map(IpAddr::V6), true)] {
            let Some(address) = address else { continue };
            let pool = network.pools.iter().find(|pool| pool.subnet.contains(':') == v6);
            let pool = pool.ok_or_else(|| {
                let family = if v6 { "IPv6" } else { "IPv4" };
                Error::invalid("address", format_args!("{address}: the network has no {family}"))
                    .on(Kind::Network, &network.name)
            })?;
            crate::address::Subnet::new(pool)?.may(address).map_err(|error| error.on(Kind::Network, &network.name))?;
        }
        wanted.aliases.iter().try_for_each(|alias| check_alias(alias))?;
        let mac = match wanted.mac {
            Some(mac) => mac,
            None => {
                let random = crate::random::<5>()?;
                [0x02, random[0], random[1], random[2], random[3], random[4]]
            }
        };
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        crate::kernel::parse_mac(&mac)?;
        let number = (0..=others.len()).find(|number| {
            let name = format!("{}{number}", settings.prefix);
            others.iter().all(|other| other.interface != name)
        });
        Ok(Endpoint {
            id: crate::random_id()?,
            network: network.id.clone(),
            network_name: network.name.clone(),
            interface: format!("{}{}", settings.prefix, number.unwrap_or_default()),
            mac,
            wanted: wanted.address.map(|address| address.to_string()).unwrap_or_default(),
            wanted6: wanted.address6.map(|address| address.to_string()).unwrap_or_default(),
            aliases: wanted.aliases.clone(),
            priority: wanted.priority,
            mtu: settings.mtu,
            driver: network.driver.clone(),
            internal: network.internal,
            ..Endpoint::default()
        })
    }

    pub(crate) async fn begin(&self, scope: &Scope, wish: Wish) -> Result<Change> {
        let namespace = scope.namespace.as_str();
        if wish.ports.len() > PORTS_MAX {
            return Err(Error::invalid(
                "publish",
                format_args!("{} ports are more than {PORTS_MAX}", wish.ports.len()),
            ));
        }
        let mut attachment = Attachment {
            container: wish.container.to_string(),
            name: wish.name,
            hostname: wish.hostname,
            namespace: namespace.into(),
            ..Attachment::default()
        };
        let mut networks = Vec::new();
        for wanted in &wish.endpoints {
            let (_, network) = self.find(namespace, &wanted.network).await?;
            let endpoint = Self::endpoint(wanted, &network, &attachment.endpoints)?;
            attachment.endpoints.push(endpoint);
            networks.push(network);
        }
        attachment.ports = published(&wish.ports, &networks)?;
        let key = ATTACHMENTS.key(namespace, wish.container.as_str());
        let ops = vec![Op::Expect(key.clone(), Revision::ABSENT), ATTACHMENTS.put(key, &attachment)];
        Ok(Change::plain(ops))
    }

    pub(crate) async fn give(&self, scope: &Scope, container: &ContainerId) -> Result<Change> {
        let (revision, mut attachment) = self.wanted_record(scope, container).await?;
        let mut taken = self.taken(holder(scope, container));
        if self.is_reserved(&attachment) {
            self.ports.hold(&taken.holder, &mut attachment.ports)?;
            return Ok(Change::plain(Vec::new()));
        }
        let key = ATTACHMENTS.key(scope.namespace.as_str(), container.as_str());
        let (mut ops, fresh) = Self::freeing(&attachment);
        attachment = fresh;
        ops.insert(0, Op::Expect(key.clone(), revision));
        for index in 0..attachment.endpoints.len() {
            let endpoint = &mut attachment.endpoints[index];
            let found = self.by_id(scope.namespace.as_str(), &endpoint.network).await?;
            let (_, network) = found.ok_or_else(|| gone(&endpoint.network_name))?;
            ops.extend(self.assign(&mut taken, endpoint, &network).await?);
        }
        reachable(&attachment)?;
        fail::point("net.reserve.ports")?;
        self.hold(&mut taken, &mut attachment.ports)?;
        attachment.phase = Phase::Reserved as i32;
        attachment.boot_id.clone_from(&self.boot_id);
        ops.push(ATTACHMENTS.put(key, &attachment));
        Ok(Change::new(ops, move |kept| {
            if kept {
                taken.keep();
            }
        }))
    }

    /// Who shows the record shows the name that the container has now.
    pub(crate) async fn call_it(&self, scope: &Scope, container: &ContainerId, name: &str) -> Result<Change> {
        let Some((revision, mut attachment)) = self.record(scope.namespace.as_str(), container.as_str()).await? else {
            return Ok(Change::plain(Vec::new()));
        };
        let key = ATTACHMENTS.key(scope.namespace.as_str(), container.as_str());
        name.clone_into(&mut attachment.name);
        let ops = vec![Op::Expect(key.clone(), revision), ATTACHMENTS.put(key, &attachment)];
        let memory = Arc::clone(&self.memory);
        Ok(Change::new(ops, move |kept| {
            if kept {
                memory.changed();
            }
        }))
    }

    pub(crate) async fn wanted_record(&self, scope: &Scope, container: &ContainerId) -> Result<(Revision, Attachment)> {
        self.record(scope.namespace.as_str(), container.as_str()).await?.ok_or_else(|| {
            Error::precondition(Kind::Container, container, "has no networks of its own").remedy_is(
                "it was made with `--network none`, `host`, `container:` or `ns:`; make it anew with a network",
            )
        })
    }

    pub(crate) async fn plug_in(&self, scope: &Scope, container: &ContainerId, netns: Netns) -> Result<Attachment> {
        let (_, mut attachment) = self.wanted_record(scope, container).await?;
        if !self.is_reserved(&attachment) {
            return Err(
                Error::internal("an attachment that is not reserved was to be attached").on(Kind::Container, container)
            );
        }
        let plugs = self.plugs(&attachment).await?;
        let who = holder(scope, container);
        let held = keeps_namespace(&plugs);
        let inode = self.plug_all(&who, plugs, &attachment.ports, &netns).await?;
        let attached = Attached { path: netns.path.clone(), inode, netns: held.then_some(netns.fd) };
        self.memory.lock().attached.insert(who, attached);
        self.memory.changed();
        attachment.phase = Phase::Attached as i32;
        (attachment.netns, attachment.netns_inode) = (netns.path, inode);
        Ok(attachment)
    }

    /// The one blocking job of an attachment.
    pub(crate) async fn plug_all(
        &self,
        who: &Holder,
        plugs: Vec<Plug>,
        ports: &[Published],
        netns: &Netns,
    ) -> Result<u64> {
        let mappings = mappings(&plugs, ports);
        let (kernel, who) = (Arc::clone(&self.kernel), who.clone());
        let fd = netns.fd.try_clone().map_err(|error| Error::os("duplicate a descriptor", error))?;
        crate::blocking(move || {
            let inode = crated_sys::namespace::inode(fd.as_fd());
            let inode = inode.map_err(|error| Error::os("look at the network namespace", error.into()))?;
            plugs.iter().try_for_each(|plug| kernel.open_network(plug))?;
            kernel.attach(&who, &plugs, &plugs, fd.as_fd())?;
            if let Err(error) = kernel.tables.publish(&who, &mappings) {
                let _ = kernel.tables.unpublish(&who, |_| true);
                let _ = kernel.detach(&plugs, &[], fd.as_fd());
                return Err(error);
            }
            kernel.forget_connections(&mappings);
            fail::point("net.attach.done")?;
            Ok(inode)
        })
        .await
    }

    /// Takes the kernel's side of an attachment away, and says what frees its records.
    pub(crate) async fn unplug(&self, scope: &Scope, container: &ContainerId, forget: bool) -> Result<Change> {
        let Some((_, attachment)) = self.record(scope.namespace.as_str(), container.as_str()).await? else {
            return Ok(Change::plain(Vec::new()));
        };
        let key = ATTACHMENTS.key(scope.namespace.as_str(), container.as_str());
        if attachment.phase == Phase::Configured as i32 {
            return Ok(Change::plain(if forget { vec![Op::Delete(key)] } else { Vec::new() }));
        }
        let who = holder_of(&attachment);
        self.unplug_kernel(&attachment).await?;
        let (mut ops, left) = Self::freeing(&attachment);
        ops.push(if forget { Op::Delete(key) } else { ATTACHMENTS.put(key, &left) });
        self.memory.lock().attached.remove(&who);
        let memory = Arc::clone(&self.memory);
        Ok(Change::new(ops, move |kept| {
            if kept {
                memory.free(&attachment);
                memory.changed();
            }
        }))
    }

    pub(crate) async fn unplug_kernel(&self, attachment: &Attachment) -> Result<()> {
        let who = holder_of(attachment);
        fail::point("net.detach.ports")?;
        if !attachment.ports.is_empty() {
            let (kernel, of) = (Arc::clone(&self.kernel), who.clone());
            crate::blocking(move || {
                let removed = kernel.tables.unpublish(&of, |_| true)?;
                kernel.forget_connections(&removed);
                Ok(())
            })
            .await?;
            self.ports.release(&who, &attachment.ports);
        }
        fail::point("net.detach.links")?;
        let netns = self.memory.lock().attached.get_mut(&who).and_then(|attached| attached.netns.take());
        if let Some(netns) = netns {
            let (kernel, plugs) = (Arc::clone(&self.kernel), self.plugs(attachment).await.unwrap_or_default());
            crate::blocking(move || kernel.detach(&plugs, &[], netns.as_fd())).await?;
        }
        // The namespace's death takes its links, many at once; who is still there after a while is removed.
        let links = attachment.endpoints.iter().map(|endpoint| &endpoint.host_link).filter(|link| !link.is_empty());
        let mut dying = self.memory.dying.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        dying.extend(links.cloned());
        drop(dying);
        self.memory.wake.notify_one();
        Ok(())
    }
}

/// Whether some link has no end outside: it is removed from inside at the end, or somebody who stays there would keep it.
pub(crate) fn keeps_namespace(plugs: &[Plug]) -> bool {
    plugs.iter().any(|plug| plug.endpoint.host_link.is_empty())
}

/// Names that may stand in a hosts file.
fn check_alias(alias: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let first = alias.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if first && alias.len() <= 253 && alias.bytes().all(fine) {
        return Ok(());
    }
    let shown: String = alias.chars().take(64).collect();
    Err(Error::invalid("aliases", format_args!("{shown:?} must be letters, digits, '.', '_', '-', at most 253 bytes")))
}

/// The error for a network that a container is not in.
pub(crate) fn not_in(container: &ContainerId, network: &str) -> Error {
    Error::new(Fault::NotFound, format!("is not in network {network:?}"))
        .on(Kind::Container, container)
        .remedy_is("look at its networks: `cratectl inspect`")
}
