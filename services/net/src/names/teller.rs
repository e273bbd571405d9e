//! From attachments to what the helper is told: networks with a resolver, and who is called what on them.

use super::zone::{Endpoint, Network, Subnet};
use crate::helper::{Change, Helper, Hold, Port, State, Transport};
use async_trait::async_trait;
use crated_core::network::{Attachment, DEFAULT_NETWORK};
use crated_core::{Named, Names, resolv};
use crated_types::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use tokio::sync::Mutex;

/// Digits of a short identifier.
const SHORT: usize = 12;

/// Tells the helper.
#[derive(Debug)]
pub struct Teller {
    helper: Helper,
    resolv_conf: PathBuf,
    told: Mutex<Told>,
}

/// What the helper knows: endpoints by container, and networks with those who are on them.
#[derive(Debug, Default)]
struct Told {
    containers: BTreeMap<(String, String), Vec<Endpoint>>,
    networks: BTreeMap<String, (Network, BTreeSet<String>)>,
}

impl Told {
    /// Forgets a container's endpoints that are not in `kept`; what is to be told of it.
    fn forget(&mut self, key: &(String, String), kept: &[Endpoint], change: &mut Change) {
        for old in self.containers.remove(key).unwrap_or_default() {
            if kept.iter().any(|endpoint| endpoint.id == old.id) {
                continue;
            }
            if let Some((_, users)) = self.networks.get_mut(&old.network) {
                users.remove(&old.id);
                if users.is_empty() {
                    self.networks.remove(&old.network);
                    change.forget_networks.push(old.network.clone());
                }
            }
            change.forget_endpoints.push(old.id);
        }
    }

    fn take(&mut self, key: (String, String), parts: Vec<(Network, Endpoint)>, change: &mut Change) {
        let endpoints: Vec<Endpoint> = parts.iter().map(|(_, endpoint)| endpoint.clone()).collect();
        self.forget(&key, &endpoints, change);
        for (network, endpoint) in parts {
            change.forget_networks.retain(|id| *id != network.id);
            let known = self.networks.entry(network.id.clone()).or_insert_with(|| (network.clone(), BTreeSet::new()));
            if known.1.is_empty() || known.0 != network {
                known.0 = network.clone();
                change.networks.push(network);
            }
            known.1.insert(endpoint.id.clone());
            change.endpoints.push(endpoint);
        }
        if !endpoints.is_empty() {
            self.containers.insert(key, endpoints);
        }
    }
}

impl Teller {
    /// Over a helper; `resolv_conf` is the file with the host's resolvers.
    #[must_use]
    pub fn new(helper: Helper, resolv_conf: PathBuf) -> Self {
        Self { helper, resolv_conf, told: Mutex::default() }
    }

    /// The default network has no names. Its containers need our resolver only where they cannot reach the host's.
    fn parts(&self, container: &Named) -> Vec<(Network, Endpoint)> {
        let default = || resolv::of_host(&self.resolv_conf).reachable().is_empty();
        parts(container, default)
    }
}

fn key(attachment: &Attachment) -> (String, String) {
    (attachment.namespace.clone(), attachment.container.clone())
}

