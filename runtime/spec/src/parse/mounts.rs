//! Volumes, tmpfs, devices and security options.

use super::container_path;
use crate::options::{Propagation, Tmpfs};
use crated_types::{Error, Result};
use std::path::{Path, PathBuf};

/// What `-v` takes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the host.
    Path(PathBuf),
    /// A named volume.
    Name(String),
    /// A volume of its own, without a name.
    Anonymous,
}

/// A value of `-v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFlag {
    /// Source.
    pub source: VolumeSource,
    /// Path in the container.
    pub target: PathBuf,
    /// Not writable.
    pub readonly: bool,
    /// Do not copy what the image has there into an empty volume.
    pub no_copy: bool,
    /// SELinux: `z` (shared) or `Z` (private).
    pub relabel: Option<char>,
    /// Propagation.
    pub propagation: Propagation,
}

/// `-v [source:]target[:options]`.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for a relative target, a name that is none, unknown or contradicting options.
pub fn volume(text: &str) -> Result<VolumeFlag> {
    let bad = |reason: &str| Error::invalid("volume", format_args!("{text:?}: {reason}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        // `name:ro` would be ambiguous; a target is always absolute.
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(bad("it has more than three parts")),
    };
    let target = container_path("volume", Path::new(target))?;
    if target == Path::new("/") {
        return Err(bad("the target is the root"));
    }
    let source = match source {
        None => VolumeSource::Anonymous,
        Some("") => return Err(bad("the source is empty")),
        Some(path) if path.starts_with('/') => VolumeSource::Path(path.into()),
        Some(path) if path.starts_with('.') || path.starts_with('~') || path.contains('/') => {
            return Err(bad("a path of the host must be absolute"));
        }
        Some(name) if is_volume_name(name) => VolumeSource::Name(name.into()),
        Some(_) => return Err(bad("the name has other characters than letters, digits, _ . - or is shorter than two")),
    };
    let mut flag = VolumeFlag {
        source,
        target,
        readonly: false,
        no_copy: false,
        relabel: None,
        propagation: Propagation::default(),
    };
    let (mut mode, mut propagation) = (None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" => {
                if mode.replace(option).is_some() {
                    return Err(bad("ro and rw are there twice"));
                }
            }
            "z" | "Z" => {
                if flag.relabel.replace(if option == "z" { 'z' } else { 'Z' }).is_some() {
                    return Err(bad("z and Z are there twice"));
                }
            }
            "nocopy" => flag.no_copy = true,
            // Of other platforms; docker takes them and does nothing here.
            "cached" | "delegated" | "consistent" => {}
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                if propagation.replace(option).is_some() {
                    return Err(bad("the propagation is there twice"));
                }
            }
            other => return Err(bad(&format!("option {other:?} is not known"))),
        }
    }
    flag.readonly = mode == Some("ro");
    flag.propagation = match propagation {
        Some("private") => Propagation::Private,
        Some("shared") => Propagation::Shared,
        Some("rshared") => Propagation::RShared,
        Some("slave") => Propagation::Slave,
        Some("rslave") => Propagation::RSlave,
        _ => Propagation::RPrivate,
    };
    if propagation.is_some() && !matches!(flag.source, VolumeSource::Path(_)) {
        return Err(bad("propagation is for paths of the host"));
    }
    Ok(flag)
}

/// Docker's rule: a letter or digit, then at least one of letters, digits, `_`, `.`, `-`.
fn is_volume_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() >= 2
        && name.len() <= 255
        && chars.all(|char| char.is_ascii_alphanumeric() || "_.-".contains(char))
}

/// `--tmpfs /path[:options]`.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for a relative path or an option that tmpfs does not have.
pub fn tmpfs(text: &str) -> Result<Tmpfs> {
    const FLAGS: &[&str] = &[
        "ro",
        "rw",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
        "defaults",
        "remount",
        "bind",
        "rbind",
    ];
    const VALUES: &[&str] = &["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"];
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = container_path("tmpfs", Path::new(target))?;
    let mut all = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let known = match option.split_once('=') {
            Some((key, value)) => VALUES.contains(&key) && !value.is_empty(),
            None => FLAGS.contains(&option) && !matches!(option, "remount" | "bind" | "rbind"),
        };
        if !known {
            return Err(Error::invalid("tmpfs", format_args!("{text:?}: option {option:?} is not known")));
        }
        all.push(option.to_owned());
    }
    Ok(Tmpfs { target, options: all })
}

/// A value of `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFlag {
    /// Node or folder of nodes on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Letters of `rwm`.
    pub access: String,
}

