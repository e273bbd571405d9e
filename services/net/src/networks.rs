//! Networks: made, found, removed. Their links come with the first container.

use crated_core::network::record::{NETWORK_NAMES, NETWORKS, NetworkName};
use crated_core::network::{DEFAULT_NETWORK, Network, NetworkSpec, Pool, PoolSpec};
use crated_core::{Op, Revision};
use crated_types::{Cidr, Error, Fault, Kind, Result, Scope};
use std::sync::Arc;

use crate::address::Holder;
use crate::kernel::Uplinks;
use crate::options::{self, LINK_MAX, Settings};
use crate::pools::{choose, clash};
use crate::service::Service;

const NAME_OPTION: &str = "com.docker.network.bridge.name";
/// Containers of a network in use that its error names.
const USERS_SHOWN: usize = 8;

impl Service {
    pub(crate) async fn make(&self, scope: &Scope, spec: NetworkSpec) -> Result<Network> {
        options::check(&spec)?;
        let driver = if spec.driver.is_empty() { "bridge" } else { &spec.driver };
        Settings::read(driver, &spec.options)?;
        let _turn = self.making.lock().await;
        let namespace = scope.namespace.as_str();
        if NETWORK_NAMES.get(&*self.metadata, &NETWORK_NAMES.key(namespace, &spec.name)).await?.is_some() {
            return Err(Error::already_exists(Kind::Network, &spec.name)
                .in_namespace(namespace)
                .remedy_is("choose another name, or remove it: `cratectl network rm`"));
        }
        let others = self.all().await?;
        let uplinks = self.uplinks().await?;
        let id = crate::random_id()?;
        let link = match driver {
            "bridge" => spec.options.get(NAME_OPTION).cloned().unwrap_or_else(|| format!("br-{}", &id[..12])),
            _ => spec.options.get("parent").cloned().unwrap_or_else(|| format!("dm-{}", &id[..12])),
        };
        if driver == "bridge" {
            free_link(&link, &others, &uplinks)?;
        }
        let network = Network {
            pools: pools(&spec, &id, driver, &others, &uplinks, self)?,
            id,
            name: spec.name,
            driver: driver.into(),
            ipv6: spec.ipv6,
            internal: spec.internal,
            labels: spec.labels,
            options: spec.options,
            link,
            created_at: Some(crated_core::time::now()),
            namespace: namespace.into(),
        };
        self.keep(&network).await?;
        Ok(network)
    }

    async fn keep(&self, network: &Network) -> Result<Revision> {
        let (name, record) =
            (NETWORK_NAMES.key(&network.namespace, &network.name), NETWORKS.key(&network.namespace, &network.id));
        let batch = vec![
            Op::Expect(name.clone(), Revision::ABSENT),
            NETWORK_NAMES.put(name, &NetworkName { id: network.id.clone() }),
            NETWORKS.put(record, network),
        ];
        crated_core::fail::point("net.create.commit")?;
        self.metadata.commit(batch).await
    }

    async fn uplinks(&self) -> Result<Uplinks> {
        let kernel = Arc::clone(&self.kernel);
        crate::blocking(move || kernel.uplinks()).await
    }

    /// Networks of every namespace.
    pub(crate) async fn all(&self) -> Result<Vec<Network>> {
        let all = NETWORKS.list(&*self.metadata, &NETWORKS.prefix("")).await?;
        Ok(all.into_iter().map(|(_, _, network)| network).collect())
    }

    /// The default network; its first asker makes its record.
    pub(crate) async fn default_network(&self) -> Result<(Revision, Network)> {
        if let Some(found) = self.known_default().await? {
            return Ok(found);
        }
        let _turn = self.making.lock().await;
        if let Some(found) = self.known_default().await? {
            return Ok(found);
        }
        let (others, uplinks) = (self.all().await?, self.uplinks().await?);
        let subnet = choose(&self.config.pools, &used(&others, &uplinks))?;
        let id = crate::random_id()?;
        let network = Network {
            name: DEFAULT_NETWORK.into(),
            driver: "bridge".into(),
            pools: vec![pool(subnet, None)?],
            link: default_link(&self.config.bridge, &others, &uplinks)?,
            created_at: Some(crated_core::time::now()),
            id,
            ..Network::default()
        };
        let revision = self.keep(&network).await?;
        tracing::info!(link = network.link, %subnet, "default network");
        Ok((revision, network))
    }

