//! A container: init and its execs over one handle of the runtime.

use crate::exit::Exit;
use crate::io::{Addresses, Io};
use crate::log;
use crate::process::{Action, Process, State};
use crate::runtime::{self, Runtime};
use crated_oci::cgroup::OomWatch;
use crated_sys::pidfd;
use crated_types::{Error, Fault, Kind, Result};
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const SIGKILL: i32 = 9;
/// How long a process whose program could not be executed may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// An exec and what it is made of until it is started.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) process: Process,
    spec: Option<(Box<ProcessSpec>, crated_oci::Stdio)>,
}

/// A container that the shim keeps.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    handle: crated_oci::Container,
    pub(crate) init: Process,
    pub(crate) execs: BTreeMap<String, Exec>,
    /// Its processes end with init.
    own_pids: bool,
    pub(crate) oom: Option<OomWatch>,
    /// Processes killed for lack of memory, as far as it was told.
    pub(crate) oom_kills: u64,
    /// Init has ended, but execs have not yet been seen to.
    pub(crate) pending: Option<Exit>,
}

impl Container {
    /// Takes over what the runtime made.
    pub(crate) fn new(
        id: &str,
        bundle: PathBuf,
        mut handle: crated_oci::Container,
        (addresses, io): (Addresses, Io),
        own_pids: bool,
    ) -> Result<Self> {
        let mut init = Process::new(addresses, io);
        init.pid = handle.pid().cast_unsigned();
        init.pidfd = Some(handle.pidfd().try_clone_to_owned().map_err(|error| Error::os("dup pidfd", error))?);
        let console = handle.take_console();
        if let Some(io) = &mut init.io {
            io.run(console)?;
        }
        // Not every host has the controller, and not every cgroup its files.
        let oom = handle.cgroup().oom().inspect_err(|error| log::debug(format_args!("oom: {error}"))).ok();
        let (execs, pending) = (BTreeMap::new(), None);
        Ok(Self { id: id.into(), bundle, handle, init, execs, own_pids, oom, oom_kills: 0, pending })
    }

    /// Init for an empty exec id, else the exec.
    ///
    /// # Errors
    /// NotFound where there is no such exec.
    pub(crate) fn process(&mut self, exec: &str) -> Result<&mut Process> {
        if exec.is_empty() {
            return Ok(&mut self.init);
        }
        match self.execs.get_mut(exec) {
            Some(exec) => Ok(&mut exec.process),
            None => Err(Error::new(Fault::NotFound, format!("process does not exist {exec}")).on(Kind::Exec, exec)),
        }
    }

    /// The exec id of a pid; empty for init.
    pub(crate) fn find(&self, pid: u32) -> Option<&str> {
        if self.init.pid == pid && self.init.exit.is_none() {
            return Some("");
        }
        let is = |exec: &&Exec| exec.process.pid == pid && exec.process.exit.is_none();
        self.execs.iter().find(|(_, exec)| is(exec)).map(|(id, _)| id.as_str())
    }

    /// Opens init's gate.
    pub(crate) fn start(&mut self, runtime: &Runtime) -> Result<u32> {
        self.init.state.allows(Action::Start)?;
        if let Err(error) = self.handle.start() {
            let error = runtime.failed("create", error);
            fail(&mut self.init, &error);
            return Err(error);
        }
        self.init.state = State::Running;
        Ok(self.init.pid)
    }

    /// Remembers an exec, to be started.
    pub(crate) fn add_exec(
        &mut self,
        id: &str,
        spec: ProcessSpec,
        addresses: Addresses,
        (io, stdio): (Io, crated_oci::Stdio),
    ) {
        let process = Process::new(addresses, io);
        self.execs.insert(id.into(), Exec { process, spec: Some((Box::new(spec), stdio)) });
    }

    /// Whether an exec of this id may be added.
    pub(crate) fn check_exec(&self, id: &str) -> Result<()> {
        self.init.state.allows(Action::Exec)?;
        if self.execs.contains_key(id) {
            return Err(Error::already_exists(Kind::Exec, id));
        }
        Ok(())
    }

