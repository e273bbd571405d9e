//! Init: the single thread, of a fresh image or of a copy of the parent, that becomes the container's process.
//!
//! ```text
//! read the work ─▶ join (exec) ─▶ steps ─▶ prepare the process ─▶ Ready ─▶ gate ─▶ hooks, seccomp ─▶ execve
//!        └───────────────┴───────────────── a failure is reported with its step, and init ends
//! ```
//! Nothing is decided here: [`crate::plan`] did. Paths of the container are reached by [`Root`] only.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use crated_sys::{Errno, SysError, fs, mount, namespace, namespace::Kinds, path::Root, process, pty};

use crate::{
    plan::{HookPlan, Step, Work},
    wire::{self, Failure, GO, Report, Sort},
};

mod cgroups;
mod copy;
mod files;
mod mounts;
mod start;

type Done<T = ()> = Result<T, Failure>;

impl From<SysError> for Failure {
    fn from(e: SysError) -> Self {
        let operands: String = e.operands.chars().take(2048).collect();
        Failure { sort: Sort::Step, step: String::new(), call: e.call.to_owned(), operands, errno: e.errno as i32 }
    }
}

/// A refusal of ours, in the shape of a failed call.
fn refuse(call: &str, why: impl Into<String>, errno: Errno) -> Failure {
    Failure { sort: Sort::Step, step: String::new(), call: call.into(), operands: why.into(), errno: errno as i32 }
}

/// Entry of a program that was started as `crated-init init CONTROL WORK`. Never returns.
pub fn init_main() -> ! {
    // Nobody inside may look at us or our descriptors before the program runs.
    let _ = process::set_dumpable(false);
    let number = |i: usize| std::env::args().nth(i).and_then(|a| a.parse::<i32>().ok());
    let Some((control, work)) = number(2).zip(number(3)) else {
        eprintln!("init is started by the runtime, not by hand");
        process::exit_now(2);
    };
    let Ok(control) = process::inherited(control) else { process::exit_now(2) };
    run(&control, read_work(work))
}

/// The same in a copy of the parent's memory, with its descriptor `control`.
pub(crate) fn go_on(control: i32, work: Work) -> ! {
    let _ = process::set_dumpable(false);
    let _ = process::set_name("crated-init");
    // What the parent does about a panic is not for us: an abort could signal the thread that we are a copy of.
    std::panic::set_hook(Box::new(|_| process::exit_now(1)));
    let Ok(control) = process::inherited(control) else { process::exit_now(2) };
    run(&control, Ok(work))
}

fn run(control: &OwnedFd, work: Done<Work>) -> ! {
    let outcome = work.and_then(|work| Init::new(control.as_fd(), work)?.run());
    if let Err(failure) = outcome {
        // If the parent is gone there is nobody left to tell.
        let _ = wire::report(control.as_fd(), &Report::Failed(failure), &[]);
    }
    process::exit_now(1)
}

fn read_work(number: i32) -> Done<Work> {
    let bytes = fs::read_bounded(process::inherited(number)?, 64 << 20)?;
    postcard::from_bytes(&bytes).map_err(|e| refuse("read", format!("work: {e}"), Errno::EBADMSG))
}

struct Init<'a> {
    control: BorrowedFd<'a>,
    work: Work,
    inputs: HashMap<u32, OwnedFd>,
    /// The container's root: of the detached mount first, `/` after the pivot.
    root: Option<Root>,
    /// A procfs of our own, reachable by nobody else.
    procfs: Option<OwnedFd>,
    devpts: Option<OwnedFd>,
    /// Attached once, cloned then: an empty read-only tmpfs and the null device.
    empty: Option<OwnedFd>,
    null: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    /// The directory that was used last to make something in: the next device is mostly its neighbour.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Our number as the parent sees it, for hooks.
    outer_pid: i32,
}

impl<'a> Init<'a> {
    fn new(control: BorrowedFd<'a>, work: Work) -> Done<Self> {
        let mut inputs = HashMap::new();
        for (index, fd) in work.inputs.iter().enumerate() {
            inputs.insert(index as u32, process::inherited(*fd)?);
        }
        process::umask(0);
        Ok(Self {
            control,
            work,
            inputs,
            root: None,
            procfs: None,
            devpts: None,
            empty: None,
            null: None,
            terminal: None,
            parent: None,
            outer_pid: 0,
        })
    }

    fn run(mut self) -> Done {
        if let Some((pidfd, kinds)) = self.work.join {
            let pidfd = process::inherited(pidfd)?;
            namespace::join_process(pidfd.as_fd(), Kinds(kinds)).map_err(|e| named(e.into(), "join the container"))?;
            if Kinds(kinds).contains(Kinds::USER) {
                // Where the map has no 0 we stay nobody, with all capabilities in there.
                let _ = process::set_gid(0).and_then(|()| process::set_uid(0));
            }
            self.root = Some(Root::at(Path::new("/"))?);
        }
        for step in std::mem::take(&mut self.work.steps) {
            self.step(&step).map_err(|f| named(f, &step.name()))?;
        }
        self.finish()
    }

