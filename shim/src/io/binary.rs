//! Logging programs (`binary://`): they read the container's output at descriptors 3 and 4 and say at 5 that they are ready.
//!
//! The numbers are made in a fresh, single-threaded image of ours: it is spawned with the three pipes as its standard
//! streams, moves them up, and executes the program.

use super::copy::watched;
use super::uri::Program;
use crate::log;
use crated_sys::clone::{self, Spawn, spawn};
use crated_types::{Error, Fault, Result};
use std::ffi::{CString, OsString};
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// How long it may take to end by itself, and after SIGTERM.
const END: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(12));
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// A logging program that runs.
#[derive(Debug)]
pub(crate) struct Logger {
    pidfd: OwnedFd,
    path: String,
}

/// The ends that the container writes to.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdout: PipeWriter,
    pub(crate) stderr: PipeWriter,
}

fn os(path: &str) -> impl Fn(crated_sys::SysError) -> Error + '_ {
    move |error| Error::os(format!("start logging program {path}"), error.into())
}

fn words(words: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Result<Vec<CString>> {
    let word = |word| CString::new(word).map_err(|_| Error::invalid("stdout", "NUL inside of the address"));
    words.into_iter().map(|text| word(text.into())).collect()
}

/// Starts a program and waits until it is ready.
pub(crate) fn start(program: &Program, container: &str, namespace: &str) -> Result<(Logger, Ends)> {
    let path = program.path.as_str();
    let pipe = || std::io::pipe().map_err(|error| Error::os("pipe", error));
    let ((out, stdout), (err, stderr), (ready, says_ready)) = (pipe()?, pipe()?, pipe()?);
    let image = crated_sys::program::sealed_self().map_err(os(path))?;
    let mut argv = words(["containerd-shim-crated-v2", "logger", path])?;
    argv.extend(words(program.arguments.iter().map(String::as_str))?);
    let env = words([format!("CONTAINER_ID={container}"), format!("CONTAINER_NAMESPACE={namespace}")])?;
    let mut child = spawn(
        &clone::Program { image: image.as_fd(), argv: &argv, env: &env },
        &Spawn {
            stdio: [Some(out.as_fd()), Some(err.as_fd()), Some(says_ready.as_fd())],
            session: true,
            ..Spawn::default()
        },
    )
    .map_err(os(path))?;
    child.executed().map_err(os(path))?;
    drop((out, err, says_ready));
    let logger = Logger { pidfd: child.pidfd, path: path.into() };
    match wait_ready(ready, program) {
        Ok(()) => Ok((logger, Ends { stdout, stderr })),
        Err(error) => {
            let _ = crated_sys::pidfd::send_signal(logger.pidfd.as_fd(), SIGKILL);
            Err(error)
        }
    }
}

fn wait_ready(mut ready: PipeReader, program: &Program) -> Result<()> {
    let readable = crated_sys::poll::readable(ready.as_fd(), Some(READY)).map_err(os(&program.path))?;
    if !readable {
        return Err(Error::new(Fault::TimedOut, format!("logging program {} is not ready", program.path)));
    }
    let got = ready.read(&mut [0; 1]).map_err(|error| Error::os("read the ready pipe", error))?;
    if got == 0 && program.says_ready {
        return Err(Error::new(Fault::Runtime, format!("logging program {} ended before it was ready", program.path)));
    }
    Ok(())
}

impl Logger {
    /// Its input has ended: it gets a moment, then SIGTERM, then SIGKILL.
    pub(crate) async fn end(self) {
        let Ok(watch) = watched::<OwnedFd>(self.pidfd, Interest::READABLE) else { return };
        for (patience, signal) in [(END.0, SIGTERM), (END.1, SIGKILL)] {
            if tokio::time::timeout(patience, watch.readable()).await.is_ok() {
                return;
            }
            log::warn(format_args!("logging program {} gets signal {signal}", self.path));
            let _ = crated_sys::pidfd::send_signal(watch.get_ref().as_fd(), signal);
        }
    }
}

/// In the fresh image: moves descriptors 0, 1, 2 to 3, 4, 5 and executes the program.
pub(crate) fn exec_logger(rest: &[OsString]) -> Result<()> {
    let Some(path) = rest.first() else { return Err(Error::invalid("logger", "needs a program")) };
    let failed = |error: crated_sys::SysError| Error::os(format!("run {}", path.display()), error.into());
    // Nothing else is open, so the copies get the next numbers.
    let mut kept = Vec::new();
    for (number, standard) in
        [(3, std::io::stdin().as_fd()), (4, std::io::stdout().as_fd()), (5, std::io::stderr().as_fd())]
    {
        use std::os::fd::AsRawFd;
        let copy = crated_sys::fs::duplicate(standard).map_err(failed)?;
        if copy.as_raw_fd() != number {
            return Err(Error::internal(format!("descriptor {} where {number} was free", copy.as_raw_fd())));
        }
        crated_sys::process::set_close_on_exec(copy.as_fd(), false).map_err(failed)?;
        kept.push(copy);
    }
    let null = super::null()?;
    for number in 0..3 {
        crated_sys::process::set_standard(null.as_fd(), number).map_err(failed)?;
    }
    let argv = words(rest.iter().map(|word| word.clone().into_vec()))?;
    let env = words(std::env::vars_os().map(|(key, value)| {
        let mut pair = key.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        pair
    }))?;
    crated_sys::exec::execve(Path::new(path), &argv, &env).map_err(failed)?;
    Ok(())
}
