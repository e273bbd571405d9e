//! What a container wants of networks: the modes that people know, what goes with which, and the wish for the port.

mod bandwidth;
pub(crate) mod plug;
pub(crate) mod verbs;

use crated_api::crated::engine::v1::{ContainerConfig, NetworkAttachment, Port};
use crated_core::network::{DEFAULT_NETWORK, ENDPOINTS_MAX, PORTS_MAX, Protocol, Publish, Published, Wanted, Wish};
use crated_types::{ContainerId, Error, Fault, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Longest host or domain name (HOST_NAME_MAX of Linux).
const HOSTNAME_MAX: usize = 64;
/// Most entries of `dns`, `dns_search`, `dns_options`, `extra_hosts` and aliases of an endpoint.
const WORDS_MAX: usize = 256;

/// Where a container's network comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode<'c> {
    /// A namespace with nothing but the loopback.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(&'c str),
    /// A namespace that somebody else made.
    Path(&'c str),
    /// A namespace that plugins attach.
    Cni(&'c str),
    /// A namespace that is attached to networks of ours.
    Attached,
}

/// The mode of a container whose wish was checked by [`normalize`].
///
/// # Errors
/// [`Fault::Invalid`] for a text that is no mode and no name.
pub(crate) fn mode(config: &ContainerConfig) -> Result<Mode<'_>> {
    let text = config.network.as_str();
    let bad = |why: &str| Error::invalid("config.network", format_args!("{text:?}: {why}"));
    Ok(match text {
        "" | "none" => Mode::None,
        "host" => Mode::Host,
        _ => match text.split_once(':') {
            Some(("container", other)) if !other.is_empty() => Mode::Container(other),
            Some(("ns", path)) if Path::new(path).is_absolute() => Mode::Path(path),
            Some(("ns", _)) => return Err(bad("is no absolute path")),
            Some(("cni", name)) if is_word(name) => Mode::Cni(name),
            None if is_word(text) => Mode::Attached,
            _ => {
                return Err(bad("is no network")
                    .remedy_is("use the name of a network, none, host, container:NAME, ns:/path or cni:NAME"));
            }
        },
    })
}

/// Names of networks, containers and aliases: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
fn is_word(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'))
}

/// Puts the part of a wish that is about networks into its normal form, and checks it; answers warnings. Afterwards `network`
/// says the mode and `networks` has an entry for each network, the first for `network`.
pub(crate) fn normalize(config: &mut ContainerConfig, default: &str) -> Result<Vec<String>> {
    if config.network.is_empty() {
        let first = config.networks.first().map(|first| first.network.clone());
        config.network = first.unwrap_or_else(|| default.to_owned());
    }
    if config.network == "default" {
        config.network = DEFAULT_NETWORK.into();
    }
    let mut warnings = Vec::new();
    match mode(config)? {
        Mode::Attached | Mode::Cni(_) => {
            let place = config.networks.iter().position(|entry| entry.network == config.network);
            let first = match place {
                Some(place) => config.networks.remove(place),
                None => NetworkAttachment { network: config.network.clone(), ..NetworkAttachment::default() },
            };
            config.networks.insert(0, first);
        }
        Mode::None | Mode::Host => {
            alone(config)?;
            if !config.publish.is_empty() || config.publish_all {
                warnings.push(format!("published ports are left out: network {} has none of its own", config.network));
                config.publish.clear();
                config.publish_all = false;
            }
        }
        Mode::Container(_) | Mode::Path(_) => {
            alone(config)?;
            joined(config)?;
        }
    }
    if bandwidth::bandwidth(&config.annotations)?.is_some() && !matches!(mode(config)?, Mode::Cni(_)) {
        warnings.push(format!("annotations of a bandwidth are for cni:NAME: network {} limits none", config.network));
    }
    check_endpoints(config)?;
    check_names(config)?;
    if config.publish.len() > PORTS_MAX {
        return Err(Error::invalid(
            "config.publish",
            format_args!("{} ports, at most {PORTS_MAX} can be published", config.publish.len()),
        )
        .remedy_is("publish a smaller range, or use --network host"));
    }
    config.publish.iter().try_for_each(|port| publish(port).map(drop))?;
    Ok(warnings)
}

fn alone(config: &ContainerConfig) -> Result<()> {
    match config.networks.first() {
        None => Ok(()),
        Some(other) => Err(Error::invalid(
            "config.networks",
            format_args!("network {:?} goes with no other, and there is {:?}", config.network, other.network),
        )
        .remedy_is("leave out addresses, aliases and further networks, or choose a network of your own")),
    }
}

/// What belongs to whoever made the namespace cannot be asked for by who joins it.
fn joined(config: &ContainerConfig) -> Result<()> {
    let container = config.network.starts_with("container:");
    let asked = [
        ("publish", !config.publish.is_empty() || config.publish_all),
        ("hostname", container && !config.hostname.is_empty()),
        ("domainname", container && !config.domainname.is_empty()),
        ("dns", container && !(config.dns.is_empty() && config.dns_search.is_empty() && config.dns_options.is_empty())),
        ("extra_hosts", container && !config.extra_hosts.is_empty()),
    ];
    match asked.into_iter().find(|(_, is)| *is) {
        None => Ok(()),
        Some((field, _)) => Err(Error::invalid(
            &format!("config.{field}"),
            format_args!("cannot be set with network {:?}: it is shared", config.network),
        )
        .remedy_is("set it on the container that the network belongs to")),
    }
}

fn check_endpoints(config: &ContainerConfig) -> Result<()> {
    if config.networks.len() > ENDPOINTS_MAX {
        return Err(Error::invalid(
            "config.networks",
            format_args!("{} networks, at most {ENDPOINTS_MAX} are possible", config.networks.len()),
        ));
    }
    for (at, entry) in config.networks.iter().enumerate() {
        wanted(entry)?;
        let special = ["none", "host"].contains(&entry.network.as_str()) || entry.network.contains(':');
        let cni = config.network.starts_with("cni:");
        if (special && !(cni && at == 0)) || (cni && at > 0) || !(cni || is_word(&entry.network)) {
            return Err(Error::invalid(
                "config.networks",
                format_args!("{:?} cannot be one of several networks", entry.network),
            ));
        }
        if config.networks.iter().take(at).any(|other| other.network == entry.network) {
            return Err(Error::invalid("config.networks", format_args!("{:?} is there twice", entry.network)));
        }
    }
    Ok(())
}

fn check_names(config: &ContainerConfig) -> Result<()> {
    for (field, name) in [("config.hostname", &config.hostname), ("config.domainname", &config.domainname)] {
        let good = name.len() <= HOSTNAME_MAX
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'))
            && !name.starts_with(['-', '.']);
        if !good {
            return Err(Error::invalid(field, format_args!("{name:?} is no host name"))
                .remedy_is(format!("use letters, digits, dots and dashes, at most {HOSTNAME_MAX}")));
        }
    }
    let lists = [
        ("config.dns", &config.dns),
        ("config.dns_search", &config.dns_search),
        ("config.dns_options", &config.dns_options),
        ("config.extra_hosts", &config.extra_hosts),
    ];
    for (field, words) in lists {
        if words.len() > WORDS_MAX {
            return Err(Error::invalid(field, format_args!("{} entries, at most {WORDS_MAX}", words.len())));
        }
    }
    for server in &config.dns {
        let parsed: Result<IpAddr, _> = server.parse();
        parsed.map_err(|_| Error::invalid("config.dns", format_args!("{server:?} is no IP address")))?;
    }
    for (field, words) in [("config.dns_search", &config.dns_search), ("config.dns_options", &config.dns_options)] {
        let odd = |letter: char| letter.is_whitespace() || letter.is_control() || matches!(letter, '#' | ';');
        if let Some(word) = words.iter().find(|word| word.is_empty() || word.contains(odd)) {
            return Err(Error::invalid(field, format_args!("{word:?} is not one word")));
        }
    }
    config.extra_hosts.iter().try_for_each(|entry| crate::files::extra_host(entry).map(drop))
}

/// An endpoint in the port's words.
pub(crate) fn wanted(entry: &NetworkAttachment) -> Result<Wanted> {
    fn parsed<T: std::str::FromStr>(field: &str, text: &str, what: &str) -> Result<Option<T>> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| Error::invalid(field, format_args!("{text:?} is no {what}")))
    }
    if entry.aliases.len() > WORDS_MAX {
        return Err(Error::invalid("networks.aliases", format_args!("{}, at most {WORDS_MAX}", entry.aliases.len())));
    }
    if let Some(bad) = entry.aliases.iter().find(|alias| !is_word(alias)) {
        return Err(Error::invalid("networks.aliases", format_args!("{bad:?} is no name"))
            .remedy_is("use letters, digits, `_`, `.` and `-`, a letter or digit first"));
    }
    Ok(Wanted {
        network: entry.network.clone(),
        address: parsed::<Ipv4Addr>("networks.ip", &entry.ip, "IPv4 address")?,
        address6: parsed::<Ipv6Addr>("networks.ip6", &entry.ip6, "IPv6 address")?,
        mac: mac(&entry.mac)?,
        aliases: entry.aliases.clone(),
        priority: entry.priority,
    })
}

