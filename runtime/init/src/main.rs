//! `crated-init [--] COMMAND…`: process 1 of containers started with `--init`. It forwards signals to the command, reaps
//! orphans, and ends with the command's status. Built static: it runs in any image.

use crated_sys::pidfd::{self, ExitStatus};
use crated_sys::poll;
use crated_sys::signal::Queue;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// SIGCHLD, the one signal that is ours.
const CHILD: i32 = 17;
/// Our own first argument in the child, which gives signals their defaults before it becomes the command.
const BECOME: &str = "\u{1}become";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|argument| argument == BECOME).is_some() {
        return failed(&become_command(arguments));
    }
    arguments.next_if(|argument| argument == "--");
    match run(arguments) {
        Ok(status) => ExitCode::from(u8::try_from(status.code()).unwrap_or(u8::MAX)),
        Err(error) => failed(&error),
    }
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("crated-init: {error}");
    // As shells say it: 127 for a command that does not exist, 126 for one that cannot be run.
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

/// A child inherits the signals that we block: it comes back here to unblock them, and then becomes the command.
fn become_command(mut arguments: impl Iterator<Item = OsString>) -> std::io::Error {
    let Some(program) = arguments.next() else { return std::io::Error::other("no command is given") };
    if let Err(error) = crated_sys::signal::reset_all() {
        return error.into();
    }
    let error = Command::new(&program).args(arguments).exec();
    std::io::Error::new(error.kind(), format!("{}: {error}", program.to_string_lossy()))
}

fn run(command: impl Iterator<Item = OsString>) -> std::io::Result<ExitStatus> {
    // From here on every signal waits for us: none that comes early is lost.
    let signals = Queue::all()?;
    let child = Command::new("/proc/self/exe").arg(BECOME).args(command).process_group(0).spawn()?;
    let pid = child.id().cast_signed();
    // A group of its own in the foreground: the terminal's ctrl-c goes to the command alone, and not twice.
    if let Some(group) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::termios::tcsetpgrp(std::io::stdin(), group); // no terminal, nothing to do
    }
    let command = pidfd::open(pid)?;
    loop {
        poll::readable(signals.as_fd(), None)?;
        while let Some(signal) = signals.take()? {
            if signal != CHILD {
                forward(&command, signal);
            }
        }
        if let Some(status) = reap(pid)? {
            return Ok(status);
        }
    }
}

fn forward(command: &OwnedFd, signal: i32) {
    let _ = pidfd::send_signal(command.as_fd(), signal); // it may have ended meanwhile
}

/// Reaps whatever has ended; answers the status of the command once it is among them.
fn reap(command: i32) -> std::io::Result<Option<ExitStatus>> {
    let mut ended = None;
    while let Some(pid) = pidfd::peek_any()? {
        let status = pidfd::reap(pid)?;
        if pid == command {
            ended = Some(status);
        }
    }
    Ok(ended)
}
