//! Who is called what: networks, the endpoints on them, and what a question from one of them finds.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Any address of it.
    pub address: IpAddr,
    /// Bits of the prefix.
    pub length: u8,
}

impl Subnet {
    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.length.min(32));
                u32::from(own).checked_shr(shift).unwrap_or(0) == u32::from(other).checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.length.min(128));
                u128::from(own).checked_shr(shift).unwrap_or(0) == u128::from(other).checked_shr(shift).unwrap_or(0)
            }
            _ => false,
        }
    }
}

/// A network whose resolver we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Nothing of it goes to the host's resolvers.
    pub internal: bool,
    /// Names of its containers are resolved; the default bridge only forwards.
    pub names: bool,
    /// Its ranges: questions from elsewhere are not heard.
    pub subnets: Vec<Subnet>,
    /// Addresses of the host on it, where the resolver listens.
    pub listen: Vec<IpAddr>,
}

/// A container on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its own id.
    pub id: String,
    /// Id of the network.
    pub network: String,
    /// The container.
    pub container: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// What it is called there; the first is the answer to a question for the name of its address.
    pub names: Vec<String>,
    /// Resolvers that it asked for instead of the host's.
    pub upstreams: Vec<IpAddr>,
}

/// What a question finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// These addresses; of another family than was asked for maybe.
    Addresses(Vec<IpAddr>),
    /// This name.
    Name(String),
    /// It would be ours, and there is none.
    Nothing,
    /// Not ours.
    Elsewhere,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    /// The networks that it is on; the one that it asked on first.
    networks: Vec<String>,
    /// All of them are internal.
    pub(super) internal: bool,
    /// Resolvers of its own.
    pub(super) upstreams: Vec<IpAddr>,
}

/// Everything that is called something.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    networks: BTreeMap<String, Network>,
    endpoints: BTreeMap<String, Endpoint>,
    by_name: HashMap<(String, String), BTreeSet<String>>,
    by_address: HashMap<(String, IpAddr), String>,
    by_container: HashMap<String, BTreeSet<String>>,
    /// How many endpoints have a name, on whatever network.
    known: HashMap<String, usize>,
}

impl Zone {
    /// Adds a network or takes its new form.
    pub fn put_network(&mut self, network: Network) {
        self.networks.insert(network.id.clone(), network);
    }

    /// Forgets a network; its endpoints are to be forgotten by themselves.
    pub fn forget_network(&mut self, id: &str) {
        self.networks.remove(id);
    }

    /// Adds an endpoint or takes its new form.
    pub fn put_endpoint(&mut self, endpoint: Endpoint) {
        self.forget_endpoint(&endpoint.id);
        for name in unique(&endpoint) {
            let key = (endpoint.network.clone(), name.clone());
            self.by_name.entry(key).or_default().insert(endpoint.id.clone());
            *self.known.entry(name).or_default() += 1;
        }
        for address in &endpoint.addresses {
            self.by_address.insert((endpoint.network.clone(), *address), endpoint.id.clone());
        }
        self.by_container.entry(endpoint.container.clone()).or_default().insert(endpoint.id.clone());
        self.endpoints.insert(endpoint.id.clone(), endpoint);
    }