fn mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bad = || Error::invalid("networks.mac", format_args!("{text:?} is no MAC address of one station"));
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
        return Err(bad());
    }
    Ok(Some(bytes))
}

/// A port in the port's words; 0 for the last host port is the first.
pub(crate) fn publish(port: &Port) -> Result<Publish> {
    let number = |field: &str, number: u32, from: u16| {
        let good = u16::try_from(number).ok().filter(|number| *number >= from);
        good.ok_or_else(|| Error::invalid(field, format_args!("{number} is not {from} to 65535")))
    };
    let protocol = if port.protocol.is_empty() { Some(Protocol::Tcp) } else { Protocol::from_name(&port.protocol) };
    let protocol = protocol.ok_or_else(|| {
        Error::invalid("publish.protocol", format_args!("{:?} is not tcp, udp or sctp", port.protocol))
    })?;
    let first = number("publish.host_port", port.host_port, 0)?;
    let last = if port.host_port_last == 0 { first } else { number("publish.host_port_last", port.host_port_last, 1)? };
    if last < first || (first == 0 && last != 0) {
        return Err(Error::invalid("publish.host_port_last", format_args!("{first}-{last} is no range")));
    }
    let host_ip = if port.host_ip.is_empty() {
        None
    } else {
        let ip: IpAddr = port.host_ip.parse().map_err(|_| {
            Error::invalid("publish.host_ip", format_args!("{:?} is no IP address without a zone", port.host_ip))
        })?;
        Some(ip)
    };
    let container_port = number("publish.container_port", port.container_port, 1)?;
    Ok(Publish { protocol, container_port, host_ip, host_ports: (first, last) })
}

