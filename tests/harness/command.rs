//! Programs that are run to their end, with input, a deadline, and what they said.

use crate::PATIENCE;
use std::fmt;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// How a program ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was run, for messages.
    pub line: String,
    /// Exit status; 128 + signal.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  status {}\n  stdout: {}\n  stderr: {}", self.line, self.status, self.stdout, self.stderr)
    }
}

impl Outcome {
    /// Standard output of a success.
    ///
    /// # Panics
    /// Where it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout
    }

    /// The same, without the white space around it.
    #[track_caller]
    pub fn word(self) -> String {
        self.ok().trim().to_owned()
    }

    /// Standard error of a failure with `status` that contains `text`.
    ///
    /// # Panics
    /// Where it ended otherwise or did not say so.
    #[track_caller]
    pub fn fails(self, status: i32, text: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.stderr.contains(text), "want {text:?} in {self:?}");
        self.stderr
    }
}

/// A program to run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    input: Vec<u8>,
    line: String,
}

impl Run {
    /// `program` with `arguments`.
    #[must_use]
    pub fn new(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Self {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = format!("{} {}", program.as_ref().to_string_lossy(), arguments.join(" "));
        Self { command, input: Vec::new(), line }
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// With bytes on standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// Where it cannot be started, or does not end within twice [`PATIENCE`] (it is killed then).
    #[track_caller]
    pub fn run(mut self) -> Outcome {
        use std::os::unix::process::ExitStatusExt;
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.line));
        let stdin = child.stdin.take();
        let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let input = std::mem::take(&mut self.input);
        let writing = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
        let out = std::thread::spawn(move || read(&mut stdout));
        let err = std::thread::spawn(move || read(&mut stderr));
        let pidfd =
            crated_sys::pidfd::open(child.id().cast_signed()).expect("a child that is not waited for has a pidfd");
        let ended = crated_sys::poll::readable(std::os::fd::AsFd::as_fd(&pidfd), Some(PATIENCE * 2)).expect("poll");
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().expect("wait");
        let _ = writing.join();
        let outcome = Outcome {
            line: self.line,
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: out.join().expect("reader"),
            stderr: err.join().expect("reader"),
        };
        assert!(ended, "does not end: {outcome:?}");
        outcome
    }
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
