//! Devices of a container: those that are asked for, and with `--privileged` all of the host's.

use crated_api::crated::engine::v1::ContainerConfig;
use crated_spec::{Device, DeviceKind};
use crated_sys::fs::split_dev;
use crated_types::{Error, Result};
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Entries of `/dev` that the runtime makes by itself, or that are file systems of their own.
const OWN: &[&str] = &[
    "console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
];
/// Most devices of one container.
const DEVICES_MAX: usize = 4096;
/// Folders below one that is asked for.
const DEPTH_MAX: usize = 8;

/// The devices of a wish.
pub(super) fn all(config: &ContainerConfig) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    if config.privileged {
        for entry in fs::read_dir("/dev").map_err(|error| Error::os("read /dev", error))?.flatten() {
            if !OWN.iter().any(|own| entry.file_name() == *own) {
                collect(&entry.path(), &entry.path(), "rwm", 0, &mut found);
            }
        }
    }
    for asked in &config.devices {
        let target = if asked.container_path.is_empty() { &asked.host_path } else { &asked.container_path };
        let permissions = if asked.permissions.is_empty() { "rwm" } else { &asked.permissions };
        if permissions.chars().any(|letter| !"rwm".contains(letter)) {
            return Err(Error::invalid(
                "config.devices.permissions",
                format_args!("{permissions:?} has letters beside rwm"),
            ));
        }
        for path in [&asked.host_path, target] {
            if !Path::new(path).is_absolute() {
                return Err(Error::invalid("config.devices", format_args!("{path:?} is no absolute path")));
            }
        }
        let before = found.len();
        found.retain(|device: &Device| device.path != Path::new(target));
        let kept = found.len();
        // A link to a device (/dev/disk/by-id/…) stands for what it leads to.
        let source = fs::canonicalize(&asked.host_path)
            .map_err(|error| Error::os(format!("look at device {}", asked.host_path), error))?;
        collect(&source, Path::new(target), permissions, 0, &mut found);
        if found.len() == kept {
            return Err(Error::invalid("config.devices.host_path", format_args!("{} is no device", asked.host_path)));
        }
        tracing::trace!(device = %asked.host_path, replaced = before - kept, "device");
    }
    if found.len() > DEVICES_MAX {
        return Err(Error::invalid(
            "config.devices",
            format_args!("{} devices, {DEVICES_MAX} are the most", found.len()),
        ));
    }
    Ok(found)
}

fn collect(source: &Path, target: &Path, access: &str, depth: usize, found: &mut Vec<Device>) {
    let Ok(meta) = fs::symlink_metadata(source) else { return };
    if meta.is_dir() && depth < DEPTH_MAX {
        let Ok(entries) = fs::read_dir(source) else { return };
        for entry in entries.flatten() {
            let same =
                fs::symlink_metadata(entry.path()).is_ok_and(|below| !below.is_dir() || below.dev() == meta.dev());
            if same {
                collect(&entry.path(), &target.join(entry.file_name()), access, depth + 1, found);
            }
        }
    } else if let Some(device) = device(target.to_owned(), &meta, access) {
        found.push(device);
    }
}

fn device(path: PathBuf, meta: &Metadata, access: &str) -> Option<Device> {
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => DeviceKind::Char,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return None,
    };
    let (major, minor) = split_dev(meta.rdev());
    Some(Device {
        path,
        kind,
        major,
        minor,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_api::crated::engine::v1::Device as Asked;

    fn with(devices: Vec<Asked>) -> Result<Vec<Device>> {
        all(&ContainerConfig { devices, ..ContainerConfig::default() })
    }

    #[test]
    fn a_device_is_what_the_host_says() {
        let null =
            Asked { host_path: "/dev/null".into(), container_path: "/dev/nothing".into(), permissions: "r".into() };
        let found = with(vec![null]).unwrap();
        assert_eq!((found[0].major, found[0].minor, found[0].access.as_str()), (1, 3, "r"));
        assert_eq!(found[0].path, Path::new("/dev/nothing"));
        for bad in [
            Asked { host_path: "/etc/hostname".into(), ..Asked::default() },
            Asked { host_path: "/dev/none".into(), ..Asked::default() },
            Asked { host_path: "dev/null".into(), ..Asked::default() },
            Asked { host_path: "/dev/null".into(), permissions: "x".into(), ..Asked::default() },
        ] {
            assert!(with(vec![bad.clone()]).is_err(), "{bad:?}");
        }
    }
}
