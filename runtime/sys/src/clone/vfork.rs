//! A child in our own memory, on a stack of its own, while the calling thread waits for its execve (clone(2), CLONE_VFORK).

use super::{CloneArgs, child};
use crate::error::Errno;

/// Whether this architecture is written down here.
pub(super) const OFFERED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Bytes of the child's stack; [`child::run`] has a few frames of raw calls.
const STACK: usize = 64 << 10;

/// Where the child begins.
///
/// # Safety
/// As for [`child::run`].
unsafe extern "C" fn begin(prepared: *const child::Prepared<'_>) -> ! {
    // SAFETY: the parent waits with all that `prepared` points to.
    unsafe { child::run(&*prepared) }
}

/// `clone3` with CLONE_VM and CLONE_VFORK; answers in the parent, once the child has executed its program or ended.
pub(super) fn clone(mut args: CloneArgs, prepared: &child::Prepared<'_>) -> Result<usize, Errno> {
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = STACK as u64;
    // SAFETY: the child runs on `stack`, which outlives it here: the kernel lets this thread go on only when the child has
    // left our memory. Signals are blocked, and it makes raw system calls only.
    let answer = unsafe { raw_clone(&args, prepared) };
    drop(stack);
    if answer < 0 { Err(Errno::from_raw(-answer as i32)) } else { Ok(answer as usize) }
}

/// # Safety
/// `args` must hold a stack of its own and CLONE_VFORK.
#[cfg(target_arch = "x86_64")]
unsafe fn raw_clone(args: &CloneArgs, prepared: &child::Prepared<'_>) -> isize {
    let answer: isize;
    // SAFETY: the system call keeps every register but rax, rcx and r11; the child, at the top of an aligned stack, calls
    // `begin` and never comes back.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => answer,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r8") prepared,
            in("r9") begin as *const (),
            out("rcx") _,
            out("r11") _,
        );
    }
    answer
}

/// # Safety
/// As for x86_64.
#[cfg(target_arch = "aarch64")]
unsafe fn raw_clone(args: &CloneArgs, prepared: &child::Prepared<'_>) -> isize {
    let answer: isize;
    // SAFETY: the system call keeps every register but x0; the child calls `begin` and never comes back.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x9",
            "blr x10",
            "brk 1",
            "2:",
            inlateout("x0") args as *const CloneArgs as isize => answer,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x9") prepared,
            in("x10") begin as *const (),
        );
    }
    answer
}

/// # Safety
/// Never called: [`OFFERED`] says so.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn raw_clone(_: &CloneArgs, _: &child::Prepared<'_>) -> isize {
    -(libc::ENOSYS as isize)
}
