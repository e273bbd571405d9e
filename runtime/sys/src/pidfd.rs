//! Processes by descriptor: a pid may be reused, a pidfd never lies.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::{
    error::{Context, Errno, Result, SysError},
    raw,
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It called exit with this value, 0..=255.
    Code(i32),
    /// A signal ended it; whether it left a core.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether memory was dumped.
        core: bool,
    },
}

impl ExitStatus {
    /// As shells and containerd's clients count it: the code, or 128 + signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal { signal, .. } => 128 + signal,
        }
    }
}

/// A descriptor for a process that runs or is not yet reaped.
pub fn open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and flags, and answers a fresh descriptor (always CLOEXEC).
    unsafe { raw::call_fd(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]) }.of("pidfd_open", || pid)
}

/// Sends a signal; 0 only asks whether it lives. ESRCH: it is gone.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo lets the kernel fill in what kill(2) would.
    unsafe { raw::call(libc::SYS_pidfd_send_signal, [pidfd.as_raw_fd() as usize, signal as usize, 0, 0, 0, 0]) }
        .of("pidfd_send_signal", || format!("signal {signal}"))
        .map(drop)
}

/// A copy of one of its descriptors. Needs the right to ptrace it.
pub fn get_fd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes numbers only and answers a fresh descriptor (always CLOEXEC).
    unsafe { raw::call_fd(libc::SYS_pidfd_getfd, [pidfd.as_raw_fd() as usize, fd as usize, 0, 0, 0, 0]) }
        .of("pidfd_getfd", || fd)
}

/// Waits for our child to end and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<ExitStatus> {
    loop {
        match waitid(pidfd, libc::WEXITED) {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(error) if error.errno == Errno::EINTR => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps our child if it has ended; `None` while it runs.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>> {
    waitid(pidfd, libc::WEXITED | libc::WNOHANG)
}

/// The end of our child without reaping it; `None` while it runs.
pub fn peek(pidfd: BorrowedFd<'_>) -> Result<Option<ExitStatus>> {
    waitid(pidfd, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Whether the process has ended (it need not be our child). Never blocks.
pub fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    crate::poll::readable(pidfd, Some(std::time::Duration::ZERO)).unwrap_or(true)
}

/// The number of a child of ours, any, that has ended and is not reaped yet.
pub fn peek_any() -> Result<Option<i32>> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Ok(status) => Ok(status.pid().map(nix::unistd::Pid::as_raw)),
        Err(Errno::ECHILD) => Ok(None),
        Err(errno) => Err(SysError::new("waitid", "any child", errno)),
    }
}

/// Reaps a child that has ended, by its number: until then nobody else can have it.
pub fn reap(pid: i32) -> Result<ExitStatus> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    match waitid(Id::Pid(nix::unistd::Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => Ok(ExitStatus::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, core)) => Ok(ExitStatus::Signal { signal: signal as i32, core }),
        Ok(_) => Err(SysError::new("waitid", pid, Errno::EAGAIN)),
        Err(errno) => Err(SysError::new("waitid", pid, errno)),
    }
}

fn waitid(pidfd: BorrowedFd<'_>, options: i32) -> Result<Option<ExitStatus>> {
    // SAFETY: siginfo_t is plain data; all zero is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is ours to be written; the descriptor is open for the length of the call.
    let answer = unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, &raw mut info, options) };
    if answer != 0 {
        return Err(SysError::new("waitid", format!("pidfd {}", pidfd.as_raw_fd()), Errno::last()));
    }
    // SAFETY: waitid filled in the child's part, or left zeros (pid 0) when nothing has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(match info.si_code {
        libc::CLD_EXITED => ExitStatus::Code(status),
        code => ExitStatus::Signal { signal: status, core: code == libc::CLD_DUMPED },
    }))
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, process::Command};

    use super::*;

    #[test]
    #[allow(clippy::zombie_processes, reason = "they are reaped by pidfd")]
    fn exit_codes_and_signals_are_told_apart() {
        let child = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let fd = open(child.id() as i32).unwrap();
        assert_eq!(wait(fd.as_fd()).unwrap(), ExitStatus::Code(7));
        let child = Command::new("/bin/sh").args(["-c", "kill -9 $$"]).spawn().unwrap();
        let fd = open(child.id() as i32).unwrap();
        assert_eq!(wait(fd.as_fd()).unwrap().code(), 137);
        assert_eq!(send_signal(fd.as_fd(), 0).unwrap_err().errno, Errno::ESRCH);
    }
}
