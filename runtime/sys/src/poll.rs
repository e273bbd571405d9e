//! Waiting for a descriptor, with a deadline.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use crate::error::{Errno, Result, SysError};

/// Waits until `fd` is readable (or hung up). `false`: the time is over. `None` waits for ever.
pub fn readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool> {
    Ok(any(&[fd], timeout)?.is_some())
}

/// Waits until one of `fds` is readable (or hung up) and tells which, the first if several.
pub fn any(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Option<usize>> {
    let mut polls: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let end = timeout.map(|t| Instant::now() + t);
    loop {
        let left = end.map_or(-1, |end| {
            let left = end.saturating_duration_since(Instant::now());
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        // SAFETY: the array is ours, of the given length, for the length of the call.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, left) };
        match ready {
            0 => return Ok(None),
            n if n > 0 => return Ok(polls.iter().position(|p| p.revents != 0)),
            _ if Errno::last() == Errno::EINTR => {}
            _ => return Err(SysError::new("poll", format!("{} fds", fds.len()), Errno::last())),
        }
    }
}