    /// Runs an exec.
    pub(crate) fn start_exec(&mut self, id: &str, runtime: &Runtime) -> Result<u32> {
        if self.init.state == State::Stopped || self.pending.is_some() {
            let text = format!("container {} init process is not running", self.id);
            return Err(Error::new(Fault::Precondition, text));
        }
        if self.init.state == State::Paused {
            return self.init.state.allows(Action::Exec).map(|()| 0);
        }
        let Some(exec) = self.execs.get_mut(id) else { return self.process(id).map(|process| process.pid) };
        exec.process.state.allows(Action::Start)?;
        let Some((spec, stdio)) = exec.spec.take() else { return State::Running.allows(Action::Start).map(|()| 0) };
        let process = &mut exec.process;
        let mut made = runtime.exec(&self.handle, &spec, stdio).inspect_err(|error| fail(process, error))?;
        process.pid = made.pid().cast_unsigned();
        process.pidfd = made.pidfd().try_clone_to_owned().ok();
        if let Some(io) = &mut process.io {
            io.run(made.take_console())?;
        }
        if let Err(error) = made.start() {
            let error = runtime.failed("exec", error);
            fail(process, &error);
            return Err(error);
        }
        process.state = State::Running;
        Ok(process.pid)
    }

    /// Sends a signal.
    pub(crate) fn kill(&mut self, exec: &str, signal: i32, all: bool) -> Result<()> {
        let process = self.process(exec)?;
        process.check_signal()?;
        if all && exec.is_empty() {
            self.handle.kill(signal, true).map_err(Error::from)?;
        } else {
            let Some(pidfd) = &process.pidfd else { return Err(finished()) };
            match pidfd::send_signal(pidfd.as_fd(), signal) {
                Err(error) if error.errno == crated_sys::Errno::ESRCH => return Err(finished()),
                other => other.map_err(|error| Error::os("kill", error.into()))?,
            }
        }
        if signal == SIGKILL && self.init.state == State::Paused {
            // A frozen process of cgroup v1 dies only when it is thawed.
            let _ = self.handle.resume();
            self.init.state = State::Running;
        }
        Ok(())
    }

    /// Stops all processes for a while.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.init.state.allows(Action::Pause)?;
        self.handle.pause().map_err(Error::from)?;
        self.init.state = State::Paused;
        Ok(())
    }

    /// Lets them go on.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.init.state.allows(Action::Resume)?;
        self.handle.resume().map_err(Error::from)?;
        self.init.state = State::Running;
        Ok(())
    }

    /// Changes limits.
    pub(crate) fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        self.init.state.allows(Action::Update)?;
        self.handle.update(resources).map_err(Error::from)
    }

    /// All processes with the exec id of those that are one.
    pub(crate) fn pids(&self) -> Result<Vec<(u32, Option<&str>)>> {
        let pids = self.handle.pids().map_err(Error::from)?;
        let named = |pid: u32| self.find(pid).filter(|exec| !exec.is_empty());
        Ok(pids.into_iter().map(|pid| (pid.cast_unsigned(), named(pid.cast_unsigned()))).collect())
    }

    /// Figures of the cgroup.
    pub(crate) fn stats(&self) -> Result<crated_oci::cgroup::Metrics> {
        self.handle.cgroup().stats().map_err(runtime::cgroup)
    }

    /// Kills, so far ungathered, processes for lack of memory.
    pub(crate) fn new_oom_kills(&mut self) -> bool {
        let kills = self.oom.as_ref().and_then(|oom| oom.kills().ok()).unwrap_or(0);
        let more = kills > self.oom_kills;
        self.oom_kills = self.oom_kills.max(kills);
        more
    }

    /// Init has ended: what is left of a container without a pid namespace of its own ends, too.
    pub(crate) fn end_others(&self) {
        if !self.own_pids
            && let Err(error) = self.handle.kill(SIGKILL, true)
        {
            log::warn(format_args!("{}: processes stay behind init: {error}", self.id));
        }
    }

    /// Whether an exec is still to be seen ending.
    pub(crate) fn has_running_execs(&self) -> bool {
        self.execs.values().any(|exec| exec.process.pid != 0 && exec.process.exit.is_none())
    }

    /// Takes away all of it in the kernel. May be called again after a failure.
    pub(crate) fn destroy(&mut self) -> Result<()> {
        self.handle.destroy().map_err(Error::from)
    }
}

fn finished() -> Error {
    Error::new(Fault::NotFound, "process already finished")
}

/// A process whose program could not be run: it ends with the status that shells give.
fn fail(process: &mut Process, error: &Error) {
    if let Some(pidfd) = &process.pidfd {
        // Whoever reaps it, here or in the runtime: it must be gone.
        let _ = crated_sys::poll::readable(pidfd.as_fd(), Some(PATIENCE));
        let _ = pidfd::try_wait(pidfd.as_fd());
    }
    let status = match error.fault() {
        Fault::CommandNotFound => 127,
        Fault::CommandNotExecutable => 126,
        _ => 128,
    };
    process.ended(Exit { status, at: SystemTime::now(), oom_killed: false });
}
