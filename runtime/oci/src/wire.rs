//! What init and its parent say to one another over the control socket (one packet a message).

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::{OciError, Result};

/// From init to the parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The terminal's master comes with this packet.
    Console,
    /// Namespaces and mounts are there: run the hooks of the runtime, then send [`GO`].
    HooksDue,
    /// Everything is prepared; waiting for [`GO`].
    Ready,
    /// execve comes next: if no failure follows, it succeeded.
    Executing,
    /// The notification descriptor of seccomp comes with this packet.
    Listener,
    /// A step failed; init ends.
    Failed(Failure),
}

/// A failure inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What sort.
    pub(crate) sort: Sort,
    /// The step's name, or the command.
    pub(crate) step: String,
    /// The call.
    pub(crate) call: String,
    /// Its operands.
    pub(crate) operands: String,
    /// The kernel's answer.
    pub(crate) errno: i32,
}

/// Sorts of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sort {
    /// Of a step.
    Step,
    /// The command is missing.
    NotFound,
    /// The command cannot be executed.
    NotExecutable,
    /// A hook failed.
    Hook,
}

impl From<Failure> for OciError {
    fn from(f: Failure) -> Self {
        match f.sort {
            Sort::Step => OciError::Init {
                step: f.step,
                call: f.call,
                operands: f.operands,
                errno: crated_sys::Errno::from_raw(f.errno),
            },
            Sort::NotFound => OciError::CommandNotFound { command: f.step, reason: f.operands },
            Sort::NotExecutable => OciError::CommandNotExecutable { command: f.step, reason: f.operands },
            Sort::Hook => {
                OciError::Hook { kind: "createContainer or startContainer", path: f.step.into(), reason: f.operands }
            }
        }
    }
}

/// The byte that opens a gate.
pub(crate) const GO: u8 = b'g';
/// Longest message.
const MESSAGE_MAX: usize = 16 * 1024;

/// Sends a report.
pub(crate) fn report(socket: BorrowedFd<'_>, report: &Report, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = postcard::to_stdvec(report).map_err(|e| OciError::Protocol(e.to_string()))?;
    let sent = crated_sys::socket::send(socket, &bytes, fds);
    sent.map(drop).map_err(|source| OciError::Host { step: "tell the parent".into(), source })
}

/// Receives a report; `None`: init has closed its end.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Option<(Report, Vec<OwnedFd>)>> {
    let mut buffer = vec![0u8; MESSAGE_MAX];
    match crated_sys::socket::receive(socket, &mut buffer) {
        Ok((0, _)) => Ok(None),
        Ok((n, fds)) => {
            let report = postcard::from_bytes(&buffer[..n]).map_err(|e| OciError::Protocol(e.to_string()))?;
            Ok(Some((report, fds)))
        }
        Err(e) if e.errno == crated_sys::Errno::ECONNRESET => Ok(None),
        Err(source) => Err(OciError::Host { step: "hear init".into(), source }),
    }
}
