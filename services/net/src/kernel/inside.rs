//! Work in a container's network namespace: a thread that joins it and ends.

use crated_core::fail;
use crated_sys::netlink::route::{self, Route};
use crated_types::{Cidr, Error, Result};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::{Plug, refused};

/// Runs `act` in a network namespace, on a thread that never does anything else.
pub(crate) fn within<T: Send>(netns: BorrowedFd<'_>, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            crated_sys::namespace::join(netns, crated_sys::namespace::Kinds::NETWORK)
                .map_err(|error| refused("join the network namespace", error))?;
            act()
        });
        let thread = thread.map_err(|error| Error::os("start a thread", error))?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("work in a network namespace panicked")))
    })
}

/// What is set up inside.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    /// Endpoints whose links are new.
    pub(crate) fresh: &'a [Plug],
    /// All endpoints, for the default routes.
    pub(crate) all: &'a [Plug],
}

impl Inside<'_> {
    /// Addresses, settings, routes; runs in the namespace.
    pub(crate) fn set_up(&self) -> Result<()> {
        let mut socket = Route::open().map_err(|error| refused("open netlink", error))?;
        for plug in self.fresh {
            settings(plug)?;
            let name = &plug.endpoint.interface;
            let link = socket.link(name).map_err(|error| refused(format!("look for {name}"), error))?;
            let link = link.ok_or_else(|| Error::internal(format!("link {name} is not where it was made")))?;
            let mut requests = Vec::new();
            for text in [&plug.endpoint.address, &plug.endpoint.address6] {
                if !text.is_empty() {
                    let cidr: Cidr = text.parse()?;
                    requests.push(route::add_address(link.index, cidr.address(), cidr.length()));
                }
            }
            // Addresses first: with arp_notify the kernel tells the neighbours of them when the link comes up.
            requests.push(route::set_up(link.index));
            socket.send(requests).map_err(|error| refused(format!("set {name} up"), error))?;
        }
        fail::point("net.attach.routes")?;
        self.routes(&mut socket)
    }

    /// The default routes, by the endpoint of the highest priority.
    fn routes(&self, socket: &mut Route) -> Result<()> {
        for v6 in [false, true] {
            let Some(plug) = default_plug(self.all, v6) else { continue };
            let name = &plug.endpoint.interface;
            let Some(link) = socket.link(name).map_err(|error| refused(format!("look for {name}"), error))? else {
                continue;
            };
            let gateway = if v6 { &plug.endpoint.gateway6 } else { &plug.endpoint.gateway };
            let request = match gateway.parse::<IpAddr>() {
                Ok(gateway) => route::default_route(link.index, gateway),
                Err(_) => route::default_link_route(link.index, v6),
            };
            socket.send(vec![request]).map_err(|error| refused(format!("default route over {name}"), error))?;
        }
        Ok(())
    }
}

/// What a namespace lacks of its endpoints.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// Their links are not there.
    pub(crate) absent: Vec<Plug>,
    /// Their links are down or lack an address.
    pub(crate) bare: Vec<Plug>,
    /// A default route is not there.
    pub(crate) routes: bool,
}

/// Looks at a namespace from inside. What somebody in it has added or routes otherwise is his affair.
pub(crate) fn lacking(plugs: &[Plug]) -> Result<Lacking> {
    let mut socket = Route::open().map_err(|error| refused("open netlink", error))?;
    let read = |error| refused("look at the links of a container", error);
    let (links, addresses) = (socket.links().map_err(read)?, socket.addresses().map_err(read)?);
    let mut found = Lacking::default();
    for plug in plugs {
        let Some(link) = links.iter().find(|link| link.name == plug.endpoint.interface) else {
            found.absent.push(plug.clone());
            continue;
        };
        let has = |wanted: &IpAddr| addresses.iter().any(|one| one.link == link.index && one.address == *wanted);
        if !link.up || !crate::service::addresses(&plug.endpoint).iter().all(has) {
            found.bare.push(plug.clone());
        }
    }
    for v6 in [false, true] {
        let wanted = default_plug(plugs, v6).is_some();
        let routes = if wanted { socket.routes(v6).map_err(read)? } else { Vec::new() };
        found.routes |=
            wanted && !routes.iter().any(|route| route.length == 0 && route.table == 254 && route.kind == 1);
    }
    Ok(found)
}

/// The endpoint that has the default route of a family: the highest priority, then the first name.
pub(crate) fn default_plug(plugs: &[Plug], v6: bool) -> Option<&Plug> {
    let usable = |plug: &&Plug| {
        let address = if v6 { &plug.endpoint.address6 } else { &plug.endpoint.address };
        !plug.network.internal && !address.is_empty() && !is_l2_without_gateway(plug, v6)
    };
    plugs.iter().filter(usable).min_by_key(|plug| (-plug.endpoint.priority, plug.network.name.clone()))
}

fn is_l2_without_gateway(plug: &Plug, v6: bool) -> bool {
    let gateway = if v6 { &plug.endpoint.gateway6 } else { &plug.endpoint.gateway };
    gateway.is_empty() && !(plug.network.driver == "ipvlan" && plug.settings.ipvlan_mode > 0)
}

/// The kernel's settings of a fresh link: no router advertisements (CVE-2020-13401), no IPv6 where the network has none.
fn settings(plug: &Plug) -> Result<()> {
    let name = &plug.endpoint.interface;
    set(&format!("ipv4/conf/{name}/arp_notify"), "1")?;
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    for place in ["default", name] {
        set(&format!("ipv6/conf/{place}/accept_ra"), "0")?;
    }
    if plug.endpoint.address6.is_empty() {
        return set(&format!("ipv6/conf/{name}/disable_ipv6"), "1");
    }
    // Addresses are unique by record: nobody waits a second for the search of doubles.
    for (key, value) in [("accept_dad", "0"), ("ndisc_notify", "1"), ("disable_ipv6", "0")] {
        set(&format!("ipv6/conf/{name}/{key}"), value)?;
    }
    Ok(())
}

/// Writes a setting below /proc/sys/net, as the calling thread's namespace has it.
pub(crate) fn set(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    std::fs::write(&path, value).map_err(|error| {
        Error::os(format!("write {value} to {path}"), error).remedy_is("crated needs /proc/sys writable for networks")
    })
}

/// Reads a setting; none where the kernel does not have it.
pub(crate) fn get(key: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/net/{key}")).ok().map(|text| text.trim().to_owned())
}
