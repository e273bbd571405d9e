//! The verbs on networks: create, list, look, remove, connect, disconnect, published ports.

use crated_api::crated::engine::v1::{
    CheckNetworksResponse, ConnectNetworkRequest, ContainerConfig, ContainerRequest, CreateNetworkRequest,
    DisconnectNetworkRequest, InspectNetworkRequest, InspectResponse, ListNetworksResponse, Network as Summary,
    NetworkFinding, NetworkRequest, Port, PortsResponse, PruneNetworksResponse,
};
use crated_core::network::{Attachment, DEFAULT_NETWORK, Network, NetworkSpec, PoolSpec};
use crated_types::{Cidr, ContainerId, Error, Kind, Result, Scope};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::plug::netns_of;
use super::{Mode, mode, published, wanted};
use crate::engine::Engine;
use crate::inspect::time;
use crate::lookup::Found;

impl Engine {
    /// Makes a network.
    ///
    /// # Errors
    /// As [`crated_core::Networks::create`].
    pub async fn create_network(self: &Arc<Self>, scope: &Scope, request: CreateNetworkRequest) -> Result<Summary> {
        let spec = spec(request)?;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        let network = self.detached(async move { engine.networks()?.create(&scope, spec).await }).await?;
        tracing::info!(network = network.id, name = network.name, driver = network.driver, "network created");
        Ok(summary(&network, 0))
    }

    /// The networks of the namespace, and what else a container can be on.
    pub async fn list_networks(self: &Arc<Self>, scope: &Scope) -> Result<ListNetworksResponse> {
        let mut networks = Vec::new();
        if let Some(port) = &self.deps.networks {
            let attachments = port.attachments().await?;
            for network in port.list(scope).await? {
                let users = attachments.iter().filter(|attachment| endpoint_in(attachment, &network.id)).count();
                networks.push(summary(&network, users));
            }
        }
        for (name, driver) in [("host", "host"), ("none", "null")] {
            networks.push(Summary { name: name.into(), driver: driver.into(), ..Summary::default() });
        }
        if let Some(cni) = &self.deps.cni {
            for list in cni.networks().await? {
                networks.push(Summary {
                    name: format!("cni:{}", list.name),
                    driver: "cni".into(),
                    ..Summary::default()
                });
            }
        }
        Ok(ListNetworksResponse { networks })
    }

