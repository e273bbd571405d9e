//! Bridges, and links between them and containers.

use crated_core::fail;
use crated_core::network::Network;
use crated_sys::netlink::conntrack::{self, Flow};
use crated_sys::netlink::route::{self, Kind, Link, NewLink, Port};
use crated_sys::{Errno, SysError};
use crated_types::{Error, Fault, Kind as Object, Result};
use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use super::inside::Inside;
use super::{Kernel, Plug, lock, refused, within};
use crate::address::Holder;

/// Links that are removed in one request.
const BATCH: usize = 200;

impl Kernel {
    /// Puts links of `fresh` into a namespace, and default routes over `all`; an attachment that failed leaves no link.
    pub(crate) fn attach(&self, who: &Holder, fresh: &[Plug], all: &[Plug], netns: BorrowedFd<'_>) -> Result<()> {
        let made = fresh.iter().try_for_each(|plug| self.link(who, plug, netns)).and_then(|()| {
            fail::point("net.attach.inside")?;
            within(netns, || Inside { fresh, all }.set_up())
        });
        if made.is_err() {
            self.unlink(fresh, Some(netns));
        }
        made
    }

    /// Puts back what a namespace lacks of its endpoints; answers whether it lacked something.
    pub(crate) fn mend(&self, who: &Holder, plugs: &[Plug], links: &[Link], netns: BorrowedFd<'_>) -> Result<bool> {
        let mut lacking = within(netns, || super::lacking(plugs))?;
        let mut mended = false;
        for plug in plugs.iter().filter(|plug| !plug.endpoint.host_link.is_empty()) {
            match links.iter().find(|link| link.name == plug.endpoint.host_link) {
                Some(link) => mended |= self.replug(who, plug, link)?,
                None if lacking.absent.iter().any(|other| other.endpoint.id == plug.endpoint.id) => {}
                None => lacking.absent.push(plug.clone()),
            }
        }
        if !lacking.absent.is_empty() {
            self.unlink(&lacking.absent, Some(netns));
            self.attach(who, &lacking.absent, plugs, netns)?;
        }
        if !lacking.bare.is_empty() || lacking.routes {
            within(netns, || Inside { fresh: &lacking.bare, all: plugs }.set_up())?;
        }
        Ok(mended || lacking.routes || !lacking.bare.is_empty() || !lacking.absent.is_empty())
    }

    /// Removes the links of endpoints from a namespace that goes on, and sets the default routes over those that stay.
    pub(crate) fn detach(&self, gone: &[Plug], stay: &[Plug], netns: BorrowedFd<'_>) -> Result<()> {
        self.unlink(gone, Some(netns));
        within(netns, || Inside { fresh: &[], all: stay }.set_up())
    }

    fn unlink(&self, plugs: &[Plug], netns: Option<BorrowedFd<'_>>) {
        for plug in plugs {
            let removed = if !plug.endpoint.host_link.is_empty() {
                self.route(|socket| socket.send(vec![route::remove_link(&plug.endpoint.host_link)]))
            } else if let Some(netns) = netns {
                let name = plug.endpoint.interface.clone();
                let inside = within(netns, || {
                    let mut socket = route::Route::open().map_err(|error| refused("open netlink", error))?;
                    Ok(socket.send(vec![route::remove_link(&name)]))
                });
                inside.unwrap_or(Ok(()))
            } else {
                Ok(())
            };
            match removed {
                Err(error) if error.errno != Errno::ENODEV => tracing::warn!(%error, "a link could not be removed"),
                _ => {}
            }
        }
    }

    fn link(&self, who: &Holder, plug: &Plug, netns: BorrowedFd<'_>) -> Result<()> {
        match plug.network.driver.as_str() {
            "macvlan" | "ipvlan" => self.over_parent(plug, netns),
            _ => self.to_bridge(who, plug, netns),
        }
    }

