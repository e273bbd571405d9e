//! Mounts: docker's own, then tmpfs and binds, parents before children.

use crate::options::{Bind, NamespaceMode, NetworkMode, Options, Propagation, Tmpfs};
use crate::parse;
use crated_types::{Error, Result};
use oci_spec::runtime::Mount;
use std::path::{Path, PathBuf};

/// Size of `/dev/shm` unless told otherwise.
pub(crate) const SHM_SIZE: u64 = 64 << 20;

fn mount(target: impl Into<PathBuf>, typ: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(typ.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).into()).collect()));
    mount
}

pub(crate) fn mounts(options: &Options) -> Result<Vec<Mount>> {
    let mut own = base(options);
    let mut asked = Vec::new();
    for tmpfs in &options.tmpfs {
        asked.push(tmpfs_mount(tmpfs)?);
    }
    for bind in &options.binds {
        asked.push(bind_mount(bind)?);
    }
    for (at, mount) in asked.iter().enumerate() {
        let target = mount.destination();
        if asked[..at].iter().any(|earlier| earlier.destination() == target) {
            return Err(Error::invalid("mounts", format_args!("{} is mounted twice", target.display())));
        }
        own.retain(|held| held.destination() != target);
    }
    // Stable: of mounts at the same depth the order that was asked for stays.
    asked.sort_by_key(|mount| mount.destination().components().count());
    own.extend(asked);
    Ok(own)
}

fn base(options: &Options) -> Vec<Mount> {
    let ro = if options.privileged { "rw" } else { "ro" };
    let shm = format!("size={}", options.shm_size.unwrap_or(SHM_SIZE));
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ];
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // In a user namespace the group tty may have no mapping; devpts would refuse it.
    if options
        .userns
        .as_ref()
        .is_none_or(|userns| userns.gid_mappings.iter().any(|map| maps(map.container, map.size, 5)))
    {
        pts.push("gid=5");
    }
    all.push(mount("/dev/pts", "devpts", "devpts", &pts));
    // sysfs can be mounted only by whoever owns the network namespace: not by a user namespace in the host's.
    if options.userns.is_some() && options.network == NetworkMode::Host {
        all.push(mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]));
    } else {
        all.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", ro]));
    }
    all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &[ro, "nosuid", "noexec", "nodev"]));
    let private_ipc = options.ipc == NamespaceMode::Private;
    if private_ipc {
        all.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
        all.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]));
    } else {
        all.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "nosuid", "noexec", "nodev"]));
        all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]));
    }
    all
}

fn maps(first: u32, size: u32, id: u32) -> bool {
    id >= first && u64::from(id) < u64::from(first) + u64::from(size)
}

fn tmpfs_mount(tmpfs: &Tmpfs) -> Result<Mount> {
    let target = parse::container_path("tmpfs", &tmpfs.target)?;
    let mut options: Vec<&str> = Vec::new();
    // Docker's defaults, each unless its opposite was asked for.
    for (default, opposite) in [("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev")] {
        if !tmpfs.options.iter().any(|option| option == opposite || option == default) {
            options.push(default);
        }
    }
    for option in &tmpfs.options {
        if option.contains(',') || option.contains('\0') {
            return Err(Error::invalid("tmpfs", format_args!("option {option:?} has a comma or NUL inside")));
        }
        options.push(option);
    }
    Ok(mount(target, "tmpfs", "tmpfs", &options))
}

fn bind_mount(bind: &Bind) -> Result<Mount> {
    let target = parse::container_path("volume", &bind.target)?;
    if !bind.source.is_absolute() {
        return Err(Error::invalid("volume", format_args!("source {} is not absolute", bind.source.display())));
    }
    let options = [
        if bind.non_recursive { "bind" } else { "rbind" },
        if bind.readonly { "ro" } else { "rw" },
        propagation(bind.propagation),
    ];
    Ok(mount(target, "bind", &bind.source, &options))
}

fn propagation(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "private",
        Propagation::RPrivate => "rprivate",
        Propagation::Shared => "shared",
        Propagation::RShared => "rshared",
        Propagation::Slave => "slave",
        Propagation::RSlave => "rslave",
    }
}

/// What `rootfsPropagation` a container needs for its binds to propagate (docker's rule).
pub(crate) fn rootfs_propagation(options: &Options) -> Option<String> {
    let any = |wanted: &[Propagation]| options.binds.iter().any(|bind| wanted.contains(&bind.propagation));
    if any(&[Propagation::Shared, Propagation::RShared]) {
        Some("shared".into())
    } else if any(&[Propagation::Slave, Propagation::RSlave]) {
        Some("rslave".into())
    } else {
        None
    }
}

/// Whether a mount is at `path` or above it.
pub(crate) fn covers(mounts: &[Mount], path: &str) -> bool {
    mounts.iter().any(|mount| {
        mount.destination() != Path::new("/proc")
            && mount.destination() != Path::new("/sys")
            && Path::new(path).starts_with(mount.destination())
    })
}
