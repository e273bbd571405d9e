//! `linux.cgroupsPath`, checked: relative to each hierarchy's root, without `..`.

use super::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where a container's cgroups are, below the root of every hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// From a spec's `linux.cgroupsPath`; `/crated/<id>` where that is absent or empty. A relative path counts from the
    /// hierarchy's root, too (runtime-spec config-linux.md §Cgroups Path leaves that to the runtime).
    ///
    /// # Errors
    /// [`Error::Path`] for the root itself, `..` and bytes that are no text; [`Error::Unsupported`] for `slice:prefix:name`.
    pub fn new(path: Option<&Path>, id: &str) -> Result<Self> {
        let default = format!("/crated/{id}");
        let text = match path {
            None => default.as_str(),
            Some(path) if path.as_os_str().is_empty() => default.as_str(),
            Some(path) => {
                path.to_str().ok_or_else(|| Error::Path { path: path.display().to_string(), reason: "not UTF-8" })?
            }
        };
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self> {
        let bad = |reason| Error::Path { path: text.into(), reason };
        if !text.starts_with('/') && text.matches(':').count() == 2 {
            return Err(Error::Unsupported { what: format!("the systemd cgroup driver (cgroup path {text:?})") });
        }
        if text.len() > 4000 || text.bytes().any(|byte| byte == 0 || byte == b'\n') {
            return Err(bad("too long, or with a line break or NUL"));
        }
        let mut clean = String::with_capacity(text.len());
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(bad("\"..\" is not allowed")),
                part if part.len() > 255 => return Err(bad("a part is longer than 255 bytes")),
                part => {
                    if !clean.is_empty() {
                        clean.push('/');
                    }
                    clean.push_str(part);
                }
            }
        }
        if clean.is_empty() { Err(bad("it names the root")) } else { Ok(Self(clean)) }
    }

    /// Its folder below `root`.
    #[must_use]
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }

    /// The path, with a leading slash.
    #[must_use]
    pub fn absolute(&self) -> String {
        format!("/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let path = |text: &str| CgroupPath::new(Some(Path::new(text)), "x");
        assert_eq!(CgroupPath::new(None, "x").unwrap().absolute(), "/crated/x");
        assert_eq!(path("").unwrap().absolute(), "/crated/x");
        assert_eq!(path("//a/./b/").unwrap().absolute(), "/a/b");
        assert_eq!(path("a/b").unwrap().below(Path::new("/r")), Path::new("/r/a/b"));
        for text in ["/", "/..", "a/../b", "../x", "a\nb", "/."] {
            assert!(matches!(path(text), Err(Error::Path { .. })), "{text:?}");
        }
        assert!(matches!(path("system.slice:crated:x"), Err(Error::Unsupported { .. })));
    }
}
