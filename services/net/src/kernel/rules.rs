//! The text and the elements of our table. What changes by network or container is an element, never a rule.
//!
//! docs/packets.md draws the ways of packets through it.

use crated_core::network::{Network, Protocol};
use crated_sys::netlink::nft::Element;
use crated_types::Cidr;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::address::Holder;
use crate::options::Settings;

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    /// Address of the host; none: all.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) host_port: u16,
    /// Where it leads: its family is that of the packets.
    pub(crate) to: SocketAddr,
}

/// What the table knows of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkRules {
    pub(crate) link: String,
    pub(crate) subnets: Vec<Cidr>,
    pub(crate) internal: bool,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
}

impl Mapping {
    fn map(&self) -> &'static str {
        match (self.to.is_ipv6(), self.host_ip.is_some()) {
            (false, false) => "pub4",
            (false, true) => "pub4addr",
            (true, false) => "pub6",
            (true, true) => "pub6addr",
        }
    }

    /// As netlink wants it.
    pub(crate) fn element(&self) -> Element {
        let mut key = self.host_ip.map(octets).unwrap_or_default();
        key.extend([self.protocol.number(), 0, 0, 0]);
        key.extend(self.host_port.to_be_bytes());
        key.extend([0, 0]);
        let mut value = octets(self.to.ip());
        value.extend(self.to.port().to_be_bytes());
        value.extend([0, 0]);
        Element { set: self.map(), key, value }
    }

    /// As `nft` wants it.
    fn text(&self) -> String {
        let address = self.host_ip.map(|address| format!("{address} . ")).unwrap_or_default();
        format!("{address}{} . {} : {} . {}", self.protocol, self.host_port, self.to.ip(), self.to.port())
    }
}

impl NetworkRules {
    pub(crate) fn of(network: &Network, settings: &Settings) -> Self {
        Self {
            link: network.link.clone(),
            subnets: network.pools.iter().filter_map(|pool| pool.subnet.parse().ok()).collect(),
            internal: network.internal,
            icc: settings.icc,
            masquerade: settings.masquerade && !network.internal,
        }
    }

    /// Set and element of everything that it has in the table.
    fn elements(&self) -> Vec<(&'static str, String)> {
        let link = format!("{:?}", self.link);
        let mut all = vec![("bridges", link.clone())];
        if self.icc {
            all.push(("pairs", format!("{link} . {link}")));
        }
        if self.internal {
            all.push(("internal", link));
        }
        for subnet in &self.subnets {
            let (guarded, hidden) = if subnet.is_v6() { ("sub6", "masq6") } else { ("sub4", "masq4") };
            all.push((guarded, subnet.to_string()));
            if self.masquerade {
                all.push((hidden, subnet.to_string()));
            }
        }
        all
    }

    /// The command that adds or deletes its elements.
    pub(crate) fn command(&self, verb: &str, table: &str) -> String {
        let lines = self
            .elements()
            .into_iter()
            .map(|(set, element)| format!("{verb} element inet {table} {set} {{ {element} }}\n"));
        lines.collect()
    }
}

/// The whole table, in one transaction: the old one goes as the new one comes.
pub(crate) fn ruleset(
    table: &str,
    networks: &BTreeMap<String, NetworkRules>,
    mappings: &BTreeMap<Holder, Vec<Mapping>>,
) -> String {
    let mut sets: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (set, element) in networks.values().flat_map(NetworkRules::elements) {
        sets.entry(set).or_default().push(element);
    }
    for mapping in mappings.values().flatten() {
        sets.entry(mapping.map()).or_default().push(mapping.text());
    }
    let mut text = format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    for (name, kind) in SETS {
        let (word, flags) = match (kind.contains(" : "), name.starts_with("sub") || name.starts_with("masq")) {
            (true, _) => ("map", ""),
            (false, true) => ("set", " flags interval;"),
            (false, false) => ("set", ""),
        };
        let _ = write!(text, "  {word} {name} {{ type {kind};{flags}");
        if let Some(elements) = sets.get(name) {
            let _ = write!(text, " elements = {{ {} }}", elements.join(", "));
        }
        text.push_str(" }\n");
    }
    text.push_str(CHAINS);
    text.push_str("}\n");
    text
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    }
}

