//! Small ioctls on files.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Context, Result};

/// Shares all of `source`'s extents with `target` (a reflink). EOPNOTSUPP, EINVAL or EXDEV where it cannot be.
pub fn ficlone(target: BorrowedFd<'_>, source: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::ioctl_ficlone(target, source)
        .of("ioctl", || format!("FICLONE, fd {} from fd {}", target.as_raw_fd(), source.as_raw_fd()))
}
