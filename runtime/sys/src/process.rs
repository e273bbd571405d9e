//! What a process can say about itself and others: identity, limits, scheduling, prctl.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use rustix::process as rp;

use crate::{
    caps::prctl,
    error::{Context, Errno, Result},
    raw,
};

/// Execve may grant no new privileges from now on.
pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop).of("prctl", || "PR_SET_NO_NEW_PRIVS")
}

/// Orphans among our descendants become our children.
pub fn set_subreaper(on: bool) -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, u64::from(on), 0).map(drop).of("prctl", || "PR_SET_CHILD_SUBREAPER")
}

/// Whether others with our ids may trace us and look below our `/proc`.
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on), 0).map(drop).of("prctl", || "PR_SET_DUMPABLE")
}

/// Permitted capabilities survive a change of the user.
pub fn set_keep_capabilities(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on), 0).map(drop).of("prctl", || "PR_SET_KEEPCAPS")
}

/// The signal that we get when the thread that made us ends; 0 for none.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64, 0).map(drop).of("prctl", || format!("PR_SET_PDEATHSIG, {signal}"))
}

/// The name that `ps` shows, at most 15 bytes count.
pub fn set_name(name: &str) -> Result<()> {
    let c_name = raw::c_str("prctl", name)?;
    rustix::thread::set_name(&c_name).of("prctl", || format!("PR_SET_NAME, {name}"))
}

/// Starts a session of our own.
pub fn setsid() -> Result<()> {
    rp::setsid().map(drop).of("setsid", || "")
}

/// Moves a process (0: us) into a process group (0: its own).
pub fn setpgid(pid: i32, group: i32) -> Result<()> {
    rp::setpgid(rp::Pid::from_raw(pid), rp::Pid::from_raw(group)).of("setpgid", || format!("{pid}, {group}"))
}

/// Our number in our pid namespace.
pub fn pid() -> i32 {
    std::process::id() as i32
}

/// Whether we have one thread for sure.
pub fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.take(2).count() == 1)
}

/// Sets real, effective and saved user of this thread (use it where there is one).
pub fn set_uid(uid: u32) -> Result<()> {
    let uid = rp::Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).of("setresuid", || uid.as_raw())
}

/// Sets real, effective and saved group of this thread (use it where there is one).
pub fn set_gid(gid: u32) -> Result<()> {
    let gid = rp::Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).of("setresgid", || gid.as_raw())
}

/// Sets the supplementary groups of this thread (use it where there is one).
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let gids: Vec<rp::Gid> = groups.iter().map(|g| rp::Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&gids).of("setgroups", || format!("{groups:?}"))
}

/// Sets the mask of permissions for new files; answers the one from before.
pub fn umask(mask: u32) -> u32 {
    rp::umask(rustix::fs::Mode::from_raw_mode(mask)).as_raw_mode()
}

/// Changes the working directory.
pub fn chdir(path: &Path) -> Result<()> {
    rp::chdir(path).of("chdir", || path.display().to_string())
}

/// Changes the working directory to an open one.
pub fn fchdir(dir: BorrowedFd<'_>) -> Result<()> {
    rp::fchdir(dir).of("fchdir", || format!("fd {}", dir.as_raw_fd()))
}

/// The working directory, as the kernel sees it; starts with `(unreachable)` if it lies outside our root.
pub fn getcwd() -> Result<String> {
    rp::getcwd(Vec::new()).map(|p| p.to_string_lossy().into_owned()).of("getcwd", || "")
}

/// Changes the root directory.
pub fn chroot(path: &Path) -> Result<()> {
    rp::chroot(path).of("chroot", || path.display().to_string())
}

/// Whether our effective user may execute a file in this directory (`faccessat2`, AT_EACCESS).
pub fn may_execute(path: &Path) -> Result<()> {
    rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS)
        .of("faccessat", || path.display().to_string())
}

/// Marks all descriptors from `first` on as closed by execve.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now: no owned descriptor is pulled away.
    unsafe { raw::call(libc::SYS_close_range, [first as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC, 0, 0, 0]) }
        .map(drop)
        .of("close_range", || format!("{first}.., CLOEXEC"))
}

