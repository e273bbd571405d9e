//! The engine's own files of a container: hostname, hosts, resolv.conf. The container has them bind-mounted, so they are
//! changed in place, and only as long as nobody else did.

use crated_api::crated::engine::v1::ContainerConfig;
use crated_core::network::{Attachment, DEFAULT_NETWORK};
use crated_core::resolv::{self, Resolv};
use crated_types::{Error, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::names::short;
use crate::network::{Mode, mode};

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
                     ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
/// Stands for an address of the host in `--add-host`, as with docker.
const HOST_GATEWAY: &str = "host-gateway";
/// Longest file that is taken for ours, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Marks a file that is being written.
const BUSY: &str = "busy";

/// The texts of a container's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) hostname: String,
    pub(crate) hosts: String,
    pub(crate) resolv: String,
}

/// What the texts are made from, beside the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// What the container is attached to; none where it is not, or not yet.
    pub(crate) attachment: Option<Attachment>,
    /// Gateways of the networks where a resolver of ours answers for names: by network.
    pub(crate) host_gateway: Option<IpAddr>,
    /// The file with the host's resolvers.
    pub(crate) resolv_conf: PathBuf,
    /// Servers that a plugin named.
    pub(crate) plugin_dns: Option<Resolv>,
    /// Addresses that a plugin gave.
    pub(crate) plugin_addresses: Vec<IpAddr>,
}

/// The host name of a container: what it asks for, the host's where it shares it, else its short id.
pub(crate) fn hostname(id: &str, config: &ContainerConfig) -> String {
    if !config.hostname.is_empty() {
        config.hostname.clone()
    } else if config.uts_mode == "host" || config.network == "host" {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    } else {
        short(id).to_owned()
    }
}

/// The texts for a container as it is now.
pub(crate) fn texts(id: &str, config: &ContainerConfig, around: &Surroundings) -> Result<Texts> {
    let name = hostname(id, config);
    Ok(Texts { hosts: hosts(config, &name, around)?, resolv: resolv(config, around)?, hostname: format!("{name}\n") })
}

fn hosts(config: &ContainerConfig, name: &str, around: &Surroundings) -> Result<String> {
    let shared = config.network == "host";
    let mut text = if shared { host_file("/etc/hosts")?.unwrap_or_else(|| HOSTS.into()) } else { HOSTS.into() };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if !shared && !name.is_empty() {
        let full = if config.domainname.is_empty() { String::new() } else { format!("{name}.{} ", config.domainname) };
        let own = around.attachment.iter().flat_map(|attachment| &attachment.endpoints);
        let own = own.flat_map(|endpoint| [&endpoint.address, &endpoint.address6]).filter_map(|text| address(text));
        let mut own: Vec<IpAddr> = own.chain(around.plugin_addresses.iter().copied()).collect();
        if own.is_empty() {
            // Programs look their own name up: without a network it leads to the loopback.
            own.push([127, 0, 1, 1].into());
        }
        for address in own {
            let _ = writeln!(text, "{address}\t{full}{name}");
        }
    }
    for entry in &config.extra_hosts {
        let (host, target) = extra_host(entry)?;
        match target.or(around.host_gateway) {
            Some(address) => drop(writeln!(text, "{address}\t{host}")),
            None if shared => drop(writeln!(text, "127.0.0.1\t{host}")),
            None => {} // without a network there is no way to the host
        }
    }
    Ok(text)
}

/// The address of `172.17.0.2/16`.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// `name:address` or `name=address`; the address may be in brackets. None stands for the host's.
pub(crate) fn extra_host(entry: &str) -> Result<(&str, Option<IpAddr>)> {
    let bad = || {
        Error::invalid("config.extra_hosts", format_args!("{entry:?} is not NAME:ADDRESS"))
            .remedy_is("e.g. db:10.0.0.5, or host:host-gateway")
    };
    let (host, target) = entry.split_once(['=', ':']).ok_or_else(bad)?;
    if host.is_empty() || host.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '#') {
        return Err(bad());
    }
    if target == HOST_GATEWAY {
        return Ok((host, None));
    }
    let address = target.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| bad())?;
    Ok((host, Some(address)))
}

