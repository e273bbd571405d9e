//! The server: one thread, one mailbox, until the last container is gone and `Shutdown` is called.

use crate::args::Args;
use crate::bootstrap::{LISTEN_FD, SOCKET};
use crate::events::Events;
use crate::io::attach::Switchboard;
use crate::keeper::{Keeper, Next};
use crate::log;
use crate::service::{NAMES, TaskService};
use crated_ttrpc::Server;
use crated_types::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Messages that wait for the keeper.
const MAILBOX: usize = 128;
/// How long the last events and the last output may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a shim without a container waits for its first: whoever started it may have died in between.
const LONELY: Duration = Duration::from_secs(60);
const SIGPIPE: i32 = 13;

/// Whose shim it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// containerd's: errors are worded as runc's shim words them.
    Foreign,
    /// crated's daemon: errors carry fault and step, exits are kept in the bundle.
    Crated,
}

/// The user that we are.
pub(crate) fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid())
}

/// Serves until the end.
///
/// # Errors
/// What is missing at the start.
pub(crate) fn run(args: &Args, owner: Owner) -> Result<()> {
    let listener = listener()?;
    let os = |what: &'static str| move |error: crated_sys::SysError| Error::os(what, error.into());
    let null = crate::io::null()?;
    crated_sys::process::set_standard(null.as_fd(), 0).map_err(os("standard input"))?;
    crated_sys::signal::ignore(SIGPIPE).map_err(os("ignore SIGPIPE"))?;
    crated_sys::process::set_subreaper(true).map_err(os("become a subreaper"))?;
    // Names are for people: a failure changes nothing.
    let _ = crated_sys::process::set_name("crated-shim");
    if !args.bundle.as_os_str().is_empty() {
        std::env::set_current_dir(&args.bundle)
            .map_err(|error| Error::os(format!("chdir {}", args.bundle.display()), error))?;
    }
    let socket = socket(&listener)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::os("start the runtime", error))?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, serve(args, owner, listener, &socket));
    let _ = std::fs::remove_file(&socket);
    log::info(format_args!("shim ends"));
    result
}

/// The listening socket that whoever spawned us has left open: where the environment says, or at 0, or at 3.
fn listener() -> Result<UnixListener> {
    let told = std::env::var(LISTEN_FD).ok().and_then(|number| number.parse::<i32>().ok());
    let number = told.unwrap_or_else(|| {
        let at_0 = std::fs::read_link("/proc/self/fd/0");
        if at_0.is_ok_and(|link| link.to_string_lossy().starts_with("socket:")) { 0 } else { 3 }
    });
    let missing = |error: std::io::Error| {
        Error::os(format!("take the listening socket at descriptor {number}"), error)
            .remedy_is("this program is started by a daemon; `start` starts a server")
    };
    let fd: OwnedFd = if number == 0 {
        crated_sys::fs::duplicate(std::io::stdin().as_fd()).map_err(|error| missing(error.into()))?
    } else {
        crated_sys::process::inherited(number).map_err(|error| missing(error.into()))?
    };
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true).map_err(missing)?;
    Ok(listener)
}

/// The path of our socket.
fn socket(listener: &UnixListener) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(SOCKET).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let address = listener.local_addr().map_err(|error| Error::os("getsockname", error))?;
    let path = address.as_pathname().map(PathBuf::from);
    path.ok_or_else(|| Error::invalid("socket", "has no path"))
}

async fn serve(args: &Args, owner: Owner, listener: UnixListener, socket: &std::path::Path) -> Result<()> {
    let os = |error| Error::os("watch signals", error);
    let mut children = signal(SignalKind::child()).map_err(os)?;
    let mut terminations = signal(SignalKind::terminate()).map_err(os)?;
    let mut interrupts = signal(SignalKind::interrupt()).map_err(os)?;
    let listener =
        tokio::net::UnixListener::from_std(listener).map_err(|error| Error::os("watch the socket", error))?;
    let (mailbox, mut incoming) = mpsc::channel(MAILBOX);
    let events = Events::new(args);
    let switchboard = Switchboard::beside(socket);
    let mut keeper = Keeper::new(args, owner, events.clone(), std::rc::Rc::clone(&switchboard), mailbox.clone())?;
    let service = Arc::new(TaskService::new(mailbox));
    let mut server = Server::new().only_user(own_uid()).details(owner == Owner::Crated);
    for name in NAMES {
        server = server.service(name, service.clone());
    }
    let serving = tokio::task::spawn_local(async move { server.serve(listener).await });
    let sending = tokio::task::spawn_local(events.clone().run());
    log::info(format_args!("shim of {} serves in namespace {}", args.id, args.namespace));
    let lonely = tokio::time::sleep(lonely());
    tokio::pin!(lonely);
    let mut waits = true;
    loop {
        let next = tokio::select! {
            op = incoming.recv() => match op {
                Some(op) => {
                    events.called();
                    keeper.handle(op)
                }
                None => Next::End,
            },
            _ = children.recv() => {
                keeper.reap();
                Next::GoOn
            }
            _ = terminations.recv() => on_signal("SIGTERM", &keeper),
            _ = interrupts.recv() => on_signal("SIGINT", &keeper),
            () = &mut lonely, if waits => {
                log::warn(format_args!("no container came: the shim ends"));
                Next::End
            }
        };
        waits &= keeper.is_empty();
        if next == Next::End {
            break;
        }
    }
    // Events of the end are owed to the daemon, output and exit to whoever is attached, the answer to whoever called.
    let _ = tokio::time::timeout(FAREWELL, async { tokio::join!(events.flushed(), switchboard.idle()) }).await;
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    sending.abort();
    serving.abort();
    switchboard.unlink();
    Ok(())
}

/// [`LONELY`]; builds with debug assertions let `CRATED_SHIM_LONELY_MS` say less, for a test.
fn lonely() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(told) = std::env::var("CRATED_SHIM_LONELY_MS").ok().and_then(|text| text.parse().ok()) {
        return Duration::from_millis(told);
    }
    LONELY
}

fn on_signal(name: &str, keeper: &Keeper) -> Next {
    if keeper.is_empty() {
        log::info(format_args!("{name}: the shim ends"));
        return Next::End;
    }
    log::warn(format_args!("{name} is ignored: containers live"));
    Next::GoOn
}
