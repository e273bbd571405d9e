//! Labels, and the keys that containerd and its clients give a meaning to.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Labels of a record, in key order.
pub type Labels = BTreeMap<String, String>;

/// Longest key plus value, in bytes (containerd's rule).
pub const LABEL_MAX: usize = 4096;

/// Marks content and snapshots as roots of the collector, whatever the value.
pub const GC_ROOT: &str = "containerd.io/gc.root";
/// RFC 3339 time after which a lease or image is ignored by the collector.
pub const GC_EXPIRE: &str = "containerd.io/gc.expire";
/// A lease with it holds only what it names, not what that refers to.
pub const GC_FLAT: &str = "containerd.io/gc.flat";
/// Prefix of references to content: `containerd.io/gc.ref.content[.x|/x]`.
pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";
/// Prefix of references to snapshots: `containerd.io/gc.ref.snapshot.<snapshotter>[/x]`.
pub const GC_REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// Prefix of references to images: `containerd.io/gc.ref.image[.x|/x]`.
pub const GC_REF_IMAGE: &str = "containerd.io/gc.ref.image";
/// Diff ID of a compressed layer, on its blob.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Prefix of `containerd.io/distribution.source.<host>`: a sorted comma list of repositories.
pub const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";
/// The committed name that an active snapshot is to become.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// The stop signal of an image's configuration, on its containers.
pub const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";

/// Checks the size rule of every label.
///
/// # Errors
/// [`crate::Fault::Invalid`] that names the first key that breaks it.
pub fn check(labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        if key.len() + value.len() > LABEL_MAX {
            let shown: String = key.chars().take(64).collect();
            return Err(Error::invalid(
                "labels",
                format_args!(
                    "label key and value length ({} bytes) greater than maximum size ({LABEL_MAX} bytes), key: {shown}",
                    key.len() + value.len()
                ),
            ));
        }
    }
    Ok(())
}

/// Drops entries with an empty value: containerd never stores them.
#[must_use]
pub fn stored(mut labels: Labels) -> Labels {
    labels.retain(|_, value| !value.is_empty());
    labels
}
