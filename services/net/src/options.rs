//! What a network's options say, and which specs can be.

use crated_core::network::{DEFAULT_NETWORK, Network, NetworkSpec, PoolSpec};
use crated_types::{Error, Fault, Kind, Result};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longest name of a network.
const NAME_MAX: usize = 128;
/// Longest name of a link (IFNAMSIZ - 1).
pub(crate) const LINK_MAX: usize = 15;
const BRIDGE: &str = "com.docker.network.bridge.";
const DRIVER: &str = "com.docker.network.driver.";
/// Names that have a meaning of their own.
const TAKEN: [&str; 4] = [DEFAULT_NETWORK, "host", "none", "default"];

/// What the options of a network mean; options that nobody knows are refused when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Largest packet in bytes; 0: as the host's default route.
    pub mtu: u32,
    /// Containers of the network reach one another.
    pub icc: bool,
    /// What goes out gets the host's address.
    pub masquerade: bool,
    /// Where ports are published whose host address is not given.
    pub host_binding: Option<IpAddr>,
    /// What links inside are called, without their number.
    pub prefix: String,
    /// The bridge gets no address of IPv4.
    pub inhibit_ipv4: bool,
    /// `MACVLAN_MODE_*`.
    pub macvlan_mode: u32,
    /// `IPVLAN_MODE_*`.
    pub ipvlan_mode: u16,
}

impl Settings {
    /// Reads options.
    ///
    /// # Errors
    /// `Invalid` with the option, its value and what was expected.
    pub fn read(driver: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let mut settings = Self {
            mtu: 0,
            icc: true,
            masquerade: true,
            host_binding: None,
            prefix: "eth".into(),
            inhibit_ipv4: false,
            macvlan_mode: 4,
            ipvlan_mode: 0,
        };
        for (key, value) in options {
            let bad = |expected: &str| Error::invalid("options", format_args!("{key}={value:?}: expected {expected}"));
            let flag = || match value.as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(bad("true or false")),
            };
            match (driver, key.as_str()) {
                ("bridge", key) if key == format!("{BRIDGE}name") => link_name(value)?,
                ("bridge", key) if key == format!("{BRIDGE}enable_icc") => settings.icc = flag()?,
                ("bridge", key) if key == format!("{BRIDGE}enable_ip_masquerade") => settings.masquerade = flag()?,
                ("bridge", key) if key == format!("{BRIDGE}inhibit_ipv4") => settings.inhibit_ipv4 = flag()?,
                ("bridge", key) if key == format!("{BRIDGE}host_binding_ipv4") => {
                    let address: std::net::Ipv4Addr = value.parse().map_err(|_| bad("an address of IPv4"))?;
                    settings.host_binding = (!address.is_unspecified()).then_some(address.into());
                }
                ("bridge", key)
                    if key == format!("{BRIDGE}gateway_mode_ipv4") || key == format!("{BRIDGE}gateway_mode_ipv6") =>
                {
                    if value != "nat" {
                        return Err(bad("nat (other modes are not offered)"));
                    }
                }
                (_, key) if key == format!("{DRIVER}mtu") => {
                    settings.mtu = value
                        .parse()
                        .ok()
                        .filter(|mtu| (576..=65535).contains(mtu))
                        .ok_or_else(|| bad("576 to 65535"))?;
                }
                (_, "com.docker.network.container_iface_prefix") => {
                    link_name(value)?;
                    if value.len() > LINK_MAX - 3 || value.bytes().any(|byte| byte.is_ascii_digit()) {
                        return Err(bad("at most 12 bytes without digits"));
                    }
                    settings.prefix.clone_from(value);
                }
                ("macvlan" | "ipvlan", "parent") => link_name(value)?,
                ("macvlan", "macvlan_mode") => {
                    settings.macvlan_mode = match value.as_str() {
                        "private" => 1,
                        "vepa" => 2,
                        "bridge" => 4,
                        "passthru" => 8,
                        _ => return Err(bad("bridge, private, vepa or passthru")),
                    };
                }
                ("ipvlan", "ipvlan_mode") => {
                    settings.ipvlan_mode = match value.as_str() {
                        "l2" => 0,
                        "l3" => 1,
                        "l3s" => 2,
                        _ => return Err(bad("l2, l3 or l3s")),
                    };
                }
                _ => return Err(Error::invalid("options", format_args!("driver {driver} has no option {key:?}"))),
            }
        }
        Ok(settings)
    }

    /// The settings of a network that exists.
    pub(crate) fn of(network: &Network) -> Self {
        Self::read(&network.driver, &network.options)
            .or_else(|_| Self::read("bridge", &BTreeMap::new()))
            .expect("no options are always right")
    }
}

/// A name that a link may have.
pub(crate) fn link_name(name: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > LINK_MAX || !name.bytes().all(fine) || matches!(name, "." | "..") {
        return Err(Error::invalid(
            "link",
            format_args!("{name:?} is no name of a link: 1 to {LINK_MAX} of letters, digits, '.', '_', '-'"),
        ));
    }
    Ok(())
}