    async fn known_default(&self) -> Result<Option<(Revision, Network)>> {
        match NETWORK_NAMES.get(&*self.metadata, &NETWORK_NAMES.key("", DEFAULT_NETWORK)).await? {
            Some((_, name)) => NETWORKS.get(&*self.metadata, &NETWORKS.key("", &name.id)).await,
            None => Ok(None),
        }
    }

    pub(crate) async fn listed(&self, scope: &Scope) -> Result<Vec<Network>> {
        let own = NETWORKS.list(&*self.metadata, &NETWORKS.prefix(scope.namespace.as_str())).await?;
        let mut all: Vec<_> = own.into_iter().map(|(_, _, network)| network).collect();
        all.extend(self.known_default().await?.map(|(_, network)| network));
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    pub(crate) async fn unmake(&self, scope: &Scope, name: &str) -> Result<Network> {
        let (revision, network) = self.find(scope.namespace.as_str(), name).await?;
        if network.namespace.is_empty() {
            return Err(Error::new(Fault::Denied, "is the default network and stays").on(Kind::Network, &network.name));
        }
        let _turn = self.making.lock().await;
        if let Err(users) = self.close(&network) {
            return Err(self.in_use(&network, &users).await);
        }
        let removed = self.drop_records(revision, &network).await;
        self.memory.lock().closing.remove(&network.id);
        removed?;
        self.memory.lock().subnets.remove(&network.id);
        self.memory.lock().users.remove(&network.id);
        crated_core::fail::moment("net.remove.committed");
        let (kernel, closed) = (Arc::clone(&self.kernel), network.clone());
        if let Err(error) = crate::blocking(move || kernel.close_network(&closed)).await {
            tracing::warn!(network = network.name, %error, "links or rules of a removed network are left; the reconciler will remove them");
        }
        Ok(network)
    }

    async fn drop_records(&self, revision: Revision, network: &Network) -> Result<Revision> {
        let record = NETWORKS.key(&network.namespace, &network.id);
        let name = NETWORK_NAMES.key(&network.namespace, &network.name);
        self.metadata.commit(vec![Op::Expect(record.clone(), revision), Op::Delete(record), Op::Delete(name)]).await
    }

    /// From now on nobody can be attached; refused while somebody is, who is named.
    fn close(&self, network: &Network) -> std::result::Result<(), Vec<Holder>> {
        let mut inner = self.memory.lock();
        if let Some(users) = inner.users.get(&network.id).filter(|users| !users.is_empty()) {
            return Err(users.iter().cloned().collect());
        }
        inner.closing.insert(network.id.clone());
        Ok(())
    }

    /// The error for a network with containers on it, by the names that they have now.
    async fn in_use(&self, network: &Network, users: &[Holder]) -> Error {
        let mut called = Vec::new();
        for (namespace, container) in users.iter().take(USERS_SHOWN) {
            let record = self.record(namespace, container).await.ok().flatten();
            let name = record.map(|(_, attachment)| attachment.name).unwrap_or_default();
            called.push(crate::called(&name, container));
        }
        let more = users.len().saturating_sub(USERS_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Error::new(Fault::InUse, format!("is used by {}{more}", called.join(", ")))
            .on(Kind::Network, &network.name)
            .remedy_is("stop or disconnect them first: `cratectl network disconnect`")
    }

    pub(crate) async fn unmake_unused(&self, scope: &Scope) -> Result<Vec<Network>> {
        let wanted: std::collections::HashSet<String> = crated_core::Networks::attachments(self)
            .await?
            .into_iter()
            .flat_map(|attachment| attachment.endpoints)
            .map(|endpoint| endpoint.network)
            .collect();
        let mut removed = Vec::new();
        for network in self.listed(scope).await? {
            if network.namespace.is_empty() || wanted.contains(&network.id) {
                continue;
            }
            match self.unmake(scope, &network.id).await {
                Ok(network) => removed.push(network),
                Err(error) if error.is_not_found() || error.fault() == Fault::InUse => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

/// Subnets that are in use, with who has them.
fn used(others: &[Network], uplinks: &Uplinks) -> Vec<(Cidr, String)> {
    let mut used = of_networks(others);
    used.extend(uplinks.routes.iter().cloned());
    used
}

fn of_networks(others: &[Network]) -> Vec<(Cidr, String)> {
    let pools = others.iter().flat_map(|network| network.pools.iter().map(move |pool| (pool, network)));
    let named = |(pool, network): (&Pool, &Network)| {
        let place =
            if network.namespace.is_empty() { String::new() } else { format!(" of namespace {}", network.namespace) };
        Some((pool.subnet.parse().ok()?, format!("network {:?}{place}", network.name)))
    };
    pools.filter_map(named).collect()
}

fn pools(
    spec: &NetworkSpec,
    id: &str,
    driver: &str,
    others: &[Network],
    uplinks: &Uplinks,
    service: &Service,
) -> Result<Vec<Pool>> {
    // A macvlan lives in its parent's subnet, which the host routes, of course.
    let used = if driver == "bridge" { used(others, uplinks) } else { of_networks(others) };
    let mut pools = Vec::new();
    for wanted in &spec.pools {
        clash(&wanted.subnet, &used)?;
        pools.push(pool(wanted.subnet, Some(wanted))?);
    }
    if !spec.pools.iter().any(|pool| !pool.subnet.is_v6()) {
        pools.insert(0, pool(choose(&service.config.pools, &used)?, None)?);
    }
    if spec.ipv6 && !spec.pools.iter().any(|pool| pool.subnet.is_v6()) {
        // RFC 4193: fd and 40 random bits, here with 16 more for the subnet; the identifier is random enough.
        let text = format!("fd{}:{}:{}:{}::/64", &id[0..2], &id[2..6], &id[6..10], &id[10..14]);
        let subnet: Cidr = text.parse()?;
        clash(&subnet, &used)?;
        pools.push(pool(subnet, None)?);
    }
    Ok(pools)
}

fn pool(subnet: Cidr, spec: Option<&PoolSpec>) -> Result<Pool> {
    let first =
        subnet.nth(1).ok_or_else(|| Error::invalid("subnet", format_args!("{subnet} has no host's address")))?;
    let gateway = spec.and_then(|spec| spec.gateway).unwrap_or(first);
    Ok(Pool {
        subnet: subnet.network().to_string(),
        gateway: gateway.to_string(),
        range: spec.and_then(|spec| spec.range).map(|range| range.to_string()).unwrap_or_default(),
        reserved: spec
            .map(|spec| spec.reserved.iter().map(|(name, address)| (name.clone(), address.to_string())).collect())
            .unwrap_or_default(),
    })
}

/// A bridge's name must be nobody's.
fn free_link(link: &str, others: &[Network], uplinks: &Uplinks) -> Result<()> {
    if let Some(other) = others.iter().find(|network| network.link == link) {
        return Err(Error::new(Fault::InUse, format!("link {link} belongs to network {:?}", other.name)));
    }
    if uplinks.links.iter().any(|other| other == link) {
        return Err(Error::new(Fault::InUse, format!("the host has a link {link}"))
            .remedy_is("choose another name for the bridge"));
    }
    Ok(())
}

/// `crated0`, or the first number behind it that is free: another daemon may have it.
fn default_link(base: &str, others: &[Network], uplinks: &Uplinks) -> Result<String> {
    let stem = base.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let numbered = (0..100).map(|number| format!("{stem}{number}"));
    std::iter::once(base.to_owned())
        .chain(numbered)
        .find(|link| link.len() <= LINK_MAX && free_link(link, others, uplinks).is_ok())
        .ok_or_else(|| Error::new(Fault::Exhausted, format!("the host has links {stem}0 to {stem}99 already")))
}
