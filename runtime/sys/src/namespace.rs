//! Namespaces: kinds, joining, leaving, identity.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::fcntl::OFlag;

use crate::error::{Context, Errno, Result};

/// A set of kinds of namespaces (`CLONE_NEW*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds(pub u64);

impl Kinds {
    /// None.
    pub const NONE: Kinds = Kinds(0);
    /// Clocks.
    pub const TIME: Kinds = Kinds(0x80);
    /// Mounts.
    pub const MOUNT: Kinds = Kinds(libc::CLONE_NEWNS as u64);
    /// Cgroups.
    pub const CGROUP: Kinds = Kinds(libc::CLONE_NEWCGROUP as u64);
    /// Host and domain name.
    pub const UTS: Kinds = Kinds(libc::CLONE_NEWUTS as u64);
    /// System V and POSIX queues.
    pub const IPC: Kinds = Kinds(libc::CLONE_NEWIPC as u64);
    /// Users and capabilities.
    pub const USER: Kinds = Kinds(libc::CLONE_NEWUSER as u64);
    /// Process numbers.
    pub const PID: Kinds = Kinds(libc::CLONE_NEWPID as u64);
    /// Networks.
    pub const NETWORK: Kinds = Kinds(libc::CLONE_NEWNET as u64);

    /// Both sets.
    pub const fn with(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
    /// This set without the other.
    pub const fn without(self, other: Kinds) -> Kinds {
        Kinds(self.0 & !other.0)
    }
    /// Whether all of `other` are in it.
    pub const fn contains(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }
    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Every kind with its name below `/proc/PID/ns`.
pub const NAMES: [(Kinds, &str); 8] = [
    (Kinds::USER, "user"),
    (Kinds::MOUNT, "mnt"),
    (Kinds::PID, "pid"),
    (Kinds::NETWORK, "net"),
    (Kinds::IPC, "ipc"),
    (Kinds::UTS, "uts"),
    (Kinds::CGROUP, "cgroup"),
    (Kinds::TIME, "time"),
];

const NSFS_MAGIC: u64 = 0x6e73_6673;
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// A namespace by a path such as `/proc/1/ns/net` or a bind mount of one. EINVAL: it is something else.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let fd = crate::fs::open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?;
    if crate::fs::filesystem_magic(fd.as_fd())? != NSFS_MAGIC {
        return Err(crate::SysError::new("open", format!("{}: no namespace", path.display()), Errno::EINVAL));
    }
    Ok(fd)
}

/// The kind of an open namespace.
pub fn kind(fd: BorrowedFd<'_>) -> Result<Kinds> {
    // SAFETY: NS_GET_NSTYPE takes no argument.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    Errno::result(answer).map(|kind| Kinds(kind as u32 as u64)).of("ioctl", || "NS_GET_NSTYPE")
}

/// Joins an open namespace. For users and time the process must have one thread.
pub fn join(fd: BorrowedFd<'_>, kind: Kinds) -> Result<()> {
    // SAFETY: numbers only.
    let answer = unsafe { libc::setns(fd.as_raw_fd(), kind.0 as i32) };
    Errno::result(answer).map(drop).of("setns", || format!("fd {}, {:#x}", fd.as_raw_fd(), kind.0))
}

/// Joins several namespaces of a process at once (Linux 5.8).
pub fn join_process(pidfd: BorrowedFd<'_>, kinds: Kinds) -> Result<()> {
    join(pidfd, kinds)
}

/// Leaves into fresh namespaces.
pub fn unshare(kinds: Kinds) -> Result<()> {
    // SAFETY: numbers only; without CLONE_FILES and CLONE_VM no memory or descriptor table changes hands.
    let answer = unsafe { libc::unshare(kinds.0 as i32) };
    Errno::result(answer).map(drop).of("unshare", || format!("{:#x}", kinds.0))
}

/// The inode number of an open namespace: equal numbers are the same namespace.
pub fn inode(fd: BorrowedFd<'_>) -> Result<u64> {
    Ok(crate::fs::stat(fd)?.ino)
}

/// The inode number of a process's namespace (`name` as in [`NAMES`]; `self` is the thread group's leader).
pub fn inode_of(pid: &str, name: &str) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = format!("/proc/{pid}/ns/{name}");
    std::fs::metadata(&path).map(|m| m.ino()).of("stat", || path)
}

/// One line of an id map: ids `inside..inside + count` stand for `outside..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Writes the maps of a process's fresh user namespace (`/proc/PID/{uid,gid}_map`), as one who may.
pub fn write_maps(pid: i32, uids: &[IdMap], gids: &[IdMap]) -> Result<()> {
    for (file, maps) in [("uid_map", uids), ("gid_map", gids)] {
        let text: String = maps.iter().map(|m| format!("{} {} {}\n", m.inside, m.outside, m.count)).collect();
        let path = format!("/proc/{pid}/{file}");
        let fd = crate::fs::open(Path::new(&path), OFlag::O_WRONLY, 0)?;
        crate::fs::write_once(fd.as_fd(), text.as_bytes())
            .map_err(|e| crate::SysError { operands: format!("{path}, {}", e.operands), ..e })?;
    }
    Ok(())
}

/// A user namespace with these maps and no process in it, for idmapped mounts.
pub fn user_with_maps(uids: &[IdMap], gids: &[IdMap]) -> Result<OwnedFd> {
    let holder = crate::clone::Holder::new(Kinds::USER)?;
    write_maps(holder.pid(), uids, gids)?;
    open(Path::new(&format!("/proc/{}/ns/user", holder.pid())))
}