    /// Describes a network in docker's shape; `verbose` adds what the kernel lacks of it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn inspect_network(
        self: &Arc<Self>,
        scope: &Scope,
        request: InspectNetworkRequest,
    ) -> Result<InspectResponse> {
        let port = self.networks()?;
        let network = port.get(scope, &request.network).await?;
        let attachments = port.attachments().await?;
        let mut value = network_json(&network, &attachments);
        if request.verbose {
            let findings: Vec<Value> = port
                .check()
                .await?
                .into_iter()
                .map(|finding| json!({"Subject": finding.subject, "What": finding.what, "Remedy": finding.remedy}))
                .collect();
            value["Link"] = network.link.as_str().into();
            value["Findings"] = findings.into();
            if let Some(names) = &self.deps.names {
                let report = names.report().await?.and_then(|(text, _)| serde_json::from_str(&text).ok());
                value["Resolver"] = report.unwrap_or(Value::Null);
            }
        }
        let json =
            serde_json::to_string(&value).map_err(|error| Error::internal("inspection as JSON").caused_by(error))?;
        Ok(InspectResponse { json })
    }

    /// Removes a network.
    ///
    /// # Errors
    /// [`crated_types::Fault::InUse`] that names the containers.
    pub async fn remove_network(self: &Arc<Self>, scope: &Scope, request: NetworkRequest) -> Result<Summary> {
        if matches!(request.network.as_str(), "host" | "none") || request.network.starts_with("cni:") {
            return Err(Error::precondition(Kind::Network, &request.network, "is not ours to remove"));
        }
        let (engine, scope) = (Arc::clone(self), scope.clone());
        let removed = self.detached(async move { engine.networks()?.remove(&scope, &request.network).await }).await?;
        tracing::info!(network = removed.id, name = removed.name, "network removed");
        Ok(summary(&removed, 0))
    }

    /// Removes the networks that no container wants.
    pub async fn prune_networks(self: &Arc<Self>, scope: &Scope) -> Result<PruneNetworksResponse> {
        let (engine, scope) = (Arc::clone(self), scope.clone());
        let removed = self.detached(async move { engine.networks()?.prune(&scope).await }).await?;
        Ok(PruneNetworksResponse { names: removed.into_iter().map(|network| network.name).collect() })
    }

    /// Connects a container to a further network: at once where it runs, else from its next start on.
    ///
    /// # Errors
    /// `AlreadyExists` where it is there; `Precondition` where its namespace is not its own.
    pub async fn connect_network(self: &Arc<Self>, scope: &Scope, request: ConnectNetworkRequest) -> Result<()> {
        let mut entry = request.attachment.unwrap_or_default();
        entry.network.clone_from(&request.network);
        let wanted = wanted(&entry)?;
        self.at_container(scope, &request.container, move |engine, scope, found, config| async move {
            let pid = found.life.as_ref().filter(|life| life.has_task()).map(|life| life.pid);
            let netns = pid.map(netns_of).transpose()?;
            let endpoint = engine.networks()?.connect(&scope, &found.id, wanted, netns).await?;
            tracing::info!(container = %found.id, network = endpoint.network_name, address = endpoint.address, "connected");
            engine.renamed(&scope, &found.id, config).await
        })
        .await
    }

    /// Takes a container off a network. `force` does so for one that is no more.
    ///
    /// # Errors
    /// `NotFound` where it is not there.
    pub async fn disconnect_network(self: &Arc<Self>, scope: &Scope, request: DisconnectNetworkRequest) -> Result<()> {
        let network = request.network;
        let known = self.find(scope, &request.container).await;
        if let Err(error) = &known
            && error.is_not_found()
            && request.force
        {
            let id = ContainerId::new(&request.container)?;
            return self.networks()?.disconnect(scope, &id, &network, None).await;
        }
        known?;
        self.at_container(scope, &request.container, move |engine, scope, found, config| async move {
            let pid = found.life.as_ref().filter(|life| life.has_task()).map(|life| life.pid);
            let netns = match pid.map(netns_of).transpose() {
                Err(_) if request.force => None,
                netns => netns?,
            };
            engine.networks()?.disconnect(&scope, &found.id, &network, netns).await?;
            tracing::info!(container = %found.id, network, "disconnected");
            engine.renamed(&scope, &found.id, config).await
        })
        .await
    }

    /// The published ports of a container.
    pub async fn ports(self: &Arc<Self>, scope: &Scope, request: ContainerRequest) -> Result<PortsResponse> {
        let found = self.find(scope, &request.container).await?;
        let attachment = match &found.life {
            Some(life) => self.attachment(scope, &found.id, &life.wanted(found.id.as_str())?).await?,
            None => None,
        };
        let ports = attachment.map(|attachment| attachment.ports).unwrap_or_default();
        Ok(PortsResponse { ports: ports.iter().filter(|port| port.host_port > 0).map(published).collect() })
    }

    /// What stands in the way of packets.
    pub async fn check_networks(self: &Arc<Self>) -> Result<CheckNetworksResponse> {
        let mut findings = self.networks()?.check().await?;
        if let Some(names) = &self.deps.names {
            let troubles = match names.report().await {
                Ok(report) => report.map(|(_, troubles)| troubles).unwrap_or_default(),
                Err(error) => vec![error.to_string()],
            };
            findings.extend(troubles.into_iter().map(|what| crated_core::network::Finding {
                subject: "resolver".into(),
                what,
                remedy: "look who has the port: `ss -lnup sport = 53`".into(),
            }));
        }
        findings.extend(self.check_cni().await?);
        let told = |finding: crated_core::network::Finding| NetworkFinding {
            subject: finding.subject,
            what: finding.what,
            remedy: finding.remedy,
        };
        Ok(CheckNetworksResponse { findings: findings.into_iter().map(told).collect() })
    }

    /// Changes the published ports of a container, under its lock.
    pub(crate) async fn change_ports(
        &self,
        scope: &Scope,
        found: &Found,
        config: &ContainerConfig,
        add: &[Port],
        remove: &[Port],
    ) -> Result<()> {
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        check_own(found, config)?;
        let parsed = |ports: &[Port]| ports.iter().map(super::publish).collect::<Result<Vec<_>>>();
        self.networks()?.publish(scope, &found.id, parsed(add)?, parsed(remove)?).await?;
        self.renamed(scope, &found.id, config.clone()).await
    }

    /// Runs a change of a container's networks to its end, under the container's lock.
    async fn at_container<F, Fut>(self: &Arc<Self>, scope: &Scope, name: &str, change: F) -> Result<()>
    where
        F: FnOnce(Arc<Self>, Scope, Found, ContainerConfig) -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let id = self.find(scope, name).await?.id;
        let (engine, scope) = (Arc::clone(self), scope.clone());
        self.detached(async move {
            let slot = engine.slots.get(scope.namespace.as_str(), id.as_str());
            let _turn = slot.lock().await;
            let found = engine.found(&scope, &id).await?;
            let config = match &found.life {
                Some(life) => life.wanted(id.as_str())?,
                None => ContainerConfig::default(),
            };
            check_own(&found, &config)?;
            change(Arc::clone(&engine), scope.clone(), found, config).await
        })
        .await
    }
}

