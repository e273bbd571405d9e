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
