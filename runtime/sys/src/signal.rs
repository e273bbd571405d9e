//! Signals of this process: masks and dispositions, numbers and names.

use std::mem::MaybeUninit;

use crate::error::{Context, Errno, Result};

/// The highest signal number.
pub const MAX: i32 = 64;

/// All signals blocked for this thread; dropped, the mask from before returns.
#[derive(Debug)]
pub struct Blocked(libc::sigset_t);

impl Blocked {
    /// Blocks all signals.
    pub fn all() -> Blocked {
        let (mut full, mut old) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: sigfillset initialises `full`, pthread_sigmask initialises `old`; neither can fail with these arguments.
        unsafe {
            libc::sigfillset(full.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, full.as_ptr(), old.as_mut_ptr());
            Blocked(old.assume_init())
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled by pthread_sigmask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

pub use libc::{SIGCHLD, SIGPIPE, SIGURG, SIGWINCH};

/// All signals as a queue to read instead of interruptions; they stay blocked for this thread.
#[derive(Debug)]
pub struct Queue(std::os::fd::OwnedFd);

impl Queue {
    /// Blocks all signals for this thread and opens the queue (non-blocking).
    pub fn all() -> Result<Queue> {
        std::mem::forget(Blocked::all());
        let full = u64::MAX;
        let flags = (libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) as usize;
        // SAFETY: signalfd4 reads a mask of 8 bytes and answers a fresh descriptor.
        unsafe { crate::raw::call_fd(libc::SYS_signalfd4, [usize::MAX, &raw const full as usize, 8, flags, 0, 0]) }
            .map(Queue)
            .of("signalfd4", || "all")
    }

    /// The next signal that waits, by number.
    pub fn take(&self) -> Result<Option<i32>> {
        // struct signalfd_siginfo is 128 bytes, the number comes first.
        let mut info = [0u8; 128];
        match rustix::io::read(&self.0, &mut info) {
            Ok(128) => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
            Err(rustix::io::Errno::AGAIN) | Ok(_) => Ok(None),
            Err(error) => Err(error).of("read", || "signalfd"),
        }
    }
}

impl std::os::fd::AsFd for Queue {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives every signal its default action and unblocks all: what a program expects at its start.
pub fn reset_all() -> Result<()> {
    for signal in 1..=MAX {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // Not libc's signal(): that keeps 32 and 33 for itself, yet a program may be started with them ignored.
        let default = [0u64; 4];
        // SAFETY: all zeros is the kernel's struct sigaction for SIG_DFL (at most 32 bytes with its 8-byte mask).
        let _ = unsafe {
            crate::raw::call(libc::SYS_rt_sigaction, [signal as usize, default.as_ptr() as usize, 0, 8, 0, 0])
        };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, which sigprocmask reads.
    let answer = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    Errno::result(answer).map(drop).of("sigprocmask", || "none")
}

/// Ignores a signal in this process.
pub fn ignore(signal: i32) -> Result<()> {
    // SAFETY: SIG_IGN is a valid disposition.
    let old = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if old == libc::SIG_ERR { Err(Errno::last()) } else { Ok(()) }.of("signal", || signal)
}

/// A number by name (`TERM`, `SIGTERM`, `RTMIN+3`, `15`), in any case.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let plus = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse::<i32>().ok()? };
        return (34..=MAX).contains(&(34 + plus)).then_some(34 + plus);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let minus = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse::<i32>().ok()? };
        return (34..=MAX).contains(&(64 - minus)).then_some(64 - minus);
    }
    match name {
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGABRT),
        "POLL" => Some(libc::SIGIO),
        _ => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_all_spellings() {
        for (text, number) in
            [("TERM", 15), ("sigkill", 9), ("1", 1), ("RTMIN+3", 37), ("SIGRTMAX-14", 50), ("SIGRTMIN", 34)]
        {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "0", "65", "SIG", "BOGUS", "RTMIN+99", "-9"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