/// A published port in the API's words.
pub(crate) fn published(port: &Published) -> Port {
    Port {
        host_ip: port.host_ip.clone(),
        host_port: port.host_port,
        host_port_last: 0,
        container_port: port.container_port,
        protocol: port.protocol.clone(),
    }
}

/// The ports of an image's EXPOSE (`80/tcp`, `8000-8010`): each gets any free port of the host.
fn exposed<'k>(keys: impl Iterator<Item = &'k String>) -> Vec<Publish> {
    let mut all = Vec::new();
    for key in keys {
        let (range, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last), Some(protocol)) =
            (first.parse::<u16>(), last.parse::<u16>(), Protocol::from_name(protocol))
        else {
            continue; // an image is no reason to fail
        };
        for container_port in first.max(1)..=last {
            all.push(Publish { protocol, container_port, host_ip: None, host_ports: (0, 0) });
        }
    }
    all
}

/// What a checked configuration wants of the port; none where it attaches to nothing.
pub(crate) fn wish<'k>(
    container: &ContainerId,
    name: &str,
    config: &ContainerConfig,
    exposed_ports: impl Iterator<Item = &'k String>,
) -> Result<Option<Wish>> {
    if mode(config)? != Mode::Attached {
        return Ok(None);
    }
    let mut ports: Vec<Publish> = config.publish.iter().map(publish).collect::<Result<_>>()?;
    if config.publish_all {
        let known = |port: &Publish| {
            ports.iter().any(|own| own.container_port == port.container_port && own.protocol == port.protocol)
        };
        let more: Vec<Publish> = exposed(exposed_ports).into_iter().filter(|port| !known(port)).collect();
        ports.extend(more);
    }
    if ports.len() > PORTS_MAX {
        return Err(Error::new(
            Fault::Invalid,
            format!("{} published ports, at most {PORTS_MAX} are possible", ports.len()),
        ));
    }
    Ok(Some(Wish {
        container: container.clone(),
        name: name.to_owned(),
        hostname: config.hostname.clone(),
        endpoints: config.networks.iter().map(wanted).collect::<Result<_>>()?,
        ports,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(network: &str) -> ContainerConfig {
        ContainerConfig { network: network.into(), ..ContainerConfig::default() }
    }

    fn entry(network: &str) -> NetworkAttachment {
        NetworkAttachment { network: network.into(), ..NetworkAttachment::default() }
    }

    #[test]
    fn modes_are_read_as_people_write_them() {
        assert_eq!(mode(&config("none")).unwrap(), Mode::None);
        assert_eq!(mode(&config("host")).unwrap(), Mode::Host);
        assert_eq!(mode(&config("container:web")).unwrap(), Mode::Container("web"));
        assert_eq!(mode(&config("ns:/run/netns/x")).unwrap(), Mode::Path("/run/netns/x"));
        assert_eq!(mode(&config("cni:pods")).unwrap(), Mode::Cni("pods"));
        assert_eq!(mode(&config("my-net.1")).unwrap(), Mode::Attached);
        for bad in ["container:", "ns:relative", "cni:", "cni:../x", "x:y", "-x", "a b", "a\nb", "a/b"] {
            assert!(mode(&config(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn without_a_word_the_default_is_taken_and_kept() {
        let mut wish = config("");
        normalize(&mut wish, "bridge").unwrap();
        assert_eq!((wish.network.as_str(), wish.networks.len()), ("bridge", 1));
        let mut wish = config("");
        normalize(&mut wish, "none").unwrap();
        assert_eq!((wish.network.as_str(), wish.networks.len()), ("none", 0));
        let mut wish = ContainerConfig { networks: vec![entry("a"), entry("b")], ..config("") };
        normalize(&mut wish, "bridge").unwrap();
        assert_eq!((wish.network.as_str(), wish.networks[1].network.as_str()), ("a", "b"));
        let mut wish = ContainerConfig { networks: vec![entry("a"), entry("b")], ..config("b") };
        normalize(&mut wish, "bridge").unwrap();
        assert_eq!(wish.networks[0].network, "b");
        let mut wish = config("default");
        normalize(&mut wish, "none").unwrap();
        assert_eq!(wish.network, "bridge");
    }

    #[test]
    fn what_does_not_go_together_is_refused_or_warned_of() {
        let port = Port { container_port: 80, ..Port::default() };
        let mut host = ContainerConfig { publish: vec![port.clone()], ..config("host") };
        assert_eq!(normalize(&mut host, "bridge").unwrap().len(), 1);
        assert!(host.publish.is_empty());
        let shared = || config("container:web");
        for bad in [
            ContainerConfig { publish: vec![port.clone()], ..shared() },
            ContainerConfig { hostname: "x".into(), ..shared() },
            ContainerConfig { dns: vec!["1.1.1.1".into()], ..shared() },
            ContainerConfig { extra_hosts: vec!["a:1.1.1.1".into()], ..shared() },
            ContainerConfig { networks: vec![entry("a")], ..shared() },
            ContainerConfig { networks: vec![entry("a")], ..config("none") },
            ContainerConfig { publish: vec![port.clone()], ..config("ns:/x") },
            ContainerConfig { networks: vec![entry("a"), entry("a")], ..config("") },
            ContainerConfig { networks: vec![entry("a"), entry("host")], ..config("") },
            ContainerConfig { networks: vec![entry("cni:x"), entry("a")], ..config("cni:x") },
            ContainerConfig { hostname: "a\nb".into(), ..config("a") },
            ContainerConfig { hostname: "x".repeat(65), ..config("a") },
            ContainerConfig { domainname: "a b".into(), ..config("a") },
            ContainerConfig { dns: vec!["1.1.1.1\noptions x".into()], ..config("a") },
            ContainerConfig { dns_search: vec!["a\nb".into()], ..config("a") },
            ContainerConfig { dns_options: vec!["a b".into()], ..config("a") },
            ContainerConfig { extra_hosts: vec!["a\nb:1.1.1.1".into()], ..config("a") },
            ContainerConfig {
                networks: vec![NetworkAttachment { aliases: vec!["a\nb".into()], ..entry("a") }],
                ..config("")
            },
            ContainerConfig { networks: vec![NetworkAttachment { ip: "1.2.3".into(), ..entry("a") }], ..config("") },
            ContainerConfig { networks: vec![NetworkAttachment { ip6: "1.2.3.4".into(), ..entry("a") }], ..config("") },
            ContainerConfig {
                networks: vec![NetworkAttachment { mac: "01:00:00:00:00:00".into(), ..entry("a") }],
                ..config("")
            },
            ContainerConfig { publish: vec![Port { container_port: 0, ..Port::default() }], ..config("a") },
            ContainerConfig { publish: vec![port; PORTS_MAX + 1], ..config("a") },
        ] {
            let mut wish = bad.clone();
            assert_eq!(normalize(&mut wish, "bridge").unwrap_err().fault(), Fault::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn ports_and_stations_are_read() {
        let port = |host, last, container| Port {
            host_port: host,
            host_port_last: last,
            container_port: container,
            ..Port::default()
        };
        assert_eq!(publish(&port(80, 0, 8080)).unwrap().host_ports, (80, 80));
        assert_eq!(publish(&port(80, 90, 1)).unwrap().host_ports, (80, 90));
        assert_eq!(publish(&port(0, 0, 1)).unwrap().host_ports, (0, 0));
        for bad in [port(90, 80, 1), port(0, 80, 1), port(70_000, 0, 1), port(1, 0, 70_000), port(1, 0, 0)] {
            assert!(publish(&bad).is_err(), "{bad:?}");
        }
        assert!(publish(&Port { host_ip: "fe80::1%eth0".into(), ..port(1, 0, 1) }).is_err());
        assert!(publish(&Port { protocol: "icmp".into(), ..port(1, 0, 1) }).is_err());
        assert_eq!(mac("02:11:22:33:44:ff").unwrap(), Some([2, 0x11, 0x22, 0x33, 0x44, 0xff]));
        for bad in ["2:1:2:3:4:5", "02:11:22:33:44", "02:11:22:33:44:55:66", "zz:11:22:33:44:55", "00:00:00:00:00:00"] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_exposed_ports_are_published_once() {
        let id = ContainerId::new("c").unwrap();
        let mut asked = ContainerConfig { publish_all: true, ..config("a") };
        asked.publish.push(Port { host_port: 8080, container_port: 80, ..Port::default() });
        normalize(&mut asked, "bridge").unwrap();
        let image = ["80/tcp", "53/udp", "90-91", "nonsense", "7/icmp"].map(String::from);
        let wish = wish(&id, "c", &asked, image.iter()).unwrap().unwrap();
        let ports: Vec<_> =
            wish.ports.iter().map(|port| (port.container_port, port.protocol.name(), port.host_ports.0)).collect();
        assert_eq!(ports, [(80, "tcp", 8080), (53, "udp", 0), (90, "tcp", 0), (91, "tcp", 0)]);
    }
}
