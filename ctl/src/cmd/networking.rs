//! The flags of `run` and `create` that are about networks, and docker's ways to write them.

use crate::cmd::prelude::*;
use clap::Args;

/// Most ports that one flag may stand for.
const RANGE_MAX: usize = 4096;

/// Networks, ports and names of a container.
#[derive(Debug, Args)]
#[command(next_help_heading = "Networks")]
pub(crate) struct Networking {
    /// A network (once for each), none, host, container:NAME, ns:PATH or cni:NAME; also name=NET,ip=…,alias=…,mac-address=…
    #[arg(long, visible_alias = "net")]
    network: Vec<String>,
    /// IPv4 address on the first network
    #[arg(long, default_value = "")]
    ip: String,
    /// IPv6 address on the first network
    #[arg(long, default_value = "")]
    ip6: String,
    /// A further name on the first network
    #[arg(long, visible_alias = "net-alias")]
    network_alias: Vec<String>,
    /// MAC address on the first network
    #[arg(long, default_value = "")]
    mac_address: String,
    /// Publish a port: [IP:][HOST:]CONTAINER[/tcp|udp|sctp], each of them a range or not
    #[arg(short, long)]
    publish: Vec<String>,
    /// Publish all ports that the image exposes, on any free ports
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// NAME:ADDRESS for /etc/hosts; host-gateway stands for the host
    #[arg(long)]
    add_host: Vec<String>,
    /// Name server instead of the host's
    #[arg(long)]
    dns: Vec<String>,
    /// Domain that is searched; "." for none
    #[arg(long)]
    dns_search: Vec<String>,
    /// Option for the resolver, e.g. ndots:2
    #[arg(long, visible_alias = "dns-opt")]
    dns_option: Vec<String>,
}

impl Networking {
    /// Fills the part of a configuration that is about networks.
    pub(crate) fn fill(&self, config: &mut api::ContainerConfig) -> Result<()> {
        let mut networks = self.network.iter().map(|text| attachment(text)).collect::<Result<Vec<_>>>()?;
        let asks = !self.ip.is_empty()
            || !self.ip6.is_empty()
            || !self.mac_address.is_empty()
            || !self.network_alias.is_empty();
        if networks.is_empty() && asks {
            networks.push(api::NetworkAttachment { network: "bridge".into(), ..api::NetworkAttachment::default() });
        }
        if let Some(first) = networks.first_mut() {
            for (flag, own, place) in [
                ("--ip", &self.ip, &mut first.ip),
                ("--ip6", &self.ip6, &mut first.ip6),
                ("--mac-address", &self.mac_address, &mut first.mac),
            ] {
                if !own.is_empty() && !place.is_empty() {
                    bail!("{flag} is said twice: {place} and {own}");
                }
                if !own.is_empty() {
                    place.clone_from(own);
                }
            }
            first.aliases.extend(self.network_alias.iter().cloned());
        }
        config.network = networks.first().map(|first| first.network.clone()).unwrap_or_default();
        // The mode alone says everything where nothing is asked for.
        let plain = networks.len() == 1
            && networks.iter().all(|entry| {
                *entry == api::NetworkAttachment { network: entry.network.clone(), ..api::NetworkAttachment::default() }
            });
        config.networks = if plain { Vec::new() } else { networks };
        config.publish = ports(&self.publish)?;
        config.publish_all = self.publish_all;
        config.extra_hosts.clone_from(&self.add_host);
        config.dns.clone_from(&self.dns);
        config.dns_search.clone_from(&self.dns_search);
        config.dns_options.clone_from(&self.dns_option);
        Ok(())
    }
}

/// `NET`, or docker's `name=NET,ip=…,ip6=…,alias=…,mac-address=…,gw-priority=…`.
fn attachment(text: &str) -> Result<api::NetworkAttachment> {
    let mut entry = api::NetworkAttachment::default();
    if text.starts_with("ns:") || !text.contains('=') {
        entry.network = text.into();
        return Ok(entry);
    }
    for part in text.split(',') {
        let (key, value) =
            part.split_once('=').with_context(|| format!("--network {text:?}: {part:?} is not KEY=VALUE"))?;
        match key {
            "name" => entry.network = value.into(),
            "ip" => entry.ip = value.into(),
            "ip6" => entry.ip6 = value.into(),
            "alias" => entry.aliases.push(value.into()),
            "mac-address" => entry.mac = value.into(),
            "gw-priority" => {
                entry.priority =
                    value.parse().with_context(|| format!("--network {text:?}: {value:?} is no number"))?;
            }
            _ => bail!("--network {text:?}: {key:?} is not name, ip, ip6, alias, mac-address or gw-priority"),
        }
    }
    if entry.network.is_empty() {
        bail!("--network {text:?}: name=… is missing");
    }
    Ok(entry)
}

/// All ports of several flags.
pub(crate) fn ports(texts: &[String]) -> Result<Vec<api::Port>> {
    let mut all = Vec::new();
    for text in texts {
        all.extend(port(text)?);
    }
    Ok(all)
}

