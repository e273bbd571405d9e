//! What can go wrong with a cgroup, with the file and the value at fault.

use crated_types::Fault;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure around a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path of the spec is unusable.
    #[error("cgroup path {path:?}: {reason}")]
    Path {
        /// As it came.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A limit is asked for whose controller the host does not have.
    #[error("cgroup controller {controller} is not available on this host, and {asked} needs it")]
    Missing {
        /// The controller.
        controller: String,
        /// The part of the spec.
        asked: &'static str,
    },
    /// The host has no cgroup filesystem mounted.
    #[error("no cgroup filesystem is mounted")]
    NoCgroups,
    /// The cgroup has processes of someone else.
    #[error("cgroup {path} exists and has processes")]
    NotEmpty {
        /// Its folder.
        path: PathBuf,
    },
    /// A file or folder could not be used.
    #[error("{operation} {path}")]
    File {
        /// `read`, `open`, `mkdir`, …
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a value.
    #[error("write {value:?} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A value of the spec's resources makes no sense.
    #[error("resources {field}: {reason}")]
    Resource {
        /// In the spec's words.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// It is not offered.
    #[error("{what} is not supported")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The kernel did not get there in time.
    #[error("cgroup {path} is not {state} after {after:?}")]
    Late {
        /// Its folder.
        path: PathBuf,
        /// The state that was waited for.
        state: &'static str,
        /// How long.
        after: Duration,
    },
    /// A system call failed.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }

    /// The error of the operating system below, where there is one.
    #[must_use]
    pub fn os(&self) -> Option<&io::Error> {
        match self {
            Self::File { source, .. } | Self::Write { source, .. } | Self::System { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether it says that the cgroup or its file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        // A cgroup that is being removed answers ENODEV.
        self.os().is_some_and(|error| error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(19))
    }

    pub(super) fn errno(&self) -> Option<i32> {
        self.os().and_then(io::Error::raw_os_error)
    }
}

impl From<Error> for crated_types::Error {
    fn from(error: Error) -> Self {
        let fault = match &error {
            Error::Path { .. } | Error::Resource { .. } => Fault::Invalid,
            Error::Missing { .. } | Error::NoCgroups | Error::Unsupported { .. } => Fault::Unsupported,
            Error::NotEmpty { .. } => Fault::InUse,
            Error::Late { .. } => Fault::TimedOut,
            Error::File { .. } | Error::Write { .. } | Error::System { .. } if error.is_not_found() => Fault::NotFound,
            Error::Write { source, .. } if source.kind() == io::ErrorKind::InvalidInput => Fault::Invalid,
            Error::File { .. } | Error::Write { .. } | Error::System { .. } => Fault::Runtime,
        };
        Self::new(fault, "").at("cgroup").caused_by(error)
    }
}