/// `--device /dev/x[:/dev/y][:rwm]`.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for relative paths and other letters.
pub fn device(text: &str) -> Result<DeviceFlag> {
    let bad = |reason: &str| Error::invalid("device", format_args!("{text:?}: {reason}"));
    let is_access =
        |text: &str| !text.is_empty() && text.len() <= 3 && text.chars().all(|letter| "rwm".contains(letter));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] if is_access(access) => (source, target, access),
        [_, _, _] => return Err(bad("access has other letters than r, w, m")),
        _ => return Err(bad("it has more than three parts")),
    };
    if !source.starts_with('/') {
        return Err(bad("the path on the host is not absolute"));
    }
    let target = container_path("device", Path::new(target))?;
    Ok(DeviceFlag { source: source.into(), target, access: access.into() })
}

/// A value of `--security-opt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityOption {
    /// `no-new-privileges[:true|:false]`.
    NoNewPrivileges(bool),
    /// `seccomp=unconfined`.
    SeccompUnconfined,
    /// `seccomp=builtin`.
    SeccompDefault,
    /// `seccomp=FILE`, for the caller to read.
    SeccompFile(PathBuf),
    /// `apparmor=PROFILE`.
    Apparmor(String),
    /// `systempaths=unconfined`.
    SystemPathsUnconfined,
    /// `label=…`.
    Label(String),
}

/// Parses `--security-opt`; `:` may stand for the first `=`.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for what is not known.
pub fn security_option(text: &str) -> Result<SecurityOption> {
    let bad = || Error::invalid("security-opt", format_args!("{text:?} is not known"));
    let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    Ok(match (key, value) {
        ("no-new-privileges", "" | "true") => SecurityOption::NoNewPrivileges(true),
        ("no-new-privileges", "false") => SecurityOption::NoNewPrivileges(false),
        ("seccomp", "unconfined") => SecurityOption::SeccompUnconfined,
        ("seccomp", "builtin" | "default") => SecurityOption::SeccompDefault,
        ("systempaths", "unconfined") => SecurityOption::SystemPathsUnconfined,
        (_, "") => return Err(bad()),
        ("seccomp", path) => SecurityOption::SeccompFile(path.into()),
        ("apparmor", profile) => SecurityOption::Apparmor(profile.into()),
        ("label", label) => SecurityOption::Label(label.into()),
        _ => return Err(bad()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn volumes_are_read() {
        let flag = volume("/h:/c:ro,Z,rslave").unwrap();
        assert_eq!(flag.source, VolumeSource::Path("/h".into()));
        assert!(flag.readonly && flag.relabel == Some('Z') && flag.propagation == Propagation::RSlave);
        assert_eq!(volume("data:/c").unwrap().source, VolumeSource::Name("data".into()));
        assert_eq!(volume("/c").unwrap().source, VolumeSource::Anonymous);
        assert_eq!(volume("/h:/a//b/.:cached,nocopy").unwrap().target, Path::new("/a/b"));
        for text in [
            "",
            "c",
            "data",
            ":/c",
            "/h:",
            "/h:c",
            "/h:/",
            "/h:/../x",
            "./h:/c",
            "a/b:/c",
            "/h:/c:what",
            "/h:/c:ro,rw",
            "/h:/c:z,Z",
            "data:/c:shared",
            "/h:/c:ro:x",
            "-a:/c",
            "/h:/c:shared,slave",
            "x:/c",
        ] {
            assert!(volume(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn tmpfs_devices_and_security_options_are_read() {
        assert_eq!(
            tmpfs("/x:size=1m,exec").unwrap(),
            Tmpfs { target: "/x".into(), options: vec!["size=1m".into(), "exec".into()] }
        );
        for text in ["x", "/x:what", "/x:size=", "/x:lowerdir=/", "/../x", "/x:bind"] {
            assert!(tmpfs(text).is_err(), "{text:?}");
        }
        let flag = |source: &str, target: &str, access: &str| DeviceFlag {
            source: source.into(),
            target: target.into(),
            access: access.into(),
        };
        assert_eq!(device("/dev/a").unwrap(), flag("/dev/a", "/dev/a", "rwm"));
        assert_eq!(device("/dev/a:r").unwrap(), flag("/dev/a", "/dev/a", "r"));
        assert_eq!(device("/dev/a:/dev/b:rw").unwrap(), flag("/dev/a", "/dev/b", "rw"));
        for text in ["", "a", "/dev/a:x", "/dev/a:/dev/b:x", "/dev/a:/dev/b:r:w", "/dev/a:/dev/../b"] {
            assert!(device(text).is_err(), "{text:?}");
        }
        assert_eq!(security_option("no-new-privileges").unwrap(), SecurityOption::NoNewPrivileges(true));
        assert_eq!(security_option("seccomp:unconfined").unwrap(), SecurityOption::SeccompUnconfined);
        assert_eq!(security_option("seccomp=/p.json").unwrap(), SecurityOption::SeccompFile("/p.json".into()));
        assert!(security_option("what=x").is_err() && security_option("seccomp=").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[/:.a,=rwmoz]{0,16}") {
            let _ = (volume(&text), tmpfs(&text), device(&text), security_option(&text));
        }
    }
}
