//! Changes of an attachment, also while its container runs: endpoints come and go, ports are published and taken back.

use crated_core::network::record::{ADDRESSES, ATTACHMENTS};
use crated_core::network::{Attachment, Endpoint, Netns, PORTS_MAX, Phase, Publish, Published, Wanted};
use crated_core::{Op, Revision, fail};
use crated_types::{ContainerId, Error, Fault, Kind, Result, Scope};
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};

use crate::kernel::Mapping;
use crate::life::not_in;
use crate::published::{mappings, published};
use crate::service::{Service, addresses, holder, holder_of};

impl Service {
    pub(crate) async fn add_endpoint(
        &self,
        scope: &Scope,
        container: &ContainerId,
        wanted: Wanted,
        netns: Option<Netns>,
    ) -> Result<Endpoint> {
        let (revision, before) = self.wanted_record(scope, container).await?;
        let (_, network) = self.find(scope.namespace.as_str(), &wanted.network).await?;
        let mut endpoint = Self::endpoint(&wanted, &network, &before.endpoints)?;
        let mut after = before.clone();
        let live = self.is_reserved(&before);
        if live && netns.is_none() {
            return Err(Error::precondition(Kind::Container, container, "is starting; its namespace is not there yet"));
        }
        let mut taken = self.taken(holder(scope, container));
        let mut ops = Vec::new();
        if live {
            ops = self.assign(&mut taken, &mut endpoint, &network).await?;
        }
        after.endpoints.push(endpoint.clone());
        let revision = self.write(revision, &after, ops).await?;
        taken.keep();
        fail::moment("net.connect.written");
        let (true, Some(netns)) = (live, netns) else { return Ok(endpoint) };
        let attached = self.rewire(&before, &after, &netns).await;
        if let Err(error) = attached {
            let ops = addresses(&endpoint)
                .into_iter()
                .map(|address| Op::Delete(ADDRESSES.key(&endpoint.network, &address.to_string())))
                .collect();
            self.write(revision, &before, ops).await?;
            self.memory.free(&only(&after, endpoint));
            return Err(error);
        }
        Ok(endpoint)
    }

    pub(crate) async fn remove_endpoint(
        &self,
        scope: &Scope,
        container: &ContainerId,
        network: &str,
        netns: Option<Netns>,
    ) -> Result<()> {
        let (revision, before) = self.wanted_record(scope, container).await?;
        let named = |endpoint: &&Endpoint| {
            endpoint.network_name == network
                || endpoint.network == network
                || network == "default" && endpoint.network_name == crated_core::network::DEFAULT_NETWORK
        };
        let exact = before.endpoints.iter().find(named);
        let begins =
            || before.endpoints.iter().find(|endpoint| network.len() > 1 && endpoint.network.starts_with(network));
        let endpoint = exact.or_else(begins).ok_or_else(|| not_in(container, network))?.clone();
        let mut after = before.clone();
        after.endpoints.retain(|other| other.id != endpoint.id);
        if self.is_reserved(&before) {
            match &netns {
                Some(netns) => self.rewire(&before, &after, netns).await?,
                None => self.bury(&endpoint),
            }
        }
        fail::point("net.disconnect.unplugged")?;
        let ops = addresses(&endpoint)
            .into_iter()
            .map(|address| Op::Delete(ADDRESSES.key(&endpoint.network, &address.to_string())))
            .collect();
        self.write(revision, &after, ops).await?;
        self.memory.free(&only(&before, endpoint));
        self.memory.changed();
        Ok(())
    }

    /// Its namespace has gone, or goes: whatever is left of its link is removed in a while.
    fn bury(&self, endpoint: &Endpoint) {
        if !endpoint.host_link.is_empty() {
            self.memory.dying.lock().unwrap_or_else(PoisonError::into_inner).push(endpoint.host_link.clone());
            self.memory.wake.notify_one();
        }
    }

    /// Makes the kernel go from one state of an attachment to another.
    async fn rewire(&self, before: &Attachment, after: &Attachment, netns: &Netns) -> Result<()> {
        let (old, new) = (self.present_plugs(before).await, self.present_plugs(after).await);
        let (from, to) = (mappings(&old, &before.ports), mappings(&new, &after.ports));
        let fresh: Vec<_> =
            new.iter().filter(|plug| old.iter().all(|other| other.endpoint.id != plug.endpoint.id)).cloned().collect();
        let gone: Vec<_> =
            old.iter().filter(|plug| new.iter().all(|other| other.endpoint.id != plug.endpoint.id)).cloned().collect();
        let (kernel, who) = (Arc::clone(&self.kernel), holder_of(before));
        let fd = netns.fd.try_clone().map_err(|error| Error::os("duplicate a descriptor", error))?;
        crate::blocking(move || {
            fresh.iter().try_for_each(|plug| kernel.open_network(plug))?;
            if !fresh.is_empty() {
                kernel.attach(&who, &fresh, &new, fd.as_fd())?;
            }
            if !gone.is_empty() {
                kernel.detach(&gone, &new, fd.as_fd())?;
            }
            remap(&kernel, &who, &from, &to)
        })
        .await
    }

