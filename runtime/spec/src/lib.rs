//! From an image's configuration and a person's options to an OCI runtime spec, with docker's defaults; pure, no I/O.
//!
//! [`build`] makes the spec of a container, [`exec_process`] the process of an exec. [`passwd`] resolves `user[:group]`
//! against the bytes of a container's files, [`parse`] reads the values of docker's flags.

mod build;
mod caps;
mod devices;
mod env;
mod exec;
pub mod image;
mod mounts;
mod options;
pub mod parse;
pub mod passwd;
mod resources;
pub mod seccomp;
pub mod signal;

pub use build::build;
pub use caps::{DEFAULT_CAPABILITIES, all_capabilities, parse_capability};
pub use env::{DEFAULT_PATH, merge_env, resolve_args};
pub use exec::{ExecOptions, exec_process};
pub use image::{Image, ImageConfig};
pub use options::{
    Bind, BlockIo, Device, DeviceKind, Hook, Hooks, IdMapping, NamespaceMode, NetworkMode, Options, Propagation,
    Resources, SeccompMode, Security, ThrottleDevice, Tmpfs, Ulimit, User, UserNamespace, WeightDevice,
};