/// Sets or clears CLOEXEC of one descriptor.
pub fn set_close_on_exec(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let flags = if on { rustix::io::FdFlags::CLOEXEC } else { rustix::io::FdFlags::empty() };
    rustix::io::fcntl_setfd(fd, flags).of("fcntl", || format!("F_SETFD, fd {}", fd.as_raw_fd()))
}

/// Makes descriptor `number` (0, 1 or 2 only: they belong to nobody) a copy of `fd`, kept by execve.
pub fn set_standard(fd: BorrowedFd<'_>, number: u8) -> Result<()> {
    let context = || format!("fd {} as {number}", fd.as_raw_fd());
    if number > 2 {
        return Err(Errno::EBADF).of("dup3", context);
    }
    if fd.as_raw_fd() == i32::from(number) {
        return set_close_on_exec(fd, false);
    }
    // SAFETY: 0, 1 and 2 are owned by no OwnedFd, replacing them invalidates none.
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), i32::from(number), 0) }).map(drop).of("dup3", context)
}

/// How readily the OOM killer takes a process: -1000..=1000.
pub fn set_oom_score_adj(pid: i32, score: i32) -> Result<()> {
    let path = if pid == 0 { "/proc/self/oom_score_adj".to_owned() } else { format!("/proc/{pid}/oom_score_adj") };
    std::fs::write(&path, score.to_string()).of("write", || format!("{path}, {score}"))
}

/// Joins a session keyring of this name, made if there is none; answers its number.
pub fn join_session_keyring(name: &str) -> Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    let c_name = raw::c_str("keyctl", name)?;
    // SAFETY: the name is a live C string.
    unsafe { raw::call(libc::SYS_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, c_name.as_ptr() as usize, 0, 0, 0, 0]) }
        .map(|key| key as i32)
        .of("keyctl", || format!("KEYCTL_JOIN_SESSION_KEYRING, {name}"))
}

/// Gives everyone with the possessor's right also search on the session keyring, as container runtimes do.
pub fn open_keyring_to_search(key: i32) -> Result<()> {
    const KEYCTL_SETPERM: usize = 5;
    const KEYCTL_DESCRIBE: usize = 6;
    let mut text = [0u8; 256];
    // SAFETY: the buffer is ours, its length is given.
    let n = unsafe {
        raw::call(libc::SYS_keyctl, [KEYCTL_DESCRIBE, key as usize, text.as_mut_ptr() as usize, text.len(), 0, 0])
    }
    .of("keyctl", || "KEYCTL_DESCRIBE")?;
    let described = String::from_utf8_lossy(&text[..n.min(text.len())]).into_owned();
    let permissions = described.split(';').nth(3).and_then(|p| u32::from_str_radix(p, 16).ok()).unwrap_or(0);
    const USER_SEARCH: u32 = 0x0008_0000;
    // SAFETY: numbers only.
    unsafe {
        raw::call(libc::SYS_keyctl, [KEYCTL_SETPERM, key as usize, (permissions | USER_SEARCH) as usize, 0, 0, 0])
    }
    .map(drop)
    .of("keyctl", || format!("KEYCTL_SETPERM, {permissions:x}"))
}

/// The execution domain (`PER_LINUX` is 0, `PER_LINUX32` is 8) with its flags.
pub fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: a number only.
    unsafe { raw::call(libc::SYS_personality, [persona as usize, 0, 0, 0, 0, 0]) }
        .map(drop)
        .of("personality", || format!("{persona:#x}"))
}

/// Sets a limit (`RLIMIT_*` number) of a process; 0 is us. `u64::MAX` is no limit.
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit is read through the call, no old one is asked for.
    unsafe { raw::call(libc::SYS_prlimit64, [pid as usize, resource as usize, &raw const limit as usize, 0, 0, 0]) }
        .map(drop)
        .of("prlimit", || format!("pid {pid}, resource {resource}, {soft}:{hard}"))
}