fn parts(container: &Named, default_too: impl Fn() -> bool) -> Vec<(Network, Endpoint)> {
    let attachment = &container.attachment;
    let mut parts = Vec::new();
    for endpoint in attachment.endpoints.iter().filter(|endpoint| matches!(endpoint.driver.as_str(), "bridge" | "")) {
        let named = endpoint.network_name != DEFAULT_NETWORK;
        if !named && !default_too() {
            continue;
        }
        let given = [&endpoint.address, &endpoint.address6];
        let subnets: Vec<Subnet> = given.into_iter().filter_map(|text| subnet(text)).collect();
        let gateways = [&endpoint.gateway, &endpoint.gateway6];
        let listen: Vec<IpAddr> = gateways.into_iter().filter_map(|text| text.parse().ok()).collect();
        if subnets.is_empty() || listen.is_empty() {
            continue;
        }
        let short: String = attachment.container.chars().take(SHORT).collect();
        let mut names: Vec<String> = Vec::new();
        let called = [&container.name, &attachment.hostname].into_iter().chain(&endpoint.aliases).chain([&short]);
        for name in called.filter(|name| !name.is_empty()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        parts.push((
            Network {
                id: endpoint.network.clone(),
                name: endpoint.network_name.clone(),
                internal: endpoint.internal,
                names: named,
                subnets: subnets.clone(),
                listen,
            },
            Endpoint {
                id: endpoint.id.clone(),
                network: endpoint.network.clone(),
                container: owner(&attachment.namespace, &attachment.container),
                addresses: subnets.iter().map(|subnet| subnet.address).collect(),
                names,
                upstreams: container.servers.clone(),
            },
        ));
    }
    // A network is described by its subnet, not by who was told of first.
    for (network, _) in &mut parts {
        for subnet in &mut network.subnets {
            if let Ok(cidr) = crated_types::Cidr::new(subnet.address, subnet.length) {
                subnet.address = cidr.network().address();
            }
        }
    }
    parts
}

/// Who holds a container's ports, by the helper's words.
pub(crate) fn owner(namespace: &str, container: &str) -> String {
    format!("{namespace}/{container}")
}

/// The addresses of the host that a published port takes: both families where none is named.
pub(crate) fn host_addresses(host_ip: &str) -> Vec<IpAddr> {
    if host_ip.is_empty() {
        return vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    }
    host_ip.parse().into_iter().collect()
}

/// A port of the host by the helper's words; none where the record names none.
pub(crate) fn host_port(protocol: &str, address: IpAddr, number: u32) -> Option<Port> {
    let transport = match protocol {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        _ => return None,
    };
    Some(Port { transport, address, port: u16::try_from(number).ok().filter(|number| *number > 0)? })
}

/// The published ports of a container. To `[::1]` no rule can lead: there the helper leads what comes to the container.
fn holds(attachment: &Attachment) -> Vec<Hold> {
    let owner = owner(&attachment.namespace, &attachment.container);
    let bridges = attachment.endpoints.iter().filter(|endpoint| endpoint.driver == "bridge" && !endpoint.internal);
    let addresses: Vec<IpAddr> = bridges
        .flat_map(|endpoint| [&endpoint.address, &endpoint.address6])
        .filter_map(|text| Some(subnet(text)?.address))
        .collect();
    let inside = addresses.iter().find(|address| address.is_ipv6()).or(addresses.first());
    let mut all = Vec::new();
    for port in &attachment.ports {
        let target = inside.zip(u16::try_from(port.container_port).ok());
        for address in host_addresses(&port.host_ip) {
            let Some(port) = host_port(&port.protocol, address, port.host_port) else { continue };
            let loopback = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST].iter().any(|own| address == *own);
            let splice = target.filter(|_| loopback && port.transport != Transport::Sctp);
            all.push(Hold { port, owner: owner.clone(), splice: splice.map(|(ip, port)| SocketAddr::new(*ip, port)) });
        }
    }
    all
}

/// `172.18.0.2/16`.
fn subnet(text: &str) -> Option<Subnet> {
    let (address, length) = text.split_once('/')?;
    Some(Subnet { address: address.parse().ok()?, length: length.parse().ok()? })
}

#[async_trait]
impl Names for Teller {
    async fn tell(&self, container: &Named) -> Result<()> {
        let parts = self.parts(container);
        let mut told = self.told.lock().await;
        let mut change = Change::default();
        told.take(key(&container.attachment), parts, &mut change);
        change.holds = holds(&container.attachment);
        let done = self.helper.change(change).await;
        if done.is_err() {
            // Nothing of it is known there: the next word says everything again.
            told.forget(&key(&container.attachment), &[], &mut Change::default());
        }
        done
    }

    async fn forget(&self, namespace: &str, container: &str) -> Result<()> {
        let mut told = self.told.lock().await;
        let mut change = Change::default();
        told.forget(&(namespace.to_owned(), container.to_owned()), &[], &mut change);
        self.helper.change(change).await
    }

    async fn adopt(&self, all: Vec<Named>) -> Result<()> {
        let mut told = self.told.lock().await;
        *told = Told::default();
        let mut change = Change::default();
        for container in &all {
            told.take(key(&container.attachment), self.parts(container), &mut change);
        }
        let state = State {
            networks: told.networks.values().map(|(network, _)| network.clone()).collect(),
            endpoints: told.containers.values().flatten().cloned().collect(),
            holds: all.iter().flat_map(|container| holds(&container.attachment)).collect(),
        };
        for trouble in self.helper.adopt(state).await? {
            tracing::warn!(trouble, "the network helper");
        }
        Ok(())
    }

