//! The only clone: a child in new namespaces that executes a sealed program ([`spawn`]) or goes on with our code ([`fork`]).
//!
//! Between `clone3` and `execveat` the child is a copy of one thread of a busy process: locks of others may be held for
//! ever. So all memory is prepared before, and [`child`] makes raw system calls only; a failure goes as four words into a
//! pipe that execve closes.
//!
//! Copying the page tables of a large process, and tearing the copy down again, takes longer than all else. A child that
//! waits for nobody therefore borrows our memory until it executes, on a stack of its own ([`vfork`]). A small process of
//! one thread is the other way round: its copy is cheaper than a program's start.

use std::{
    ffi::CString,
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use crate::{
    error::{Context, Errno, Result, SysError},
    exec::Strings,
    fs,
    namespace::{self, Kinds},
    process, raw, signal,
};

mod child;
mod vfork;

/// A program to execute.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its image, as [`crate::program::sealed_self`] gives it.
    pub image: BorrowedFd<'a>,
    /// Arguments, the zeroth too.
    pub argv: &'a [CString],
    /// Environment, `K=V`.
    pub env: &'a [CString],
}

/// Where a child comes into being, and what it has; by default it inherits our streams, shares all and waits for nobody.
#[derive(Debug, Default)]
pub struct Spawn<'a> {
    /// Standard input, output, error; `None` inherits ours.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
    /// Descriptors that the child gets under the same numbers (3 and up). All others are closed.
    pub keep: &'a [BorrowedFd<'a>],
    /// So many descriptors from 3 on are handed on as they are, whoever owns them.
    pub preserve: u32,
    /// Fresh namespaces.
    pub namespaces: Kinds,
    /// A cgroup v2 directory to be born in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Cgroup v1 `tasks` files, opened for writing, that the child enters before anything else.
    pub tasks: &'a [BorrowedFd<'a>],
    /// A pid namespace to be born in (a namespace or a pidfd of one that is in it).
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// A user namespace that the child joins first; `namespaces` are then made inside it.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// Where the child waits before the program is executed, so that the parent can prepare (id maps). Behind it, if a user
    /// namespace is new or joined, the child becomes its user 0.
    pub gate: Option<Gate<'a>>,
    /// Start a session.
    pub session: bool,
}

/// Both ends of a pipe or socket at which a child waits for one byte; its end without a byte ends the child.
#[derive(Clone, Copy, Debug)]
pub struct Gate<'a> {
    /// The child's end.
    pub wait: BorrowedFd<'a>,
    /// The parent's end, which the child closes at once so that it sees the parent die.
    pub open: BorrowedFd<'a>,
}

/// A started child. Dropping it neither kills nor reaps.
#[derive(Debug)]
pub struct Child {
    /// Its number in our pid namespace.
    pub pid: i32,
    /// Its descriptor.
    pub pidfd: OwnedFd,
    failures: File,
}

impl Child {
    /// Blocks until the program is executed, or our own code is reached; an error names what failed before.
    pub fn executed(&mut self) -> Result<()> {
        let mut words = [0u8; 8];
        match self.failures.read_exact(&mut words) {
            Ok(()) => Err(child::failure(words)),
            Err(_) => Ok(()),
        }
    }
}

/// `struct clone_args`, version 2.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;

/// Starts a program. It is ours to wait for, also where an intermediate process was needed.
pub fn spawn(program: &Program<'_>, request: &Spawn<'_>) -> Result<Child> {
    start(request, Body::Program(program))
}

/// Starts a child that goes on with `body` in a copy of our memory, and ends if that comes back. Only what `request` names
/// of our descriptors is open in it, so nothing that owns another one may be dropped in there.
///
/// # Errors
/// As [`spawn`]; EBUSY if this process has other threads: what they hold locked would stay so in the copy.
pub fn fork(request: &Spawn<'_>, body: &mut dyn FnMut()) -> Result<Child> {
    if !process::is_single_threaded() {
        return Err(SysError::new("fork", "there are other threads", Errno::EBUSY));
    }
    start(request, Body::Ours(body))
}

/// What a child does once it is where it should be.
enum Body<'a> {
    Program(&'a Program<'a>),
    Ours(&'a mut dyn FnMut()),
    /// It waits at its gate for the end.
    Nothing,
}

