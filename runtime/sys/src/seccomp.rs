//! Loading a seccomp filter into the calling thread.

use std::os::fd::OwnedFd;

use crate::{
    error::{Context, Result},
    raw,
};

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub const NEW_LISTENER: u32 = 1 << 3;

#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Installs a filter of at most 4096 instructions for this thread and what it executes; with [`NEW_LISTENER`] in
/// `flags` the answer is the notification descriptor. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn load(filter: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    const SET_MODE_FILTER: usize = 1;
    let program = Program { length: u16::try_from(filter.len()).unwrap_or(u16::MAX), filter: filter.as_ptr() };
    let args = [SET_MODE_FILTER, flags as usize, &raw const program as usize, 0, 0, 0];
    let context = || format!("{} instructions, flags {flags:#x}", filter.len());
    if flags & NEW_LISTENER != 0 {
        // SAFETY: `program` describes the live slice `filter`; with NEW_LISTENER the answer is a fresh descriptor.
        return unsafe { raw::call_fd(libc::SYS_seccomp, args) }.map(Some).of("seccomp", context);
    }
    // SAFETY: `program` describes the live slice `filter` through the call.
    unsafe { raw::call(libc::SYS_seccomp, args) }.of("seccomp", context).map(|_| None)
}
