//! The one error of this crate: which system call failed, on what, and why.

use std::{fmt::Display, io};

pub use nix::errno::Errno;

/// A failed system call with its operands, so that a message is enough to find the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}({operands}): {errno}")]
pub struct SysError {
    /// The call's name as in its man page.
    pub call: &'static str,
    /// What it was applied to.
    pub operands: String,
    /// The kernel's answer.
    pub errno: Errno,
}

/// Shorthand for this crate.
pub type Result<T, E = SysError> = std::result::Result<T, E>;

impl SysError {
    /// Names a failed call.
    pub fn new(call: &'static str, operands: impl Display, errno: impl Into<Errno>) -> Self {
        Self { call, operands: operands.to_string(), errno: errno.into() }
    }

    /// Names a failed call of the standard library.
    pub fn from_io(call: &'static str, operands: impl Display, error: &io::Error) -> Self {
        Self::new(call, operands, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    /// The kernel's answer.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The answer in the terms of the standard library.
    pub fn kind(&self) -> io::ErrorKind {
        io::Error::from_raw_os_error(self.errno as i32).kind()
    }
}

impl From<SysError> for io::Error {
    /// Keeps the operands in the message and the kind by the errno.
    fn from(error: SysError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

/// Puts call and operands to an errno; operands are formatted only when it failed.
pub(crate) trait Context<T> {
    fn of<D: Display>(self, call: &'static str, operands: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn of<D: Display>(self, call: &'static str, operands: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|errno| SysError::new(call, operands(), errno))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn of<D: Display>(self, call: &'static str, operands: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| SysError::from_io(call, operands(), &error))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn of<D: Display>(self, call: &'static str, operands: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| SysError::new(call, operands(), Errno::from_raw(error.raw_os_error())))
    }
}
