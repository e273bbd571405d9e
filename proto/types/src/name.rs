//! Names of things: identifiers that may stand in paths, and free-text keys that may not.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest identifier, in bytes (containerd's rule).
pub const IDENTIFIER_MAX: usize = 76;
/// Longest free-text key, in bytes; far above what clients send, low enough for a record's key.
pub const KEY_MAX: usize = 4096;

/// Whether `text` is an identifier: `[A-Za-z0-9]+([._-][A-Za-z0-9]+)*`, 1..=76 bytes.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    let alnum = |byte: u8| byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    (1..=IDENTIFIER_MAX).contains(&bytes.len())
        && bytes.first().is_some_and(|byte| alnum(*byte))
        && bytes.last().is_some_and(|byte| alnum(*byte))
        && bytes.windows(2).all(|pair| alnum(pair[0]) || alnum(pair[1]))
        && bytes.iter().all(|byte| alnum(*byte) || matches!(byte, b'.' | b'_' | b'-'))
}

fn identifier(field: &'static str, text: &str) -> Result<Arc<str>> {
    if is_identifier(text) {
        return Ok(text.into());
    }
    let shown: String = text.chars().take(IDENTIFIER_MAX).collect();
    Err(Error::invalid(
        field,
        format_args!(
            "identifier {shown:?} must match [A-Za-z0-9]+([._-][A-Za-z0-9]+)* and have 1 to {IDENTIFIER_MAX} bytes (it has {})",
            text.len()
        ),
    ))
}

fn key(field: &'static str, text: &str) -> Result<Arc<str>> {
    if text.is_empty() || text.len() > KEY_MAX || text.contains('\0') {
        return Err(Error::invalid(
            field,
            format_args!("must have 1 to {KEY_MAX} bytes and no NUL (it has {} bytes)", text.len()),
        ));
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$meta:meta])* $type:ident, $field:literal, $check:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`crate::Fault::Invalid`] that names the field and the rule.
            pub fn new(text: &str) -> Result<Self> { $check($field, text).map(Self) }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl AsRef<str> for $type { fn as_ref(&self) -> &str { &self.0 } }
        impl FromStr for $type { type Err = Error; fn from_str(text: &str) -> Result<Self> { Self::new(text) } }
        impl fmt::Display for $type { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl fmt::Debug for $type { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(&self.0, f) } }
    };
}

name!(/// A tenant of the daemon; every namespaced record carries one.
    Namespace, "namespace", identifier);
name!(/// A container's identifier; its task has the same.
    ContainerId, "container id", identifier);
name!(/// An exec's identifier inside its task.
    ExecId, "exec id", identifier);
name!(/// A key or name in a snapshotter: free text, slashes too.
    SnapshotKey, "snapshot key", key);
name!(/// The reference of a resumable ingest: free text.
    IngestRef, "ingest ref", key);
name!(/// A lease's identifier: free text.
    LeaseId, "lease id", key);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_containerds_rule() {
        for good in ["a", "A0", "a.b", "a-b_c.d", &"x".repeat(76)] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a-", "a..b", "a/b", "a b", "é", &"x".repeat(77)] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }
}
