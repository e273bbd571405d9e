//! The parent's part of a start: inputs, clone, maps, and the talk with init until its gate.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use crated_sys::{
    Errno,
    clone::{Child, Gate, Program, Spawn, fork, spawn},
    fs, memfd, mount,
    mount::{Change, Depth, MsFlags},
    namespace::{self, IdMap, Kinds},
    pidfd, poll, process, program, socket,
};

use crate::{
    cgroup::Cgroup,
    error::{OciError, Result, Step},
    init,
    listener::Listener,
    plan::{Input, Maps, ProcessPlan, TreeInput, Work},
    wire::{self, GO, Report},
};

/// How long init may take to get to its gate, if nothing else is said.
const DEADLINE: Duration = Duration::from_secs(60);

/// A process to be prepared.
pub(crate) struct Launch<'a> {
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) work: Work,
    /// Descriptors that `work` names by number.
    pub(crate) keep: Vec<OwnedFd>,
    pub(crate) stdio: [Option<OwnedFd>; 3],
    pub(crate) namespaces: u64,
    pub(crate) join_user: Option<OwnedFd>,
    pub(crate) join_pid: Option<BorrowedFd<'a>>,
    pub(crate) maps: &'a Maps,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) preserve: u32,
    pub(crate) deadline: Option<Duration>,
}

/// A process that waits at its gate.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
}

/// Starts init and follows it to its gate. `hooks` runs when init asks for the runtime's hooks.
pub(crate) fn prepare(mut launch: Launch<'_>, hooks: &mut dyn FnMut(i32) -> Result<()>) -> Result<Prepared> {
    let deadline = launch.deadline.unwrap_or(DEADLINE);
    let process = launch.work.process.clone();
    let (mut child, control) = start(&mut launch)?;
    drop(launch.keep);
    drop(launch.stdio);
    let follow = enter(&child, &control, launch.namespaces, launch.maps, &process)
        .and_then(|()| follow(&mut child, control.as_fd(), deadline, hooks))
        .and_then(|console| dress(child.pid, &process).map(|()| console));
    match follow {
        Ok(console) => Ok(Prepared { pid: child.pid, pidfd: child.pidfd, control, console }),
        Err(error) => {
            // It is our child: it can be killed and must be reaped.
            let _ = pidfd::send_signal(child.pidfd.as_fd(), 9);
            let status = pidfd::wait(child.pidfd.as_fd());
            Err(match (error, status) {
                (OciError::InitEnded { .. }, Ok(status)) => OciError::InitEnded { status: format!("{status:?}") },
                (error, _) => error,
            })
        }
    }
}

/// Where our own image is sealed and no other thread holds a lock, init is a copy of us, which saves the start of a program;
/// else it is the sealed image, executed.
fn start(launch: &mut Launch<'_>) -> Result<(Child, OwnedFd)> {
    let step = || "start init".to_owned();
    let (ours, theirs) = socket::packet_pair().step(step)?;
    let (ours, theirs) = (fs::duplicate(ours.as_fd()).step(step)?, fs::duplicate(theirs.as_fd()).step(step)?);
    let mut work = std::mem::take(&mut launch.work);
    let tasks = launch.cgroup.join_files()?;
    let tasks: Vec<BorrowedFd<'_>> = tasks.iter().map(AsFd::as_fd).collect();
    let mut keep: Vec<BorrowedFd<'_>> = launch.keep.iter().map(AsFd::as_fd).collect();
    keep.push(theirs.as_fd());
    let mapped = Kinds(launch.namespaces).contains(Kinds::USER);
    let [stdin, stdout, stderr] = &launch.stdio;
    let mut request = Spawn {
        stdio: [stdin, stdout, stderr].map(|fd| fd.as_ref().map(AsFd::as_fd)),
        keep: &keep,
        preserve: launch.preserve,
        namespaces: Kinds(launch.namespaces),
        cgroup: launch.cgroup.dir_fd(),
        tasks: &tasks,
        pid_namespace: launch.join_pid,
        user_namespace: launch.join_user.as_ref().map(AsFd::as_fd),
        gate: mapped.then_some(Gate { wait: theirs.as_fd(), open: ours.as_fd() }),
        session: true,
    };
    if program::is_sealed() {
        let copy = fork(&request, &mut || init::go_on(theirs.as_raw_fd(), std::mem::take(&mut work)));
        match copy {
            Err(error) if error.errno == Errno::EBUSY => {}
            other => return Ok((other.step(step)?, ours)),
        }
    }
    let written = postcard::to_stdvec(&work).map_err(|e| OciError::Protocol(e.to_string()))?;
    let written = memfd::with_bytes("init-work", &written).step(step)?;
    let written = fs::duplicate(written.as_fd()).step(step)?;
    let with_work: Vec<BorrowedFd<'_>> = keep.iter().copied().chain([written.as_fd()]).collect();
    request.keep = &with_work;
    let word = |text: String| CString::new(text).expect("numbers and fixed words hold no NUL");
    let [control, written] = [&theirs, &written].map(|fd| fd.as_raw_fd().to_string());
    let argv = ["crated-init".to_owned(), "init".to_owned(), control, written].map(word);
    let child = spawn(&Program { image: launch.program, argv: &argv, env: &[] }, &request);
    Ok((child.step(step)?, ours))
}