    /// Endpoints with their networks; those whose network is gone are left out.
    async fn present_plugs(&self, attachment: &Attachment) -> Vec<crate::kernel::Plug> {
        let mut plugs = Vec::new();
        for endpoint in &attachment.endpoints {
            let mut one = attachment.clone();
            one.endpoints = vec![endpoint.clone()];
            plugs.extend(self.plugs(&one).await.unwrap_or_default());
        }
        plugs
    }

    /// Commits a record with further operations, if nobody changed it meanwhile.
    async fn write(&self, revision: Revision, attachment: &Attachment, mut ops: Vec<Op>) -> Result<Revision> {
        let key = ATTACHMENTS.key(&attachment.namespace, &attachment.container);
        ops.insert(0, Op::Expect(key.clone(), revision));
        ops.push(ATTACHMENTS.put(key, attachment));
        self.metadata.commit(ops).await
    }

    pub(crate) async fn change_ports(
        &self,
        scope: &Scope,
        container: &ContainerId,
        add: Vec<Publish>,
        remove: Vec<Publish>,
    ) -> Result<Vec<Published>> {
        let (revision, before) = self.wanted_record(scope, container).await?;
        let plugs = self.present_plugs(&before).await;
        let networks: Vec<_> = plugs.iter().map(|plug| plug.network.clone()).collect();
        let mut after = before.clone();
        let mut gone = Vec::new();
        for port in &remove {
            let at = after
                .ports
                .iter()
                .position(|other| matches(port, other))
                .ok_or_else(|| unpublished(container, port))?;
            gone.push(after.ports.remove(at));
        }
        after.ports.extend(published(&add, &networks)?);
        if after.ports.len() > PORTS_MAX {
            return Err(Error::invalid(
                "publish",
                format_args!("{} ports are more than {PORTS_MAX}", after.ports.len()),
            ));
        }
        let live = self.is_reserved(&before);
        let who = holder(scope, container);
        let mut taken = self.taken(who.clone());
        if live {
            self.hold(&mut taken, &mut after.ports)?;
        }
        let revision = self.write(revision, &after, Vec::new()).await?;
        fail::moment("net.publish.written");
        if live && self.memory.lock().attached.contains_key(&who) {
            let (from, to) = (mappings(&plugs, &before.ports), mappings(&plugs, &after.ports));
            let (kernel, of) = (Arc::clone(&self.kernel), who.clone());
            if let Err(error) = crate::blocking(move || remap(&kernel, &of, &from, &to)).await {
                self.write(revision, &before, Vec::new()).await?;
                return Err(error);
            }
        }
        taken.keep();
        self.ports.release(&who, &gone);
        debug_assert!(after.phase != Phase::Attached as i32, "what is attached is known in memory alone");
        Ok(after.ports)
    }
}

/// Adds what is new before it removes what is old, so that a port that stays is never away.
fn remap(kernel: &crate::kernel::Kernel, who: &(String, String), from: &[Mapping], to: &[Mapping]) -> Result<()> {
    let gone = |mapping: &Mapping| from.contains(mapping) && !to.contains(mapping);
    // A key that leads elsewhere now must go first: a map has one value a key.
    let key = |mapping: &Mapping| (mapping.protocol, mapping.host_ip, mapping.host_port, mapping.to.is_ipv6());
    let moved = |mapping: &Mapping| gone(mapping) && to.iter().any(|other| key(other) == key(mapping));
    kernel.tables.unpublish(who, moved)?;
    let fresh: Vec<_> = to.iter().filter(|mapping| !from.contains(mapping)).copied().collect();
    if let Err(error) = kernel.tables.publish(who, &fresh) {
        let _ = kernel.tables.unpublish(who, |mapping| fresh.contains(mapping));
        let _ = kernel.tables.publish(who, &from.iter().filter(|mapping| gone(mapping)).copied().collect::<Vec<_>>());
        return Err(error);
    }
    let removed = kernel.tables.unpublish(who, gone)?;
    kernel.forget_connections(&fresh);
    kernel.forget_connections(&removed);
    Ok(())
}

/// Whether a wish to unpublish means this port: what it leaves open matches everything.
fn matches(wanted: &Publish, port: &Published) -> bool {
    let (first, last) = wanted.host_ports;
    port.protocol == wanted.protocol.name()
        && port.container_port == u32::from(wanted.container_port)
        && wanted.host_ip.is_none_or(|address| port.host_ip == address.to_string())
        && (first == 0
            || (u32::from(first)..=u32::from(last)).contains(&port.host_port)
            || port.first == u32::from(first))
}

fn unpublished(container: &ContainerId, port: &Publish) -> Error {
    Error::new(Fault::NotFound, format!("does not publish port {}/{}", port.container_port, port.protocol))
        .on(Kind::Container, container)
        .remedy_is("look at its ports: `cratectl port`")
}

/// An attachment that has this endpoint alone.
fn only(attachment: &Attachment, endpoint: Endpoint) -> Attachment {
    Attachment { endpoints: vec![endpoint], ..attachment.clone() }
}
