//! A mount as snapshotters hand it out: arguments of `mount(2)`, not yet performed.

/// One mount; options are containerd's strings (`ro`, `rbind`, `lowerdir=…`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// File system type: `overlay`, `bind`, `btrfs` …
    pub fstype: String,
    /// Device, folder or pseudo source.
    pub source: String,
    /// Where below the root it goes; empty for the root itself.
    pub target: String,
    /// Flags and data, one an entry.
    pub options: Vec<String>,
}
