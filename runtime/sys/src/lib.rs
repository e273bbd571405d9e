//! Linux system calls behind safe types: the only crate with `unsafe`.
//!
//! Every wrapper takes safe types, sets `CLOEXEC`, and names the call with its operands when it fails ([`SysError`]).

pub mod btrfs;
pub mod caps;
pub mod cgroup;
pub mod clone;
mod error;
pub mod exec;
pub mod fs;
pub mod inotify;
pub mod ioctl;
pub mod kernel;
pub mod malloc;
pub mod memfd;
pub mod mount;
pub mod namespace;
pub mod net;
pub mod netlink;
pub mod path;
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod program;
pub mod pty;
mod raw;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tree;
pub mod xattr;

pub use error::{Errno, Result, SysError};
pub use nix::fcntl::OFlag;
