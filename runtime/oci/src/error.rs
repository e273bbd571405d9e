//! Why a container could not be made, run or ended: the step and its operands.

use std::path::PathBuf;

use crated_sys::{Errno, SysError};
use crated_types::error::{Error, Fault, Kind};

/// Shorthand for this crate.
pub type Result<T, E = OciError> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// A field of the spec cannot be used.
    #[error("{field}: {reason}")]
    Spec {
        /// The field, as in config.json.
        field: String,
        /// Why.
        reason: String,
    },
    /// The spec asks for something that we or the host do not offer.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The field, as in config.json.
        field: String,
        /// What is missing.
        reason: String,
    },
    /// A file of the bundle or the state cannot be read or written.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A step of the parent failed.
    #[error("{step}: {source}")]
    Host {
        /// What was being done.
        step: String,
        /// The call.
        #[source]
        source: SysError,
    },
    /// A step inside the container failed.
    #[error("{step}: {call}({operands}): {errno}")]
    Init {
        /// The step of the plan.
        step: String,
        /// The call.
        call: String,
        /// Its operands.
        operands: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The init process ended before it was ready.
    #[error("init ended before the program was executed ({status})")]
    InitEnded {
        /// How.
        status: String,
    },
    /// Init did not get ready in time.
    #[error("init was not ready after {seconds} s")]
    InitLate {
        /// The limit.
        seconds: u64,
    },
    /// The command is not in the container.
    #[error("exec: {command:?}: {reason}")]
    CommandNotFound {
        /// As it was asked for.
        command: String,
        /// Where it was looked for.
        reason: String,
    },
    /// The command is there and cannot be executed.
    #[error("exec: {command:?}: {reason}")]
    CommandNotExecutable {
        /// As it was asked for.
        command: String,
        /// The kernel's answer.
        reason: String,
    },
    /// A hook failed.
    #[error("hook {kind} {}: {reason}", path.display())]
    Hook {
        /// Its list in the spec.
        kind: &'static str,
        /// Its program.
        path: PathBuf,
        /// Exit status, or why it could not run.
        reason: String,
    },
    /// The cgroup refused something.
    #[error("cgroup")]
    Cgroup(#[from] crate::cgroup::Error),
    /// The container is not in the state that this needs.
    #[error("container {id} is {state}, {action} needs another state")]
    State {
        /// The container.
        id: String,
        /// Its state.
        state: String,
        /// What was asked.
        action: &'static str,
    },
    /// There is no container of this id.
    #[error("container {id} does not exist")]
    NotFound {
        /// The id.
        id: String,
    },
    /// There is one of this id.
    #[error("container {id} exists")]
    Exists {
        /// The id.
        id: String,
    },
    /// A message between init and us was malformed: a bug.
    #[error("protocol of init: {0}")]
    Protocol(String),
}

impl OciError {
    pub(crate) fn spec(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Spec { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), reason: reason.into() }
    }

    /// The kernel's answer, where one is the cause.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Host { source, .. } => Some(source.errno),
            Self::Init { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Spec { .. } => Fault::Invalid,
            Self::Unsupported { .. } => Fault::Unsupported,
            Self::CommandNotFound { .. } => Fault::CommandNotFound,
            Self::CommandNotExecutable { .. } => Fault::CommandNotExecutable,
            Self::State { .. } => Fault::Precondition,
            Self::NotFound { .. } => Fault::NotFound,
            Self::Exists { .. } => Fault::AlreadyExists,
            Self::InitLate { .. } => Fault::TimedOut,
            Self::Protocol(_) => Fault::Internal,
            Self::File { .. }
            | Self::Host { .. }
            | Self::Init { .. }
            | Self::InitEnded { .. }
            | Self::Hook { .. }
            | Self::Cgroup(_) => Fault::Runtime,
        }
    }

    /// What to do about it, where we know.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::CommandNotFound { .. } => Some("check the command's spelling and the image's PATH".into()),
            Self::CommandNotExecutable { .. } => {
                Some("check its mode, its #! line and whether the image is for this machine's architecture".into())
            }
            _ => None,
        }
    }
}

impl From<OciError> for Error {
    fn from(error: OciError) -> Self {
        let step = match &error {
            OciError::Host { step, .. } | OciError::Init { step, .. } => Some(step.clone()),
            _ => None,
        };
        let remedy = error.remedy();
        let mut out = match &error {
            OciError::NotFound { id } => Error::not_found(Kind::Container, id),
            OciError::Exists { id } => Error::already_exists(Kind::Container, id),
            _ => Error::new(error.fault(), error.to_string()),
        };
        if let Some(step) = step {
            out = out.at(step);
        }
        if let Some(remedy) = remedy {
            out = out.remedy_is(remedy);
        }
        match error {
            OciError::Cgroup(source) => out.caused_by(source),
            _ => out,
        }
    }
}

/// Names the step of the parent that a system call belongs to.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Step<T> for crated_sys::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| OciError::Host { step: step(), source })
    }
}
