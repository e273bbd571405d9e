//! The container's root file system: mounts that are attached nowhere until init puts them into its own namespace.
//!
//! A detached mount lives as long as its descriptor: whoever is killed leaves no mount behind.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use crated_sys::{
    Errno, SysError, fs, mount,
    mount::{Change, Depth, FsContext, MsFlags, attr},
};
use crated_types::Mount;

use crate::{
    error::{OciError, Result, Step},
    plan::MountOptions,
};

/// Where the root file system comes from.
#[derive(Clone, Debug)]
pub enum Rootfs {
    /// Mounts as a snapshotter gives them, not yet performed; the first is the root.
    Mounts(Vec<Mount>),
    /// A folder of the host.
    Path(PathBuf),
}

/// The root file system, ready for init.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Detached mounts with their paths inside.
    Detached(Vec<(OwnedFd, String)>),
    /// To be mounted by init with mount(2), in its own namespace.
    Classic(Vec<Mount>),
}

/// Longest text that fsconfig takes.
const STRING_MAX: usize = 255;

/// Makes the detached mounts. Where the kernel cannot, init falls back to mount(2), if it may (`classic`).
pub(crate) fn open(rootfs: &Rootfs, classic: bool) -> Result<Opened> {
    match rootfs {
        Rootfs::Path(path) => {
            let step = || format!("root file system {}", path.display());
            let tree = mount::clone_tree(fs::cwd(), path, Depth::Recursive).step(step)?;
            private(&tree).step(step)?;
            Ok(Opened::Detached(vec![(tree, String::new())]))
        }
        Rootfs::Mounts(mounts) if mounts.is_empty() => Err(OciError::spec("rootfs", "no mounts")),
        Rootfs::Mounts(mounts) => {
            let mut trees = Vec::with_capacity(mounts.len());
            for one in mounts {
                match detached(one) {
                    Ok(tree) => trees.push((tree, one.target.clone())),
                    Err(OciError::Host { source, .. }) if classic && old_kernel(source.errno) => {
                        return Ok(Opened::Classic(mounts.clone()));
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(Opened::Detached(trees))
        }
    }
}

fn old_kernel(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENAMETOOLONG)
}

fn private(tree: &OwnedFd) -> crated_sys::Result<()> {
    let change = Change { propagation: Some(MsFlags::MS_PRIVATE), ..Change::default() };
    mount::setattr(tree.as_fd(), Path::new(""), Depth::Recursive, change)
}

fn detached(one: &Mount) -> Result<OwnedFd> {
    let options = MountOptions::parse(one.options.iter().map(String::as_str));
    let step = || format!("root file system: {} from {}", one.fstype, one.source);
    for (key, _) in &options.data {
        if key == "loop" || key == "uidmap" || key == "gidmap" {
            return Err(OciError::unsupported("rootfs", format!("mount option {key:?} is not offered")));
        }
    }
    if options.bind || one.fstype == "bind" {
        let depth = if options.recursive { Depth::Recursive } else { Depth::Single };
        let tree = mount::clone_tree(fs::cwd(), Path::new(&one.source), depth).step(step)?;
        private(&tree).step(step)?;
        let change = Change { set: options.attributes(), clear: options.clear, ..Change::default() };
        mount::setattr(tree.as_fd(), Path::new(""), Depth::Single, change).step(step)?;
        return Ok(tree);
    }
    filesystem(one, &options).step(step)
}

fn filesystem(one: &Mount, options: &MountOptions) -> crated_sys::Result<OwnedFd> {
    let context = FsContext::open(&one.fstype)?;
    context.set_string("source", &one.source)?;
    for (key, value) in &options.data {
        match (one.fstype.as_str(), key.as_str(), value) {
            ("overlay", "lowerdir", Some(value)) => lower(&context, value)?,
            ("overlay", "upperdir" | "workdir", Some(value)) => layer(&context, key, value)?,
            (_, _, Some(value)) => context.set_string(key, value)?,
            (_, _, None) => context.set_flag(key)?,
        }
    }
    context.mount(options.attributes())
}

/// One by one (Linux 6.5), so that neither a page nor a string of 256 bytes is the limit.
fn lower(context: &FsContext, value: &str) -> crated_sys::Result<()> {
    let mut data_only = false;
    for part in split_lower(value) {
        if part.is_empty() {
            // `::` before a layer means that only its data counts.
            data_only = true;
            continue;
        }
        layer(context, if data_only { "datadir+" } else { "lowerdir+" }, &part)?;
    }
    Ok(())
}

fn layer(context: &FsContext, key: &str, path: &str) -> crated_sys::Result<()> {
    if path.len() <= STRING_MAX {
        return context.set_string(key, path);
    }
    // Long paths go as descriptors (Linux 6.13).
    let flags = crated_sys::OFlag::O_PATH | crated_sys::OFlag::O_DIRECTORY;
    context.set_fd(key, fs::open(Path::new(path), flags, 0)?.as_fd())
}

/// `a:b\:c` is `a` and `b:c`.
fn split_lower(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => parts.last_mut().expect("never empty").extend(chars.next()),
            ':' => parts.push(String::new()),
            c => parts.last_mut().expect("never empty").push(c),
        }
    }
    parts
}

/// mount(2), for kernels that cannot mount detached.
pub(crate) fn classic(one: &Mount, target: &Path) -> crated_sys::Result<()> {
    let options = MountOptions::parse(one.options.iter().map(String::as_str));
    let flags = classic_flags(options.attributes());
    let source = Some(Path::new(&one.source));
    if options.bind || one.fstype == "bind" {
        let recursive = if options.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
        mount::mount(source, target, None, MsFlags::MS_BIND | recursive, None)?;
        if flags.is_empty() {
            return Ok(());
        }
        return mount::mount(None, target, None, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, None);
    }
    let words: Vec<String> =
        options.data.iter().map(|(k, v)| v.as_ref().map_or_else(|| k.clone(), |v| format!("{k}={v}"))).collect();
    let data = words.join(",");
    if data.len() >= 4096 {
        return Err(SysError::new(
            "mount",
            format!("{}: options of {} bytes, a page is the limit", one.fstype, data.len()),
            Errno::E2BIG,
        ));
    }
    mount::mount(source, target, Some(&one.fstype), flags, Some(&data))
}

fn classic_flags(attributes: u64) -> MsFlags {
    let table = [
        (attr::RDONLY, MsFlags::MS_RDONLY),
        (attr::NOSUID, MsFlags::MS_NOSUID),
        (attr::NODEV, MsFlags::MS_NODEV),
        (attr::NOEXEC, MsFlags::MS_NOEXEC),
        (attr::NOATIME, MsFlags::MS_NOATIME),
        (attr::STRICTATIME, MsFlags::MS_STRICTATIME),
        (attr::NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    table.iter().filter(|(bit, _)| attributes & bit != 0).map(|(_, flag)| *flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_colons_stay_in_a_layer() {
        assert_eq!(split_lower(r"/a:/b\:c:/d\\e"), ["/a", "/b:c", r"/d\e"]);
        assert_eq!(split_lower("/a::/data"), ["/a", "", "/data"]);
    }
}
