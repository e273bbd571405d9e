//! The kernel's side: links by netlink, rules by `nft` and netlink, settings by /proc/sys. Everything here blocks.
//!
//! What belongs to this daemon carries its mark: the alias `crated <mark> …` on links, the mark in the table's name. Nothing
//! else is ever touched.

mod bridge;
mod host;
mod inside;
mod links;
mod rules;
mod table;

pub(crate) use host::Uplinks;
use inside::within;
pub(crate) use inside::{default_plug, get as setting, lacking};
pub(crate) use links::parse_mac;
pub(crate) use rules::{Mapping, NetworkRules};
use table::Tables;

use crated_core::network::{Endpoint, Network};
use crated_sys::SysError;
use crated_sys::netlink::route::Route;
use crated_types::{Error, Fault, Result};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::options::Settings;

/// An endpoint with its network.
#[derive(Clone, Debug)]
pub(crate) struct Plug {
    pub(crate) endpoint: Endpoint,
    pub(crate) network: Network,
    pub(crate) settings: Settings,
}

/// A bridge that is there.
#[derive(Clone, Copy, Debug)]
struct Bridge {
    index: u32,
    mtu: u32,
}

/// The kernel of this host.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What tells our things from another daemon's: the beginning of the installation's identifier.
    pub(crate) mark: String,
    /// Settings of the daemon: largest packet; 0: as the default route.
    mtu: u32,
    route: Mutex<Option<Route>>,
    pub(crate) tables: Tables,
    bridges: Mutex<HashMap<String, Bridge>>,
}

impl Kernel {
    pub(crate) fn new(id: &str, mtu: u32) -> Self {
        let mark: String = id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        Self {
            tables: Tables::new(format!("crated_{mark}")),
            mark,
            mtu,
            route: Mutex::default(),
            bridges: Mutex::default(),
        }
    }

    /// The beginning of the aliases of our links.
    pub(crate) fn mark_of_links(&self) -> String {
        format!("crated {} ", self.mark)
    }

    /// Uses the socket for links of the host.
    fn route<T>(&self, act: impl FnOnce(&mut Route) -> crated_sys::Result<T>) -> crated_sys::Result<T> {
        let mut route = lock(&self.route);
        let socket = match &mut *route {
            Some(socket) => socket,
            empty => empty.insert(Route::open()?),
        };
        act(socket)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `nft` with these arguments, and answers with its output.
pub(crate) fn nft(arguments: &[&str]) -> Result<String> {
    table::run(arguments, "")
}

/// The kernel's refusal, with what to do where it is a matter of rights.
pub(crate) fn refused(what: impl Into<std::borrow::Cow<'static, str>>, error: SysError) -> Error {
    use crated_sys::Errno as E;
    match error.errno {
        E::EPERM | E::EACCES => Error::new(Fault::Denied, what).caused_by(error).remedy_is(
            "crated needs CAP_NET_ADMIN for networks; run it as root, or the container with `--network none`",
        ),
        E::EOPNOTSUPP | E::EAFNOSUPPORT | E::EPROTONOSUPPORT => Error::new(Fault::Unsupported, what)
            .caused_by(error)
            .remedy_is("the kernel lacks this feature; run the container with `--network none` or `host`"),
        _ => Error::os(what, error.into()),
    }
}
