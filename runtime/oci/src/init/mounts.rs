//! Steps that mount: the root, everything below it, the pivot.

use std::{os::fd::AsFd, os::fd::BorrowedFd, os::fd::OwnedFd, path::Path};

use crated_sys::{
    Errno, OFlag, fs, mount,
    mount::{Change, Depth, MntFlags, MsFlags},
    path::{self, Root},
    process,
};

use super::{Done, Init, copy, refuse};
use crate::{
    plan::{MountStep, MountWhat, lexical},
    wire::Failure,
};

const PROC_MAGIC: u64 = 0x9fa0;

impl Init<'_> {
    /// Our copy of the host's mounts is cut off from the host's first: nothing we do or undo can travel back. The root
    /// file system then lies on top of `/`, seen by descriptor only, while paths still show the host's tree.
    pub(super) fn attach_root(&mut self) -> Done {
        mount::mount(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
        let mut root = match self.work.classic_roots.is_empty() {
            false => Some(self.classic_root()?),
            true => None,
        };
        for (fd, target) in std::mem::take(&mut self.work.roots) {
            let tree = process::inherited(fd)?;
            match &root {
                None => mount::move_to(tree.as_fd(), Path::new("/"))?,
                Some(below) => {
                    let place = Root::from_fd(fs::duplicate(below.as_fd())?).mkdir_all(Path::new(&target), 0o755)?;
                    mount::move_onto(tree.as_fd(), place.as_fd())?;
                }
            }
            if root.is_none() || lexical(&target) == "/" {
                root = Some(tree);
            }
        }
        let root = root.ok_or_else(|| refuse("plan", "no root file system", Errno::EINVAL))?;
        process::fchdir(root.as_fd())?;
        self.root = Some(Root::from_fd(root));
        Ok(())
    }

    /// mount(2) in this namespace, for what cannot be mounted detached.
    fn classic_root(&mut self) -> Done<OwnedFd> {
        let place = Path::new(&self.work.bundle).join("rootfs");
        std::fs::create_dir_all(&place).map_err(|e| crated_sys::SysError::from_io("mkdir", place.display(), &e))?;
        for mount in std::mem::take(&mut self.work.classic_roots) {
            let target = if lexical(&mount.target) == "/" {
                place.clone()
            } else {
                let root = Root::at(&place)?;
                let fd = root.mkdir_all(Path::new(&mount.target), 0o755)?;
                let target = fs::proc_path(fd.as_fd());
                crate::rootfs::classic(&mount, Path::new(&target))?;
                continue;
            };
            crate::rootfs::classic(&mount, &target)?;
        }
        Ok(fs::open(&place, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?)
    }

    pub(super) fn mount(&mut self, step: &MountStep) -> Done {
        let (tree, fstype) = match &step.what {
            MountWhat::Filesystem { fstype, source, options } => {
                (filesystem(fstype, source, options, step.attributes)?, fstype.as_str())
            }
            MountWhat::Tree { input, .. } => (self.input(*input)?, ""),
            MountWhat::Cgroup { own_namespace } => return self.cgroups(step, *own_namespace),
        };
        let target = self.target(step, tree.as_fd(), fstype)?;
        if step.copy_up {
            copy::contents(target.as_fd(), tree.as_fd())?;
        }
        for (flags, recursive) in &step.propagation {
            propagate(tree.as_fd(), *flags, *recursive)?;
        }
        mount::move_onto(tree.as_fd(), target.as_fd())?;
        if fstype == "devpts" && lexical(&step.target) == "/dev/pts" {
            self.devpts = Some(tree);
        }
        Ok(())
    }

    /// Where it goes, made if missing: a directory for a directory, an empty file for all else.
    pub(super) fn target(&self, step: &MountStep, tree: BorrowedFd<'_>, fstype: &str) -> Done<OwnedFd> {
        let (root, path) = (self.root()?, Path::new(&step.target));
        let mut target = if fstype.is_empty() && !fs::stat(tree)?.is_dir() {
            root.create_file(path, 0o755)?
        } else {
            root.mkdir_all(path, 0o755)?
        };
        if fstype == "proc" || fstype == "sysfs" {
            // A link here would put the file system elsewhere and leave what relies on it unprotected (CVE-2019-19921).
            let resolve = path::Resolve::IN_ROOT.union(path::Resolve::NO_SYMLINKS);
            target = path::openat2(root.as_fd(), path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0, resolve).map_err(
                |e| match e.errno {
                    Errno::ELOOP => {
                        refuse("openat2", format!("{} is or lies behind a symbolic link", step.target), Errno::ELOOP)
                    }
                    _ => Failure::from(e),
                },
            )?;
        } else if fs::filesystem_magic(target.as_fd())? == PROC_MAGIC && !step.in_proc {
            return Err(refuse("move_mount", format!("{} leads into procfs", step.target), Errno::EPERM));
        }
        if fstype.is_empty() && lexical(&step.target) == "/proc" && fs::filesystem_magic(tree)? != PROC_MAGIC {
            return Err(refuse("move_mount", "only a procfs may cover /proc", Errno::EPERM));
        }
        Ok(target)
    }

    pub(super) fn pivot(&mut self, no_pivot: bool) -> Done {
        process::fchdir(self.root()?.as_fd())?;
        if no_pivot {
            process::chroot(Path::new("."))?;
        } else {
            // The old root ends up on top of the new one at the same place (pivot_root(2), NOTES) and is let go there.
            mount::pivot_root(Path::new("."), Path::new("."))?;
            mount::umount(Path::new("."), MntFlags::MNT_DETACH)?;
        }
        process::chdir(Path::new("/"))?;
        self.root = Some(Root::at(Path::new("/"))?);
        Ok(())
    }

    pub(super) fn root_propagation(&mut self, flags: u64, recursive: bool) -> Done {
        propagate(self.root()?.as_fd(), flags, recursive)
    }

    pub(super) fn readonly_root(&mut self) -> Done {
        let change = Change { set: mount::attr::RDONLY, ..Change::default() };
        Ok(mount::setattr(self.root()?.as_fd(), Path::new(""), Depth::Single, change)?)
    }
}

fn propagate(tree: BorrowedFd<'_>, flags: u64, recursive: bool) -> Done {
    let change = Change { propagation: Some(MsFlags::from_bits_retain(flags)), ..Change::default() };
    let depth = if recursive { Depth::Recursive } else { Depth::Single };
    Ok(mount::setattr(tree, Path::new(""), depth, change)?)
}

/// A file system of its own, detached.
pub(super) fn filesystem(
    fstype: &str,
    source: &str,
    options: &[(String, Option<String>)],
    attributes: u64,
) -> Done<OwnedFd> {
    let context = mount::FsContext::open(fstype)?;
    context.set_string("source", source)?;
    for (key, value) in options {
        match value {
            Some(value) => context.set_string(key, value)?,
            None => context.set_flag(key)?,
        }
    }
    Ok(context.mount(attributes)?)
}