/// What only the parent may do to the child before its program: id maps, OOM score.
fn enter(child: &Child, control: &OwnedFd, namespaces: u64, maps: &Maps, plan: &ProcessPlan) -> Result<()> {
    if let Some(score) = plan.oom_score_adj {
        process::set_oom_score_adj(child.pid, score).step(|| "OOM score".into())?;
    }
    if Kinds(namespaces).contains(Kinds::USER) {
        namespace::write_maps(child.pid, &id_maps(&maps.uids), &id_maps(&maps.gids)).step(|| "id maps".into())?;
        socket::send(control.as_fd(), &[GO], &[]).step(|| "id maps".into())?;
    }
    Ok(())
}

/// Limits are set from outside and last: init itself must not stumble over them, and raising needs the host's root.
fn dress(pid: i32, plan: &ProcessPlan) -> Result<()> {
    for (resource, soft, hard) in &plan.limits {
        process::set_limit(pid, *resource, *soft, *hard).step(|| "process.rlimits".into())?;
    }
    Ok(())
}

/// Listens to init until it is ready; answers its terminal.
fn follow(
    child: &mut Child,
    control: BorrowedFd<'_>,
    deadline: Duration,
    hooks: &mut dyn FnMut(i32) -> Result<()>,
) -> Result<Option<OwnedFd>> {
    let end = Instant::now() + deadline;
    let mut console = None;
    loop {
        if !poll::readable(control, Some(end.saturating_duration_since(Instant::now())))
            .step(|| "wait for init".into())?
        {
            return Err(OciError::InitLate { seconds: deadline.as_secs() });
        }
        match wire::receive(control)? {
            Some((Report::Ready, _)) => return Ok(console),
            Some((Report::Console, fds)) => console = fds.into_iter().next(),
            Some((Report::HooksDue, _)) => {
                hooks(child.pid)?;
                let [a, b, c, d] = child.pid.to_ne_bytes();
                socket::send(control, &[GO, a, b, c, d], &[]).step(|| "hooks".into())?;
            }
            Some((Report::Failed(failure), _)) => return Err(failure.into()),
            Some((other @ (Report::Executing | Report::Listener), _)) => {
                return Err(OciError::Protocol(format!("{other:?} before ready")));
            }
            None => {
                child.executed().step(|| "start init".into())?;
                return Err(OciError::InitEnded { status: String::new() });
            }
        }
    }
}

/// Opens the gate and answers when the program is executed, or why it is not.
pub(crate) fn release(control: BorrowedFd<'_>, pid: i32, listener: Option<&Listener>) -> Result<()> {
    let [a, b, c, d] = pid.to_ne_bytes();
    if socket::send(control, &[GO, a, b, c, d], &[]).is_err() {
        return Err(OciError::InitEnded { status: "before it was started".into() });
    }
    let mut executing = false;
    loop {
        match wire::receive(control)? {
            Some((Report::Executing, _)) => executing = true,
            Some((Report::Failed(failure), _)) => return Err(failure.into()),
            Some((Report::Listener, fds)) => match (listener, fds.first()) {
                (Some(listener), Some(fd)) => listener.send(fd.as_fd(), pid)?,
                _ => return Err(OciError::Protocol("a listener without a place for it".into())),
            },
            Some((other, _)) => return Err(OciError::Protocol(format!("{other:?} after start"))),
            None if executing => return Ok(()),
            None => return Err(OciError::InitEnded { status: "at its gate".into() }),
        }
    }
}

/// Opens what a plan's steps need, in order. The descriptors are at least 3.
pub(crate) fn inputs(inputs: &[Input], bundle: &Path) -> Result<Vec<OwnedFd>> {
    inputs
        .iter()
        .map(|input| match input {
            Input::Namespace { path, kind } => {
                let step = || format!("namespace {path}");
                let fd = namespace::open(Path::new(path)).step(step)?;
                if namespace::kind(fd.as_fd()).step(step)? != Kinds(*kind) {
                    return Err(OciError::spec("linux.namespaces", format!("{path} is of another type")));
                }
                Ok(fd)
            }
            Input::Tree(tree) => self::tree(tree, bundle).step(|| format!("bind mount of {}", tree.source)),
        })
        .collect()
}

fn tree(input: &TreeInput, bundle: &Path) -> crated_sys::Result<OwnedFd> {
    let depth = if input.recursive { Depth::Recursive } else { Depth::Single };
    let tree = mount::clone_tree(fs::cwd(), &bundle.join(&input.source), depth)?;
    let here = Path::new("");
    for (flags, recursive) in &input.propagation {
        let depth = if *recursive { Depth::Recursive } else { Depth::Single };
        let change = Change { propagation: Some(MsFlags::from_bits_retain(*flags)), ..Change::default() };
        mount::setattr(tree.as_fd(), here, depth, change)?;
    }
    for (set, clear, depth) in
        [(input.set, input.clear, Depth::Single), (input.recursive_set, input.recursive_clear, Depth::Recursive)]
    {
        if set | clear != 0 {
            mount::setattr(tree.as_fd(), here, depth, Change { set, clear, ..Change::default() })?;
        }
    }
    if let Some((maps, recursive)) = &input.idmap {
        let users = namespace::user_with_maps(&id_maps(&maps.uids), &id_maps(&maps.gids))?;
        let depth = if *recursive { Depth::Recursive } else { Depth::Single };
        let change = Change { set: mount::attr::IDMAP, user_namespace: Some(users.as_fd()), ..Change::default() };
        mount::setattr(tree.as_fd(), here, depth, change)?;
    }
    Ok(tree)
}

fn id_maps(maps: &[(u32, u32, u32)]) -> Vec<IdMap> {
    maps.iter().map(|(inside, outside, count)| IdMap { inside: *inside, outside: *outside, count: *count }).collect()
}
