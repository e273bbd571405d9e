//! Replacing this process by another program.

use std::{
    convert::Infallible,
    ffi::CString,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use crate::error::{Errno, Result, SysError};

/// A null-terminated array of C strings for the kernel.
#[derive(Debug)]
pub(crate) struct Strings(pub(crate) Vec<*const libc::c_char>);

impl Strings {
    /// Valid as long as `texts` is.
    pub(crate) fn new(texts: &[CString]) -> Strings {
        Strings(texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect())
    }
}

/// `execve`; answers only if it failed.
pub fn execve(path: &Path, argv: &[CString], env: &[CString]) -> Result<Infallible> {
    let c_path = crate::raw::c_path("execve", path)?;
    let (args, vars) = (Strings::new(argv), Strings::new(env));
    // SAFETY: all strings and both null-terminated arrays live through the call.
    unsafe { libc::execve(c_path.as_ptr(), args.0.as_ptr(), vars.0.as_ptr()) };
    Err(SysError::new("execve", path.display(), Errno::last()))
}

/// `execveat` of an open program; answers only if it failed.
pub fn execveat(image: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> Result<Infallible> {
    let (args, vars) = (Strings::new(argv), Strings::new(env));
    // SAFETY: all strings and both null-terminated arrays live through the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image.as_raw_fd(),
            c"".as_ptr(),
            args.0.as_ptr(),
            vars.0.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(SysError::new("execveat", format!("fd {}", image.as_raw_fd()), Errno::last()))
}