    async fn report(&self) -> Result<Option<(String, Vec<String>)>> {
        let Some(report) = self.helper.show().await? else { return Ok(None) };
        let text =
            serde_json::to_string(&report).map_err(|error| Error::internal("a report as JSON").caused_by(error))?;
        Ok(Some((text, report.troubles)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_core::network::Endpoint as Record;

    fn named(container: &str, endpoints: &[(&str, &str, &str)]) -> Named {
        let endpoint = |(network, address, gateway): &(&str, &str, &str)| Record {
            id: format!("{container}-{network}"),
            network: format!("id-{network}"),
            network_name: (*network).into(),
            driver: "bridge".into(),
            address: (*address).into(),
            gateway: (*gateway).into(),
            aliases: vec!["www".into()],
            ..Record::default()
        };
        let attachment = Attachment {
            container: container.repeat(64),
            namespace: "default".into(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..Attachment::default()
        };
        Named { attachment, name: format!("name-{container}"), servers: Vec::new() }
    }

    #[test]
    fn names_and_subnets_come_from_the_endpoints() {
        let one = named("c", &[("bridge", "172.17.0.2/16", "172.17.0.1"), ("own", "172.18.0.2/16", "172.18.0.1")]);
        let found = parts(&one, || false);
        assert_eq!(found.len(), 1);
        let (network, endpoint) = &found[0];
        assert_eq!((network.name.as_str(), network.subnets[0].address), ("own", "172.18.0.0".parse().unwrap()));
        assert_eq!(endpoint.names, ["name-c", "www", &"c".repeat(12)]);
        assert_eq!(endpoint.addresses, ["172.18.0.2".parse::<IpAddr>().unwrap()]);
        let both = parts(&one, || true);
        assert!(!both[0].0.names && both[1].0.names);
        assert!(parts(&named("c", &[("own", "", "")]), || true).is_empty(), "it does not run");
    }

    #[test]
    fn published_ports_are_held_and_led_on_where_rules_cannot() {
        use crated_core::network::Published;
        let mut one = named("c", &[("bridge", "172.17.0.2/16", "172.17.0.1")]).attachment;
        let port = |protocol: &str, host_ip: &str, host_port| Published {
            protocol: protocol.into(),
            host_ip: host_ip.into(),
            host_port,
            container_port: 80,
            ..Published::default()
        };
        one.ports = vec![
            port("tcp", "", 8080),
            port("udp", "", 53),
            port("tcp", "127.0.0.1", 81),
            port("tcp", "::1", 82),
            port("tcp", "", 0),
        ];
        let all: Vec<String> = holds(&one).iter().map(|hold| format!("{} {:?}", hold.port, hold.splice)).collect();
        assert_eq!(
            all,
            [
                "0.0.0.0:8080/tcp None",
                "[::]:8080/tcp Some(172.17.0.2:80)",
                "0.0.0.0:53/udp None",
                "[::]:53/udp Some(172.17.0.2:80)",
                "127.0.0.1:81/tcp None",
                "[::1]:82/tcp Some(172.17.0.2:80)",
            ]
        );
    }

    #[test]
    fn a_network_is_told_of_once_and_forgotten_with_its_last_container() {
        let mut told = Told::default();
        let own = |container: &str, address: &str| named(container, &[("own", address, "172.18.0.1")]);
        let mut tell = |named: &Named| {
            let mut change = Change::default();
            told.take(key(&named.attachment), parts(named, || false), &mut change);
            change
        };
        let (a, b) = (own("a", "172.18.0.2/16"), own("b", "172.18.0.3/16"));
        assert_eq!((tell(&a).networks.len(), tell(&b).networks.len()), (1, 0));
        let again = tell(&Named { name: "other".into(), ..a.clone() });
        assert_eq!((again.endpoints[0].names[0].as_str(), again.forget_endpoints.len()), ("other", 0));
        let mut moved = a.clone();
        moved.attachment.endpoints[0].id = "new".into();
        let change = tell(&moved);
        assert_eq!((change.forget_endpoints.as_slice(), change.forget_networks.len()), (&["a-own".to_owned()][..], 0));
        let mut change = Change::default();
        told.forget(&key(&b.attachment), &[], &mut change);
        assert!(change.forget_networks.is_empty());
        told.forget(&key(&moved.attachment), &[], &mut change);
        assert_eq!((change.forget_networks.as_slice(), change.forget_endpoints.len()), (&["id-own".to_owned()][..], 2));
        assert!(told.networks.is_empty() && told.containers.is_empty());
    }
}
