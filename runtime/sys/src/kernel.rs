//! What the running kernel can do, found out by trying, once.

use std::{fs, sync::OnceLock};

use crate::error::{Context, Errno, Result};

/// The release as numbers, `(6, 18)` for `6.18.44-…`.
pub fn version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let name = rustix::system::uname();
        let text = name.release().to_string_lossy().into_owned();
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    })
}

/// Release text, as uname tells it.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The id of this boot: another one means that every process of before is gone.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).map(|id| id.trim().to_owned()).of("read", || path)
}

/// Whether detached mounts can be made (`fsopen`, Linux 5.2).
pub fn has_mount_api() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| match crate::mount::FsContext::open("tmpfs") {
        Ok(_) => true,
        Err(e) => e.errno != Errno::ENOSYS && e.errno != Errno::EPERM,
    })
}

/// Whether mount attributes can be changed recursively (`mount_setattr`, Linux 5.12).
pub fn has_mount_setattr() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let nothing = crate::mount::Change::default();
        !matches!(
            crate::mount::setattr(crate::fs::cwd(), std::path::Path::new("/"), crate::mount::Depth::Single, nothing),
            Err(e) if e.errno == Errno::ENOSYS
        )
    })
}

/// Whether the kernel lists a file system (`/proc/filesystems`); a module that is not loaded yet is not listed.
pub fn has_filesystem(name: &str) -> bool {
    fs::read_to_string("/proc/filesystems")
        .is_ok_and(|t| t.lines().any(|l| l.split_whitespace().next_back() == Some(name)))
}

/// Whether it has a kind of namespace (name as below `/proc/self/ns`).
pub fn has_namespace(name: &str) -> bool {
    fs::symlink_metadata(format!("/proc/self/ns/{name}")).is_ok()
}

/// Whether AppArmor is enabled.
pub fn has_apparmor() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y')))
}

/// Whether SELinux is enabled (its file system is mounted).
pub fn has_selinux() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| fs::metadata("/sys/fs/selinux/enforce").is_ok())
}

/// Whether seccomp filters can be loaded.
pub fn has_seccomp() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| fs::metadata("/proc/sys/kernel/seccomp/actions_avail").is_ok())
}
