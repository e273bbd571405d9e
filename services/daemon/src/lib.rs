//! The daemon: configuration, plugins, server and adapters. `main.rs` is the program.
//!
//! ```text
//! cli ─▶ config ─▶ daemon::start ─▶ lock ─▶ registry (builtin.rs is THE list) ─▶ restore, reconcile ─▶ listeners ─▶ READY
//!                  SIGTERM ─▶ stop accepting ─▶ calls in flight end ─▶ owner tasks end ─▶ gone; containers go on
//! ```

pub mod builtin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod docs;
pub mod grpc;
pub mod lock;
pub mod log;
pub mod metadata;
pub mod metrics;
pub mod notify;
pub mod registry;
pub mod server;

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Revision of its source, where the build knew it.
pub const REVISION: &str = match option_env!("CRATED_REVISION") {
    Some(revision) => revision,
    None => "",
};
