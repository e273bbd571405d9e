//! How a process ended, and the record of it that outlives shim and daemon.

use crated_types::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Name of the record in a bundle.
const FILE: &str = "exit.json";

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 + signal.
    pub(crate) status: u32,
    /// When it was seen to end.
    pub(crate) at: SystemTime,
    /// Whether the kernel killed a process of the container for lack of memory.
    pub(crate) oom_killed: bool,
}

/// `exit.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: u32,
    exit_status: u32,
    exited_at_ns: u64,
    oom_killed: bool,
}

impl Exit {
    /// Writes the record of init's exit into its bundle: temporary file, rename. It is for a daemon that comes back, not for
    /// the next boot, which begins without bundles: nothing waits for a disk.
    pub(crate) fn save(&self, bundle: &Path, pid: u32) -> Result<()> {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let record = Record {
            pid,
            exit_status: self.status,
            exited_at_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            oom_killed: self.oom_killed,
        };
        let bytes = serde_json::to_vec(&record).expect("numbers only");
        let (path, temporary) = (bundle.join(FILE), bundle.join(".exit.json"));
        let write = || {
            std::fs::write(&temporary, &bytes)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|error| Error::os(format!("write {}", path.display()), error))
    }

    /// Forgets the record of an earlier life in the same bundle.
    pub(crate) fn forget(bundle: &Path) {
        // Mostly there is none.
        let _ = std::fs::remove_file(bundle.join(FILE));
    }

    /// The record of a bundle, where init has ended: pid and exit.
    pub(crate) fn load(bundle: &Path) -> Option<(u32, Self)> {
        let record: Record = serde_json::from_slice(&std::fs::read(bundle.join(FILE)).ok()?).ok()?;
        let at = UNIX_EPOCH + Duration::from_nanos(record.exited_at_ns);
        Some((record.pid, Self { status: record.exit_status, at, oom_killed: record.oom_killed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_exit_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Exit::load(dir.path()), None);
        let at = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let exit = Exit { status: 137, at, oom_killed: true };
        exit.save(dir.path(), 42).unwrap();
        assert_eq!(Exit::load(dir.path()), Some((42, exit)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(exit.save(&dir.path().join("gone"), 1).is_err());
    }
}
