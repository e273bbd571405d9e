//! CNI: networks of others' plugins, by the specification 0.3 to 1.1 (<https://www.cni.dev/docs/spec/>).
//!
//! ```text
//!   /etc/cni/net.d/10-x.conflist ─ list ─▶ chain ─ exec ─▶ plugin (stdin: its part of the list, the result so far)
//!                                            │                └─▶ result of the version that was asked for ─ result ─▶ ours
//!                                            └─ cache: what was added, with what configuration, until it is deleted
//! ```

mod cache;
mod chain;
mod exec;
mod list;
mod result;

pub use chain::Driver;

use std::path::PathBuf;
use std::time::Duration;

/// Where lists, plugins and the memory are.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the lists.
    pub config_dir: PathBuf,
    /// Folders of the plugins, in order.
    pub plugin_dirs: Vec<PathBuf>,
    /// Folder of what was added.
    pub cache_dir: PathBuf,
    /// The longest that a plugin may take.
    pub deadline: Duration,
}
