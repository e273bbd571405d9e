//! The plan: everything decided before the clone, as data.
//!
//! [`compile`] is pure: a spec and facts go in, a [`Plan`] comes out. The parent opens [`Plan::inputs`], spawns into
//! [`Plan::namespaces`] and hands [`Work`] to init, which acts step by step.

use serde::{Deserialize, Serialize};

mod compile;
mod mounts;
mod process;
#[cfg(test)]
mod tests;

pub use compile::{Facts, compile};
pub(crate) use compile::{hook, kind as compile_kind, lexical};
pub use mounts::{MountOptions, mount_words};
pub use process::process;

/// What the parent does, and what init does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Namespaces to be born in, made by clone3 (`CLONE_NEW*`).
    pub namespaces: u64,
    /// A user namespace to join, by path.
    pub join_user: Option<String>,
    /// A pid namespace to be born in, by path.
    pub join_pid: Option<String>,
    /// Maps of a new user namespace.
    pub maps: Maps,
    /// What the parent opens and hands over; steps name them by index.
    pub inputs: Vec<Input>,
    /// What init does, in order.
    pub steps: Vec<Step>,
    /// The process at the end of it.
    pub process: ProcessPlan,
}

/// Id maps: inside, outside, count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    /// Of users.
    pub uids: Vec<(u32, u32, u32)>,
    /// Of groups.
    pub gids: Vec<(u32, u32, u32)>,
}

impl Maps {
    /// The id outside that stands for `id` inside.
    pub fn outside(map: &[(u32, u32, u32)], id: u32) -> Option<u32> {
        map.iter().find(|(inside, _, count)| id >= *inside && id - inside < *count).map(|(i, o, _)| o + (id - i))
    }
}

/// A descriptor that init needs and only the parent can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A namespace by its path.
    Namespace {
        /// The path.
        path: String,
        /// `CLONE_NEW*`.
        kind: u64,
    },
    /// A detached copy of a host's mount or part of one.
    Tree(TreeInput),
}

/// A bind mount, made and dressed by the parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeInput {
    /// Path on the host; relative to the bundle.
    pub source: String,
    /// With the mounts below.
    pub recursive: bool,
    /// Attributes of the topmost mount.
    pub set: u64,
    /// Attributes taken off the topmost mount.
    pub clear: u64,
    /// Attributes of all.
    pub recursive_set: u64,
    /// Attributes taken off all.
    pub recursive_clear: u64,
    /// Changes of propagation: `MS_*`, recursive.
    pub propagation: Vec<(u64, bool)>,
    /// Id map, and whether for all mounts.
    pub idmap: Option<(Maps, bool)>,
}

/// One step of init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// setns to an input.
    Join {
        /// Index of the input.
        input: u32,
        /// `CLONE_NEW*`.
        kind: u64,
    },
    /// unshare.
    Unshare(u64),
    /// `/proc/self/timens_offsets`: clock, seconds, nanoseconds.
    TimeOffsets(Vec<(String, i64, u32)>),
    /// The loopback device of a new network namespace goes up.
    Loopback,
    /// A session keyring of this name.
    Keyring(String),
    /// sethostname.
    Hostname(String),
    /// setdomainname.
    Domainname(String),
    /// Cut the namespace's mounts off the host's; attach the root file system on top.
    Root,
    /// One mount.
    Mount(MountStep),
    /// A directory, if missing.
    Directory {
        /// Its path inside.
        path: String,
    },
    /// A device node or FIFO.
    Device(DeviceStep),
    /// A symbolic link; `replace` takes away what is there.
    Symlink {
        /// Its text.
        target: String,
        /// Its path inside.
        path: String,
        /// Whether something else at that name goes.
        replace: bool,
    },
    /// A terminal from the container's own devpts, its master sent to the parent, its slave bound to /dev/console.
    Console {
        /// Columns and rows.
        size: Option<(u16, u16)>,
        /// Bind it to /dev/console.
        bind: bool,
    },
    /// Let the parent run its hooks, then run those of createContainer here.
    Hooks(Vec<HookPlan>),
    /// Make the root file system our root and forget the host's.
    Pivot {
        /// chroot instead of pivot_root.
        no_pivot: bool,
    },
    /// Propagation of the root mount (`MS_*`), recursive.
    RootPropagation {
        /// `MS_*`.
        flags: u64,
        /// For all mounts below, too.
        recursive: bool,
    },
    /// One sysctl, as a path below `/proc/sys`.
    Sysctl {
        /// With slashes.
        key: String,
        /// The value.
        value: String,
    },
    /// The root mount becomes read-only.
    ReadonlyRoot,
    /// A path becomes read-only, if it exists.
    ReadonlyPath(String),
    /// A path is covered, if it exists.
    MaskPath(String),
}

