//! btrfs subvolumes and snapshots (linux/btrfs.h).

use std::{
    ffi::OsStr,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
};

use crate::error::{Context, Errno, Result, SysError};

const MAGIC: u64 = 0x9123_683E;
const ROOT_INODE: u64 = 256;
const SUBVOL_RDONLY: u64 = 1 << 1;
const NAME_MAX: usize = 255;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

mod ioc {
    #![allow(missing_docs, reason = "made by a macro, private")]
    nix::ioctl_write_ptr!(subvol_create, 0x94, 14, super::VolArgs);
    nix::ioctl_write_ptr!(snap_destroy, 0x94, 15, super::VolArgs);
    nix::ioctl_write_ptr!(snap_create_v2, 0x94, 23, super::VolArgsV2);
    nix::ioctl_read!(subvol_get_flags, 0x94, 25, u64);
    nix::ioctl_write_ptr!(subvol_set_flags, 0x94, 26, u64);
}

/// Whether `dir` is a subvolume (or the file system's root) of btrfs.
pub fn is_subvolume(dir: BorrowedFd<'_>) -> Result<bool> {
    Ok(is_btrfs(dir)? && crate::fs::stat(dir)?.ino == ROOT_INODE)
}

/// Whether `fd` lies on btrfs.
pub fn is_btrfs(fd: BorrowedFd<'_>) -> Result<bool> {
    Ok(crate::fs::filesystem_magic(fd)? == MAGIC)
}

/// Makes an empty subvolume `name` in `parent` (opened for reading, not O_PATH).
pub fn subvol_create(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let args = vol_args("BTRFS_IOC_SUBVOL_CREATE", 0, name)?;
    // SAFETY: the argument has the layout the ioctl reads and lives through the call.
    unsafe { ioc::subvol_create(parent.as_raw_fd(), &raw const *args) }
        .map(drop)
        .of("ioctl", || format!("BTRFS_IOC_SUBVOL_CREATE, {}", name.display()))
}

/// Makes `name` in `parent` a snapshot of the subvolume `source` (both opened for reading, not O_PATH).
pub fn snap_create(parent: BorrowedFd<'_>, name: &OsStr, source: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let what = "BTRFS_IOC_SNAP_CREATE_V2";
    check_name(what, name)?;
    let mut args = Box::new(VolArgsV2 {
        fd: i64::from(source.as_raw_fd()),
        transid: 0,
        flags: if read_only { SUBVOL_RDONLY } else { 0 },
        unused: [0; 4],
        name: [0; 4040],
    });
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the argument has the layout the ioctl reads and lives through the call.
    unsafe { ioc::snap_create_v2(parent.as_raw_fd(), &raw const *args) }
        .map(drop)
        .of("ioctl", || format!("{what}, {}", name.display()))
}

/// Removes the subvolume `name` in `parent` (opened for reading). ENOTEMPTY if another subvolume lies in it.
pub fn subvol_destroy(parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let args = vol_args("BTRFS_IOC_SNAP_DESTROY", 0, name)?;
    // SAFETY: the argument has the layout the ioctl reads and lives through the call.
    unsafe { ioc::snap_destroy(parent.as_raw_fd(), &raw const *args) }
        .map(drop)
        .of("ioctl", || format!("BTRFS_IOC_SNAP_DESTROY, {}", name.display()))
}

/// Freezes or thaws the subvolume `dir` (opened for reading, not O_PATH).
pub fn set_read_only(dir: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let mut flags = 0u64;
    // SAFETY: the kernel writes one u64, which lives through the call.
    unsafe { ioc::subvol_get_flags(dir.as_raw_fd(), &raw mut flags) }.of("ioctl", || "BTRFS_IOC_SUBVOL_GETFLAGS")?;
    flags = if read_only { flags | SUBVOL_RDONLY } else { flags & !SUBVOL_RDONLY };
    // SAFETY: the kernel reads one u64, which lives through the call.
    unsafe { ioc::subvol_set_flags(dir.as_raw_fd(), &raw const flags) }
        .map(drop)
        .of("ioctl", || format!("BTRFS_IOC_SUBVOL_SETFLAGS, {flags:#x}"))
}

fn check_name(what: &'static str, name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > NAME_MAX || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(SysError::new("ioctl", format!("{what}, {}", name.display()), Errno::EINVAL));
    }
    Ok(())
}

fn vol_args(what: &'static str, fd: i64, name: &OsStr) -> Result<Box<VolArgs>> {
    check_name(what, name)?;
    let mut args = Box::new(VolArgs { fd, name: [0; 4088] });
    args.name[..name.len()].copy_from_slice(name.as_bytes());
    Ok(args)
}
