//! A container and the processes in it, as the process that made them holds them.
//!
//! ```text
//! create ─▶ created (init waits at its gate) ─start─▶ running ─▶ stopped ─destroy─▶ gone
//!                                              └ exec, pause, resume, update, kill
//! ```

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use crated_sys::{Errno, fs, namespace::Kinds, pidfd};
use oci_spec::runtime::{Hook, LinuxResources, Process, Spec};

use crate::{
    cgroup::{Cgroup, CgroupPath},
    error::{OciError, Result, Step},
    hooks,
    listener::Listener,
    plan::{self, Facts, HookPlan, Maps, Step as PlanStep, Work},
    rootfs::{self, Opened, Rootfs},
    spawn::{self, Launch, Prepared},
    stdio::{self, Stdio},
};

/// How long a killed init may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a container is made of.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Its id, for messages, hooks, its cgroup and its keyring.
    pub id: &'a str,
    /// The bundle's folder.
    pub bundle: &'a Path,
    /// The spec.
    pub spec: &'a Spec,
    /// The root file system.
    pub rootfs: Rootfs,
    /// Standard streams of the process.
    pub stdio: Stdio,
    /// Sealed image that runs [`crate::init_main`] when its first argument is `init`.
    pub program: BorrowedFd<'a>,
    /// Choices.
    pub options: RuntimeOptions,
}

/// Choices of the caller.
#[derive(Debug, Default)]
pub struct RuntimeOptions {
    /// chroot instead of pivot_root, for hosts whose root is a ramdisk.
    pub no_pivot_root: bool,
    /// Stay in the session keyring of the caller.
    pub no_new_keyring: bool,
    /// `linux.cgroupsPath` is `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// So many descriptors from 3 on are handed to the process.
    pub preserve_fds: u32,
    /// How long init may take to get to its gate; 60 s if not given.
    pub deadline: Option<Duration>,
    /// A listening packet socket that is the gate, for a caller that ends before the container is started.
    pub gate: Option<OwnedFd>,
}

/// What later calls need of the spec.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facets {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) state: String,
    pub(crate) namespaces: u64,
    pub(crate) maps: Maps,
    pub(crate) seccomp: Option<crate::seccomp::Program>,
    /// Where the descriptor of seccomp's notifications goes, and what is told with it.
    pub(crate) listener: Option<Listener>,
    pub(crate) keyring: bool,
    pub(crate) poststart: Vec<HookPlan>,
    pub(crate) poststop: Vec<HookPlan>,
}

/// A created, running or stopped container.
#[derive(Debug)]
pub struct Container {
    pub(crate) facets: Facets,
    pid: i32,
    pidfd: OwnedFd,
    control: Option<OwnedFd>,
    console: Option<OwnedFd>,
    cgroup: Cgroup,
    destroyed: bool,
}

