//! The values of docker's flags: sizes, CPUs, ulimits, volumes, tmpfs, devices, environment files. Pure.

mod limits;
mod mounts;

pub use limits::{cpus, memory_swap, size, ulimit};
pub use mounts::{DeviceFlag, SecurityOption, VolumeFlag, VolumeSource, device, security_option, tmpfs, volume};

use crated_types::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// Longest environment file, in bytes.
pub const ENV_FILE_MAX: usize = 4 << 20;

/// A path in a container: absolute, without `..` and NUL; empty parts and `.` are taken out.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] that names `what`.
pub fn container_path(what: &str, path: &Path) -> Result<PathBuf> {
    let bad = |reason: &str| Error::invalid(what, format_args!("{}: {reason}", path.display()));
    if !path.is_absolute() {
        return Err(bad("the path in the container is not absolute"));
    }
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(part) => {
                if part.as_encoded_bytes().contains(&0) {
                    return Err(bad("the path has a NUL inside"));
                }
                clean.push(part);
            }
            Component::ParentDir => return Err(bad("\"..\" is not allowed")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

/// The lines of an environment file: `KEY=VALUE`, `KEY` (taken from `lookup`, left out where that has none), comments, blank lines.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] with the line's number for a key with white space or no key.
pub fn env_file(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    if text.len() > ENV_FILE_MAX {
        return Err(Error::invalid("env-file", format_args!("it is longer than {ENV_FILE_MAX} bytes")));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut entries = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (line.trim_end(), None),
        };
        if key.is_empty() || key.contains(char::is_whitespace) || line.contains('\0') {
            return Err(Error::invalid("env-file", format_args!("line {}: {key:?} is no name of a variable", at + 1)));
        }
        match value {
            Some(value) => entries.push(format!("{key}={value}")),
            None => entries.extend(lookup(key).map(|value| format!("{key}={value}"))),
        }
    }
    Ok(entries)
}

/// `-e KEY=VALUE` as it is; `-e KEY` takes the value from `lookup`, and nothing where that has none.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for an empty key.
pub fn env_flag(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<String>> {
    if text.is_empty() || text.starts_with('=') || text.contains('\0') {
        return Err(Error::invalid("env", format_args!("{text:?} is not KEY=VALUE")));
    }
    Ok(if text.contains('=') { Some(text.into()) } else { lookup(text).map(|value| format!("{text}={value}")) })
}

/// `KEY=VALUE` of labels, annotations and sysctls; a bare `KEY` has the empty value.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] that names `what`, for an empty key.
pub fn key_value(what: &str, text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(Error::invalid(what, format_args!("{text:?} is not KEY=VALUE")));
    }
    Ok((key.into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn environment_files_are_read_as_docker_reads_them() {
        let lookup = |key: &str| (key == "FROM_HOST").then(|| "h".to_owned());
        let text = "\u{feff}A=1\n# c\n\n  B= two words # kept\nFROM_HOST\nNOT_THERE\nC=x=y\r\n";
        assert_eq!(env_file(text, lookup).unwrap(), ["A=1", "B= two words # kept", "FROM_HOST=h", "C=x=y"]);
        for text in ["=x", "A B=1", "A\0=1", "a b"] {
            assert!(env_file(text, lookup).is_err(), "{text:?}");
        }
        assert_eq!(env_flag("FROM_HOST", lookup).unwrap().as_deref(), Some("FROM_HOST=h"));
        assert_eq!(env_flag("X", lookup).unwrap(), None);
        assert!(env_flag("=", lookup).is_err());
    }

    proptest! {
        #[test]
        fn container_paths_are_clean_or_refused(text in "[/.a]{0,12}") {
            match container_path("x", Path::new(&text)) {
                Ok(path) => {
                    prop_assert!(path.is_absolute());
                    prop_assert!(path.components().all(|part| part != Component::ParentDir));
                    prop_assert_eq!(container_path("x", &path).unwrap(), path);
                }
                Err(_) => prop_assert!(!text.starts_with('/') || text.split('/').any(|part| part == "..")),
            }
        }
    }
}
