//! Trees and archives for the tests.

use super::super::read::Tar;
use super::super::write::{Head, TarWriter};
use super::super::{Applied, ApplyOptions, ApplyTarget, Limits, apply};
use crated_types::Result;
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// A folder with things in it, on a file system that has overlayfs and attributes.
pub(super) struct Tree(tempfile::TempDir);

impl Tree {
    pub(super) fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.chmod("", 0o755);
        tree
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(super) fn link(&self, name: &str, target: &str) -> &Self {
        std::os::unix::fs::symlink(target, self.path().join(name)).unwrap();
        self
    }

    pub(super) fn chmod(&self, name: &str, mode: u32) -> &Self {
        fs::set_permissions(self.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(super) fn chown(&self, name: &str, uid: u32, gid: u32) -> &Self {
        std::os::unix::fs::lchown(self.path().join(name), Some(uid), Some(gid)).unwrap();
        self
    }

    pub(super) fn stat(&self, name: &str) -> Metadata {
        fs::symlink_metadata(self.path().join(name)).unwrap()
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        names(self.path())
    }

    pub(super) fn times_of(&self, other: &Self, name: &str) {
        let times = fs::FileTimes::new().set_modified(other.stat(name).modified().unwrap());
        fs::File::open(self.path().join(name)).unwrap().set_times(times).unwrap();
    }

    pub(super) fn copy_of(&self, other: &Self) {
        let open = |path: &Path| fs::File::open(path).unwrap().into();
        crated_sys::tree::copy(&open(other.path()), &open(self.path())).unwrap();
    }
}

/// Every path below a folder, sorted.
pub(super) fn names(root: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            into.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                walk(root, &path, into);
            }
        }
    }
    let mut into = Vec::new();
    walk(root, root, &mut into);
    into.sort();
    into
}

pub(super) fn is_whiteout(path: &Path) -> bool {
    let stat = fs::symlink_metadata(path).unwrap();
    stat.file_type().is_char_device() && stat.rdev() == 0
}

pub(super) fn opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(path, super::super::tree::OPAQUE, value.as_mut_slice()).is_ok() && value == *b"y"
}

/// The names in an archive, in order.
pub(super) fn names_in(layer: &[u8]) -> Vec<String> {
    let mut plain = Vec::new();
    super::super::compress::decompress(layer).unwrap().read_to_end(&mut plain).unwrap();
    let mut tar = Tar::new(&plain[..], Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = tar.next().unwrap() {
        names.push(String::from_utf8(entry.name).unwrap());
    }
    names
}

/// An archive in memory.
pub(super) struct Archive(TarWriter<Vec<u8>>);

impl Archive {
    pub(super) fn new() -> Self {
        Self(TarWriter::new(Vec::new()))
    }

    /// An entry without data, which `change` says the rest of.
    pub(super) fn entry<'a>(mut self, name: &'a str, flag: u8, change: impl FnOnce(&mut Head<'a>)) -> Self {
        let mode = if flag == b'5' { 0o755 } else { 0o644 };
        let mut head = Head {
            name: name.as_bytes(),
            flag,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1,
            link: b"",
            device: (0, 0),
            xattrs: &[],
        };
        change(&mut head);
        self.0.head(&head).unwrap();
        self
    }

    pub(super) fn file(self, name: &str, text: &str) -> Self {
        let mut archive = self.entry(name, b'0', |head| head.size = text.len() as u64);
        archive.0.data(text.as_bytes()).unwrap();
        archive.0.pad(text.len() as u64).unwrap();
        archive
    }

    pub(super) fn folder(self, name: &str) -> Self {
        self.entry(name, b'5', |_| {})
    }

    pub(super) fn symlink<'a>(self, name: &'a str, target: &'a str) -> Self {
        self.entry(name, b'2', |head| head.link = target.as_bytes())
    }

    pub(super) fn hard_link<'a>(self, name: &'a str, target: &'a str) -> Self {
        self.entry(name, b'1', |head| head.link = target.as_bytes())
    }

    /// Bytes as they are.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.data(bytes).unwrap();
        self
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

pub(super) fn applied(archive: &Archive, target: &ApplyTarget) -> Result<Applied> {
    let mut bytes = archive.0.clone_out();
    bytes.extend([0; 1024]);
    apply(&bytes[..], target, &ApplyOptions::default())
}