impl Container {
    /// Makes a container whose init waits at its gate. On failure nothing is left.
    ///
    /// # Errors
    /// The field, step or hook that failed; a missing command already here.
    pub fn create(request: CreateRequest<'_>) -> Result<Container> {
        let spec = request.spec;
        let mut facts = Facts { id: request.id.to_owned(), ..host_facts() };
        facts.no_pivot_root = request.options.no_pivot_root;
        facts.no_new_keyring = request.options.no_new_keyring;
        facts.root_given = matches!(request.rootfs, Rootfs::Mounts(_) | Rootfs::Path(_));
        let mut plan = plan::compile(spec, &facts)?;
        plan.process.preserve_fds = request.options.preserve_fds;
        set_terminal(&mut plan, &request.stdio);
        let state = base_state(request.id, request.bundle, spec);
        let facets = Facets::of(request.id, request.bundle, state, spec, &plan, request.options.no_new_keyring);
        let linux = spec.linux().as_ref();
        let path = CgroupPath::new(linux.and_then(|l| l.cgroups_path().as_deref()), request.id)?;
        let cgroup = Cgroup::create(&path, linux.and_then(|l| l.resources().as_ref()))?;
        match launch(request, plan, &cgroup, &facets) {
            Ok(prepared) => Ok(Container {
                facets,
                pid: prepared.pid,
                pidfd: prepared.pidfd,
                control: Some(prepared.control),
                console: prepared.console,
                cgroup,
                destroyed: false,
            }),
            Err(error) => {
                let _ = cgroup.kill_all(9);
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// A container that some other process made; `pidfd` must be its init's.
    pub(crate) fn adopt(facets: Facets, pid: i32, pidfd: OwnedFd, cgroup: Cgroup) -> Container {
        Container { facets, pid, pidfd, control: None, console: None, cgroup, destroyed: false }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.facets.id
    }

    /// Its init's number in our pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its init; reap it with [`crated_sys::pidfd::try_wait`].
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master of its terminal, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Opens the gate; answers when the user's program is executed, or why it is not (init has ended then).
    pub fn start(&mut self) -> Result<()> {
        let control = self.control.take().ok_or_else(|| self.state_error("started", "start"))?;
        spawn::release(control.as_fd(), self.pid, self.facets.listener.as_ref()).inspect_err(|_| {
            // Whatever it was, the program must not run half prepared.
            let _ = pidfd::send_signal(self.pidfd.as_fd(), 9);
        })?;
        let state = hooks::state(&self.facets.state, "running", self.pid);
        hooks::run("poststart", &self.facets.poststart, &state).inspect_err(|_| {
            // The container of a failed hook does not go on (runtime-spec runtime.md §Lifecycle).
            let _ = self.kill(9, false);
        })
    }

    /// Prepares another process in the container; it waits at its gate. One that is not wanted any more is dropped: it ends,
    /// and wants to be reaped.
    pub fn exec(&self, process: &Process, stdio: Stdio, program: BorrowedFd<'_>) -> Result<ExecProcess> {
        if self.cgroup.is_frozen().unwrap_or(false) {
            return Err(self.state_error("paused", "exec"));
        }
        self.exec_with(process, stdio, program, 0)
    }

    /// As [`Container::exec`], handing on so many descriptors from 3.
    pub fn exec_with(
        &self,
        process: &Process,
        stdio: Stdio,
        program: BorrowedFd<'_>,
        preserve: u32,
    ) -> Result<ExecProcess> {
        let facts = Facts { id: self.facets.id.clone(), ..host_facts() };
        let mut plan = plan::process(process, &facts)?;
        plan.seccomp = self.facets.seccomp.clone();
        plan.terminal = stdio.terminal().is_some();
        plan.preserve_fds = preserve;
        let mut steps = Vec::new();
        if self.facets.keyring {
            steps.push(PlanStep::Keyring(format!("_ses.{}", self.facets.id)));
        }
        if let Some(size) = stdio.terminal() {
            let asked = process.console_size().map(|s| (s.width() as u16, s.height() as u16));
            steps.push(PlanStep::Console { size: size.or(asked).filter(|s| *s != (0, 0)), bind: false });
        }
        let handle = fs::duplicate(self.pidfd.as_fd()).step(|| "exec".into())?;
        let kinds = Kinds(self.facets.namespaces).without(Kinds::PID);
        let streams = stdio.open()?;
        self.facets.own(&streams, plan.uid);
        let work = Work {
            steps,
            process: plan,
            join: Some((handle.as_raw_fd(), kinds.0)),
            bundle: self.facets.bundle.to_string_lossy().into_owned(),
            state: self.facets.state.clone(),
            ..Work::default()
        };
        let own_pids = Kinds(self.facets.namespaces).contains(Kinds::PID);
        let launch = Launch {
            program,
            work,
            keep: vec![handle],
            stdio: streams,
            namespaces: 0,
            join_user: None,
            join_pid: own_pids.then_some(self.pidfd.as_fd()),
            maps: &Maps::default(),
            cgroup: &self.cgroup,
            preserve,
            deadline: None,
        };
        let prepared = spawn::prepare(launch, &mut |_| Ok(())).map_err(|error| match error.errno() {
            Some(Errno::ESRCH) => self.state_error("stopped", "exec"),
            _ => error,
        })?;
        Ok(ExecProcess {
            listener: self.facets.listener.clone(),
            prepared: Some(prepared.control),
            pid: prepared.pid,
            pidfd: prepared.pidfd,
            console: prepared.console,
        })
    }

    /// Sends a signal to init, or to every process of the container.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        if all {
            return Ok(self.cgroup.kill_all(signal)?);
        }
        match pidfd::send_signal(self.pidfd.as_fd(), signal) {
            Err(e) if e.errno == Errno::ESRCH => Err(self.state_error("stopped", "kill")),
            other => other.step(|| format!("kill {}", self.facets.id)),
        }
    }

    /// Stops all its processes.
    pub fn pause(&self) -> Result<()> {
        Ok(self.cgroup.freeze()?)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<()> {
        Ok(self.cgroup.thaw()?)
    }

    /// Changes limits; what is not named stays.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        Ok(self.cgroup.set(resources)?)
    }

    /// All its processes, in our pid namespace.
    pub fn pids(&self) -> Result<Vec<i32>> {
        Ok(self.cgroup.pids()?)
    }

    /// Ends what is left and takes everything away. Can be called again after a failure. The caller reaps the processes of
    /// its execs before: an unreaped one keeps the pid namespace, and with it init, from ending (then an error after 10 s).
    pub fn destroy(&mut self) -> Result<()> {
        if self.destroyed {
            return Ok(());
        }
        self.control = None;
        let _ = pidfd::send_signal(self.pidfd.as_fd(), 9);
        // An init ends only when all that ended in its pid namespace is reaped, so also the caller's unreaped exec children.
        let step = || "wait for init".to_owned();
        if !crated_sys::poll::readable(self.pidfd.as_fd(), Some(PATIENCE)).step(step)? {
            return Err(self.state_error("running after SIGKILL", "destroy"));
        }
        match pidfd::wait(self.pidfd.as_fd()) {
            // Reaped by someone, or not our child: its end is all that counts.
            Err(e) if e.errno == Errno::ECHILD => {}
            other => drop(other.step(step)?),
        }
        // Other processes outlive an init only where the pid namespace is not the container's own.
        if !Kinds(self.facets.namespaces).contains(Kinds::PID) || self.cgroup.pids().is_ok_and(|p| !p.is_empty()) {
            self.cgroup.kill_all(9)?;
        }
        self.cgroup.remove()?;
        self.destroyed = true;
        let state = hooks::state(&self.facets.state, "stopped", 0);
        hooks::run("poststop", &self.facets.poststop, &state)
    }

    fn state_error(&self, state: &str, action: &'static str) -> OciError {
        OciError::State { id: self.facets.id.clone(), state: state.into(), action }
    }
}

/// A process beside init.
#[derive(Debug)]
pub struct ExecProcess {
    listener: Option<Listener>,
    prepared: Option<OwnedFd>,
    pid: i32,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
}

impl ExecProcess {
    /// Its number in our pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The process; reap it with [`crated_sys::pidfd::try_wait`].
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master of its terminal, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Opens the gate; answers when the program is executed, or why it is not (the process has ended then).
    pub fn start(&mut self) -> Result<()> {
        let control = self.prepared.take().ok_or_else(|| OciError::State {
            id: self.pid.to_string(),
            state: "started".into(),
            action: "start",
        })?;
        spawn::release(control.as_fd(), self.pid, self.listener.as_ref()).inspect_err(|_| {
            let _ = pidfd::send_signal(self.pidfd.as_fd(), 9);
        })
    }
}

impl Facets {
    pub(crate) fn of(
        id: &str,
        bundle: &Path,
        state: String,
        spec: &Spec,
        plan: &plan::Plan,
        no_new_keyring: bool,
    ) -> Facets {
        let hooks = spec.hooks().as_ref();
        let list = |l: Option<&Vec<Hook>>| l.map(|h| h.iter().map(plan::hook).collect()).unwrap_or_default();
        let kinds = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let kinds =
            kinds.map_or(Kinds::NONE, |n| n.iter().fold(Kinds::NONE, |a, n| a.with(plan::compile_kind(n.typ()))));
        Facets {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            namespaces: kinds.0,
            maps: plan.maps.clone(),
            seccomp: plan.process.seccomp.clone(),
            listener: Listener::of(spec, &state),
            state,
            keyring: !no_new_keyring,
            poststart: list(hooks.and_then(|h| h.poststart().as_ref())),
            poststop: list(hooks.and_then(|h| h.poststop().as_ref())),
        }
    }

