//! Mounts: the classic calls, and the API of detached mounts (Linux 5.2, attributes since 5.12).

use std::{
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

pub use nix::mount::{MntFlags, MsFlags};

use crate::{
    error::{Context, Errno, Result},
    raw,
};

/// `mount(2)`; `None` is a null pointer.
pub fn mount(
    source: Option<&Path>,
    target: &Path,
    fstype: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<()> {
    nix::mount::mount(source, target, fstype, flags, data).of("mount", || {
        let (source, fstype) = (source.unwrap_or(Path::new("none")).display(), fstype.unwrap_or("none"));
        format!("{source}, {}, {fstype}, {flags:?}, {}", target.display(), data.unwrap_or(""))
    })
}

/// `umount2(2)`.
pub fn umount(target: &Path, flags: MntFlags) -> Result<()> {
    nix::mount::umount2(target, flags).of("umount2", || format!("{}, {flags:?}", target.display()))
}

/// `pivot_root(2)`.
pub fn pivot_root(new_root: &Path, put_old: &Path) -> Result<()> {
    rustix::process::pivot_root(new_root, put_old)
        .of("pivot_root", || format!("{}, {}", new_root.display(), put_old.display()))
}

/// Mount attributes (`MOUNT_ATTR_*`), for [`FsContext::mount`] and [`setattr`].
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-ID bits and file capabilities do not count.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes do not work.
    pub const NODEV: u64 = 0x4;
    /// Programs cannot be executed.
    pub const NOEXEC: u64 = 0x8;
    /// All bits of the access-time choice; must be cleared before one is set.
    pub const ATIME: u64 = 0x70;
    /// Access times now and then.
    pub const RELATIME: u64 = 0;
    /// Access times never.
    pub const NOATIME: u64 = 0x10;
    /// Access times always.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories never.
    pub const NODIRATIME: u64 = 0x80;
    /// Idmapped; needs a user namespace.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// A file system that is being configured (`fsopen`).
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    name: String,
}

impl FsContext {
    /// Opens a context for a file system by name. ENODEV: the kernel has none such.
    pub fn open(name: &str) -> Result<FsContext> {
        let fd = rustix::mount::fsopen(name, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).of("fsopen", || name)?;
        Ok(FsContext { fd, name: name.to_owned() })
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        self.said(rustix::mount::fsconfig_set_flag(&self.fd, key), || key.to_owned())
    }

    /// Sets an option to a text; `source` is a key like others.
    pub fn set_string(&self, key: &str, value: &str) -> Result<()> {
        self.said(rustix::mount::fsconfig_set_string(&self.fd, key, value), || format!("{key}={value}"))
    }

    /// Sets an option to an open file (overlay layers since 6.13).
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        self.said(rustix::mount::fsconfig_set_fd(&self.fd, key, value), || format!("{key}=fd {}", value.as_raw_fd()))
    }

    /// Makes the superblock and a detached mount of it with these attributes.
    pub fn mount(&self, attributes: u64) -> Result<OwnedFd> {
        self.said(rustix::mount::fsconfig_create(&self.fd), || "FSCONFIG_CMD_CREATE".to_owned())?;
        let attributes32 = rustix::mount::MountAttrFlags::from_bits_retain(attributes as u32);
        rustix::mount::fsmount(&self.fd, rustix::mount::FsMountFlags::FSMOUNT_CLOEXEC, attributes32)
            .of("fsmount", || format!("{}, attributes {attributes:#x}", self.name))
    }

    /// Adds what the file system wrote into its log to the error.
    fn said(&self, result: rustix::io::Result<()>, operands: impl FnOnce() -> String) -> Result<()> {
        result.of("fsconfig", || {
            let mut text = format!("{}, {}", self.name, operands());
            let mut line = [0u8; 512];
            while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut line) {
                text += " [";
                text += String::from_utf8_lossy(&line[..n]).trim_end();
                text += "]";
            }
            text
        })
    }
}

/// Whether a clone takes what is mounted below, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// This mount alone.
    Single,
    /// With all mounts below.
    Recursive,
}

const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const AT_RECURSIVE: u32 = 0x8000;
const AT_SYMLINK_NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;

/// A detached copy of the mount at `path` (what `MS_BIND` would attach); an empty path means `dir` itself.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, depth: Depth) -> Result<OwnedFd> {
    let c_path = raw::c_path("open_tree", path)?;
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if path.as_os_str().is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    if depth == Depth::Recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: the path is a live C string; the call answers a fresh descriptor.
    unsafe {
        raw::call_fd(libc::SYS_open_tree, [dir.as_raw_fd() as usize, c_path.as_ptr() as usize, flags as usize, 0, 0, 0])
    }
    .of("open_tree", || format!("fd {}, {}, {depth:?}", dir.as_raw_fd(), path.display()))
}

/// Attaches a detached mount onto what `target` is open at (O_PATH will do).
pub fn move_onto(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    use rustix::mount::MoveMountFlags as F;
    rustix::mount::move_mount(mount, "", target, "", F::MOVE_MOUNT_F_EMPTY_PATH | F::MOVE_MOUNT_T_EMPTY_PATH)
        .of("move_mount", || format!("fd {} onto fd {}", mount.as_raw_fd(), target.as_raw_fd()))
}

/// Attaches a detached mount at a path that is our own.
pub fn move_to(mount: BorrowedFd<'_>, target: &Path) -> Result<()> {
    use rustix::mount::MoveMountFlags as F;
    rustix::mount::move_mount(mount, "", crate::fs::cwd(), target, F::MOVE_MOUNT_F_EMPTY_PATH)
        .of("move_mount", || format!("fd {} to {}", mount.as_raw_fd(), target.display()))
}

/// A change of attributes and propagation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// Bits to set ([`attr`]).
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`; empty leaves it.
    pub propagation: Option<MsFlags>,
    /// The namespace whose map [`attr::IDMAP`] takes.
    pub user_namespace: Option<BorrowedFd<'a>>,
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes a mount (`mount_setattr`); an empty path means `dir` itself.
pub fn setattr(dir: BorrowedFd<'_>, path: &Path, depth: Depth, change: Change<'_>) -> Result<()> {
    let c_path = raw::c_path("mount_setattr", path)?;
    let mut flags = AT_SYMLINK_NOFOLLOW;
    if path.as_os_str().is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    if depth == Depth::Recursive {
        flags |= AT_RECURSIVE;
    }
    let attributes = MountAttr {
        set: change.set,
        clear: change.clear,
        propagation: change.propagation.map_or(0, |p| p.bits()),
        userns_fd: change.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let args = [
        dir.as_raw_fd() as usize,
        c_path.as_ptr() as usize,
        flags as usize,
        &raw const attributes as usize,
        size_of::<MountAttr>(),
        0,
    ];
    // SAFETY: path and attributes are live through the call, the size is theirs.
    unsafe { raw::call(libc::SYS_mount_setattr, args) }.map(drop).of("mount_setattr", || {
        format!(
            "fd {}, {}, {depth:?}, +{:#x} -{:#x} {:?}",
            dir.as_raw_fd(),
            path.display(),
            change.set,
            change.clear,
            change.propagation
        )
    })
}

/// Whether the kernel refuses the call as such, so that an older one should be tried.
pub fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSYS | Errno::EOPNOTSUPP)
}
