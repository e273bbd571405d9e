//! Steps below the root: directories, devices, links, sysctls, what is covered and what is read-only.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use crated_sys::{
    Errno, fs, mount,
    mount::{Change, Depth},
};

use super::{Done, Init, mounts::filesystem, refuse};
use crate::plan::DeviceStep;

impl Init<'_> {
    /// A directory that may be missing; what cannot be made is found out by who needs it.
    pub(super) fn directory(&mut self, path: &str) -> Done {
        match self.root()?.mkdir_all(Path::new(path), 0o755) {
            Err(e) if !matches!(e.errno, Errno::EROFS | Errno::EACCES | Errno::EPERM) => Err(e.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn device(&mut self, device: &DeviceStep) -> Done {
        let path = Path::new(&device.path);
        if let Some(input) = device.input {
            let tree = self.input(input)?;
            let target = self.root()?.create_file(path, 0o666)?;
            return Ok(mount::move_onto(tree.as_fd(), target.as_fd())?);
        }
        let (dir, name) = self.place(path)?;
        let number = fs::makedev(device.number.0, device.number.1);
        match fs::mknod_at(dir, name, device.mode, number) {
            Err(e) if e.errno == Errno::EEXIST => {
                let there = fs::stat_at(dir, name)?;
                if there.mode & 0o170_000 == device.mode & 0o170_000 && there.rdev == number {
                    return Ok(());
                }
                // An image's ordinary file or link must not pass for a device (CVE-2025-31133).
                fs::unlink_at(dir, name)?;
                fs::mknod_at(dir, name, device.mode, number)?;
            }
            other => other?,
        }
        if (device.uid, device.gid) != (0, 0) {
            fs::chown_at(dir, name, Some(device.uid), Some(device.gid))?;
        }
        Ok(())
    }

    pub(super) fn symlink(&mut self, target: &str, path: &str, replace: bool) -> Done {
        let (dir, name) = self.place(Path::new(path))?;
        match fs::symlink_at(OsStr::new(target), dir, name) {
            Err(e) if e.errno == Errno::EEXIST && !replace => Ok(()),
            Err(e) if e.errno == Errno::EEXIST => {
                if fs::read_link_at(dir, name).is_ok_and(|text| text == target) {
                    return Ok(());
                }
                fs::unlink_at(dir, name)?;
                Ok(fs::symlink_at(OsStr::new(target), dir, name)?)
            }
            other => Ok(other?),
        }
    }

    /// The directory, made if missing, and the name in it for something new.
    fn place<'p>(&mut self, path: &'p Path) -> Done<(BorrowedFd<'_>, &'p Path)> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refuse("openat2", format!("{}: no file name", path.display()), Errno::EISDIR));
        };
        if self.parent.as_ref().is_none_or(|(known, _)| known != folder) {
            let dir = self.root()?.mkdir_all(folder, 0o755)?;
            self.parent = Some((folder.to_owned(), dir));
        }
        let dir = self.parent.as_ref().map(|(_, dir)| dir.as_fd());
        dir.map(|dir| (dir, Path::new(name))).ok_or_else(|| refuse("plan", "no directory", Errno::EINVAL))
    }

    pub(super) fn sysctl(&mut self, key: &str, value: &str) -> Done {
        self.write_proc(&format!("sys/{key}"), value)
    }

    /// The handle of a path to be covered; `None` if there is none.
    fn existing(&self, path: &str) -> Done<Option<OwnedFd>> {
        match self.root()?.resolve(Path::new(path)) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn readonly_path(&mut self, path: &str) -> Done {
        let Some(target) = self.existing(path)? else { return Ok(()) };
        let tree = mount::clone_tree(target.as_fd(), Path::new(""), Depth::Recursive)?;
        let change = Change { set: mount::attr::RDONLY, ..Change::default() };
        mount::setattr(tree.as_fd(), Path::new(""), Depth::Recursive, change)?;
        Ok(mount::move_onto(tree.as_fd(), target.as_fd())?)
    }

    /// A directory is covered by an empty read-only tmpfs, a file by a null device of which we know that it is one.
    pub(super) fn mask_path(&mut self, path: &str) -> Done {
        let Some(target) = self.existing(path)? else { return Ok(()) };
        let (cover, made) = if fs::stat(target.as_fd())?.is_dir() {
            (&mut self.empty, empty as fn() -> Done<OwnedFd>)
        } else {
            (&mut self.null, null as fn() -> Done<OwnedFd>)
        };
        match cover {
            Some(attached) => {
                let again = mount::clone_tree(attached.as_fd(), Path::new(""), Depth::Single)?;
                mount::move_onto(again.as_fd(), target.as_fd())?;
            }
            None => {
                let tree = made()?;
                mount::move_onto(tree.as_fd(), target.as_fd())?;
                *cover = Some(tree);
            }
        }
        Ok(())
    }
}

fn empty() -> Done<OwnedFd> {
    let options = [("nr_blocks".to_owned(), Some("1".to_owned())), ("nr_inodes".to_owned(), Some("1".to_owned()))];
    filesystem("tmpfs", "tmpfs", &options, mount::attr::RDONLY)
}

/// The container's null device, or the answer that it is none.
fn null() -> Done<OwnedFd> {
    let root = crated_sys::path::Root::at(Path::new("/"))?;
    let null = root.resolve_nofollow(Path::new("/dev/null"))?;
    if !fs::stat(null.as_fd())?.is_char_device(1, 3) {
        return Err(refuse("open_tree", "/dev/null is not the null device", Errno::ENODEV));
    }
    Ok(mount::clone_tree(null.as_fd(), Path::new(""), Depth::Single)?)
}