    fn step(&mut self, step: &Step) -> Done {
        if !matches!(step, Step::Device(_) | Step::Symlink { .. }) {
            // A mount may have changed where its path leads.
            self.parent = None;
        }
        match step {
            Step::Join { input, kind } => Ok(namespace::join(self.input(*input)?.as_fd(), Kinds(*kind))?),
            Step::Unshare(kinds) => Ok(namespace::unshare(Kinds(*kinds))?),
            Step::TimeOffsets(offsets) => self.time_offsets(offsets),
            Step::Loopback => Ok(crated_sys::net::loopback_up()?),
            Step::Keyring(name) => keyring(name),
            Step::Hostname(name) => Ok(process::set_hostname(name)?),
            Step::Domainname(name) => Ok(process::set_domainname(name)?),
            Step::Root => self.attach_root(),
            Step::Mount(mount) => self.mount(mount),
            Step::Directory { path } => self.directory(path),
            Step::Device(device) => self.device(device),
            Step::Symlink { target, path, replace } => self.symlink(target, path, *replace),
            Step::Console { size, bind } => self.console(*size, *bind),
            Step::Hooks(hooks) => self.hooks(hooks),
            Step::Pivot { no_pivot } => self.pivot(*no_pivot),
            Step::RootPropagation { flags, recursive } => self.root_propagation(*flags, *recursive),
            Step::Sysctl { key, value } => self.sysctl(key, value),
            Step::ReadonlyRoot => self.readonly_root(),
            Step::ReadonlyPath(path) => self.readonly_path(path),
            Step::MaskPath(path) => self.mask_path(path),
        }
    }

    fn root(&self) -> Done<&Root> {
        self.root.as_ref().ok_or_else(|| refuse("plan", "no root yet", Errno::EINVAL))
    }

    fn input(&mut self, index: u32) -> Done<OwnedFd> {
        self.inputs.remove(&index).ok_or_else(|| refuse("plan", format!("input {index} is missing"), Errno::EINVAL))
    }

    /// A procfs that is attached nowhere: no mount or link of the container can stand in for its files.
    fn procfs(&mut self) -> Done<BorrowedFd<'_>> {
        if self.procfs.is_none() {
            let context = mount::FsContext::open("proc")?;
            self.procfs = Some(context.mount(mount::attr::NOSUID | mount::attr::NODEV | mount::attr::NOEXEC)?);
        }
        self.procfs.as_ref().map(AsFd::as_fd).ok_or_else(|| refuse("plan", "no procfs", Errno::EINVAL))
    }

    fn write_proc(&mut self, path: &str, value: &str) -> Done {
        let procfs = self.procfs()?;
        let file = crated_sys::path::open_beneath(procfs, Path::new(path), crated_sys::OFlag::O_WRONLY)?;
        Ok(fs::write_once(file.as_fd(), value.as_bytes())?)
    }

    fn time_offsets(&mut self, offsets: &[(String, i64, u32)]) -> Done {
        // Written while nobody is in the namespace yet; we get into it by execve (Linux 6.3).
        let text: String = offsets.iter().map(|(clock, s, ns)| format!("{clock} {s} {ns}\n")).collect();
        let pid = process::pid();
        self.write_proc(&format!("{pid}/timens_offsets"), &text)
    }

    fn console(&mut self, size: Option<(u16, u16)>, bind: bool) -> Done {
        let pair = match &self.devpts {
            Some(devpts) => pty::open_in(devpts.as_fd())?,
            None => {
                let flags = crated_sys::OFlag::O_PATH | crated_sys::OFlag::O_DIRECTORY;
                pty::open_in(self.root()?.open(Path::new("/dev/pts"), flags, 0)?.as_fd())?
            }
        };
        if let Some((columns, rows)) = size {
            pty::set_size(pair.slave.as_fd(), columns, rows)?;
        }
        let uid = self.work.process.uid;
        if uid != 0 {
            fs::chown_at(pair.slave.as_fd(), Path::new(""), Some(uid), None)?;
        }
        if bind {
            let target = self.root()?.create_file(Path::new("/dev/console"), 0o600)?;
            let tree = mount::clone_tree(pair.slave.as_fd(), Path::new(""), mount::Depth::Single)?;
            mount::move_onto(tree.as_fd(), target.as_fd())?;
        }
        self.tell(&Report::Console, &[pair.master.as_fd()])?;
        self.terminal = Some(pair.slave);
        Ok(())
    }

    fn hooks(&mut self, hooks: &[HookPlan]) -> Done {
        self.tell(&Report::HooksDue, &[])?;
        self.wait(self.control)?;
        run_hooks(hooks, &self.work.state, "creating", self.outer_pid)
    }

    fn tell(&self, report: &Report, fds: &[BorrowedFd<'_>]) -> Done {
        wire::report(self.control, report, fds).map_err(|e| refuse("sendmsg", e.to_string(), Errno::EPIPE))
    }

    /// Waits for the parent's word; without a parent there is nothing to go on for.
    fn wait(&mut self, gate: BorrowedFd<'_>) -> Done {
        let mut message = [0u8; 8];
        match crated_sys::socket::receive(gate, &mut message) {
            Ok((n, _)) if n > 0 && message[0] == GO => {
                let [_, a, b, c, d, ..] = message;
                self.outer_pid = i32::from_ne_bytes([a, b, c, d]);
                Ok(())
            }
            _ => process::exit_now(1),
        }
    }
}

fn named(mut failure: Failure, step: &str) -> Failure {
    if failure.step.is_empty() {
        failure.step = step.to_owned();
    }
    failure
}

fn keyring(name: &str) -> Done {
    match process::join_session_keyring(name) {
        Ok(key) => Ok(process::open_keyring_to_search(key)?),
        // A kernel without keyrings, or a seccomp filter around us: nothing to protect.
        Err(e) if matches!(e.errno, Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn run_hooks(hooks: &[HookPlan], state: &str, status: &str, pid: i32) -> Done {
    // They are the host's programs: with a mask as programs expect it.
    let own = process::umask(0o022);
    for hook in hooks {
        crate::hooks::run_one(hook, &crate::hooks::state(state, status, pid)).map_err(|reason| Failure {
            sort: Sort::Hook,
            step: hook.path.clone(),
            call: String::new(),
            operands: reason,
            errno: 0,
        })?;
    }
    process::umask(own);
    Ok(())
}