    /// Forgets an endpoint; one that is not there is no matter.
    pub fn forget_endpoint(&mut self, id: &str) {
        let Some(endpoint) = self.endpoints.remove(id) else { return };
        for name in unique(&endpoint) {
            let key = (endpoint.network.clone(), name.clone());
            if let Some(holders) = self.by_name.get_mut(&key) {
                holders.remove(id);
                if holders.is_empty() {
                    self.by_name.remove(&key);
                }
            }
            if let Some(count) = self.known.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.known.remove(&name);
                }
            }
        }
        for address in &endpoint.addresses {
            let key = (endpoint.network.clone(), *address);
            if self.by_address.get(&key).is_some_and(|holder| holder == id) {
                self.by_address.remove(&key);
            }
        }
        if let Some(own) = self.by_container.get_mut(&endpoint.container) {
            own.remove(id);
            if own.is_empty() {
                self.by_container.remove(&endpoint.container);
            }
        }
    }

    /// The networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// The endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// Whether a gateway address is ours: a resolver must not ask itself.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.networks.values().any(|network| network.listen.contains(&address))
    }

    /// Who asks from `source` where the resolver of `network` listens; none from outside of the network.
    pub(super) fn asker(&self, network: &str, source: IpAddr) -> Option<Asker> {
        let here = self.networks.get(network)?;
        if !here.subnets.iter().any(|subnet| subnet.contains(source)) {
            return None;
        }
        let mut asker = Asker { networks: vec![network.to_owned()], internal: here.internal, upstreams: Vec::new() };
        let Some(endpoint) = self.by_address.get(&(network.to_owned(), source)).and_then(|id| self.endpoints.get(id))
        else {
            return Some(asker); // the host, or an address that nobody has from us
        };
        asker.upstreams.clone_from(&endpoint.upstreams);
        for id in self.by_container.get(&endpoint.container).into_iter().flatten() {
            let Some(other) = self.endpoints.get(id).map(|endpoint| &endpoint.network) else { continue };
            let Some(known) = self.networks.get(other).filter(|_| other != network) else { continue };
            asker.internal &= known.internal;
            asker.networks.push(other.clone());
        }
        Some(asker)
    }

    /// What `name` (lower case) is for `asker`.
    pub(super) fn find(&self, asker: &Asker, name: &str) -> Found {
        if let Some(address) = super::wire::reverse(name) {
            return self.find_reverse(asker, address);
        }
        for id in asker.networks.iter().filter(|id| self.networks.get(*id).is_some_and(|network| network.names)) {
            let network = self.networks[id].name.to_lowercase();
            let within = name.strip_suffix(&network).and_then(|rest| rest.strip_suffix('.'));
            for candidate in [Some(name), within].into_iter().flatten() {
                if let Some(holders) = self.by_name.get(&(id.clone(), candidate.to_owned())) {
                    let found = holders.iter().filter_map(|id| self.endpoints.get(id));
                    return Found::Addresses(found.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect());
                }
            }
            if within.is_some() && !name.contains('\\') && !network.contains('.') {
                return Found::Nothing; // below our network's name nobody else has names
            }
        }
        // A name of ours on another network is no business of the world outside, nor of the asker.
        let single = !name.contains('.');
        if single && self.known.contains_key(name) { Found::Nothing } else { Found::Elsewhere }
    }

    fn find_reverse(&self, asker: &Asker, address: IpAddr) -> Found {
        for id in &asker.networks {
            let Some(network) = self.networks.get(id) else { continue };
            let holder = self.by_address.get(&(id.clone(), address)).and_then(|id| self.endpoints.get(id));
            if let Some(name) = holder.filter(|_| network.names).and_then(|endpoint| endpoint.names.first()) {
                return Found::Name(format!("{name}.{}", network.name));
            }
        }
        let ours = |network: &Network| network.subnets.iter().any(|subnet| subnet.contains(address));
        if self.networks.values().any(ours) { Found::Nothing } else { Found::Elsewhere }
    }
}