    fn to_bridge(&self, who: &Holder, plug: &Plug, netns: BorrowedFd<'_>) -> Result<()> {
        let endpoint = &plug.endpoint;
        let alias = format!("{}{}/{}", self.mark_of_links(), who.0, who.1);
        let mac = parse_mac(&endpoint.mac)?;
        let mut tries = 0;
        loop {
            let bridge = self.bridge(&plug.network)?;
            fail::point("net.attach.veth")?;
            let mtu = if plug.settings.mtu > 0 { plug.settings.mtu } else { bridge.mtu };
            let made = self.route(|socket| {
                let pair = NewLink {
                    name: &endpoint.host_link,
                    kind: Kind::Veth { peer: &endpoint.interface, peer_mac: mac, netns: netns.as_fd() },
                    mtu,
                    mac: None,
                    master: bridge.index,
                    up: true,
                };
                let port =
                    Port { name: &endpoint.host_link, alias: &alias, hairpin: true, isolated: !plug.settings.icc };
                socket.send(vec![pair.message(), port.message()])
            });
            fail::point("net.attach.veth.done")?;
            tries += 1;
            match made {
                Ok(()) => return Ok(()),
                // Left by an attachment that was interrupted: the record says that it is ours.
                Err(error) if error.errno == Errno::EEXIST && tries == 1 => {
                    self.unlink(std::slice::from_ref(plug), Some(netns))
                }
                // Somebody removed the bridge behind our back.
                Err(error) if matches!(error.errno, Errno::ENODEV | Errno::EINVAL) && tries == 1 => {
                    self.unlink(std::slice::from_ref(plug), Some(netns));
                    lock(&self.bridges).remove(&plug.network.id);
                }
                Err(error) => return Err(unlinked(plug, error)),
            }
        }
    }

    fn over_parent(&self, plug: &Plug, netns: BorrowedFd<'_>) -> Result<()> {
        let parent = self.parent(&plug.network)?;
        let kind = if plug.network.driver == "macvlan" {
            Kind::Macvlan { mode: plug.settings.macvlan_mode, parent, netns: netns.as_fd() }
        } else {
            Kind::Ipvlan { mode: plug.settings.ipvlan_mode, parent, netns: netns.as_fd() }
        };
        let mac = if plug.network.driver == "macvlan" { Some(parse_mac(&plug.endpoint.mac)?) } else { None };
        let new = NewLink { name: &plug.endpoint.interface, kind, mtu: plug.settings.mtu, mac, master: 0, up: false };
        fail::point("net.attach.veth")?;
        let mut made = self.route(|socket| socket.send(vec![new.message()]));
        if matches!(&made, Err(error) if error.errno == Errno::EEXIST) {
            self.unlink(std::slice::from_ref(plug), Some(netns));
            made = self.route(|socket| socket.send(vec![new.message()]));
        }
        fail::point("net.attach.veth.done")?;
        made.map_err(|error| unlinked(plug, error))
    }

    /// The parent of macvlan and ipvlan; where none was named, a link that goes nowhere is made for the network.
    fn parent(&self, network: &Network) -> Result<u32> {
        let look = |error| refused(format!("look for link {}", network.link), error);
        if let Some(link) = self.route(|socket| socket.link(&network.link)).map_err(look)? {
            return Ok(link.index);
        }
        if network.options.contains_key("parent") {
            return Err(Error::precondition(
                Object::Network,
                &network.name,
                format!("its parent {} is not there", network.link),
            )
            .remedy_is("set the link up, or make the network over another parent"));
        }
        let new = NewLink { name: &network.link, kind: Kind::Dummy, mtu: 0, mac: None, master: 0, up: true };
        self.route(|socket| {
            socket.send(vec![new.message()])?;
            let index = socket.link(&network.link)?.map_or(0, |link| link.index);
            socket.send(vec![route::set_alias(index, &format!("{}network {}", self.mark_of_links(), network.name))])?;
            Ok(index)
        })
        .map_err(|error| refused(format!("make link {}", network.link), error))
    }

    /// The links with our mark.
    pub(crate) fn ours(&self) -> Result<Vec<Link>> {
        let links = self.route(|socket| socket.links()).map_err(|error| refused("list links", error))?;
        let mark = self.mark_of_links();
        Ok(links.into_iter().filter(|link| link.alias.starts_with(&mark)).collect())
    }

