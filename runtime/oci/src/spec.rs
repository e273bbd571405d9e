//! config.json: reading it, and refusing early what could only fail late.

use std::{collections::HashSet, path::Path};

use crated_sys::namespace::Kinds;
use oci_spec::runtime::{Linux, LinuxIdMapping, Spec};

use crate::{
    error::{OciError, Result},
    plan::compile_kind as kind,
};

/// Largest config.json that is read, in bytes.
pub const CONFIG_MAX: u64 = 16 * 1024 * 1024;

/// Reads a bundle's `config.json`.
///
/// # Errors
/// [`OciError::File`] with line and column where it is no valid spec.
pub fn load(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let file = |reason: String| OciError::File { path: path.clone(), reason };
    let fd = crated_sys::fs::open(&path, crated_sys::OFlag::O_RDONLY | crated_sys::OFlag::O_NONBLOCK, 0)
        .map_err(|e| file(e.errno.to_string()))?;
    let bytes = crated_sys::fs::read_bounded(fd, CONFIG_MAX).map_err(|e| file(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| file(e.to_string()))
}

/// Checks what can be checked without looking at the host.
pub fn validate(spec: &Spec, root_given: bool) -> Result<()> {
    if !spec.version().starts_with("1.") {
        return Err(OciError::unsupported("ociVersion", format!("{:?} is not 1.x", spec.version())));
    }
    if !root_given && spec.root().is_none() {
        return Err(OciError::spec("root", "missing"));
    }
    if spec.vm().is_some() || spec.windows().is_some() || spec.solaris().is_some() {
        return Err(OciError::unsupported("vm, windows, solaris", "this runtime is for Linux containers"));
    }
    let empty = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&empty);
    let (own, joined) = namespaces(linux)?;
    if !own.contains(Kinds::MOUNT) {
        let why = if joined.contains(Kinds::MOUNT) {
            "joining a mount namespace is not offered"
        } else {
            "a mount namespace of its own is needed"
        };
        return Err(OciError::unsupported("linux.namespaces", why));
    }
    let any = own.with(joined);
    for (name, set) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if set.as_ref().is_some_and(|n| !n.is_empty()) && !any.contains(Kinds::UTS) {
            return Err(OciError::spec(name, "needs a uts namespace, else the host's would change"));
        }
        if set.as_ref().is_some_and(|n| n.len() > 64) {
            return Err(OciError::spec(name, "is longer than 64 bytes"));
        }
    }
    maps_fit(linux, own)?;
    not_offered(linux)?;
    let offsets = linux.time_offsets().iter().flatten();
    for (clock, _) in offsets {
        if !own.contains(Kinds::TIME) {
            return Err(OciError::spec("linux.timeOffsets", "needs a new time namespace"));
        }
        if clock != "monotonic" && clock != "boottime" {
            return Err(OciError::spec("linux.timeOffsets", format!("{clock:?} is neither monotonic nor boottime")));
        }
    }
    paths(spec, linux)
}

/// Kinds that are new, kinds that are joined.
fn namespaces(linux: &Linux) -> Result<(Kinds, Kinds)> {
    let (mut own, mut joined, mut seen) = (Kinds::NONE, Kinds::NONE, HashSet::new());
    for namespace in linux.namespaces().iter().flatten() {
        if !seen.insert(namespace.typ()) {
            return Err(OciError::spec("linux.namespaces", format!("{} stands there twice", namespace.typ())));
        }
        match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
            None => own = own.with(kind(namespace.typ())),
            Some(path) if !path.is_absolute() => {
                return Err(OciError::spec("linux.namespaces", format!("{} is no absolute path", path.display())));
            }
            Some(_) => joined = joined.with(kind(namespace.typ())),
        }
    }
    Ok((own, joined))
}

