//! The host's resolvers: read from resolv.conf(5), read again when it changes, the dead ones asked last for a while.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

const PORT: u16 = 53;
/// Servers that are taken from the file (resolv.conf(5): MAXNS).
const SERVERS_MAX: usize = 3;
/// How long a server that did not answer is asked last.
const SHUNNED: Duration = Duration::from_secs(30);
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The name servers of a resolv.conf(5) text, in its order; addresses with an unknown zone are left out.
#[must_use]
pub fn host_servers(text: &str) -> Vec<SocketAddr> {
    crated_core::resolv::Resolv::parse(text).servers.iter().filter_map(|text| server(text)).take(SERVERS_MAX).collect()
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, zone) = text.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = zone.parse().ok().or_else(|| {
        use rustix::net::{AddressFamily, SocketType, netdevice, socket};
        let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
        netdevice::name_to_index(&any, zone).ok()
    })?;
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

/// The host's resolvers with what is known of their health.
#[derive(Debug)]
pub(super) struct Upstreams {
    path: PathBuf,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
    shunned: HashMap<SocketAddr, Instant>,
}

impl Upstreams {
    /// Those of the file at `path`.
    pub(super) fn of(path: PathBuf) -> Self {
        Self { path, looked: None, changed: None, servers: Vec::new(), shunned: HashMap::new() }
    }

    /// These for ever, whatever a file says.
    #[cfg(test)]
    pub(super) fn fixed(servers: &[SocketAddr]) -> Self {
        let far = Instant::now() + Duration::from_secs(3600);
        Self { looked: Some(far), servers: servers.to_vec(), ..Self::of(PathBuf::new()) }
    }

    /// The host's servers in the order to ask them.
    pub(super) fn host(&mut self) -> Vec<SocketAddr> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            let changed = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
            if changed.is_none() || changed != self.changed {
                self.changed = changed;
                self.servers = host_servers(&std::fs::read_to_string(&self.path).unwrap_or_default());
            }
        }
        let servers = self.servers.clone();
        self.order(servers)
    }

    /// Puts the servers that lately did not answer behind the others.
    pub(super) fn order(&mut self, mut servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        self.shunned.retain(|_, since| since.elapsed() < SHUNNED);
        servers.sort_by_key(|server| self.shunned.contains_key(server));
        servers
    }

    /// A server did or did not answer.
    pub(super) fn note(&mut self, server: SocketAddr, answered: bool) {
        if answered {
            self.shunned.remove(&server);
        } else {
            self.shunned.insert(server, Instant::now());
        }
    }
}

/// Servers that a container asked for, as sockets.
pub(super) fn servers_of(addresses: &[IpAddr]) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolv_conf_writes_them() {
        let text = "# comment\nsearch a.b\nnameserver 10.0.0.1\n nameserver\tfd00::1 # x\nnameserver fe80::1%lo\nnameserver 9.9.9.9\n";
        let servers = host_servers(text);
        assert_eq!(servers.len(), 3);
        assert_eq!(servers[0], "10.0.0.1:53".parse().unwrap());
        assert_eq!(servers[1], "[fd00::1]:53".parse().unwrap());
        assert!(matches!(servers[2], SocketAddr::V6(server) if server.scope_id() == 1));
        assert!(
            host_servers("nameserver fe80::1%nowhere0\nnameserver fe80::1%../x\nnameserver x\nnameserver\n").is_empty()
        );
    }

    #[test]
    fn a_dead_server_is_asked_last_and_a_changed_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.0.0.1\nnameserver 10.0.0.2\n").unwrap();
        let mut upstreams = Upstreams::of(path.clone());
        let first = upstreams.host();
        upstreams.note(first[0], false);
        assert_eq!(upstreams.host(), [first[1], first[0]]);
        upstreams.note(first[0], true);
        assert_eq!(upstreams.host(), first);
        std::fs::write(&path, "nameserver 10.0.0.9\n").unwrap();
        std::fs::File::open(&path).unwrap().set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
        upstreams.looked = None;
        assert_eq!(upstreams.host(), ["10.0.0.9:53".parse().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        upstreams.looked = None;
        assert!(upstreams.host().is_empty());
    }
}
