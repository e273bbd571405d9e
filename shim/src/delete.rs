//! `delete`: the daemon has lost this container's shim; whatever is left of the container goes.

use crate::args::Args;
use crate::bootstrap::print_bytes;
use crate::exit::Exit;
use crate::{log, runtime, spec};
use crated_api::containerd::task::v3::DeleteResponse;
use crated_sys::pidfd;
use crated_types::{Error, Result};
use prost::Message;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

const SIGKILL: i32 = 9;
/// Status of a container whose shim is gone.
const KILLED: u32 = 137;

/// Kills and removes, then prints a `DeleteResponse`.
///
/// # Errors
/// What could not be removed.
pub(crate) fn delete(args: &Args) -> Result<()> {
    let bundle = match args.bundle.as_os_str().is_empty() {
        true => std::env::current_dir().map_err(|error| Error::os("getcwd", error))?,
        false => args.bundle.clone(),
    };
    let pid = init_pid(&bundle);
    if let Some(pid) = pid {
        kill_init(pid, &args.id, &bundle);
    }
    crate::fail::point("shim.sweep.cgroup")?;
    match spec::load(&bundle) {
        Ok(spec) => runtime::sweep(&args.id, &spec)?,
        Err(error) if error.is_not_found() => {}
        Err(error) => log::warn(format_args!("{error}")),
    }
    crate::fail::point("shim.sweep.unmount")?;
    unmount(&bundle.join("rootfs"));
    let (pid, exit) = Exit::load(&bundle)
        .unwrap_or_else(|| (pid.unwrap_or(0), Exit { status: KILLED, at: SystemTime::now(), oom_killed: false }));
    let response = DeleteResponse { pid, exit_status: exit.status, exited_at: Some(crate::time::timestamp(exit.at)) };
    print_bytes(&response.encode_to_vec())
}

fn init_pid(bundle: &Path) -> Option<u32> {
    std::fs::read_to_string(bundle.join("init.pid")).ok()?.trim().parse().ok()
}

/// Kills init by its descriptor, if the number is still that of a process from when the bundle was in use: numbers are
/// used again, and a reboot forgets them all.
fn kill_init(pid: u32, id: &str, bundle: &Path) {
    let Ok(fd) = pidfd::open(pid.cast_signed()) else { return };
    if !is_ours(pid, bundle) {
        return log::warn(format_args!("{id}: pid {pid} is another process by now"));
    }
    let _ = pidfd::send_signal(fd.as_fd(), SIGKILL);
    if !crated_sys::poll::readable(fd.as_fd(), Some(Duration::from_secs(5))).unwrap_or(true) {
        log::warn(format_args!("{id}: pid {pid} does not end"));
    }
}

/// A process that started after its number was written is another one.
fn is_ours(pid: u32, bundle: &Path) -> bool {
    let started = || {
        let ticks = crated_sys::process::start_time(pid.cast_signed()).ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        // Clock ticks are hundredths of a second on every Linux.
        Some(SystemTime::now() - Duration::from_secs_f64((uptime - ticks as f64 / 100.0).max(0.0)))
    };
    let written = std::fs::metadata(bundle.join("init.pid")).and_then(|metadata| metadata.modified());
    match (started(), written) {
        (Some(started), Ok(written)) => started <= written + Duration::from_secs(1),
        _ => false,
    }
}

/// Detaches what a foreign daemon may have mounted.
fn unmount(rootfs: &Path) {
    while crated_sys::mount::umount(rootfs, crated_sys::mount::MntFlags::MNT_DETACH).is_ok() {}
}
