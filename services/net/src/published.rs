//! Published ports: from the wish to the record, and from the record to where packets go.

use crated_core::network::{Attachment, Network, Publish, Published};
use crated_types::{Error, Result};
use std::net::{IpAddr, SocketAddr};

use crate::kernel::{Mapping, Plug};
use crate::options::Settings;
use crate::service::addresses;

/// Wishes for ports as records.
pub(crate) fn published(ports: &[Publish], networks: &[Network]) -> Result<Vec<Published>> {
    if !ports.is_empty() && !networks.iter().any(|network| network.driver == "bridge" && !network.internal) {
        return Err(Error::invalid("publish", "published ports need a bridge network that is not internal"));
    }
    let binding = networks.iter().find_map(|network| Settings::of(network).host_binding);
    let mut all: Vec<Published> = Vec::with_capacity(ports.len());
    for port in ports {
        let (first, last) = port.host_ports;
        if port.container_port == 0 || first > last || (first == 0 && last != 0) {
            return Err(Error::invalid(
                "publish",
                format_args!("{first}-{last}:{}: no such ports", port.container_port),
            ));
        }
        let host_ip = port.host_ip.or(binding).map(|address| address.to_string()).unwrap_or_default();
        let record = Published {
            protocol: port.protocol.name().into(),
            container_port: u32::from(port.container_port),
            host_ip,
            host_port: 0,
            first: u32::from(first),
            last: u32::from(last),
        };
        let twice = all.iter().any(|other| {
            first != 0
                && first == last
                && (&other.protocol, &other.host_ip, other.first, other.last)
                    == (&record.protocol, &record.host_ip, record.first, record.last)
        });
        if twice {
            return Err(Error::invalid("publish", format_args!("host port {first}/{} is wanted twice", port.protocol)));
        }
        all.push(record);
    }
    Ok(all)
}

/// A port on an address of a family that the container does not have leads nowhere.
pub(crate) fn reachable(attachment: &Attachment) -> Result<()> {
    let has = |v6: bool| {
        attachment.endpoints.iter().filter(|endpoint| endpoint.driver == "bridge" && !endpoint.internal).any(
            |endpoint| {
                let address = if v6 { &endpoint.address6 } else { &endpoint.address };
                !address.is_empty()
            },
        )
    };
    for port in &attachment.ports {
        let v6 = port.host_ip.contains(':') && port.host_ip != "::1";
        if v6 && !has(true) {
            return Err(Error::invalid(
                "publish",
                format_args!("[{}]: no network of the container has IPv6", port.host_ip),
            )
            .remedy_is("put the container into a network made with --ipv6"));
        }
    }
    Ok(())
}

/// Where published ports lead: to the endpoint that has the default route, if it is of a bridge.
pub(crate) fn mappings(plugs: &[Plug], ports: &[Published]) -> Vec<Mapping> {
    let bridges: Vec<Plug> = plugs.iter().filter(|plug| plug.network.driver == "bridge").cloned().collect();
    let to = |v6: bool| -> Option<IpAddr> {
        let plug = crate::kernel::default_plug(&bridges, v6)?;
        addresses(&plug.endpoint).into_iter().find(|address| address.is_ipv6() == v6)
    };
    let (four, six) = (to(false), to(true));
    let mut all = Vec::new();
    for port in ports.iter().filter(|port| port.host_port != 0) {
        let Some(protocol) = crated_core::network::Protocol::from_name(&port.protocol) else { continue };
        let (Ok(host_port), Ok(container_port)) = (u16::try_from(port.host_port), u16::try_from(port.container_port))
        else {
            continue;
        };
        let host_ip: Option<IpAddr> = port.host_ip.parse().ok();
        for to in [four, six].into_iter().flatten() {
            let fits = host_ip.is_none_or(|address| address.is_ipv6() == to.is_ipv6());
            let routable = host_ip != Some(std::net::Ipv6Addr::LOCALHOST.into());
            if fits && routable {
                let host_ip = host_ip.filter(|address| !address.is_unspecified());
                all.push(Mapping { protocol, host_ip, host_port, to: SocketAddr::new(to, container_port) });
            }
        }
    }
    all
}
