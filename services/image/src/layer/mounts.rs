//! Snapshots' mounts seen from here: the folder behind them where one is enough, else a mount that is attached nowhere.

use super::ApplyTarget;
use crated_types::{Error, Fault, Kind, Mount, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Runs `act` on the root of `mounts`: the source of a bind mount itself, else a mount made for it that is in no
/// namespace and gone when `act` is over, even when we are killed (fsmount(2), Linux 5.2). The path is valid in this
/// process only.
///
/// # Errors
/// `Unsupported` for more than one mount, `Invalid` for none, the kernel's, and those of `act`.
pub fn with_mounts<T>(mounts: &[Mount], act: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let [mount] = mounts else {
        let fault = if mounts.is_empty() { Fault::Invalid } else { Fault::Unsupported };
        return Err(Error::new(fault, format!("mounts: {} where one is needed", mounts.len())));
    };
    if is_bind(mount) {
        return act(Path::new(&mount.source));
    }
    let root = detached(mount)?;
    act(&proc_fd(&root))
}

/// The folder that a layer may be applied to without mounting anything.
pub(super) fn target(mounts: &[Mount]) -> Option<ApplyTarget> {
    let [mount] = mounts else { return None };
    if !mount.target.is_empty() {
        return None;
    }
    if is_bind(mount) && !has(mount, "ro") {
        return Some(ApplyTarget::direct(&mount.source));
    }
    let upper = upperdir(mount)?;
    Some(ApplyTarget::overlay(upper, lowerdirs(mount)))
}

/// The upper folder of `upper` where it is an overlay right over what `lower` shows.
pub(super) fn upper_over(lower: &[Mount], upper: &[Mount]) -> Option<PathBuf> {
    let ([lower], [upper]) = (lower, upper) else { return None };
    let folder = upperdir(upper)?;
    let below = match lower.fstype.as_str() {
        "overlay" if option(lower, "upperdir").is_none() => lowerdirs(lower),
        _ if is_bind(lower) => vec![PathBuf::from(&lower.source)],
        _ => return None,
    };
    (below == lowerdirs(upper)).then_some(folder)
}

fn is_bind(mount: &Mount) -> bool {
    mount.fstype == "bind" || has(mount, "bind") || has(mount, "rbind")
}

fn has(mount: &Mount, flag: &str) -> bool {
    mount.options.iter().any(|option| option == flag)
}

fn option<'a>(mount: &'a Mount, key: &str) -> Option<&'a str> {
    mount.options.iter().find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
}

/// The upper folder of an overlay that keeps its marks in `trusted.*`.
fn upperdir(mount: &Mount) -> Option<PathBuf> {
    let plain = mount.fstype == "overlay" && !has(mount, "userxattr") && option(mount, "uidmap").is_none();
    if plain { option(mount, "upperdir").map(PathBuf::from) } else { None }
}

/// The lower folders; a backslash takes a colon's meaning away.
fn lowerdirs(mount: &Mount) -> Vec<PathBuf> {
    let mut folders = vec![String::new()];
    let mut text = option(mount, "lowerdir").unwrap_or_default().chars();
    while let Some(letter) = text.next() {
        match letter {
            ':' => folders.push(String::new()),
            '\\' => folders.last_mut().into_iter().for_each(|folder| folder.extend(text.next())),
            letter => folders.last_mut().into_iter().for_each(|folder| folder.push(letter)),
        }
    }
    folders.into_iter().filter(|folder| !folder.is_empty()).map(PathBuf::from).collect()
}

fn proc_fd(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn detached(mount: &Mount) -> Result<OwnedFd> {
    let failed = |step: &str, errno: rustix::io::Errno| {
        Error::os(format!("{step} {} of {}", mount.fstype, mount.source), errno.into()).on(Kind::Mount, &mount.fstype)
    };
    let context = rustix::mount::fsopen(mount.fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| failed("open", errno))?;
    // A value may have 255 bytes at most: folders are named by short paths to descriptors.
    let mut held = Vec::new();
    let mut name = |path: &Path| {
        let fd = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os(format!("open {}", path.display()), errno.into()))?;
        let name = proc_fd(&fd);
        held.push(fd);
        Ok::<_, Error>(name)
    };
    if mount.fstype != "overlay" {
        rustix::mount::fsconfig_set_string(&context, "source", mount.source.as_str())
            .map_err(|errno| failed("set source", errno))?;
    }
    let mut attributes = MountAttrFlags::empty();
    for option in &mount.options {
        let set = match option.split_once('=') {
            Some(("lowerdir", _)) => {
                let names = lowerdirs(mount).iter().map(|path| name(path)).collect::<Result<Vec<_>>>()?;
                set_lower(&context, &names)
            }
            Some((key @ ("upperdir" | "workdir"), value)) => {
                rustix::mount::fsconfig_set_string(&context, key, name(Path::new(value))?)
            }
            Some((key, value)) => rustix::mount::fsconfig_set_string(&context, key, value),
            None if option == "ro" => {
                attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
                Ok(())
            }
            None if option == "rw" => Ok(()),
            None => rustix::mount::fsconfig_set_flag(&context, option.as_str()),
        };
        set.map_err(|errno| failed(&format!("set {option:.40} for"), errno))?;
    }
    rustix::mount::fsconfig_create(&context).map_err(|errno| failed("create", errno))?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|errno| failed("mount", errno))
}

/// One folder at a time (Linux 6.7), else all in one value, for which there is room for a dozen.
fn set_lower(context: &OwnedFd, names: &[PathBuf]) -> rustix::io::Result<()> {
    for (index, name) in names.iter().enumerate() {
        match rustix::mount::fsconfig_set_string(context, "lowerdir+", name) {
            Err(rustix::io::Errno::INVAL) if index == 0 => {
                let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
                return rustix::mount::fsconfig_set_string(context, "lowerdir", names.join(":"));
            }
            answer => answer?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fstype: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { fstype: fstype.into(), source: "/s".into(), target: String::new(), options }
    }

    #[test]
    fn straight_targets() {
        let overlay = mount("overlay", &["workdir=/w", "upperdir=/u", r"lowerdir=/a:/b\:c", "index=off"]);
        let expected = ApplyTarget::overlay("/u", vec!["/a".into(), "/b:c".into()]);
        assert_eq!(target(std::slice::from_ref(&overlay)), Some(expected));
        assert_eq!(target(&[mount("bind", &["rw", "rbind"])]), Some(ApplyTarget::direct("/s")));
        assert_eq!(target(&[mount("bind", &["ro", "rbind"])]), None);
        assert_eq!(target(&[mount("overlay", &["lowerdir=/a:/b"])]), None);
        assert_eq!(target(&[mount("overlay", &["upperdir=/u", "lowerdir=/a", "userxattr"])]), None);
        let lower = mount("overlay", &[r"lowerdir=/a:/b\:c", "index=off"]);
        assert_eq!(upper_over(&[lower], std::slice::from_ref(&overlay)), Some("/u".into()));
        assert_eq!(upper_over(&[mount("bind", &["ro", "rbind"])], &[overlay]), None);
    }
}