/// Checks what can be checked without looking at others.
pub(crate) fn check(spec: &NetworkSpec) -> Result<()> {
    let name = spec.name.as_str();
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let fine = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if !first || !fine || name.len() > NAME_MAX {
        let rule = "[a-zA-Z0-9][a-zA-Z0-9_.-]*";
        let shown: String = name.chars().take(NAME_MAX).collect();
        return Err(Error::invalid(
            "name",
            format_args!("{shown:?} must match {rule} and have at most {NAME_MAX} bytes"),
        ));
    }
    if TAKEN.contains(&name) {
        return Err(Error::new(Fault::Denied, "is a name that has a meaning of its own")
            .on(Kind::Network, name)
            .remedy_is("choose another name"));
    }
    if !matches!(spec.driver.as_str(), "" | "bridge" | "macvlan" | "ipvlan") {
        return Err(Error::invalid("driver", format_args!("{:?} is not bridge, macvlan or ipvlan", spec.driver)));
    }
    for family in [false, true] {
        let pools: Vec<_> = spec.pools.iter().filter(|pool| pool.subnet.is_v6() == family).collect();
        if let [one, other, ..] = pools[..] {
            let what = format!("{} and {}: one subnet a family is offered", one.subnet, other.subnet);
            return Err(Error::invalid("subnet", what));
        }
    }
    if !spec.ipv6 && spec.pools.iter().any(|pool| pool.subnet.is_v6()) {
        return Err(Error::invalid("subnet", "a subnet of IPv6 needs IPv6 to be on").remedy_is("add --ipv6"));
    }
    spec.pools.iter().try_for_each(check_pool)
}

fn check_pool(pool: &PoolSpec) -> Result<()> {
    let subnet = pool.subnet;
    if subnet.network() != subnet {
        return Err(Error::invalid(
            "subnet",
            format_args!("{subnet} has host bits; its network is {}", subnet.network()),
        ));
    }
    let (least, most) = if subnet.is_v6() { (16, 126) } else { (8, 30) };
    if !(least..=most).contains(&subnet.length()) {
        return Err(Error::invalid("subnet", format_args!("{subnet}: the length must be {least} to {most}")));
    }
    let address = subnet.address();
    let unfit = match address {
        IpAddr::V4(four) => four.is_loopback() || four.is_multicast() || four.is_unspecified() || four.is_link_local(),
        IpAddr::V6(six) => {
            six.is_loopback() || six.is_multicast() || six.is_unspecified() || six.is_unicast_link_local()
        }
    };
    if unfit {
        return Err(Error::invalid("subnet", format_args!("{subnet} is loopback, multicast or link-local")));
    }
    let edge = |address: IpAddr| {
        let at = crated_types::cidr::number(address);
        at == subnet.first() || !subnet.is_v6() && at == subnet.last()
    };
    if let Some(gateway) = pool.gateway
        && (!subnet.contains(gateway) || edge(gateway))
    {
        return Err(Error::invalid("gateway", format_args!("{gateway} is not a host's address in subnet {subnet}")));
    }
    if let Some(range) = pool.range
        && !subnet.covers(&range)
    {
        return Err(Error::invalid("ip-range", format_args!("{range} is not inside of subnet {subnet}")));
    }
    for (name, address) in &pool.reserved {
        if !subnet.contains(*address) {
            return Err(Error::invalid("aux-address", format_args!("{name}={address} is not in subnet {subnet}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, subnets: &[&str]) -> NetworkSpec {
        let pool = |text: &&str| PoolSpec {
            subnet: text.parse().unwrap(),
            gateway: None,
            range: None,
            reserved: BTreeMap::new(),
        };
        NetworkSpec { name: name.into(), pools: subnets.iter().map(pool).collect(), ..NetworkSpec::default() }
    }

    #[test]
    fn specs_that_cannot_be_are_refused_with_the_reason() {
        check(&spec("a.b-c_d", &["10.1.0.0/24"])).unwrap();
        for (name, subnets, word) in [
            ("", &[][..], "must match"),
            ("-a", &[], "must match"),
            ("a b", &[], "must match"),
            ("a\nb", &[], "must match"),
            ("bridge", &[], "meaning of its own"),
            ("a", &["10.1.0.1/24"], "host bits"),
            ("a", &["10.1.0.0/31"], "8 to 30"),
            ("a", &["127.0.0.0/8"], "loopback"),
            ("a", &["10.0.0.0/24", "10.1.0.0/24"], "one subnet a family"),
            ("a", &["fd00::/64"], "IPv6 to be on"),
        ] {
            let error = check(&spec(name, subnets)).unwrap_err().to_string();
            assert!(error.contains(word), "{name:?} {subnets:?}: {error}");
        }
        let mut odd = spec("a", &["10.1.0.0/24"]);
        odd.pools[0].gateway = Some("10.1.0.255".parse().unwrap());
        assert!(check(&odd).unwrap_err().to_string().contains("gateway"));
        odd.pools[0].gateway = None;
        odd.pools[0].range = Some("10.2.0.0/24".parse().unwrap());
        assert!(check(&odd).unwrap_err().to_string().contains("ip-range"));
    }

    #[test]
    fn options_are_read_or_refused() {
        let read =
            |driver, key: &str, value: &str| Settings::read(driver, &BTreeMap::from([(key.into(), value.into())]));
        assert_eq!(read("bridge", "com.docker.network.driver.mtu", "1400").unwrap().mtu, 1400);
        assert!(!read("bridge", "com.docker.network.bridge.enable_icc", "false").unwrap().icc);
        assert_eq!(read("ipvlan", "ipvlan_mode", "l3").unwrap().ipvlan_mode, 1);
        for (key, value) in [
            ("com.docker.network.driver.mtu", "100"),
            ("com.docker.network.driver.mtu", "70000"),
            ("com.docker.network.bridge.name", "much-too-long-for-a-link"),
            ("com.docker.network.bridge.name", "a/b"),
            ("com.docker.network.bridge.enable_icc", "perhaps"),
            ("parent", "eth0"),
            ("colour", "blue"),
        ] {
            let error = read("bridge", key, value).unwrap_err();
            assert_eq!(error.fault(), Fault::Invalid, "{error}");
        }
    }
}
