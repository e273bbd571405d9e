//! Which fields an update replaces (`google.protobuf.FieldMask` as containerd reads it).

use crated_types::{Error, Labels, Result};

/// All mutable fields, or those of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    /// No mask or an empty one.
    #[default]
    All,
    /// Exact lower-case paths; `labels.<key>` has the key to its end, dots included.
    Paths(Vec<String>),
}

impl Mask {
    /// The mask of a request.
    #[must_use]
    pub fn new(paths: Option<Vec<String>>) -> Self {
        match paths {
            Some(paths) if !paths.is_empty() => Self::Paths(paths),
            _ => Self::All,
        }
    }

    /// The error for a path that cannot be changed.
    #[must_use]
    pub fn immutable(what: &str, id: &str, path: &str) -> Error {
        Error::invalid("update_mask", format_args!("cannot update {path:?} field on {what} {id:?}"))
    }
}

/// Applies a `labels.<key>` path: sets the key to the request's value, or removes it where the request has none or an empty one.
pub fn set_label(stored: &mut Labels, request: &Labels, key: &str) {
    match request.get(key) {
        Some(value) if !value.is_empty() => {
            stored.insert(key.into(), value.clone());
        }
        _ => {
            stored.remove(key);
        }
    }
}

/// Updates labels alone, as blobs, snapshots and namespaces have it: `labels` or `labels.<key>` paths, anything else is refused.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] that names the path, or the label that is too long.
pub fn update_labels(what: &str, id: &str, stored: &mut Labels, request: &Labels, mask: &Mask) -> Result<()> {
    match mask {
        Mask::All => *stored = crated_types::label::stored(request.clone()),
        Mask::Paths(paths) => {
            for path in paths {
                match path.strip_prefix("labels") {
                    Some("") => *stored = crated_types::label::stored(request.clone()),
                    Some(rest) if rest.starts_with('.') => set_label(stored, request, &rest[1..]),
                    _ => return Err(Mask::immutable(what, id, path)),
                }
            }
        }
    }
    crated_types::label::check(stored)
}