/// Sets and maps with their types.
pub(crate) const SETS: [(&str, &str); 11] = [
    ("bridges", "ifname"),
    ("pairs", "ifname . ifname"),
    ("internal", "ifname"),
    ("sub4", "ipv4_addr"),
    ("sub6", "ipv6_addr"),
    ("masq4", "ipv4_addr"),
    ("masq6", "ipv6_addr"),
    ("pub4", "inet_proto . inet_service : ipv4_addr . inet_service"),
    ("pub4addr", "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"),
    ("pub6", "inet_proto . inet_service : ipv6_addr . inet_service"),
    ("pub6addr", "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service"),
];

const CHAINS: &str = r#"
  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip saddr 127.0.0.0/8 drop
    iifname "lo" accept
    iifname != @bridges ip daddr @sub4 drop
    iifname != @bridges ip6 daddr @sub6 drop
  }
  chain dnat_in {
    type nat hook prerouting priority dstnat; policy accept;
    meta nfproto ipv4 fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @pub4addr
    meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @pub4
    meta nfproto ipv6 fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @pub6addr
    meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @pub6
  }
  chain dnat_out {
    type nat hook output priority -100; policy accept;
    meta nfproto ipv4 fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @pub4addr
    meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @pub4
    meta nfproto ipv6 ip6 daddr != ::1 fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @pub6addr
    meta nfproto ipv6 ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @pub6
  }
  chain masq {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "lo" accept
    oifname @bridges ip saddr 127.0.0.0/8 masquerade
    oifname @bridges ct status dnat ip saddr @sub4 masquerade
    oifname @bridges ct status dnat ip6 saddr @sub6 masquerade
    oifname != @bridges ip saddr @masq4 masquerade
    oifname != @bridges ip6 saddr @masq6 masquerade
  }
  chain between {
    type filter hook forward priority filter; policy accept;
    iifname @internal oifname != @bridges drop
    oifname != @bridges accept
    iifname . oifname @pairs accept
    iifname @internal drop
    oifname @internal drop
    ct state established,related accept
    ct status dnat accept
    drop
  }
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_what_networks_and_ports_need() {
        let network = NetworkRules {
            link: "br-1".into(),
            subnets: vec!["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            internal: true,
            icc: true,
            masquerade: false,
        };
        let mapping = Mapping {
            protocol: Protocol::Udp,
            host_ip: Some("127.0.0.1".parse().unwrap()),
            host_port: 53,
            to: "10.1.0.2:5353".parse().unwrap(),
        };
        let networks = BTreeMap::from([("1".to_owned(), network.clone())]);
        let mappings = BTreeMap::from([(("n".to_owned(), "c".to_owned()), vec![mapping])]);
        let text = ruleset("t", &networks, &mappings);
        for line in [
            "set pairs { type ifname . ifname; elements = { \"br-1\" . \"br-1\" } }",
            "set sub4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 } }",
            "set masq4 { type ipv4_addr; flags interval; }",
            "elements = { 127.0.0.1 . udp . 53 : 10.1.0.2 . 5353 }",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(network.command("delete", "t").contains("delete element inet t internal { \"br-1\" }\n"));
    }

    #[test]
    fn elements_are_padded_as_the_kernel_has_them() {
        let mapping =
            Mapping { protocol: Protocol::Tcp, host_ip: None, host_port: 0x1f90, to: "10.0.0.2:80".parse().unwrap() };
        let element = mapping.element();
        assert_eq!((element.set, element.key), ("pub4", vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0]));
        assert_eq!(element.value, [10, 0, 0, 2, 0, 80, 0, 0]);
    }
}