/// A limit of a process: soft, hard.
pub fn limit(pid: i32, resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the old limit is written into our struct.
    unsafe { raw::call(libc::SYS_prlimit64, [pid as usize, resource as usize, 0, &raw mut limit as usize, 0, 0]) }
        .of("prlimit", || format!("pid {pid}, resource {resource}"))?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Arguments of `sched_setattr` (`struct sched_attr`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// Size of this struct; filled in.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value for the ordinary policies.
    pub nice: i32,
    /// Priority for the real-time policies.
    pub priority: u32,
    /// For deadlines: nanoseconds of work.
    pub runtime: u64,
    /// For deadlines: nanoseconds until it must be done.
    pub deadline: u64,
    /// For deadlines: nanoseconds between starts.
    pub period: u64,
}

/// Sets the scheduling of a thread; 0 is us.
pub fn set_scheduler(pid: i32, attributes: SchedAttr) -> Result<()> {
    let attributes = SchedAttr { size: size_of::<SchedAttr>() as u32, ..attributes };
    // SAFETY: the struct is live and carries its size.
    unsafe { raw::call(libc::SYS_sched_setattr, [pid as usize, &raw const attributes as usize, 0, 0, 0, 0]) }
        .map(drop)
        .of("sched_setattr", || format!("{attributes:?}"))
}

/// Sets the I/O priority of a process (0: us): class 1 real time, 2 best effort, 3 idle; level 0..=7.
pub fn set_io_priority(pid: i32, class: u32, level: u32) -> Result<()> {
    const WHO_PROCESS: usize = 1;
    // SAFETY: numbers only.
    unsafe { raw::call(libc::SYS_ioprio_set, [WHO_PROCESS, pid as usize, (class << 13 | level) as usize, 0, 0, 0]) }
        .map(drop)
        .of("ioprio_set", || format!("pid {pid}, class {class}, level {level}"))
}

/// Pins a thread (0: us) to CPUs.
pub fn set_affinity(pid: i32, cpus: &[usize]) -> Result<()> {
    let mut mask = vec![0u64; cpus.iter().max().map_or(1, |m| m / 64 + 1).min(1024)];
    for cpu in cpus {
        match mask.get_mut(cpu / 64) {
            Some(word) => *word |= 1 << (cpu % 64),
            None => return Err(Errno::EINVAL).of("sched_setaffinity", || format!("cpu {cpu}")),
        }
    }
    // SAFETY: the mask is live and its length in bytes is given.
    unsafe { raw::call(libc::SYS_sched_setaffinity, [pid as usize, mask.len() * 8, mask.as_ptr() as usize, 0, 0, 0]) }
        .map(drop)
        .of("sched_setaffinity", || format!("{cpus:?}"))
}

/// Sets the host name of our UTS namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).of("sethostname", || name)
}

/// Sets the NIS domain name of our UTS namespace.
pub fn set_domainname(name: &str) -> Result<()> {
    rustix::system::setdomainname(name.as_bytes()).of("setdomainname", || name)
}

/// Sends a signal by number; a pidfd is better where there is one.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop).of("kill", || format!("{pid}, {signal}"))
}

/// When a process started, in clock ticks since boot: with the pid it names a process of this boot.
pub fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read(&path).of("read", || &path)?;
    let text = String::from_utf8_lossy(&text);
    // The name in parentheses may hold anything, spaces too.
    let ticks =
        text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).and_then(|t| t.parse().ok());
    ticks.ok_or(Errno::EINVAL).of("read", || path)
}

/// Ends this process at once: no destructors, no buffers flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Takes over a descriptor that an execve left open under a known number.
///
/// EBADF if nothing is open there. Call it once a number, at the start of a program, before anything else is opened.
pub fn inherited(number: i32) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: F_GETFD only asks.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) }).of("fcntl", || format!("F_GETFD, fd {number}"))?;
    // SAFETY: the descriptor is open and, by the contract above, owned by nobody else in this fresh program.
    let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(number) };
    set_close_on_exec(std::os::fd::AsFd::as_fd(&fd), true)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_and_limits_can_be_read() {
        assert!(start_time(pid()).unwrap() > 0);
        assert_eq!(start_time(i32::MAX).unwrap_err().errno, Errno::ENOENT);
        let (soft, hard) = limit(0, libc::RLIMIT_NOFILE).unwrap();
        assert!(soft > 0 && soft <= hard);
    }
}
