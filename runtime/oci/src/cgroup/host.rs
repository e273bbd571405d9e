//! Which cgroup hierarchies this host has: read once from `/proc/self/mountinfo`.

use super::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Options of a cgroup mount that are no controllers (kernel, cgroup-v1 `cgroup_param_specs`).
const NOT_CONTROLLERS: &[&str] = &[
    "rw",
    "ro",
    "all",
    "clone_children",
    "cpuset_v2_mode",
    "none",
    "noprefix",
    "xattr",
    "favordynmods",
    "nofavordynmods",
];

/// One hierarchy of cgroup v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Its controllers, or its name as `name=systemd`.
    pub(super) controllers: Vec<String>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
}

/// The hierarchies of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// Hierarchies of v1; empty on a unified host.
    pub(super) v1: Vec<Hierarchy>,
    /// Mount of v2; on a host with v1 beside it, it has no controllers of use.
    pub(super) unified: Option<PathBuf>,
}

impl Host {
    /// This host's.
    pub(super) fn get() -> Result<&'static Self> {
        static HOST: OnceLock<Host> = OnceLock::new();
        if let Some(host) = HOST.get() {
            return Ok(host);
        }
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        let host = Self::parse(&text);
        if host.v1.is_empty() && host.unified.is_none() {
            return Err(Error::NoCgroups);
        }
        Ok(HOST.get_or_init(|| host))
    }

    /// Reads mountinfo (proc_pid_mountinfo(5)); of several mounts of a hierarchy the first one counts.
    fn parse(text: &str) -> Self {
        let mut host = Self::default();
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
            let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
            match kind {
                "cgroup2" if host.unified.is_none() => host.unified = Some(mount),
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|option| !NOT_CONTROLLERS.contains(option) && !option.starts_with("release_agent="))
                        .map(Into::into)
                        .collect();
                    if !controllers.is_empty() && host.v1.iter().all(|known| known.controllers != controllers) {
                        host.v1.push(Hierarchy { controllers, mount });
                    }
                }
                _ => {}
            }
        }
        // Named hierarchies alone do not make a v1 host.
        if host.unified.is_some() && host.v1.iter().all(|known| known.controllers[0].starts_with("name=")) {
            host.v1.clear();
        }
        host
    }
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_tells_v1_hybrid_and_unified() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct\n\
            31 24 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
            32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
            33 24 0:26 / /other rw - cgroup cgroup rw,cpu,cpuacct\n\
            34 24 0:29 / /my\\040mount rw - cgroup cgroup rw,memory\nrubbish\n";
        let host = Host::parse(hybrid);
        assert_eq!(host.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        let names: Vec<_> = host.v1.iter().map(|known| known.controllers.join(",")).collect();
        assert_eq!(names, ["cpu,cpuacct", "name=systemd", "memory"]);
        assert_eq!(host.v1[2].mount, Path::new("/my mount"));
        let unified = Host::parse("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(unified.v1.is_empty() && unified.unified.is_some());
        assert_eq!(Host::parse(""), Host::default());
    }
}