/// Only a namespace that we attach can be attached to more.
fn check_own(found: &Found, config: &ContainerConfig) -> Result<()> {
    if found.life.is_none() {
        return Err(Error::precondition(
            Kind::Container,
            &found.id,
            "was made by a client of containerd, which makes its network",
        ));
    }
    if mode(config)? == Mode::Attached {
        return Ok(());
    }
    Err(Error::precondition(
        Kind::Container,
        found.name(),
        format!("its network is {:?}, which goes with no other", config.network),
    )
    .remedy_is("make it with --network NAME of a network of your own"))
}

fn spec(request: CreateNetworkRequest) -> Result<NetworkSpec> {
    let subnet = |field: &str, text: &str| {
        text.parse::<Cidr>().map_err(|_| {
            Error::invalid(field, format_args!("{text:?} is no subnet")).remedy_is("e.g. 10.20.0.0/24 or fd00:20::/64")
        })
    };
    let ip = |field: &str, text: &str| {
        text.parse::<IpAddr>().map_err(|_| Error::invalid(field, format_args!("{text:?} is no IP address")))
    };
    let mut pools = Vec::new();
    for pool in &request.pools {
        let reserved = pool
            .reserved
            .iter()
            .map(|(name, text)| Ok((name.clone(), ip("pools.reserved", text)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        pools.push(PoolSpec {
            subnet: subnet("pools.subnet", &pool.subnet)?,
            gateway: Some(&pool.gateway)
                .filter(|text| !text.is_empty())
                .map(|text| ip("pools.gateway", text))
                .transpose()?,
            range: Some(&pool.range)
                .filter(|text| !text.is_empty())
                .map(|text| subnet("pools.range", text))
                .transpose()?,
            reserved,
        });
    }
    Ok(NetworkSpec {
        name: request.name,
        driver: request.driver,
        pools,
        ipv6: request.ipv6,
        internal: request.internal,
        labels: request.labels,
        options: request.options,
    })
}

fn endpoint_in(attachment: &Attachment, network: &str) -> bool {
    attachment.endpoints.iter().any(|endpoint| endpoint.network == network)
}

fn summary(network: &Network, containers: usize) -> Summary {
    Summary {
        id: network.id.clone(),
        name: network.name.clone(),
        driver: network.driver.clone(),
        subnets: network.pools.iter().map(|pool| pool.subnet.clone()).collect(),
        ipv6: network.ipv6,
        internal: network.internal,
        labels: network.labels.clone(),
        created_at: network.created_at,
        containers: i64::try_from(containers).unwrap_or(i64::MAX),
    }
}

fn network_json(network: &Network, attachments: &[Attachment]) -> Value {
    let pools: Vec<Value> = network
        .pools
        .iter()
        .map(|pool| {
            let mut value = json!({"Subnet": pool.subnet});
            for (key, text) in [("IPRange", &pool.range), ("Gateway", &pool.gateway)] {
                if !text.is_empty() {
                    value[key] = text.as_str().into();
                }
            }
            if !pool.reserved.is_empty() {
                value["AuxiliaryAddresses"] = json!(pool.reserved);
            }
            value
        })
        .collect();
    let mut containers = Map::new();
    for attachment in attachments {
        for endpoint in attachment.endpoints.iter().filter(|endpoint| endpoint.network == network.id) {
            if endpoint.address.is_empty() && endpoint.address6.is_empty() {
                continue; // it does not run
            }
            let value = json!({
                "Name": attachment.name, "EndpointID": endpoint.id, "MacAddress": endpoint.mac,
                "IPv4Address": endpoint.address, "IPv6Address": endpoint.address6,
            });
            containers.insert(attachment.container.clone(), value);
        }
    }
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": time(network.created_at.as_ref()),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": true,
        "EnableIPv6": network.ipv6,
        "IPAM": {"Driver": "default", "Options": {}, "Config": pools},
        "Internal": network.internal,
        "Attachable": network.name != DEFAULT_NETWORK,
        "Ingress": false,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    })
}

/// The part of a container's inspection that is about networks.
pub(crate) fn settings_json(config: &ContainerConfig, pid: u32, attachment: Option<&Attachment>) -> Value {
    let mut networks = Map::new();
    let mut ports: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    if let mode @ ("none" | "host") = config.network.as_str() {
        networks.insert(mode.into(), json!({"IPAddress": "", "Gateway": "", "MacAddress": ""}));
    }
    let endpoints = attachment.map(|attachment| attachment.endpoints.as_slice()).unwrap_or_default();
    let parts = |text: &str| -> (String, u64) {
        let (address, length) = text.split_once('/').unwrap_or((text, "0"));
        (address.to_owned(), length.parse().unwrap_or(0))
    };
    let short = attachment.map(|attachment| crate::names::short(&attachment.container)).unwrap_or_default();
    let name = attachment.map(|attachment| attachment.name.as_str()).unwrap_or_default();
    for endpoint in endpoints {
        let ((address, length), (address6, length6)) = (parts(&endpoint.address), parts(&endpoint.address6));
        let mut names: Vec<&str> = [name].into_iter().filter(|name| !name.is_empty()).collect();
        names.extend(endpoint.aliases.iter().map(String::as_str));
        names.push(short);
        let asked = if endpoint.wanted.is_empty() && endpoint.wanted6.is_empty() {
            Value::Null
        } else {
            json!({"IPv4Address": endpoint.wanted, "IPv6Address": endpoint.wanted6})
        };
        networks.insert(
            endpoint.network_name.clone(),
            json!({
                "IPAMConfig": asked,
                "Aliases": endpoint.aliases,
                "MacAddress": endpoint.mac,
                "NetworkID": endpoint.network,
                "EndpointID": endpoint.id,
                "Gateway": endpoint.gateway,
                "IPAddress": address,
                "IPPrefixLen": length,
                "IPv6Gateway": endpoint.gateway6,
                "GlobalIPv6Address": address6,
                "GlobalIPv6PrefixLen": length6,
                "GwPriority": endpoint.priority,
                "DNSNames": if endpoint.network_name == DEFAULT_NETWORK { Value::Null } else { json!(names) },
            }),
        );
    }
    for port in attachment.map(|attachment| attachment.ports.as_slice()).unwrap_or_default() {
        let bindings = ports.entry(format!("{}/{}", port.container_port, port.protocol)).or_default();
        for address in host_addresses(&port.host_ip).filter(|_| port.host_port > 0) {
            bindings.push(json!({"HostIp": address, "HostPort": port.host_port.to_string()}));
        }
    }
    let first = endpoints.iter().find(|endpoint| endpoint.network_name == DEFAULT_NETWORK);
    let (address, length) = parts(first.map(|endpoint| endpoint.address.as_str()).unwrap_or_default());
    json!({
        "Bridge": "",
        "SandboxKey": if pid > 0 { format!("/proc/{pid}/ns/net") } else { String::new() },
        "Ports": ports,
        "IPAddress": address,
        "IPPrefixLen": length,
        "Gateway": first.map(|endpoint| endpoint.gateway.as_str()).unwrap_or_default(),
        "MacAddress": first.map(|endpoint| endpoint.mac.as_str()).unwrap_or_default(),
        "Networks": networks,
    })
}

/// Where a port is published: on all addresses of both families where none is named.
pub(crate) fn host_addresses(named: &str) -> impl Iterator<Item = &str> {
    let all: &[&str] = if named.is_empty() { &["0.0.0.0", "::"] } else { &[] };
    all.iter().copied().chain(Some(named).filter(|named| !named.is_empty()))
}

/// The published ports as `ps` shows them: `0.0.0.0:8080->80/tcp`.
pub(crate) fn ports_text(attachment: &Attachment) -> String {
    let mut all = Vec::new();
    for port in attachment.ports.iter().filter(|port| port.host_port > 0) {
        for address in host_addresses(&port.host_ip) {
            let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            all.push(format!("{host}:{}->{}/{}", port.host_port, port.container_port, port.protocol));
        }
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_core::network::{Endpoint, Pool, Published};

    fn attachment() -> Attachment {
        Attachment {
            container: "c".repeat(64),
            name: "web".into(),
            endpoints: vec![Endpoint {
                id: "e".into(),
                network: "n".into(),
                network_name: "own".into(),
                mac: "02:00:00:00:00:01".into(),
                address: "10.0.0.2/24".into(),
                gateway: "10.0.0.1".into(),
                aliases: vec!["www".into()],
                ..Endpoint::default()
            }],
            ports: vec![
                Published { protocol: "tcp".into(), container_port: 80, host_port: 8080, ..Published::default() },
                Published {
                    protocol: "udp".into(),
                    container_port: 53,
                    host_ip: "::1".into(),
                    host_port: 53,
                    ..Published::default()
                },
                Published { protocol: "tcp".into(), container_port: 81, ..Published::default() },
            ],
            ..Attachment::default()
        }
    }

    #[test]
    fn what_a_container_is_attached_to_has_dockers_shape() {
        let config = ContainerConfig { network: "own".into(), ..ContainerConfig::default() };
        let value = settings_json(&config, 7, Some(&attachment()));
        let own = &value["Networks"]["own"];
        assert_eq!(
            (&own["IPAddress"], &own["IPPrefixLen"], &own["Gateway"]),
            (&json!("10.0.0.2"), &json!(24), &json!("10.0.0.1"))
        );
        assert_eq!(own["DNSNames"], json!(["web", "www", "c".repeat(12)]));
        assert_eq!(
            value["Ports"]["80/tcp"],
            json!([{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}])
        );
        assert_eq!(value["Ports"]["81/tcp"], json!([]));
        assert_eq!(value["SandboxKey"], "/proc/7/ns/net");
        assert_eq!(ports_text(&attachment()), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, [::1]:53->53/udp");
        let none = ContainerConfig { network: "none".into(), ..ContainerConfig::default() };
        assert!(settings_json(&none, 0, None)["Networks"]["none"].is_object());
    }

    #[test]
    fn a_network_has_dockers_shape() {
        let network = Network {
            id: "n".into(),
            name: "own".into(),
            driver: "bridge".into(),
            pools: vec![Pool { subnet: "10.0.0.0/24".into(), gateway: "10.0.0.1".into(), ..Pool::default() }],
            ..Network::default()
        };
        let value = network_json(&network, &[attachment()]);
        assert_eq!(value["IPAM"]["Config"], json!([{"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"}]));
        assert_eq!(value["Containers"]["c".repeat(64)]["IPv4Address"], "10.0.0.2/24");
        let mut stopped = attachment();
        stopped.endpoints[0].address.clear();
        assert_eq!(network_json(&network, &[stopped])["Containers"], json!({}));
    }

    #[test]
    fn a_wish_for_a_network_is_checked_by_its_parts() {
        use crated_api::crated::engine::v1::NetworkPool;
        let with = |pool: NetworkPool| {
            spec(CreateNetworkRequest { name: "n".into(), pools: vec![pool], ..Default::default() })
        };
        let good = NetworkPool { subnet: "10.0.0.0/24".into(), gateway: "10.0.0.9".into(), ..NetworkPool::default() };
        assert_eq!(with(good.clone()).unwrap().pools[0].gateway, Some("10.0.0.9".parse().unwrap()));
        for bad in [
            NetworkPool { subnet: "10.0.0.0/33".into(), ..good.clone() },
            NetworkPool { subnet: String::new(), ..good.clone() },
            NetworkPool { gateway: "x".into(), ..good.clone() },
            NetworkPool { range: "10.0.0.1-5".into(), ..good },
        ] {
            assert!(with(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
