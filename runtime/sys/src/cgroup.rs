//! What cgroups need beside files: signals by pid, eventfd and inotify as alarms, eBPF programs that guard devices.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::{Context, Errno, Result, SysError};
use crate::raw;

const BPF_PROG_LOAD: usize = 5;
const BPF_PROG_ATTACH: usize = 8;
const BPF_PROG_DETACH: usize = 9;
const BPF_PROG_GET_FD_BY_ID: usize = 13;
const BPF_PROG_QUERY: usize = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
/// Most programs of one cgroup that are looked at; the kernel's own bound is 64.
const PROGRAMS_MAX: usize = 64;

/// Sends a signal to one process. For a process that may be reaped by someone else use a pidfd; a member of a frozen cgroup
/// cannot end meanwhile.
///
/// # Errors
/// ESRCH where it is gone, EPERM.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(SysError::new("kill", format_args!("{pid}, {signal}"), Errno::last()))
    }
}

/// An eventfd: a counter that can be polled; non-blocking.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM.
pub fn eventfd() -> Result<OwnedFd> {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)
        .of("eventfd", || "0")
}

/// An inotify descriptor that becomes readable when `path` is modified; non-blocking.
///
/// # Errors
/// ENOENT, EMFILE, ENOSPC (`fs.inotify.max_user_watches`).
pub fn watch_modified(path: &Path) -> Result<OwnedFd> {
    use rustix::fs::inotify;
    let fd =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).of("inotify_init1", || "")?;
    inotify::add_watch(&fd, path, inotify::WatchFlags::MODIFY).of("inotify_add_watch", || path.display())?;
    Ok(fd)
}

/// Waits until `fd` has an exceptional condition (POLLPRI: a watched file of cgroupfs changed) or `timeout` is over;
/// answers whether it has.
///
/// # Errors
/// ENOMEM.
pub fn wait_changed(fd: BorrowedFd<'_>, timeout: std::time::Duration) -> Result<bool> {
    let millis = i32::try_from(timeout.as_millis().max(1)).unwrap_or(i32::MAX);
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
    // SAFETY: one entry, ours, alive for the call.
    match unsafe { libc::poll(&raw mut entry, 1, millis) } {
        -1 if Errno::last() == Errno::EINTR => Ok(true),
        -1 => Err(SysError::new("poll", "POLLPRI", Errno::last())),
        ready => Ok(ready > 0),
    }
}

/// The attributes of bpf(2) that we use, each a prefix of the kernel's union (include/uapi/linux/bpf.h); the kernel takes
/// the rest as zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads an eBPF program that decides about the use of devices; one `u64` an instruction, in the machine's byte order.
///
/// # Errors
/// EINVAL, EACCES (verifier), EPERM.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd> {
    let mut attributes = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    attributes.prog_name[..13].copy_from_slice(b"crated_device");
    let args = [BPF_PROG_LOAD, &raw const attributes as usize, size_of::<Load>(), 0, 0, 0];
    // SAFETY: attributes and the arrays they point to live for the call, the size is right, the answer is a descriptor.
    unsafe { raw::call_fd(libc::SYS_bpf, args) }.of("bpf", || format!("PROG_LOAD, {} instructions", instructions.len()))
}

/// Puts a device program on a cgroup (v2), then takes off those that were there before: between the two both hold.
///
/// # Errors
/// EPERM, EINVAL.
pub fn replace_device_program(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> Result<()> {
    let old = device_programs(cgroup)?;
    let attributes = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attributes, "PROG_ATTACH, CGROUP_DEVICE")?;
    for id in old {
        // An id that is gone was taken off by someone else.
        let Ok(fd) = program_by_id(id) else { continue };
        let attributes = Attach {
            target_fd: cgroup.as_raw_fd() as u32,
            attach_bpf_fd: fd.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_DEVICE,
            attach_flags: 0,
        };
        bpf(BPF_PROG_DETACH, &attributes, "PROG_DETACH, CGROUP_DEVICE")?;
    }
    Ok(())
}

/// Ids of the device programs on a cgroup itself.
///
/// # Errors
/// EPERM, EINVAL.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS_MAX];
    let mut attributes = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        ..Query::default()
    };
    let args = [BPF_PROG_QUERY, &raw mut attributes as usize, size_of::<Query>(), 0, 0, 0];
    // SAFETY: attributes and the array of `prog_cnt` ids are ours, writable and live for the call.
    unsafe { raw::call(libc::SYS_bpf, args) }.of("bpf", || "PROG_QUERY, CGROUP_DEVICE")?;
    ids.truncate(attributes.prog_cnt as usize);
    Ok(ids)
}

fn program_by_id(id: u32) -> Result<OwnedFd> {
    let attributes = ById { id, ..ById::default() };
    let args = [BPF_PROG_GET_FD_BY_ID, &raw const attributes as usize, size_of::<ById>(), 0, 0, 0];
    // SAFETY: attributes live for the call, the size is right, the answer is a descriptor.
    unsafe { raw::call_fd(libc::SYS_bpf, args) }.of("bpf", || format!("PROG_GET_FD_BY_ID, {id}"))
}

fn bpf<T>(command: usize, attributes: &T, what: &'static str) -> Result<()> {
    let args = [command, std::ptr::from_ref(attributes) as usize, size_of::<T>(), 0, 0, 0];
    // SAFETY: the attributes are one of the structures above, which hold descriptors and numbers only.
    unsafe { raw::call(libc::SYS_bpf, args) }.of("bpf", || what)?;
    Ok(())
}

/// The count of an eventfd since the last read, 0 where nothing happened.
///
/// # Errors
/// EIO.
pub fn read_eventfd(fd: impl AsFd) -> Result<u64> {
    let mut count = [0_u8; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(error) => Err(error).of("read", || "eventfd"),
    }
}

/// Reads all queued inotify events away.
///
/// # Errors
/// EIO.
pub fn drain(fd: impl AsFd) -> Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        match rustix::io::read(&fd, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).of("read", || "inotify"),
        }
    }
}