fn resolv(config: &ContainerConfig, around: &Surroundings) -> Result<String> {
    let mode = mode(config)?;
    let host = || resolv::of_host(&around.resolv_conf);
    let (mut answer, own) = match mode {
        // The host's words as they are: also its loopback is the container's, or may be.
        Mode::Host | Mode::Container(_) | Mode::Path(_) if config.dns.is_empty() && config.dns_search.is_empty() => {
            let text = fs::read_to_string(&around.resolv_conf).unwrap_or_default();
            if config.dns_options.is_empty() {
                return Ok(text);
            }
            (Resolv::parse(&text), false)
        }
        Mode::Host | Mode::Container(_) | Mode::Path(_) => (host(), false),
        Mode::None => (Resolv::default(), false),
        Mode::Cni(_) => {
            let of_host = host();
            let servers = of_host.reachable().iter().map(IpAddr::to_string).collect();
            let named = around.plugin_dns.clone().unwrap_or_default();
            let servers = if named.servers.is_empty() { servers } else { named.servers };
            let search = if named.search.is_empty() { of_host.search } else { named.search };
            let options = if named.options.is_empty() { of_host.options } else { named.options };
            (Resolv { servers, search, options }, false)
        }
        Mode::Attached => attached(around, host()),
    };
    if !config.dns.is_empty() && !own {
        answer.servers.clone_from(&config.dns);
    }
    match config.dns_search.as_slice() {
        [] => {}
        [one] if one == "." => answer.search.clear(),
        searched => answer.search = searched.to_vec(),
    }
    answer.options.extend(config.dns_options.iter().cloned());
    if own && !answer.options.iter().any(|option| option.starts_with("ndots:")) {
        // Names of ours are asked for as they are, before any domain is searched.
        answer.options.push("ndots:0".into());
    }
    Ok(answer.text())
}

/// On a network with names the resolver is ours, and `--dns` is what it forwards to; answers whether it is so.
fn attached(around: &Surroundings, host: Resolv) -> (Resolv, bool) {
    let endpoints = around.attachment.as_ref().map(|attachment| attachment.endpoints.as_slice()).unwrap_or_default();
    let gateways = |named: bool| {
        let bridges = endpoints.iter().filter(|endpoint| matches!(endpoint.driver.as_str(), "bridge" | ""));
        let chosen = bridges.filter(|endpoint| (endpoint.network_name != DEFAULT_NETWORK) == named);
        let gateways = chosen.flat_map(|endpoint| [&endpoint.gateway, &endpoint.gateway6]);
        gateways.filter(|gateway| !gateway.is_empty()).take(3).cloned().collect::<Vec<_>>()
    };
    let named = gateways(true);
    if !named.is_empty() {
        return (Resolv { servers: named, ..host }, true);
    }
    let reachable = host.reachable();
    let servers = if reachable.is_empty() {
        gateways(false) // ours, which asks the host's from where the host is
    } else {
        reachable.iter().map(IpAddr::to_string).collect()
    };
    (Resolv { servers, ..host }, false)
}

fn host_file(path: &str) -> Result<Option<String>> {
    match fs::read_to_string(Path::new(path)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(Error::os(format!("read {path}"), error)),
    }
}

/// Writes the files of a container that is made: anew, whatever is there.
pub(crate) fn write(folder: &Path, texts: &Texts) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::os(format!("make folder {}", folder.display()), error))?;
    for (name, text) in all(texts) {
        put(folder, name, text, None)
            .map_err(|error| Error::os(format!("write {name} in {}", folder.display()), error))?;
    }
    Ok(())
}

/// Brings the files up to date, in place; one that somebody changed is left as it is.
pub(crate) fn update(folder: &Path, texts: &Texts) -> Result<()> {
    for (name, text) in all(texts) {
        let os = |error| Error::os(format!("write {name} in {}", folder.display()), error);
        let known = fs::read_to_string(mark(folder, name)).unwrap_or_default();
        let Some(now) = read(&folder.join(name)).map_err(os)? else { continue };
        if now == text.as_bytes() && known.trim() == hash(text.as_bytes()) {
            continue;
        }
        let ours = known.lines().any(|line| line == BUSY || line == hash(&now));
        if ours {
            put(folder, name, text, Some(&now)).map_err(os)?;
        }
    }
    Ok(())
}

fn all(texts: &Texts) -> [(&'static str, &str); 3] {
    [("hostname", &texts.hostname), ("hosts", &texts.hosts), ("resolv.conf", &texts.resolv)]
}

/// Beside a file stands the hash of what we wrote last.
fn mark(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}"))
}

fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Ok(file) => file.take(FILE_MAX).read_to_end(&mut bytes).map(|_| Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes into the same inode: a container has it mounted. Who dies on the way finds the mark and writes again.
fn put(folder: &Path, name: &str, text: &str, before: Option<&[u8]>) -> std::io::Result<()> {
    let mark = mark(folder, name);
    if before.is_some() {
        fs::write(&mark, BUSY)?;
    }
    // The container sees these files, so they can be read by everyone in it, whoever it runs as.
    let path = folder.join(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    if before.is_none() {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))?; // whatever the umask is
    }
    fs::write(&mark, hash(text.as_bytes()))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
