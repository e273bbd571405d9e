//! Memory files: anonymous, sealable.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::{Context, Errno, Result};

/// What a memory file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Bytes only; cannot be executed.
    Data,
    /// A program image.
    Execute,
}

const EXEC: MemfdFlags = MemfdFlags::from_bits_retain(0x10);
const NOEXEC: MemfdFlags = MemfdFlags::from_bits_retain(0x8);

/// A new, empty, sealable memory file. Before Linux 6.3 there is no exec bit to choose, which is fine.
pub fn create(name: &str, purpose: Use) -> Result<OwnedFd> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let wanted = base | if purpose == Use::Execute { EXEC } else { NOEXEC };
    match rustix::fs::memfd_create(name, wanted) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, base),
        other => other,
    }
    .of("memfd_create", || name)
}

/// A sealed memory file with these bytes, its offset at 0.
pub fn with_bytes(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let mut file = File::from(create(name, Use::Data)?);
    file.write_all(bytes).of("write", || format!("memfd {name}, {} bytes", bytes.len()))?;
    file.seek(SeekFrom::Start(0)).of("lseek", || name)?;
    seal(file.as_fd())?;
    Ok(file.into())
}

/// Freezes content and size for good.
pub fn seal(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fcntl_add_seals(fd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .of("fcntl", || "F_ADD_SEALS")
}

/// Whether nobody can change its bytes any more.
pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_get_seals(fd)
        .map_err(|e| Errno::from_raw(e.raw_os_error()))
        .is_ok_and(|seals| seals.contains(all))
}
