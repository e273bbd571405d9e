//! From a prepared container to the user's program: identity, command, gate, execve.

use std::{
    convert::Infallible,
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use crated_sys::{
    Errno, OFlag, SysError,
    caps::{self, CapSet, Sets},
    exec, fs,
    path::Root,
    process, pty, seccomp, signal,
};

use super::{Done, Init, named, refuse, run_hooks};
use crate::{
    plan::ProcessPlan,
    wire::{self, Failure, Report, Sort},
};

/// Where commands are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Largest passwd file that is read for HOME.
const PASSWD_MAX: u64 = 1 << 20;

impl Init<'_> {
    pub(super) fn finish(mut self) -> Done {
        let mut plan = std::mem::take(&mut self.work.process);
        self.terminal().map_err(|f| named(f, "terminal"))?;
        scheduling(&plan).map_err(|f| named(f, "scheduling"))?;
        self.labels(&plan).map_err(|f| named(f, "security labels"))?;
        if plan.no_new_privileges {
            process::set_no_new_privs()?;
        }
        if !plan.env.iter().any(|e| e.starts_with("HOME=")) {
            let home = self.home(plan.uid);
            plan.env.push(format!("HOME={home}"));
        }
        self.identity(&plan).map_err(|f| named(f, "user, capabilities and working directory"))?;
        let command = find(&plan)?;
        let argv = strings(&plan.args)?;
        let env = strings(&plan.env)?;
        let filter = plan.seccomp.as_ref().map(crate::seccomp::Program::filter).unwrap_or_default();
        self.tell(&Report::Ready, &[])?;
        let control = self.gate()?;
        let socket = control.as_ref().map_or(self.control, AsFd::as_fd);
        self.go(&plan, &filter, (&command, &argv, &env), socket)
    }

    /// Waits to be started: on the control socket, or for whoever connects to the listening one.
    fn gate(&mut self) -> Done<Option<OwnedFd>> {
        let Some(listener) = self.work.gate else {
            self.wait(self.control)?;
            return Ok(None);
        };
        let listener = process::inherited(listener)?;
        loop {
            let peer = crated_sys::socket::accept(listener.as_fd())?;
            let mut byte = [0u8; 8];
            // Someone who hangs up without a word did not start us.
            if matches!(crated_sys::socket::receive(peer.as_fd(), &mut byte), Ok((n, _)) if n > 0 && byte[0] == wire::GO)
            {
                return Ok(Some(peer));
            }
        }
    }

    fn go(
        &self,
        plan: &ProcessPlan,
        filter: &[seccomp::Instruction],
        program: (&Path, &[CString], &[CString]),
        socket: std::os::fd::BorrowedFd<'_>,
    ) -> Done {
        let (command, argv, env) = program;
        let attempt = || -> Done<Infallible> {
            run_hooks(&plan.start_hooks, &self.work.state, "created", self.outer_pid)?;
            process::close_on_exec_from(3 + plan.preserve_fds)?;
            signal::reset_all()?;
            affinity(&plan.affinity.1)?;
            send(socket, &Report::Executing, &[])?;
            if let Some(seccomp) = &plan.seccomp {
                let listener = seccomp::load(filter, seccomp.flags).map_err(|e| named(e.into(), "seccomp"))?;
                if let Some(listener) = listener {
                    send(socket, &Report::Listener, &[listener.as_fd()])?;
                }
            }
            Err(executed(&plan.args[0], exec::execve(command, argv, env)))
        };
        let Err(failure) = attempt();
        let _ = send(socket, &Report::Failed(failure.clone()), &[]);
        process::exit_now(if failure.sort == Sort::NotFound { 127 } else { 126 })
    }

    fn terminal(&mut self) -> Done {
        let Some(slave) = self.terminal.take() else { return Ok(()) };
        pty::make_controlling(slave.as_fd())?;
        for number in 0..3 {
            process::set_standard(slave.as_fd(), number)?;
        }
        Ok(())
    }

    /// Labels go through a procfs of our own: a container's /proc may lie (CVE-2025-52881).
    fn labels(&mut self, plan: &ProcessPlan) -> Done {
        let pid = process::pid();
        if let Some(profile) = &plan.apparmor {
            let value = format!("exec {profile}");
            let done = self.write_proc(&format!("{pid}/attr/apparmor/exec"), &value);
            if done.as_ref().is_err_and(|f| f.errno == Errno::ENOENT as i32) {
                self.write_proc(&format!("{pid}/attr/exec"), &value)?;
            } else {
                done?;
            }
        }
        if let Some(label) = &plan.selinux {
            self.write_proc(&format!("{pid}/attr/exec"), label)?;
        }
        Ok(())
    }

    /// The user's home by the container's passwd, `/` without.
    fn home(&self, uid: u32) -> String {
        let text =
            self.root.as_ref().and_then(|r| r.read(Path::new("/etc/passwd"), PASSWD_MAX).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text
            .lines()
            .map(|l| l.split(':').collect::<Vec<_>>())
            .find(|f| f.get(2).and_then(|u| u.parse().ok()) == Some(uid));
        // A name with a line break or NUL cannot be in a line, a colon cannot be in a field: nothing can be smuggled in.
        line.and_then(|f| f.get(5).filter(|h| h.starts_with('/')).map(|h| (*h).to_owned()))
            .unwrap_or_else(|| "/".into())
    }

    fn identity(&self, plan: &ProcessPlan) -> Done {
        let root = Root::at(Path::new("/"))?;
        let enter = || -> crated_sys::Result<()> {
            let dir = root.open(Path::new(&plan.cwd), OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
            process::fchdir(dir.as_fd())
        };
        // As root first, for directories that the user may not enter; as the user then, for file systems where root may not.
        let entered = enter();
        let sets = plan.capabilities;
        caps::limit_bounding(CapSet(sets.bounding))?;
        process::set_keep_capabilities(true)?;
        process::set_groups(&plan.groups)?;
        process::set_gid(plan.gid)?;
        process::set_uid(plan.uid)?;
        process::set_keep_capabilities(false)?;
        if let Err(error) = entered {
            enter().map_err(|_| error)?;
        }
        let cwd = process::getcwd()?;
        if !cwd.starts_with('/') {
            // A directory outside of the root (CVE-2024-21626).
            return Err(refuse("chdir", format!("{} leads out of the container", plan.cwd), Errno::EPERM));
        }
        process::umask(plan.umask.unwrap_or(0o022));
        // Loading a filter without no_new_privs needs CAP_SYS_ADMIN; execve takes it away again.
        let extra = if plan.seccomp.is_some() && !plan.no_new_privileges { CapSet::SYS_ADMIN } else { CapSet(0) };
        caps::set(Sets {
            effective: CapSet(sets.effective).union(extra),
            permitted: CapSet(sets.permitted).union(extra),
            inheritable: CapSet(sets.inheritable),
        })?;
        Ok(caps::set_ambient(CapSet(sets.ambient))?)
    }
}

fn send(socket: std::os::fd::BorrowedFd<'_>, report: &Report, fds: &[std::os::fd::BorrowedFd<'_>]) -> Done {
    wire::report(socket, report, fds).map_err(|e| refuse("sendmsg", e.to_string(), Errno::EPIPE))
}

fn scheduling(plan: &ProcessPlan) -> Done {
    affinity(&plan.affinity.0)?;
    if let Some(s) = &plan.scheduler {
        process::set_scheduler(
            0,
            process::SchedAttr {
                policy: s.policy,
                flags: s.flags,
                nice: s.nice,
                priority: s.priority,
                runtime: s.runtime,
                deadline: s.deadline,
                period: s.period,
                ..process::SchedAttr::default()
            },
        )?;
    }
    if let Some((class, level)) = plan.io_priority {
        process::set_io_priority(0, class, level)?;
    }
    if let Some(persona) = plan.personality {
        process::set_personality(persona)?;
    }
    Ok(())
}

fn affinity(cpus: &[u32]) -> Done {
    if cpus.is_empty() {
        return Ok(());
    }
    let cpus: Vec<usize> = cpus.iter().map(|c| *c as usize).collect();
    Ok(process::set_affinity(0, &cpus)?)
}

fn strings(texts: &[String]) -> Done<Vec<CString>> {
    let one = |t: &String| {
        CString::new(t.as_bytes()).map_err(|_| refuse("execve", "an argument holds a NUL byte", Errno::EINVAL))
    };
    texts.iter().map(one).collect()
}

/// The command's file, as the user, looked up in the environment's PATH if it is a bare name.
fn find(plan: &ProcessPlan) -> Done<PathBuf> {
    let command = &plan.args[0];
    if command.contains('/') {
        let path = PathBuf::from(command);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(e) => Err(executed(command, Err(e))),
        };
    }
    let search = plan.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for dir in search.split(':') {
        let path = Path::new(if dir.is_empty() { "." } else { dir }).join(command);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.errno == Errno::EACCES => denied = Some(e),
            Err(_) => {}
        }
    }
    match denied {
        Some(e) => Err(executed(command, Err(e))),
        None => Err(Failure {
            sort: Sort::NotFound,
            step: command.clone(),
            call: "execve".into(),
            operands: "executable file not found in $PATH".into(),
            errno: Errno::ENOENT as i32,
        }),
    }
}

fn executable(path: &Path) -> crated_sys::Result<()> {
    process::may_execute(path)?;
    let handle = fs::open(path, OFlag::O_PATH, 0)?;
    if fs::stat(handle.as_fd())?.is_dir() {
        return Err(SysError::new("execve", path.display(), Errno::EISDIR));
    }
    Ok(())
}

/// What a failed execve means to the one who gave the command.
fn executed(command: &str, outcome: Result<Infallible, SysError>) -> Failure {
    let Err(error) = outcome;
    let missing = matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR);
    let reason = match error.errno {
        Errno::ENOENT | Errno::ENOTDIR => "no such file or directory",
        Errno::EACCES => "permission denied",
        Errno::ENOEXEC => "exec format error",
        Errno::EISDIR => "is a directory",
        Errno::ELOOP => "too many levels of symbolic links",
        other => other.desc(),
    };
    Failure {
        sort: if missing { Sort::NotFound } else { Sort::NotExecutable },
        step: command.to_owned(),
        call: error.call.to_owned(),
        operands: reason.to_owned(),
        errno: error.errno as i32,
    }
}
