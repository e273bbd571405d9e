//! Raw system calls: the narrow place where registers meet the kernel.

use std::{
    ffi::CString,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use crate::error::{Errno, Result, SysError};

/// One system call.
///
/// # Safety
/// The arguments must be what call `number` expects; pointers among them must be valid for it.
pub(crate) unsafe fn call(number: libc::c_long, args: [usize; 6]) -> std::result::Result<usize, Errno> {
    // SAFETY: the caller vouches for number and arguments.
    let answer = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if answer == -1 { Err(Errno::last()) } else { Ok(answer as usize) }
}

/// A system call that answers with a new descriptor, which we then own.
///
/// # Safety
/// As for [`call`]; and the call must answer with a fresh descriptor.
pub(crate) unsafe fn call_fd(number: libc::c_long, args: [usize; 6]) -> std::result::Result<OwnedFd, Errno> {
    // SAFETY: passed on from the caller.
    let fd = unsafe { call(number, args)? };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A path as a C string; a NUL inside is EINVAL.
pub(crate) fn c_path(call: &'static str, path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| SysError::new(call, path.display(), Errno::EINVAL))
}

/// A text as a C string; a NUL inside is EINVAL.
pub(crate) fn c_str(call: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| SysError::new(call, text.escape_debug(), Errno::EINVAL))
}