fn unique(endpoint: &Endpoint) -> BTreeSet<String> {
    endpoint.names.iter().map(|name| name.to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn network(id: &str, subnet: &str, internal: bool) -> Network {
        let (address, length) = subnet.split_once('/').unwrap();
        let address: IpAddr = address.parse().unwrap();
        Network {
            id: id.into(),
            name: format!("{id}-net"),
            internal,
            names: true,
            subnets: vec![Subnet { address, length: length.parse().unwrap() }],
            listen: vec![address],
        }
    }

    fn endpoint(id: &str, network: &str, container: &str, address: &str, names: &[&str]) -> Endpoint {
        Endpoint {
            id: id.into(),
            network: network.into(),
            container: container.into(),
            addresses: vec![address.parse().unwrap()],
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            upstreams: Vec::new(),
        }
    }

    fn zone() -> Zone {
        let mut zone = Zone::default();
        zone.put_network(network("a", "10.1.0.1/16", false));
        zone.put_network(network("b", "10.2.0.1/16", true));
        zone.put_endpoint(endpoint("1", "a", "web", "10.1.0.2", &["Web", "www", "0123456789ab"]));
        zone.put_endpoint(endpoint("2", "a", "web2", "10.1.0.3", &["web2", "www"]));
        zone.put_endpoint(endpoint("3", "b", "db", "10.2.0.2", &["db"]));
        zone.put_endpoint(endpoint("4", "b", "web", "10.2.0.3", &["web"]));
        zone
    }

    fn addresses(list: &[&str]) -> Found {
        Found::Addresses(list.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn names_are_found_on_the_networks_of_the_asker_alone() {
        let zone = zone();
        let web = zone.asker("a", "10.1.0.2".parse().unwrap()).unwrap();
        let web2 = zone.asker("a", "10.1.0.3".parse().unwrap()).unwrap();
        assert_eq!(zone.find(&web2, "web"), addresses(&["10.1.0.2"]));
        assert_eq!(zone.find(&web2, "0123456789ab"), addresses(&["10.1.0.2"]));
        assert_eq!(zone.find(&web2, "www"), addresses(&["10.1.0.2", "10.1.0.3"]));
        assert_eq!(zone.find(&web2, "web.a-net"), addresses(&["10.1.0.2"]));
        assert_eq!(zone.find(&web2, "other.a-net"), Found::Nothing);
        assert_eq!(zone.find(&web2, "web.b-net"), Found::Elsewhere);
        assert_eq!(zone.find(&web2, "db"), Found::Nothing, "a name of another network stays at home");
        assert_eq!(zone.find(&web, "db"), addresses(&["10.2.0.2"]));
        assert_eq!(zone.find(&web, "web"), addresses(&["10.1.0.2"]), "the network that was asked on comes first");
        assert_eq!(zone.find(&web2, "example.org"), Found::Elsewhere);
        assert_eq!(zone.find(&web2, "nas"), Found::Elsewhere);
        assert!(!web.internal && zone.asker("b", "10.2.0.2".parse().unwrap()).unwrap().internal);
        assert!(zone.asker("a", "10.2.0.2".parse().unwrap()).is_none(), "from another network");
        assert!(zone.asker("c", "10.2.0.2".parse().unwrap()).is_none());
    }

    #[test]
    fn addresses_have_the_name_of_their_container() {
        let zone = zone();
        let web2 = zone.asker("a", "10.1.0.3".parse().unwrap()).unwrap();
        assert_eq!(zone.find(&web2, "2.0.1.10.in-addr.arpa"), Found::Name("Web.a-net".into()));
        assert_eq!(zone.find(&web2, "9.0.1.10.in-addr.arpa"), Found::Nothing);
        assert_eq!(zone.find(&web2, "2.0.2.10.in-addr.arpa"), Found::Nothing, "not on a network of its");
        assert_eq!(zone.find(&web2, "8.8.8.8.in-addr.arpa"), Found::Elsewhere);
    }

    #[test]
    fn what_is_forgotten_is_not_found() {
        let mut zone = zone();
        for id in ["1", "2", "3", "4", "5"] {
            zone.forget_endpoint(id);
        }
        assert!(
            zone.by_name.is_empty()
                && zone.by_address.is_empty()
                && zone.by_container.is_empty()
                && zone.known.is_empty()
        );
    }

    #[test]
    fn ranges_hold_what_is_in_them() {
        let whole = Subnet { address: "10.0.0.1".parse().unwrap(), length: 0 };
        assert!(whole.contains("1.2.3.4".parse().unwrap()) && !whole.contains("::1".parse().unwrap()));
        let one = Subnet { address: "fd00::1".parse().unwrap(), length: 128 };
        assert!(one.contains("fd00::1".parse().unwrap()) && !one.contains("fd00::2".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn the_index_equals_one_made_anew(steps in proptest::collection::vec((0u8..6, 0u8..3, 0u8..4, any::<bool>()), 0..40)) {
            let mut zone = Zone::default();
            let mut kept: BTreeMap<String, Endpoint> = BTreeMap::new();
            for (id, name, address, put) in steps {
                let one = endpoint(&id.to_string(), "a", &format!("c{}", id % 2), &format!("10.0.{id}.{address}"), &[&format!("n{name}"), "all"]);
                if put {
                    zone.put_endpoint(one.clone());
                    kept.insert(one.id.clone(), one);
                } else {
                    zone.forget_endpoint(&one.id);
                    kept.remove(&one.id);
                }
            }
            let mut anew = Zone::default();
            for one in kept.into_values() {
                anew.put_endpoint(one);
            }
            prop_assert_eq!(zone.by_name, anew.by_name);
            prop_assert_eq!(zone.by_address, anew.by_address);
            prop_assert_eq!(zone.by_container, anew.by_container);
            prop_assert_eq!(zone.known, anew.known);
        }
    }
}