fn start(request: &Spawn<'_>, body: Body<'_>) -> Result<Child> {
    let (image, argv, env) = match &body {
        Body::Program(program) => (program.image.as_raw_fd(), program.argv, program.env),
        Body::Ours(_) | Body::Nothing => (-1, &[][..], &[][..]),
    };
    let (argv, env) = (Strings::new(argv), Strings::new(env));
    let (failures, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).of("pipe2", || "")?;
    let report = fs::duplicate(report.as_fd())?;
    // Sources of standard descriptors are moved out of the way of the targets.
    let moved = request.stdio.map(|fd| fd.filter(|fd| fd.as_raw_fd() < 3).map(fs::duplicate).transpose());
    let [a, b, c] = moved;
    let moved = [a?, b?, c?];
    let raw_fd = |fd: &BorrowedFd<'_>| fd.as_raw_fd();
    let mut keep: Vec<i32> = request.keep.iter().map(raw_fd).collect();
    keep.sort_unstable();
    let tasks: Vec<i32> = request.tasks.iter().map(raw_fd).collect();
    let second = if request.user_namespace.is_some() { request.namespaces } else { Kinds::NONE };
    let prepared = child::Prepared {
        image,
        argv: argv.0.as_ptr(),
        env: env.0.as_ptr(),
        stdio: std::array::from_fn(|i| {
            moved[i].as_ref().map(AsRawFd::as_raw_fd).or(request.stdio[i].map(|f| f.as_raw_fd())).unwrap_or(-1)
        }),
        keep: &keep,
        preserve: request.preserve as i32,
        tasks: &tasks,
        user_namespace: request.user_namespace.map_or(-1, |f| f.as_raw_fd()),
        second: second.0,
        become_root: request.user_namespace.is_some() || request.namespaces.contains(Kinds::USER),
        gate: request.gate.map_or(-1, |g| g.wait.as_raw_fd()),
        away: request.gate.map_or(-1, |g| g.open.as_raw_fd()),
        session: request.session,
        report: report.as_raw_fd(),
    };
    let first = request.namespaces.without(second);
    let (pid, pidfd) = {
        let _home = request.pid_namespace.map(PidNamespace::enter).transpose()?;
        // One that is born inside of a container gets a copy: who is in there must not reach our memory through it.
        let borrows = image >= 0
            && request.namespaces.is_empty()
            && request.pid_namespace.is_none()
            && request.user_namespace.is_none()
            && request.gate.is_none();
        clone(first, request.cgroup, &prepared, body, borrows)?
    };
    drop(report);
    let mut started = Child { pid, pidfd, failures: File::from(failures) };
    if !second.is_empty() {
        started.follow()?;
    }
    Ok(started)
}

impl Child {
    /// The intermediate process tells the number of the real child, our sibling by CLONE_PARENT, and ends.
    fn follow(&mut self) -> Result<()> {
        let mut words = [0u8; 8];
        let told = self.failures.read_exact(&mut words);
        crate::pidfd::wait(self.pidfd.as_fd())?;
        told.of("read", || "intermediate process ended early")?;
        self.pid = child::announced(words).ok_or_else(|| child::failure(words))?;
        self.pidfd = crate::pidfd::open(self.pid)?;
        Ok(())
    }
}

fn clone(
    kinds: Kinds,
    cgroup: Option<BorrowedFd<'_>>,
    prepared: &child::Prepared<'_>,
    body: Body<'_>,
    borrows: bool,
) -> Result<(i32, OwnedFd)> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: kinds.0 | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let blocked = signal::Blocked::all();
    let pid = if borrows && vfork::OFFERED {
        vfork::clone(args, prepared)
    } else {
        let words = [&raw const args as usize, size_of::<CloneArgs>(), 0, 0, 0, 0];
        // SAFETY: no stack is given, so the child runs on a copy of ours (no CLONE_VM). It makes raw system calls on memory
        // prepared here, and runs code of ours only where no other thread was (see `fork`); it never returns.
        let pid = unsafe { raw::call(libc::SYS_clone3, words) };
        if pid == Ok(0) {
            // SAFETY: we are the child; all pointers in `prepared` were made by the parent and are copied with its memory.
            unsafe {
                match body {
                    Body::Program(_) | Body::Nothing => child::run(prepared),
                    Body::Ours(body) => {
                        child::arrive(prepared);
                        child::close_others(prepared);
                        body();
                        child::exit()
                    }
                }
            }
        }
        pid
    };
    drop(blocked);
    let pid = pid.of("clone3", || format!("namespaces {:#x}, cgroup {}", kinds.0, cgroup.is_some()))?;
    // SAFETY: CLONE_PIDFD stored a fresh descriptor there.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The pid namespace of this thread's children, changed for a moment.
struct PidNamespace(OwnedFd);

impl PidNamespace {
    fn enter(target: BorrowedFd<'_>) -> Result<PidNamespace> {
        let home = namespace::open(std::path::Path::new("/proc/thread-self/ns/pid"))?;
        namespace::join(target, Kinds::PID)?;
        Ok(PidNamespace(home))
    }
}

impl Drop for PidNamespace {
    fn drop(&mut self) {
        // Our own pid namespace can always be chosen again.
        let back = namespace::join(self.0.as_fd(), Kinds::PID);
        debug_assert!(back.is_ok(), "{back:?}");
    }
}

/// A process that only holds fresh namespaces until it is dropped.
#[derive(Debug)]
pub struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    _gate: OwnedFd,
}

impl Holder {
    /// Fresh namespaces with a process that waits in them.
    pub fn new(kinds: Kinds) -> Result<Holder> {
        let (wait, gate) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).of("pipe2", || "")?;
        let null = [std::ptr::null()];
        let prepared = child::Prepared {
            image: -1,
            argv: null.as_ptr(),
            env: null.as_ptr(),
            stdio: [-1; 3],
            keep: &[],
            preserve: 0,
            tasks: &[],
            user_namespace: -1,
            second: 0,
            become_root: false,
            gate: wait.as_raw_fd(),
            away: gate.as_raw_fd(),
            session: false,
            report: -1,
        };
        let (pid, pidfd) = clone(kinds, None, &prepared, Body::Nothing, false)?;
        Ok(Holder { pid, pidfd, _gate: gate })
    }

    /// Its number in our pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It is our child and unreaped: it can be killed and waited for.
        let _ = crate::pidfd::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = crate::pidfd::wait(self.pidfd.as_fd());
    }
}

/// An error from outside of this module's wording, for the child's reports.
fn broken(call: &'static str, errno: i32) -> SysError {
    SysError::new(call, "in the child, before its program", Errno::from_raw(errno))
}
