//! Bridges: made with a network's first container, removed with the network.

use crated_core::fail;
use crated_core::network::Network;
use crated_sys::netlink::route::{self, Kind, Link, NewLink};
use crated_types::{Cidr, Error, Fault, Kind as Object, Result};
use std::path::Path;

use super::inside::set;
use super::{Bridge, Kernel, NetworkRules, Plug, host, lock, refused};

impl Kernel {
    /// The bridge of a network, made where it is missing.
    pub(super) fn bridge(&self, network: &Network) -> Result<Bridge> {
        let mut bridges = lock(&self.bridges);
        if let Some(bridge) = bridges.get(&network.id) {
            return Ok(*bridge);
        }
        let bridge = self.make_bridge(network)?;
        bridges.insert(network.id.clone(), bridge);
        Ok(bridge)
    }

    /// Makes what a network needs on the host where it is missing; what is there stays.
    pub(crate) fn open_network(&self, plug: &Plug) -> Result<()> {
        if plug.network.driver != "bridge" {
            return Ok(());
        }
        self.bridge(&plug.network)?;
        self.tables.open_network(&plug.network.id, NetworkRules::of(&plug.network, &plug.settings))
    }

    fn make_bridge(&self, network: &Network) -> Result<Bridge> {
        let settings = crate::Settings::of(network);
        let name = &network.link;
        let alias = format!("{}network {}", self.mark_of_links(), network.name);
        let look = |error| refused(format!("look for link {name}"), error);
        host::forward(false)?;
        if network.ipv6 {
            host::forward(true)?;
        }
        fail::point("net.bridge")?;
        let mtu = if settings.mtu > 0 { settings.mtu } else { self.host_mtu()? };
        match self.route(|socket| socket.link(name)).map_err(look)? {
            Some(link)
                if link.kind == "bridge"
                    && (link.alias == alias || link.alias.is_empty() && link.mac == mac_of(network)) => {}
            Some(link) => {
                let other = if link.alias.is_empty() { link.kind } else { link.alias };
                return Err(Error::new(Fault::InUse, format!("link {name} of the host is somebody else's ({other})"))
                    .on(Object::Network, &network.name)
                    .remedy_is(
                        "remove that link, or choose another name: network.bridge, -o com.docker.network.bridge.name",
                    ));
            }
            None => {
                let mac = Some(mac_of(network));
                let new = NewLink { name, kind: Kind::Bridge, mtu, mac, master: 0, up: false };
                self.route(|socket| socket.send(vec![new.message()]))
                    .map_err(|error| refused(format!("make bridge {name}"), error))?;
            }
        }
        fail::point("net.bridge.made")?;
        let link = self.route(|socket| socket.link(name)).map_err(look)?;
        let link = link.ok_or_else(|| Error::internal(format!("bridge {name} is not where it was made")))?;
        set(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        if Path::new("/proc/sys/net/ipv6").exists() {
            set(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
            set(&format!("ipv6/conf/{name}/disable_ipv6"), if network.ipv6 { "0" } else { "1" })?;
        }
        let mut requests = vec![route::set_alias(link.index, &alias)];
        for pool in &network.pools {
            let subnet: Cidr = pool.subnet.parse()?;
            if let (Ok(gateway), true) = (pool.gateway.parse(), subnet.is_v6() || !settings.inhibit_ipv4) {
                requests.push(route::add_address(link.index, gateway, subnet.length()));
            }
        }
        requests.push(route::set_up(link.index));
        self.route(|socket| socket.send(requests)).map_err(|error| refused(format!("set bridge {name} up"), error))?;
        tracing::info!(network = network.name, link = name, mtu, "bridge is up");
        Ok(Bridge { index: link.index, mtu })
    }

    /// Removes what a network has on the host.
    pub(crate) fn close_network(&self, network: &Network) -> Result<()> {
        lock(&self.bridges).remove(&network.id);
        let rules = self.tables.close_network(&network.id);
        fail::point("net.remove.link")?;
        let look = |error| refused(format!("look for link {}", network.link), error);
        let link = self.route(|socket| socket.link(&network.link)).map_err(look)?;
        let ours = |link: &Link| link.alias == format!("{}network {}", self.mark_of_links(), network.name);
        if link.as_ref().is_some_and(ours) {
            let removed = self.route(|socket| socket.send(vec![route::remove_link(&network.link)]));
            removed.map_err(|error| refused(format!("remove link {}", network.link), error))?;
        }
        rules
    }
}

/// A bridge's own address, from its network's identifier: without one it would change with its ports.
fn mac_of(network: &Network) -> [u8; 6] {
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    for (index, byte) in mac.iter_mut().enumerate().skip(2) {
        let at = (index - 2) * 2;
        *byte = network.id.get(at..at + 2).and_then(|text| u8::from_str_radix(text, 16).ok()).unwrap_or_default();
    }
    mac
}
