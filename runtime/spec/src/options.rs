//! What a person may ask of a container: plain data, the input of [`crate::build()`].

use crate::image::ImageConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options of a container; `Default` is `docker run IMAGE` without flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The container's id; names the cgroup where [`Options::cgroup_path`] is not set.
    pub id: String,
    /// Path of the root filesystem as the spec shall hold it; empty means `rootfs`, below the bundle.
    pub rootfs: PathBuf,
    /// The image's configuration.
    pub image: ImageConfig,
    /// The command; replaces the image's Cmd where not empty.
    pub args: Vec<String>,
    /// Replaces the image's Entrypoint, and drops its Cmd; `Some([])` or `Some([""])` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=VALUE` over the image's; a bare `KEY` removes it.
    pub env: Vec<String>,
    /// Resolved identity of the process (see [`crate::passwd::resolve`]).
    pub user: User,
    /// Working directory; the image's, else `/`.
    pub cwd: Option<String>,
    /// Host name; also in the environment as `HOSTNAME`. Empty leaves the namespace's.
    pub hostname: String,
    /// NIS domain name; empty leaves the namespace's.
    pub domainname: String,
    /// A pseudo-terminal instead of pipes.
    pub terminal: bool,
    /// Columns and rows of the terminal at the start.
    pub console_size: Option<(u16, u16)>,
    /// The root filesystem is read-only.
    pub readonly_rootfs: bool,
    /// Temporary filesystems.
    pub tmpfs: Vec<Tmpfs>,
    /// Bind mounts: volumes, `/etc/hosts` and what else the engine provides.
    pub binds: Vec<Bind>,
    /// Devices to make and permit; in privileged mode the host's, collected by the caller.
    pub devices: Vec<Device>,
    /// Further device rules, as `c 10:200 rwm`, in order.
    pub device_rules: Vec<String>,
    /// Limits.
    pub resources: Resources,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Capabilities beyond the default, `ALL` among them.
    pub cap_add: Vec<String>,
    /// Capabilities to take away, `ALL` among them.
    pub cap_drop: Vec<String>,
    /// Confinement.
    pub security: Security,
    /// All capabilities, all devices, no confinement.
    pub privileged: bool,
    /// Network namespace.
    pub network: NetworkMode,
    /// PID namespace.
    pub pid: NamespaceMode,
    /// IPC namespace; `Host` also shares `/dev/shm`.
    pub ipc: NamespaceMode,
    /// UTS namespace.
    pub uts: NamespaceMode,
    /// Cgroup namespace.
    pub cgroup: NamespaceMode,
    /// User namespace; `None` stays in the caller's.
    pub userns: Option<UserNamespace>,
    /// An own time namespace with offsets in seconds for `monotonic` and `boottime`.
    pub time_offsets: Option<BTreeMap<String, i64>>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Size of `/dev/shm` in bytes; 64 MiB where not set.
    pub shm_size: Option<u64>,
    /// Adjustment of the out-of-memory score, -1000..=1000.
    pub oom_score_adj: Option<i32>,
    /// Path *in the container* of an init that the engine binds there (`docker run --init`); it runs the command.
    pub init: Option<String>,
    /// Annotations of the spec.
    pub annotations: BTreeMap<String, String>,
    /// `linux.cgroupsPath`; `/crated/<id>` where not set.
    pub cgroup_path: Option<String>,
    /// Programs to run at points of the container's life.
    pub hooks: Hooks,
    /// Kernel release for `minKernel` of seccomp profiles; `None` takes every such condition as met.
    pub kernel: Option<(u32, u32)>,
}

/// Whom a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids; the primary one is added where it is missing.
    pub additional_gids: Vec<u32>,
    /// Value for `HOME` where the environment has none.
    pub home: Option<String>,
    /// File mode creation mask.
    pub umask: Option<u32>,
}

/// Which namespace a container lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// An own one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// The one at this path.
    Path(PathBuf),
}

/// Which network namespace a container lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// An own one with nothing but loopback.
    #[default]
    None,
    /// The host's.
    Host,
    /// The one at this path, made by a network driver.
    Path(PathBuf),
}