    /// All links of the host.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        self.route(|socket| socket.links()).map_err(|error| refused("list links", error))
    }

    /// Removes links, many in one request: each alone would keep the whole kernel's links waiting for 40 ms.
    pub(crate) fn remove(&self, links: &[Link]) -> Result<usize> {
        let group = u32::from_be_bytes(crate::random::<4>()?) | 0x8000_0000;
        let mut removed = 0;
        for batch in links.chunks(BATCH) {
            let mut requests: Vec<_> = batch.iter().map(|link| route::set_group(link.index, group)).collect();
            requests.push(route::remove_group(group));
            match self.route(|socket| socket.send(requests)) {
                Ok(()) => removed += batch.len(),
                // Some went by themselves meanwhile; those that are left went with their group.
                Err(error) if error.errno == Errno::ENODEV => {}
                Err(error) => return Err(refused("remove links", error)),
            }
        }
        Ok(removed)
    }

    /// Gives a link its bridge back, and its behaviour as a port.
    fn replug(&self, who: &Holder, plug: &Plug, link: &Link) -> Result<bool> {
        let bridge = self.bridge(&plug.network)?;
        if link.master == bridge.index && link.up {
            return Ok(false);
        }
        let alias = format!("{}{}/{}", self.mark_of_links(), who.0, who.1);
        let port = Port { name: &link.name, alias: &alias, hairpin: true, isolated: !plug.settings.icc };
        let requests = vec![route::set_master(link.index, bridge.index), route::set_up(link.index), port.message()];
        let done = self.route(|socket| socket.send(requests));
        done.map_err(|error| refused(format!("put link {} into its bridge", link.name), error))?;
        Ok(true)
    }

    /// Drops tracked connections that a mapping of another container, or of none, has left.
    pub(crate) fn forget_connections(&self, mappings: &[super::Mapping]) {
        let stale: HashSet<(u8, u16)> = mappings
            .iter()
            .filter(|mapping| mapping.protocol != crated_core::network::Protocol::Tcp)
            .map(|mapping| (mapping.protocol.number(), mapping.host_port))
            .collect();
        if stale.is_empty() {
            return;
        }
        let local: HashSet<IpAddr> = match self.route(|socket| socket.addresses()) {
            Ok(addresses) => addresses.into_iter().map(|one| one.address).collect(),
            Err(error) => return tracing::warn!(%error, "tracked connections could not be dropped"),
        };
        // Only what came to the host itself: a container's own questions to a far port 53 go on.
        let which = |flow: &Flow| {
            stale.contains(&(flow.protocol, flow.original.destination_port))
                && local.contains(&flow.original.destination)
        };
        match conntrack::remove(which) {
            Ok(count) => tracing::debug!(count, "tracked connections dropped"),
            Err(error) => tracing::warn!(%error, "tracked connections could not be dropped"),
        }
    }
}

/// `02:42:ac:11:00:02`, of a single station.
pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(|| {
            Error::invalid("mac-address", format_args!("{text:?} is not six bytes as in 02:42:ac:11:00:02"))
        })?;
    }
    if parts.next().is_some() || mac[0] & 1 == 1 || mac == [0; 6] {
        return Err(Error::invalid("mac-address", format_args!("{text:?} is no address of a single station")));
    }
    Ok(mac)
}

fn unlinked(plug: &Plug, error: SysError) -> Error {
    let what = format!("link {} of network {}", plug.endpoint.interface, plug.network.name);
    match error.errno {
        Errno::EEXIST => Error::new(Fault::AlreadyExists, format!("{what}: the namespace has a link of that name"))
            .caused_by(error)
            .remedy_is("choose another prefix: -o com.docker.network.container_iface_prefix"),
        Errno::ENOSPC | Errno::EXFULL => {
            Error::new(Fault::Exhausted, format!("{what}: the bridge has 1,023 ports, which is all it can"))
                .caused_by(error)
                .remedy_is("put further containers into another network")
        }
        _ => refused(what, error),
    }
}
