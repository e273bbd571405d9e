//! create, run, start.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use crated_sys::{pidfd, program, socket};
use oci_spec::runtime::Spec;

use super::{Context, Failed, args, args::Flag, args::Parsed, only_id, store, terminal};
use crate::{
    container::{Container, CreateRequest, RuntimeOptions},
    error::{OciError, Result, Step},
    hooks,
    rootfs::Rootfs,
    spawn,
    stdio::Stdio,
};

const FLAGS: &[Flag] = &[
    Flag::value_short("bundle", 'b'),
    Flag::value("console-socket"),
    Flag::value("pidfd-socket"),
    Flag::value("pid-file"),
    Flag::value("preserve-fds"),
    Flag::switch("no-pivot"),
    Flag::switch("no-new-keyring"),
    Flag::switch("no-subreaper"),
    Flag::switch("keep"),
    Flag::short("detach", 'd'),
];

struct Asked {
    id: String,
    bundle: PathBuf,
    spec: Spec,
    dir: PathBuf,
    parsed: Parsed,
}

pub(super) fn create(context: &Context, words: &[String]) -> Result<u8, Failed> {
    let asked = ask(context, words)?;
    let outcome = make(context, &asked, true)
        .and_then(|mut container| hand_over(&mut container, &asked).inspect_err(|_| drop(container.destroy())));
    if outcome.is_err() {
        let _ = std::fs::remove_dir_all(&asked.dir);
    }
    outcome?;
    Ok(0)
}

pub(super) fn start(context: &Context, words: &[String]) -> Result<u8, Failed> {
    let parsed = args::parse(words, &[], args::Stop::AtDashes)?;
    let mut known = store::open(&context.root, only_id(&parsed)?)?;
    if known.status() != store::Status::Created {
        return Err(known.wrong_state("start").into());
    }
    let gate = known.gate();
    let container = known.container("start")?;
    let control = socket::connect(&gate).step(|| "open the gate".into())?;
    let outcome = spawn::release(control.as_fd(), container.pid(), container.facets.listener.as_ref());
    // Open or broken, it is no gate any more.
    let _ = std::fs::remove_file(&gate);
    outcome?;
    let state = hooks::state(&container.facets.state, "running", container.pid());
    hooks::run("poststart", &container.facets.poststart, &state).inspect_err(|_| drop(container.kill(9, false)))?;
    Ok(0)
}

pub(super) fn run(context: &Context, words: &[String]) -> Result<u8, Failed> {
    let asked = ask(context, words)?;
    let detach = asked.parsed.has("detach");
    if asked.parsed.has("console-socket") && !detach {
        let _ = std::fs::remove_dir_all(&asked.dir);
        return Err(OciError::spec("--console-socket", "needs --detach").into());
    }
    let outcome = make(context, &asked, false).and_then(|mut container| {
        let done = go(&mut container, &asked, detach);
        if done.is_err() || !detach && !asked.parsed.has("keep") {
            container.destroy()?;
        }
        done
    });
    if outcome.is_err() || !detach && !asked.parsed.has("keep") {
        let _ = std::fs::remove_dir_all(&asked.dir);
    }
    Ok(outcome?)
}

fn go(container: &mut Container, asked: &Asked, detach: bool) -> Result<u8> {
    let session = if detach {
        hand_over(container, asked)?;
        None
    } else {
        save(container, asked)?;
        Some(terminal::Session::open(container.take_console())?)
    };
    container.start()?;
    match session {
        None => Ok(0),
        Some(session) => Ok(session.follow(container.pidfd())?),
    }
}

fn ask(context: &Context, words: &[String]) -> Result<Asked> {
    let parsed = args::parse(words, FLAGS, args::Stop::AtDashes)?;
    let id = only_id(&parsed)?.to_owned();
    store::check_id(&id)?;
    let given = PathBuf::from(parsed.get("bundle").filter(|b| !b.is_empty()).unwrap_or("."));
    let bundle = std::fs::canonicalize(&given).map_err(|e| OciError::File { path: given, reason: e.to_string() })?;
    let spec = crate::spec::load(&bundle)?;
    let dir = store::reserve(&context.root, &id, &bundle)?;
    Ok(Asked { id, bundle, spec, dir, parsed })
}

