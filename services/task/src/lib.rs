//! Tasks: bundles, shims, and the ttrpc calls between them and the daemon.
//!
//! ```text
//! create ─▶ record (pid 0) ─▶ bundle ─▶ shim ─▶ Create      undone as a whole where a step fails
//!            │ crash: restore asks the shim; no shim, no task
//! delete ─▶ Delete ─▶ Shutdown ─▶ bundle aside ─▶ record gone, repeatable from any step
//! exit   ─▶ the shim keeps it until its event is durable; event and record change in one commit
//! ```
//! Our own shim is started from a sealed image of its program, with its listening socket, and serves at once. A foreign
//! shim is started as containerd does (`start`, then the address it prints).

mod bundle;
mod burial;
mod config;
mod exits;
mod foreign;
mod manager;
mod own;
mod restore;
mod runtime;
mod settle;
mod shim;
mod strays;
mod task;

pub use config::Config;
pub use manager::Manager;
