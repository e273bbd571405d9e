//! The child between clone3 and execveat: raw system calls on prepared memory.
//!
//! No allocation, lock, log, panic or destructor may happen here: other threads of the parent do not exist in the child.

use std::ffi::c_char;

use crate::SysError;

/// All that the child needs, made by the parent.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) image: i32,
    pub(super) argv: *const *const c_char,
    pub(super) env: *const *const c_char,
    pub(super) stdio: [i32; 3],
    /// In ascending order.
    pub(super) keep: &'a [i32],
    pub(super) preserve: i32,
    pub(super) tasks: &'a [i32],
    pub(super) user_namespace: i32,
    pub(super) second: u64,
    pub(super) become_root: bool,
    pub(super) gate: i32,
    pub(super) away: i32,
    pub(super) session: bool,
    pub(super) report: i32,
}

const CALLS: [&str; 10] = [
    "write (cgroup v1 tasks)",
    "setns (user)",
    "clone3 (in the user namespace)",
    "read (gate)",
    "setresgid",
    "setresuid",
    "dup3 (stdio)",
    "close_range",
    "setsid",
    "execveat",
];
/// First word of a message that carries a pid, not a failure.
const ANNOUNCE: u32 = u32::MAX;

/// The failure that a message of the child tells of.
pub(super) fn failure(words: [u8; 8]) -> SysError {
    let (call, value) = split(words);
    super::broken(CALLS.get(call as usize).copied().unwrap_or("child"), value)
}

/// The pid that a message of the child tells of.
pub(super) fn announced(words: [u8; 8]) -> Option<i32> {
    let (call, value) = split(words);
    (call == ANNOUNCE).then_some(value)
}

fn split(words: [u8; 8]) -> (u32, i32) {
    let [a, b, c, d, e, f, g, h] = words;
    (u32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]))
}

/// Runs in the child and never returns.
///
/// # Safety
/// To be called only in a fresh child of [`super::clone`]; the pointers in `p` must be null-terminated arrays of C strings.
pub(super) unsafe fn run(p: &Prepared<'_>) -> ! {
    // SAFETY: as said above; the strings were prepared by the parent.
    unsafe {
        arrive(p);
        if p.image >= 0 {
            check(p, 9, libc::syscall(libc::SYS_execveat, p.image, c"".as_ptr(), p.argv, p.env, libc::AT_EMPTY_PATH));
        }
        exit()
    }
}

/// Takes the child to its cgroups, namespaces, ids, standard streams and session. All its descriptors from 3 on go with an
/// execve, but for those that it keeps.
///
/// # Safety
/// As for [`run`].
pub(super) unsafe fn arrive(p: &Prepared<'_>) {
    // SAFETY: each call below takes numbers or memory that the parent prepared and that was copied to us.
    unsafe {
        if p.away >= 0 {
            libc::syscall(libc::SYS_close, p.away);
        }
        for fd in p.tasks {
            check(p, 0, libc::syscall(libc::SYS_write, *fd, c"0".as_ptr(), 1usize));
        }
        if p.user_namespace >= 0 {
            check(p, 1, libc::syscall(libc::SYS_setns, p.user_namespace, libc::CLONE_NEWUSER));
            if p.second != 0 {
                fork_sibling(p);
            }
        }
        if p.gate >= 0 {
            let mut byte = 0u8;
            let n = libc::syscall(libc::SYS_read, p.gate, &raw mut byte, 1usize);
            check(p, 3, n);
            if n == 0 {
                exit();
            }
        }
        if p.become_root {
            check(p, 4, libc::syscall(libc::SYS_setresgid, 0, 0, 0));
            check(p, 5, libc::syscall(libc::SYS_setresuid, 0, 0, 0));
        }
        for (target, fd) in p.stdio.iter().enumerate() {
            if *fd >= 0 {
                check(p, 6, libc::syscall(libc::SYS_dup3, *fd, target, 0));
            }
        }
        // 4 is CLOSE_RANGE_CLOEXEC: a descriptor that some library left open goes with execve.
        check(p, 7, libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 4u32));
        for fd in 3..3 + p.preserve {
            libc::syscall(libc::SYS_fcntl, fd, libc::F_SETFD, 0);
        }
        for fd in p.keep {
            libc::syscall(libc::SYS_fcntl, *fd, libc::F_SETFD, 0);
        }
        if p.session {
            check(p, 8, libc::syscall(libc::SYS_setsid));
        }
        let nothing = 0u64;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const nothing, 0usize, 8usize);
    }
}

/// Does what execve would to descriptors. The one for failures goes, too, which tells the parent that we are here.
///
/// # Safety
/// As for [`run`]; whoever owned one of the others must not be dropped any more.
pub(super) unsafe fn close_others(p: &Prepared<'_>) {
    let mut from = 3 + p.preserve;
    for fd in p.keep {
        if *fd > from {
            // SAFETY: numbers only.
            unsafe { libc::syscall(libc::SYS_close_range, from as u32, (*fd - 1) as u32, 0u32) };
        }
        from = from.max(fd + 1);
    }
    // SAFETY: numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, from as u32, u32::MAX, 0u32) };
}

/// In a joined user namespace: a second clone makes the namespaces that belong to it. Only the new process returns.
///
/// # Safety
/// As for [`run`].
unsafe fn fork_sibling(p: &Prepared<'_>) {
    // With CLONE_PARENT the exit signal is the one of this process, SIGCHLD.
    let args = super::CloneArgs { flags: p.second | libc::CLONE_PARENT as u64, ..super::CloneArgs::default() };
    // SAFETY: no stack, no CLONE_VM: the new process runs on a copy of ours.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<super::CloneArgs>()) };
    // SAFETY: as for `run`.
    unsafe {
        check(p, 2, pid);
        if pid > 0 {
            tell(p, ANNOUNCE, pid as i32);
            exit();
        }
    }
}

/// Ends the child with a message if a call failed.
///
/// # Safety
/// As for [`run`].
unsafe fn check(p: &Prepared<'_>, call: u32, answer: libc::c_long) {
    if answer >= 0 {
        return;
    }
    // SAFETY: errno is this thread's own; `tell` and `exit` are raw calls.
    unsafe {
        tell(p, call, *libc::__errno_location());
        exit();
    }
}

/// # Safety
/// As for [`run`].
unsafe fn tell(p: &Prepared<'_>, call: u32, value: i32) {
    let message = [call, value as u32];
    // SAFETY: eight bytes of our own stack.
    unsafe { libc::syscall(libc::SYS_write, p.report, message.as_ptr(), 8usize) };
}

/// # Safety
/// Ends the process; only for the child.
pub(super) unsafe fn exit() -> ! {
    loop {
        // SAFETY: exit_group does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}