/// `[ip:][host]:container[/protocol]`; a range of the host for one port of the container means the first free one.
fn port(text: &str) -> Result<Vec<api::Port>> {
    let bad = |why: &str| anyhow::anyhow!("port {text:?}: {why}; want [IP:][HOST:]CONTAINER[/tcp|udp|sctp]");
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(bad(&format!("{protocol:?} is no protocol")));
    }
    let (address, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once("]:").ok_or_else(|| bad("the address in brackets does not end"))?,
        None => match rest.rsplitn(3, ':').collect::<Vec<_>>().as_slice() {
            [_, _, address] => (*address, &rest[address.len() + 1..]),
            _ => ("", rest),
        },
    };
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(bad(&format!("{address:?} is no IP address")));
    }
    let (host, container) = rest.split_once(':').unwrap_or(("", rest));
    let (first, last) = range(container).ok_or_else(|| bad(&format!("{container:?} is no port of the container")))?;
    if first == 0 {
        return Err(bad("port 0 of a container does not exist"));
    }
    let one = |host: (u16, u16), container: u16| api::Port {
        host_ip: address.into(),
        host_port: host.0.into(),
        host_port_last: if host.1 == host.0 { 0 } else { host.1.into() },
        container_port: container.into(),
        protocol: protocol.into(),
    };
    let count = usize::from(last - first) + 1;
    if count > RANGE_MAX {
        return Err(bad(&format!("{count} ports are too many, at most {RANGE_MAX} at a time")));
    }
    if host.is_empty() || host == "0" {
        return Ok((first..=last).map(|container| one((0, 0), container)).collect());
    }
    let (host_first, host_last) = range(host).ok_or_else(|| bad(&format!("{host:?} is no port of the host")))?;
    if first == last {
        return Ok(vec![one((host_first, host_last), first)]);
    }
    if host_last - host_first != last - first {
        return Err(bad("the two ranges differ in length"));
    }
    Ok((host_first..=host_last).zip(first..=last).map(|(host, container)| one((host, host), container)).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (first, last) = (digits(first)?, digits(last)?);
    (first <= last && last > 0).then_some((first, last))
}

/// A port as people write it.
pub(crate) fn written(port: &api::Port) -> (String, Vec<String>) {
    let inside = format!("{}/{}", port.container_port, port.protocol);
    let hosts: Vec<&str> = if port.host_ip.is_empty() { vec!["0.0.0.0", "::"] } else { vec![port.host_ip.as_str()] };
    let outside = hosts.into_iter().map(|host| {
        if host.contains(':') { format!("[{host}]:{}", port.host_port) } else { format!("{host}:{}", port.host_port) }
    });
    (inside, outside.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, u32, u32, u32, String)> {
        let ports = port(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        ports.into_iter().map(|p| (p.host_ip, p.host_port, p.host_port_last, p.container_port, p.protocol)).collect()
    }

    #[test]
    fn ports_are_read_in_all_of_dockers_forms() {
        let tcp = |ip: &str, host, last, container| (ip.to_owned(), host, last, container, "tcp".to_owned());
        assert_eq!(read("80"), [tcp("", 0, 0, 80)]);
        assert_eq!(read("8080:80"), [tcp("", 8080, 0, 80)]);
        assert_eq!(read("0:80"), [tcp("", 0, 0, 80)]);
        assert_eq!(read("127.0.0.1:8080:80"), [tcp("127.0.0.1", 8080, 0, 80)]);
        assert_eq!(read("127.0.0.1::80"), [tcp("127.0.0.1", 0, 0, 80)]);
        assert_eq!(read("[::1]:8080:80"), [tcp("::1", 8080, 0, 80)]);
        assert_eq!(read("[::1]::80"), [tcp("::1", 0, 0, 80)]);
        assert_eq!(read("8000-8001:90-91"), [tcp("", 8000, 0, 90), tcp("", 8001, 0, 91)]);
        assert_eq!(read("8000-8010:80"), [tcp("", 8000, 8010, 80)]);
        assert_eq!(read("90-91"), [tcp("", 0, 0, 90), tcp("", 0, 0, 91)]);
        assert_eq!(read("53:53/udp")[0].4, "udp");
        for bad in [
            "",
            ":",
            "x",
            "80/icmp",
            "80:",
            "1.2.3:80:80",
            "[::1:80:80",
            "1:2:3:4",
            "8000-8002:80-81",
            "90-80",
            "70000",
            "0",
            "1-65535",
            "[fe80::1%eth0]:80:80",
            "-1:80",
            "+80",
        ] {
            assert!(port(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_are_read_with_what_belongs_to_them() {
        let one =
            attachment("name=n,ip=10.0.0.2,alias=a,alias=b,mac-address=02:00:00:00:00:01,gw-priority=-2").unwrap();
        assert_eq!((one.network.as_str(), one.ip.as_str(), one.aliases.len(), one.priority), ("n", "10.0.0.2", 2, -2));
        assert_eq!(attachment("ns:/a=b").unwrap().network, "ns:/a=b");
        for bad in ["ip=10.0.0.1", "name=n,frob=1", "name=n,x", "name=n,gw-priority=x"] {
            assert!(attachment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn published_ports_are_written_for_both_families() {
        let port = api::Port { host_port: 80, container_port: 8080, protocol: "tcp".into(), ..api::Port::default() };
        assert_eq!(written(&port), ("8080/tcp".into(), vec!["0.0.0.0:80".into(), "[::]:80".into()]));
    }
}