/// An own user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Join this one instead of making one.
    pub path: Option<PathBuf>,
    /// User ids.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids.
    pub gid_mappings: Vec<IdMapping>,
}

/// A range of ids, inside and outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id in the container.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// How mounts made on one side of a bind show on the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// `private`, of the top mount only.
    Private,
    /// `rprivate`, docker's default.
    #[default]
    RPrivate,
    /// `shared`.
    Shared,
    /// `rshared`.
    RShared,
    /// `slave`.
    Slave,
    /// `rslave`.
    RSlave,
}

/// A host path in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Not writable.
    pub readonly: bool,
    /// Only the top mount, no mounts below it.
    pub non_recursive: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// A temporary filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Mount options over docker's `noexec,nosuid,nodev`.
    pub options: Vec<String>,
}

/// Kind of a device node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Character device.
    #[default]
    Char,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits, as of the host's node.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Letters of `rwm` that the device cgroup permits.
    pub access: String,
}

/// A resource limit of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Docker's name: `nofile`, `core`, …
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// Limits of the container's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Soft limit of memory in bytes.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap in bytes; -1 is unlimited; twice the memory where not set.
    pub memory_swap: Option<i64>,
    /// Tendency to swap, 0..=100.
    pub memory_swappiness: Option<u64>,
    /// Processes wait instead of being killed when memory runs out (cgroup v1).
    pub oom_kill_disable: bool,
    /// CPU time in billionths of a CPU (`--cpus`); excludes period and quota.
    pub nano_cpus: Option<u64>,
    /// Relative weight, 2..=262144.
    pub cpu_shares: Option<u64>,
    /// Length of a CFS period in microseconds.
    pub cpu_period: Option<u64>,
    /// CPU time a period in microseconds; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// CPUs, as `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as `0-1`.
    pub cpuset_mems: Option<String>,
    /// Most processes; 0 and -1 are unlimited.
    pub pids_limit: Option<i64>,
    /// Block devices.
    pub blkio: BlockIo,
    /// Files of cgroup v2 and their values.
    pub unified: BTreeMap<String, String>,
}

/// Limits of block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIo {
    /// Weight, 10..=1000.
    pub weight: Option<u16>,
    /// Weights a device.
    pub weight_device: Vec<WeightDevice>,
    /// Bytes read a second.
    pub read_bps: Vec<ThrottleDevice>,
    /// Bytes written a second.
    pub write_bps: Vec<ThrottleDevice>,
    /// Reads a second.
    pub read_iops: Vec<ThrottleDevice>,
    /// Writes a second.
    pub write_iops: Vec<ThrottleDevice>,
}

/// Weight of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightDevice {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Weight, 10..=1000.
    pub weight: u16,
}

/// Rate of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleDevice {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// Which seccomp filter a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompMode {
    /// Docker's default profile; none for a privileged container.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in docker's JSON; holds for privileged containers, too.
    Profile(String),
}

/// Confinement beside capabilities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Seccomp filter.
    pub seccomp: SeccompMode,
    /// No privileges by set-uid programs and file capabilities.
    pub no_new_privileges: bool,
    /// AppArmor profile; `None` where the host has none.
    pub apparmor: Option<String>,
    /// SELinux label of the process.
    pub selinux_label: Option<String>,
    /// SELinux label of the mounts.
    pub mount_label: Option<String>,
    /// No masked and read-only paths (`systempaths=unconfined`).
    pub system_paths_unconfined: bool,
}

/// A program run at a point of the container's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Its arguments, the first being its name.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Seconds after which it is killed.
    pub timeout: Option<i64>,
}

/// Hooks by the point at which they run (runtime-spec config.md §POSIX-platform Hooks).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// In the runtime's namespaces, after the namespaces are made.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before `pivot_root`.
    pub create_container: Vec<Hook>,
    /// In the container's namespaces, before the user's process.
    pub start_container: Vec<Hook>,
    /// After the user's process began.
    pub poststart: Vec<Hook>,
    /// After the container is gone.
    pub poststop: Vec<Hook>,
}