    /// Gives the streams to the process's user, as the host numbers him.
    fn own(&self, streams: &[Option<OwnedFd>; 3], uid: u32) {
        let owner = if self.maps.uids.is_empty() { Some(uid) } else { Maps::outside(&self.maps.uids, uid) };
        if let Some(owner) = owner.filter(|o| *o != 0) {
            stdio::own(streams, owner);
        }
    }
}

/// The state that hooks get (runtime-spec runtime.md §State), without pid.
pub(crate) fn base_state(id: &str, bundle: &Path, spec: &Spec) -> String {
    serde_json::json!({
        "ociVersion": spec.version(),
        "id": id,
        "status": "creating",
        "bundle": bundle,
        "annotations": spec.annotations().clone().unwrap_or_default(),
    })
    .to_string()
}

pub(crate) fn host_facts() -> Facts {
    Facts {
        apparmor: crated_sys::kernel::has_apparmor(),
        selinux: crated_sys::kernel::has_selinux(),
        ..Facts::default()
    }
}

/// Whether there is a terminal is the caller's word, not the spec's: it holds the other end.
fn set_terminal(plan: &mut plan::Plan, stdio: &Stdio) {
    let asked = stdio.terminal();
    plan.process.terminal = asked.is_some();
    match (asked, plan.steps.iter().position(|s| matches!(s, PlanStep::Console { .. }))) {
        (None, Some(at)) => drop(plan.steps.remove(at)),
        (Some(size), Some(at)) => {
            if let (PlanStep::Console { size: slot, .. }, Some(size)) = (&mut plan.steps[at], size) {
                *slot = Some(size);
            }
        }
        (Some(size), None) => {
            let late = |s: &PlanStep| matches!(s, PlanStep::Hooks(_) | PlanStep::Pivot { .. });
            let at = plan.steps.iter().position(late).unwrap_or(plan.steps.len());
            plan.steps.insert(at, PlanStep::Console { size, bind: true });
        }
        (None, None) => {}
    }
}

fn launch(request: CreateRequest<'_>, plan: plan::Plan, cgroup: &Cgroup, facets: &Facets) -> Result<Prepared> {
    let user = Kinds(plan.namespaces).contains(Kinds::USER) || plan.join_user.is_some();
    let mut work = Work {
        steps: plan.steps,
        bundle: request.bundle.to_string_lossy().into_owned(),
        state: facets.state.clone(),
        process: plan.process,
        ..Work::default()
    };
    let mut keep = Vec::new();
    let mut hold = |fd: OwnedFd| -> i32 {
        keep.push(fd);
        keep[keep.len() - 1].as_raw_fd()
    };
    work.inputs = spawn::inputs(&plan.inputs, request.bundle)?.into_iter().map(&mut hold).collect();
    match rootfs::open(&request.rootfs, !user)? {
        Opened::Detached(trees) => work.roots = trees.into_iter().map(|(fd, target)| (hold(fd), target)).collect(),
        Opened::Classic(mounts) => work.classic_roots = mounts,
    }
    work.gate = request.options.gate.map(&mut hold);
    let open = |path: &Option<String>| {
        path.as_ref().map(|p| crated_sys::namespace::open(Path::new(p)).step(|| format!("namespace {p}"))).transpose()
    };
    let (join_user, join_pid) = (open(&plan.join_user)?, open(&plan.join_pid)?);
    let streams = request.stdio.open()?;
    facets.own(&streams, work.process.uid);
    let launch = Launch {
        program: request.program,
        work,
        keep,
        stdio: streams,
        namespaces: plan.namespaces,
        join_user,
        join_pid: join_pid.as_ref().map(AsFd::as_fd),
        maps: &plan.maps,
        cgroup,
        preserve: request.options.preserve_fds,
        deadline: request.options.deadline,
    };
    let hooks = request.spec.hooks().as_ref();
    spawn::prepare(launch, &mut |pid| {
        let list = |l: Option<&Vec<Hook>>| l.map(|h| h.iter().map(plan::hook).collect::<Vec<_>>()).unwrap_or_default();
        let state = hooks::state(&facets.state, "creating", pid);
        #[allow(deprecated, reason = "older callers still use prestart hooks")]
        hooks::run("prestart", &list(hooks.and_then(|h| h.prestart().as_ref())), &state)?;
        hooks::run("createRuntime", &list(hooks.and_then(|h| h.create_runtime().as_ref())), &state)
    })
}
