//! The OCI runtime library: a bundle's spec becomes a plan, the plan becomes a process. Blocking, no threads.
//!
//! ```text
//! spec ─▶ plan::compile (pure) ─▶ spawn: inputs, cgroup, clone3 ─▶ init: the plan's steps ─ gate ─▶ execve
//! ```
//! [`Container::create`] does all of it up to the gate, [`Container::start`] opens it. Both binaries that use this
//! library call [`init_main`] first thing when their first argument is `init`.

pub mod cgroup;
pub mod cli;
mod container;
mod error;
mod hooks;
mod init;
mod listener;
pub mod plan;
mod rootfs;
pub mod seccomp;
mod spawn;
pub mod spec;
mod stdio;
mod wire;

pub use container::{Container, CreateRequest, ExecProcess, RuntimeOptions};
pub use error::{OciError, Result};
pub use init::init_main;
pub use rootfs::Rootfs;
pub use spec::load as load_spec;
pub use stdio::Stdio;