impl Step {
    /// Its name in errors.
    pub fn name(&self) -> String {
        match self {
            Self::Join { kind, .. } => format!("join namespace {}", namespace_name(*kind)),
            Self::Unshare(kinds) => format!("make namespaces {}", namespace_name(*kinds)),
            Self::TimeOffsets(_) => "time offsets".into(),
            Self::Loopback => "loopback device".into(),
            Self::Keyring(_) => "session keyring".into(),
            Self::Hostname(name) => format!("hostname {name}"),
            Self::Domainname(name) => format!("domainname {name}"),
            Self::Root => "root file system".into(),
            Self::Mount(m) => format!("mount {} to {}", m.describe(), m.target),
            Self::Directory { path } => format!("directory {path}"),
            Self::Device(d) => format!("device {}", d.path),
            Self::Symlink { path, .. } => format!("symlink {path}"),
            Self::Console { .. } => "console".into(),
            Self::Hooks(_) => "hooks".into(),
            Self::Pivot { .. } => "pivot to the root file system".into(),
            Self::RootPropagation { .. } => "propagation of the root".into(),
            Self::Sysctl { key, .. } => format!("sysctl {}", key.replace('/', ".")),
            Self::ReadonlyRoot => "read-only root".into(),
            Self::ReadonlyPath(path) => format!("read-only path {path}"),
            Self::MaskPath(path) => format!("masked path {path}"),
        }
    }
}

/// Names of the kinds in a set of `CLONE_NEW*`.
fn namespace_name(kinds: u64) -> String {
    let kinds = crated_sys::namespace::Kinds(kinds);
    let names: Vec<_> =
        crated_sys::namespace::NAMES.iter().filter(|(k, _)| kinds.contains(*k)).map(|(_, n)| *n).collect();
    names.join(",")
}

/// One mount below the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStep {
    /// Path inside.
    pub target: String,
    /// What is mounted.
    pub what: MountWhat,
    /// Attributes of the mount (not for trees: the parent has dressed them).
    pub attributes: u64,
    /// Changes of propagation: `MS_*`, recursive.
    pub propagation: Vec<(u64, bool)>,
    /// Copy what the target holds into the fresh tmpfs.
    pub copy_up: bool,
    /// The target may lie in procfs (the few files that are allowed to be covered).
    pub in_proc: bool,
}

impl MountStep {
    fn describe(&self) -> &str {
        match &self.what {
            MountWhat::Filesystem { fstype, .. } => fstype,
            MountWhat::Tree { source, .. } => source,
            MountWhat::Cgroup { .. } => "cgroup",
        }
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountWhat {
    /// A file system of its own.
    Filesystem {
        /// Type.
        fstype: String,
        /// Source.
        source: String,
        /// Options of the file system.
        options: Vec<(String, Option<String>)>,
    },
    /// An input of the parent.
    Tree {
        /// Index of the input.
        input: u32,
        /// Path on the host, for messages.
        source: String,
    },
    /// The container's view of its cgroups.
    Cgroup {
        /// Whether it has a cgroup namespace of its own.
        own_namespace: bool,
    },
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStep {
    /// Path inside.
    pub path: String,
    /// Type bits and permissions.
    pub mode: u32,
    /// Major and minor.
    pub number: (u32, u32),
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where nodes cannot be made: the host's node, as an input.
    pub input: Option<u32>,
}

/// The user's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Command and arguments.
    pub args: Vec<String>,
    /// `K=V`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Mask for new files.
    pub umask: Option<u32>,
    /// Capabilities; `None` leaves none.
    pub capabilities: Capabilities,
    /// execve grants nothing.
    pub no_new_privileges: bool,
    /// Limits: resource, soft, hard. Set by the parent.
    pub limits: Vec<(u32, u64, u64)>,
    /// OOM score. Set by the parent.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub selinux: Option<String>,
    /// Seccomp filter.
    pub seccomp: Option<crate::seccomp::Program>,
    /// A controlling terminal.
    pub terminal: bool,
    /// Scheduling.
    pub scheduler: Option<SchedulerPlan>,
    /// I/O class and level.
    pub io_priority: Option<(u32, u32)>,
    /// CPUs to run on before and after the program starts.
    pub affinity: (Vec<u32>, Vec<u32>),
    /// Execution domain.
    pub personality: Option<u64>,
    /// Hooks of startContainer.
    pub start_hooks: Vec<HookPlan>,
    /// Descriptors from 3 on that the program keeps.
    pub preserve_fds: u32,
}

/// Capability sets, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding.
    pub bounding: u64,
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
    /// Ambient.
    pub ambient: u64,
}

/// `sched_setattr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerPlan {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// A hook to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// Program.
    pub path: String,
    /// Arguments, the zeroth too.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<u64>,
}

/// What init gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// The process.
    pub process: ProcessPlan,
    /// Descriptor of each input.
    pub inputs: Vec<i32>,
    /// The root file system: descriptor of a detached mount, path inside.
    pub roots: Vec<(i32, String)>,
    /// The root file system where it cannot be a detached mount: mounted by init at [`Work::bundle`]`/rootfs`.
    pub classic_roots: Vec<crated_types::Mount>,
    /// The bundle's folder.
    pub bundle: String,
    /// For exec: a pidfd, and the namespaces to join through it.
    pub join: Option<(i32, u64)>,
    /// A listening socket that is the gate instead of the control socket.
    pub gate: Option<i32>,
    /// The state that hooks get, with `"pid":0` to be replaced.
    pub state: String,
}
