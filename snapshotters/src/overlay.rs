//! Backend `overlayfs`: a snapshot is an upper folder, its parents are lower folders. Commit copies nothing.
//!
//! `<root>/snapshots/<n>/fs` holds the layer, `work` what the kernel needs beside it. Mounts are exactly containerd's:
//! a bind mount where one folder is all, else `overlay` with the nearest parent first.

use crate::places::{Places, disk_usage};
use crate::{Access, Backend, SnapshotId, Usage};
use crated_types::{Error, Fault, Kind, Mount, Result};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::io;
use std::path::{Path, PathBuf};

/// The overlayfs backend.
#[derive(Debug)]
pub struct Overlay {
    places: Places,
    /// Options behind `lowerdir` of every overlay mount.
    options: Vec<&'static str>,
}

impl Overlay {
    /// Opens (or makes) the backend at `root`.
    ///
    /// # Errors
    /// `Unsupported` with the reason where the kernel or the file system of `root` cannot carry overlayfs.
    pub fn open(root: &Path) -> Result<Self> {
        let places = Places::open(root)?;
        let user = in_user_namespace();
        probe(&places, user)?;
        let mut options = Vec::new();
        if Path::new("/sys/module/overlay/parameters/index").exists() {
            options.push("index=off");
        }
        if user {
            options.push("userxattr");
        }
        Ok(Self { places, options })
    }

    fn fs(&self, id: SnapshotId) -> Result<PathBuf> {
        Ok(self.places.existing(id)?.join("fs"))
    }
}

impl Backend for Overlay {
    fn name(&self) -> &'static str {
        "overlayfs"
    }

    fn root(&self) -> &Path {
        self.places.root()
    }

    fn create(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        let parent = parents.first().map(|parent| self.fs(*parent)).transpose()?;
        self.places.build(id, |folder| {
            make(folder, 0o700)?;
            let fs = folder.join("fs");
            make(&fs, 0o755)?;
            if let Some(parent) = &parent {
                inherit(parent, &fs)?;
            }
            make(&folder.join("work"), 0o711)
        })
    }

    fn view(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        self.create(id, parents)
    }

    fn mounts(&self, id: SnapshotId, parents: &[SnapshotId], access: Access) -> Result<Vec<Mount>> {
        let own = self.places.existing(id)?;
        let lower = parents.iter().map(|parent| self.fs(*parent)).collect::<Result<Vec<_>>>()?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mount = match (access, lower.as_slice()) {
            (Access::ReadWrite, []) => bind(&own.join("fs"), access),
            (Access::ReadOnly, []) => bind(&own.join("fs"), access),
            (Access::ReadOnly, [parent]) => bind(parent, access),
            (_, lower) => {
                let mut options = Vec::with_capacity(5);
                if access == Access::ReadWrite {
                    options.push(format!("workdir={}", text(&own.join("work"))));
                    options.push(format!("upperdir={}", text(&own.join("fs"))));
                }
                let lower: Vec<_> = lower.iter().map(|path| text(path)).collect();
                options.push(format!("lowerdir={}", lower.join(":")));
                options.extend(self.options.iter().map(|option| (*option).to_owned()));
                Mount { fstype: "overlay".into(), source: "overlay".into(), target: String::new(), options }
            }
        };
        Ok(vec![mount])
    }

    fn commit(&self, id: SnapshotId) -> Result<Usage> {
        let usage = self.usage(id)?;
        self.places.sync()?;
        Ok(usage)
    }

    fn remove(&self, id: SnapshotId) -> Result<()> {
        self.places.discard(&self.places.path(id))
    }

    fn usage(&self, id: SnapshotId) -> Result<Usage> {
        disk_usage(&self.fs(id)?)
    }

    fn ids(&self) -> Result<Vec<SnapshotId>> {
        self.places.ids()
    }

    fn cleanup(&self) -> Result<()> {
        self.places.empty_trash(|folder, name| crated_sys::tree::remove(folder, name.as_ref()))
    }

    fn capabilities(&self) -> &[&'static str] {
        &["rebase"]
    }
}

/// A bind mount of one folder with containerd's options.
pub(crate) fn bind(source: &Path, access: Access) -> Mount {
    Mount {
        fstype: "bind".into(),
        source: source.to_string_lossy().into_owned(),
        target: String::new(),
        options: vec![if access == Access::ReadOnly { "ro" } else { "rw" }.into(), "rbind".into()],
    }
}

/// Makes one folder of exactly this mode, whatever the umask is.
fn make(path: &Path, mode: u32) -> Result<()> {
    let fail = |errno: rustix::io::Errno| Error::os(format!("make folder {}", path.display()), errno.into());
    rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)).map_err(fail)?;
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(fail)
}

/// Gives `fs` the owner and mode of its parent: the root folder of an overlay mount is the upper one.
fn inherit(parent: &Path, fs: &Path) -> Result<()> {
    let fail = |errno: rustix::io::Errno| {
        Error::os(format!("copy owner and mode of {} to {}", parent.display(), fs.display()), errno.into())
    };
    let stat = rustix::fs::statat(CWD, parent, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(CWD, fs, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    rustix::fs::chmodat(CWD, fs, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty()).map_err(fail)
}

/// Whether ids are mapped, so that overlayfs may only use `user.*` attributes.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

/// Tries an overlay over folders at `root`: the only answer that counts is the kernel's. The mount is never attached
/// anywhere, so nothing is left of it (fsmount(2), Linux 5.2).
fn probe(places: &Places, user: bool) -> Result<()> {
    let skip = |why: String| {
        Error::new(Fault::Unsupported, why)
            .on(Kind::Snapshotter, "overlayfs")
            .remedy_is("put the root on ext4, xfs with ftype=1, btrfs or tmpfs, or use the native snapshotter")
    };
    let base = places.fresh(SnapshotId(0));
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| base.join(name));
    make(&base, 0o700)?;
    let tried = (|| {
        for folder in [&lower, &upper, &work] {
            make(folder, 0o700)?;
        }
        let kinds = entry_kinds_known(&base).map_err(|error| Error::os(format!("read {}", base.display()), error))?;
        if !kinds {
            return Err(skip(format!("{} does not tell the type of its entries (d_type)", base.display())));
        }
        mount_detached(&lower, &upper, &work, user)
            .map_err(|error| skip(format!("overlay over {}: {error}", base.display())))
    })();
    places.discard(&base)?;
    tried
}

fn entry_kinds_known(folder: &Path) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(rustix::fs::openat(
        CWD,
        folder,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )?)? {
        if entry?.file_type() == rustix::fs::FileType::Unknown {
            return Ok(false);
        }
    }
    Ok(true)
}

fn mount_detached(lower: &Path, upper: &Path, work: &Path, user: bool) -> io::Result<()> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        rustix::mount::fsconfig_set_string(&context, key, path)?;
    }
    if user {
        rustix::mount::fsconfig_set_flag(&context, "userxattr")?;
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(())
}