fn maps_fit(linux: &Linux, own: Kinds) -> Result<()> {
    let given = |m: Option<&Vec<LinuxIdMapping>>| m.is_some_and(|m| !m.is_empty());
    let (uids, gids) = (given(linux.uid_mappings().as_ref()), given(linux.gid_mappings().as_ref()));
    if own.contains(Kinds::USER) && !(uids && gids) {
        return Err(OciError::spec("linux.uidMappings, linux.gidMappings", "a new user namespace needs both"));
    }
    for (name, maps) in [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())] {
        for map in maps.iter().flatten() {
            let fits = |first: u32| first.checked_add(map.size()).is_some();
            if map.size() == 0 || !fits(map.container_id()) || !fits(map.host_id()) {
                return Err(OciError::spec(name, format!("{map:?} is empty or runs over the end of ids")));
            }
        }
    }
    Ok(())
}

/// Nothing is dropped silently.
fn not_offered(linux: &Linux) -> Result<()> {
    if linux.intel_rdt().is_some() {
        return Err(OciError::unsupported("linux.intelRdt", "not offered"));
    }
    if linux.mount_label().as_ref().is_some_and(|l| !l.is_empty()) {
        return Err(OciError::unsupported("linux.mountLabel", "not offered"));
    }
    if linux.memory_policy().is_some() {
        return Err(OciError::unsupported("linux.memoryPolicy", "not offered"));
    }
    if linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(OciError::unsupported("linux.netDevices", "not offered"));
    }
    if linux.personality().as_ref().is_some_and(|p| p.flags().as_ref().is_some_and(|f| !f.is_empty())) {
        return Err(OciError::unsupported("linux.personality.flags", "not offered"));
    }
    Ok(())
}

fn paths(spec: &Spec, linux: &Linux) -> Result<()> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if mount.destination().as_os_str().is_empty() {
            return Err(OciError::spec(format!("mounts[{index}].destination"), "empty"));
        }
    }
    for (name, paths) in [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())]
    {
        if let Some(path) = paths.iter().flatten().find(|p| !p.starts_with('/')) {
            return Err(OciError::spec(name, format!("{path:?} is no absolute path")));
        }
    }
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        if !device.path().is_absolute() {
            return Err(OciError::spec(format!("linux.devices[{index}].path"), "no absolute path"));
        }
    }
    Ok(())
}

/// Id maps as numbers.
pub(crate) fn maps(maps: Option<&[LinuxIdMapping]>) -> Vec<(u32, u32, u32)> {
    maps.unwrap_or_default().iter().map(|m| (m.container_id(), m.host_id(), m.size())).collect()
}

/// The path below `/proc/sys` of a sysctl that touches only what the container owns.
///
/// # Errors
/// A key that would change the host, or leads elsewhere.
pub(crate) fn sysctl_path(key: &str, own: Kinds) -> Result<String> {
    let bad = |why: &str| OciError::spec(format!("linux.sysctl.{key}"), why);
    // As sysctl(8): the first separator decides; with dots first, a slash stands for a dot inside a name (eth0.1).
    let path = match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    };
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(bad("is no sysctl"));
    }
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let needed = if path.starts_with("net/") {
        Kinds::NETWORK
    } else if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        Kinds::IPC
    } else if path == "kernel/domainname" {
        Kinds::UTS
    } else if path == "kernel/hostname" {
        return Err(bad("use the field hostname"));
    } else if path.starts_with("user/") {
        Kinds::USER
    } else {
        return Err(bad("belongs to the whole host, not to a namespace"));
    };
    if own.contains(needed) {
        Ok(path)
    } else {
        Err(bad("needs a namespace of the container's own, else the host's value would change"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let own = Kinds::NETWORK.with(Kinds::IPC);
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding", own).unwrap(), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net/ipv4/ip_forward", own).unwrap(), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("kernel.shmmax", own).unwrap(), "kernel/shmmax");
        for key in [
            "kernel.core_pattern",
            "net.ipv4/../../kernel.core_pattern",
            "net/../kernel/core_pattern",
            "vm.swappiness",
            "kernel.domainname",
            "",
            "net.",
        ] {
            assert!(sysctl_path(key, own).is_err(), "{key}");
        }
        assert!(sysctl_path("net.ipv4.ip_forward", Kinds::IPC).is_err());
    }
}
