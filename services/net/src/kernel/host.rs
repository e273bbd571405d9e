//! The host's own side: forwarding, routes, the size of packets.

use crated_types::{Cidr, Error, Fault, Result};
use std::path::Path;

use super::inside::{get, set};
use super::{Kernel, refused};

/// What the host routes by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uplinks {
    /// Subnets with what they belong to.
    pub(crate) routes: Vec<(Cidr, String)>,
    /// Names of all links.
    pub(crate) links: Vec<String>,
}

impl Kernel {
    /// Routes of the host that are not over links of ours, and the names of all links.
    pub(crate) fn uplinks(&self) -> Result<Uplinks> {
        let read = |error| refused("list the host's routes", error);
        let links = self.route(|socket| socket.links()).map_err(read)?;
        let mark = self.mark_of_links();
        let mut found = Uplinks { routes: Vec::new(), links: links.iter().map(|link| link.name.clone()).collect() };
        for v6 in [false, true] {
            for entry in self.route(|socket| socket.routes(v6)).map_err(read)? {
                let link = links.iter().find(|link| link.index == entry.link);
                let ours = link.is_some_and(|link| link.alias.starts_with(&mark));
                let (Some(destination), false) = (entry.destination, ours) else { continue };
                let local = entry.table == 255 || entry.kind != 1 || entry.length == 0;
                let link_local = matches!(destination, std::net::IpAddr::V6(six) if six.is_unicast_link_local());
                if !local && !link_local {
                    let name = link.map_or("?", |link| link.name.as_str());
                    found
                        .routes
                        .push((Cidr::new(destination, entry.length)?, format!("a route of the host over {name}")));
                }
            }
        }
        Ok(found)
    }

    /// Bytes of a packet on the host's default route; 1500 where there is none.
    pub(super) fn host_mtu(&self) -> Result<u32> {
        if self.mtu > 0 {
            return Ok(self.mtu);
        }
        let read = |error| refused("look for the default route", error);
        let routes = self.route(|socket| socket.routes(false)).map_err(read)?;
        let default = routes.iter().filter(|route| route.length == 0 && route.table == 254 && route.kind == 1);
        let Some(default) = default.min_by_key(|route| route.metric) else { return Ok(1500) };
        let links = self.route(|socket| socket.links()).map_err(read)?;
        let mtu = links.iter().find(|link| link.index == default.link).map_or(1500, |link| link.mtu);
        Ok(mtu.clamp(576, 65535))
    }
}

/// Switches forwarding on where it is off, and says so.
pub(super) fn forward(v6: bool) -> Result<()> {
    if !v6 {
        return switch_on("ipv4/ip_forward");
    }
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Err(
            Error::new(Fault::Unsupported, "the kernel has no IPv6").remedy_is("make the network without --ipv6")
        );
    }
    if get("ipv6/conf/all/forwarding").as_deref() == Some("1") {
        return Ok(());
    }
    // A router does not listen to router advertisements unless told to: the host's links that live on them are told.
    let entries = std::fs::read_dir("/proc/sys/net/ipv6/conf")
        .map_err(|error| Error::os("list /proc/sys/net/ipv6/conf", error))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let hears = get(&format!("ipv6/conf/{name}/accept_ra")).as_deref() == Some("1");
        if hears && !matches!(name.as_str(), "all" | "default" | "lo") {
            set(&format!("ipv6/conf/{name}/accept_ra"), "2")?;
            tracing::info!(
                link = name,
                "accept_ra is 2 now: the link goes on to take router advertisements with forwarding on"
            );
        }
    }
    switch_on("ipv6/conf/all/forwarding")
}

fn switch_on(key: &str) -> Result<()> {
    if get(key).as_deref() == Some("1") {
        return Ok(());
    }
    set(key, "1")?;
    tracing::info!(setting = key.replace('/', "."), "forwarding is switched on: containers need it");
    Ok(())
}
