//! The harness of the end-to-end tests: daemons with roots of their own, real peers, images made on the spot, and the check
//! that nothing is left.
//!
//! ```no_run
//! let daemon = crated_tests::Daemon::start();
//! daemon.load_busybox();
//! let said = daemon.ctl(&["run", "--rm", "bb:1", "echo", "hello"]).ok();
//! assert_eq!(said, "hello\n");
//! daemon.finish(); // stops it and looks for leaks
//! ```

mod command;
mod daemon;
mod image;
mod leak;
mod netns;
mod peer;

pub use command::{Outcome, Run};
pub use daemon::{Daemon, Options};
pub use image::{busybox_archive, true_archive};
pub use leak::Leftovers;
pub use netns::{HOST, Netns, World};
pub use peer::{Containerd, Registry};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen soon on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The folder with the programs under test: the one that this test's own program was built into.
///
/// # Panics
/// Where the programs are not built.
#[must_use]
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let folder = own.ancestors().find(|folder| folder.join("crated").is_file());
    folder.expect("crated is not built: run cargo build --workspace first").to_path_buf()
}

/// Polls `check` until it answers something; the states that are waited for have no descriptor to wait on.
///
/// # Panics
/// With `what`, where it does not happen within [`PATIENCE`].
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