fn make(context: &Context, asked: &Asked, gated: bool) -> Result<Container> {
    let program = program::sealed_self().step(|| "seal the program".into())?;
    let root = asked.spec.root().as_ref().ok_or_else(|| OciError::spec("root", "missing"))?;
    let terminal = asked.spec.process().as_ref().is_some_and(|p| p.terminal().unwrap_or(false));
    if gated && terminal != asked.parsed.get("console-socket").is_some() {
        let why =
            if terminal { "needed, for process.terminal is true" } else { "given, yet process.terminal is false" };
        return Err(OciError::spec("--console-socket", why));
    }
    let gate = gated.then(|| socket::listen(&asked.dir.join("gate")).step(|| "make the gate".into())).transpose()?;
    Container::create(CreateRequest {
        id: &asked.id,
        bundle: &asked.bundle,
        spec: &asked.spec,
        rootfs: Rootfs::Path(asked.bundle.join(root.path())),
        stdio: if terminal { Stdio::Terminal { size: None } } else { Stdio::Inherit },
        program: program.as_fd(),
        options: RuntimeOptions {
            no_pivot_root: asked.parsed.has("no-pivot"),
            no_new_keyring: asked.parsed.has("no-new-keyring"),
            systemd_cgroup: context.systemd_cgroup,
            preserve_fds: preserved(&asked.parsed)?,
            deadline: None,
            gate,
        },
    })
}

/// `--preserve-fds`, and what socket activation asks for.
pub(super) fn preserved(parsed: &Parsed) -> Result<u32> {
    let listen = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let given = parsed.number::<u32>("preserve-fds")?.unwrap_or(0);
    if given > 4096 {
        return Err(OciError::spec("--preserve-fds", "more than 4096"));
    }
    Ok(given + listen.min(4096))
}

fn save(container: &Container, asked: &Asked) -> Result<()> {
    store::save(&asked.dir, &store::Record::new(container, asked.parsed.has("no-new-keyring"))?)?;
    pid_file(&asked.parsed, container.pid())
}

/// All that callers wait for: the record, the terminal, the pid file last.
fn hand_over(container: &mut Container, asked: &Asked) -> Result<()> {
    store::save(&asked.dir, &store::Record::new(container, asked.parsed.has("no-new-keyring"))?)?;
    if let Some(path) = asked.parsed.get("console-socket") {
        let console =
            container.take_console().ok_or_else(|| OciError::spec("--console-socket", "process.terminal is false"))?;
        send_console(Path::new(path), console)?;
    }
    if let Some(path) = asked.parsed.get("pidfd-socket") {
        send(Path::new(path), container.pidfd())?;
    }
    pid_file(&asked.parsed, container.pid())
}

/// Sends a terminal's master to whoever listens there.
pub(super) fn send_console(path: &Path, console: OwnedFd) -> Result<()> {
    send(path, console.as_fd())
}

fn send(path: &Path, fd: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    let peer = std::os::unix::net::UnixStream::connect(path);
    let peer = peer.map_err(|e| OciError::File { path: path.to_owned(), reason: e.to_string() })?;
    socket::send(peer.as_fd(), b"/dev/ptmx", &[fd]).step(|| format!("send to {}", path.display())).map(drop)
}

/// Written beside and renamed, so that nobody reads half a number.
pub(super) fn pid_file(parsed: &Parsed, pid: i32) -> Result<()> {
    let Some(path) = parsed.get("pid-file").map(Path::new) else { return Ok(()) };
    let temporary = path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let done = std::fs::write(&temporary, pid.to_string()).and_then(|()| std::fs::rename(&temporary, path));
    done.map_err(|e| OciError::File { path: path.to_owned(), reason: e.to_string() })
}

/// The status of a child that we waited for.
pub(super) fn status(fd: std::os::fd::BorrowedFd<'_>) -> Result<u8> {
    let status = pidfd::wait(fd).step(|| "wait".into())?;
    Ok(u8::try_from(status.code()).unwrap_or(255))
}
