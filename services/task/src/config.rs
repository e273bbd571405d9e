//! Where tasks live and how shims are found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the task manager; paths are absolute.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder for what outlives a reboot; `io.containerd.runtime.v2.task` is made below it.
    pub root: PathBuf,
    /// Folder for bundles and sockets, usually on a tmpfs.
    pub state: PathBuf,
    /// The daemon's gRPC socket, told to shims.
    pub grpc_address: PathBuf,
    /// The daemon's ttrpc socket, where shims send events.
    pub ttrpc_address: PathBuf,
    /// Program of our own shim; none: beside the daemon's program, then `PATH`.
    pub shim: Option<PathBuf>,
    /// Runtime names and the shims that serve them, before the usual rules.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Shims log more.
    pub debug: bool,
    /// How long a shim may take to start or to answer a call that does not wait for anything.
    pub shim_timeout: Duration,
    /// The boot that tasks belong to; none: the kernel's.
    pub boot_id: Option<String>,
}
