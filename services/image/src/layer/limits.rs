//! What one layer may cost, and the errors of a layer that is malformed.

use crated_types::{Error, Fault};
use std::fmt::Display;

/// Bounds on a layer; crossing one is `Malformed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the tar.
    pub entries: u64,
    /// Bytes of the uncompressed tar.
    pub bytes: u64,
    /// Bytes of one extended header (PAX records, GNU long names).
    pub header: u64,
    /// Data segments of one sparse file.
    pub segments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 8_000_000, bytes: 1 << 40, header: 1 << 20, segments: 1 << 20 }
    }
}

/// Longest path of an entry, after its symbolic links are resolved (PATH_MAX without the NUL).
pub(super) const PATH_MAX: usize = 4095;
/// Longest component of a path (NAME_MAX).
pub(super) const NAME_MAX: usize = 255;

/// A layer that is damaged or means harm, at the entry of this name.
pub(super) fn malformed(entry: &[u8], why: impl Display) -> Error {
    let mut name = String::from_utf8_lossy(entry).into_owned();
    if name.len() > 300 {
        let end = (0..=300).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        name.truncate(end);
        name.push('…');
    }
    Error::new(Fault::Malformed, format!("layer entry {name:?}: {why}"))
        .remedy_is("the image is broken or hostile: do not use it, or ask its maker for a new one")
}
