//! A container's files from outside: through its process while it runs, through a mount that is attached nowhere otherwise.

use crated_sys::mount::{Depth, FsContext, MntFlags, MsFlags, attr};
use crated_sys::namespace::{self, Kinds};
use crated_sys::path::Root;
use crated_sys::{OFlag, SysError, fs, mount, pidfd};
use crated_types::{Error, Fault, Kind, Mount, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What is going to be done with the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

/// The root of a running process, with everything that is mounted there.
pub(crate) fn of_process(pid: u32) -> Result<Root> {
    let gone = |error: SysError| {
        Error::new(Fault::Precondition, format!("process {pid} has ended")).on(Kind::Task, pid).caused_by(error)
    };
    let number = i32::try_from(pid).map_err(|_| Error::internal(format!("process {pid}")))?;
    let process = pidfd::open(number).map_err(gone)?;
    let root =
        fs::open(Path::new(&format!("/proc/{pid}/root")), OFlag::O_PATH | OFlag::O_DIRECTORY, 0).map_err(gone)?;
    // The number was still its own after the folder was opened, so the folder is of that process.
    pidfd::send_signal(process.as_fd(), 0).map_err(gone)?;
    Ok(Root::from_fd(root))
}

/// Opens a snapshot's mounts. Nothing is attached to any tree, so nothing is left behind whatever happens to us.
pub(crate) fn open(mounts: &[Mount], access: Access) -> Result<Root> {
    let [mount] = mounts else {
        return Err(Error::new(Fault::Unsupported, format!("a root file system of {} mounts", mounts.len()))
            .on(Kind::Mount, "rootfs"));
    };
    let opened = match mount.fstype.as_str() {
        "bind" | "rbind" => bind(mount, access),
        _ => match detached(mount, access) {
            Err(error) => {
                aside(mount, access).map_err(|second| if second.errno() == error.errno() { second } else { error })
            }
            opened => opened,
        },
    };
    let fd = opened.map_err(|error| {
        Error::os(format!("open a mount of {}", mount.fstype), error.into()).on(Kind::Mount, &mount.source)
    })?;
    Ok(Root::from_fd(fd))
}

fn bind(mount: &Mount, access: Access) -> crated_sys::Result<OwnedFd> {
    let read_only = access == Access::ReadOnly || mount.options.iter().any(|option| option == "ro");
    if !read_only {
        return fs::open(Path::new(&mount.source), OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
    }
    let tree = mount::clone_tree(fs::cwd(), Path::new(&mount.source), Depth::Single)?;
    let change = mount::Change { set: attr::RDONLY, ..mount::Change::default() };
    mount::setattr(tree.as_fd(), Path::new(""), Depth::Single, change)?;
    Ok(tree)
}

/// By the new mount API: `fsopen`, `fsmount`, and no `move_mount`.
fn detached(mount: &Mount, access: Access) -> crated_sys::Result<OwnedFd> {
    let context = FsContext::open(&mount.fstype)?;
    context.set_string("source", &mount.source)?;
    let mut attributes = 0;
    if access == Access::ReadOnly {
        attributes |= attr::RDONLY;
        // The file system, too: letting go of a writable overlay writes back the whole disk below it (fs/sync.c, sync_filesystem).
        context.set_flag("ro")?;
    }
    for option in &mount.options {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => lower(&context, layers)?,
            Some((key @ ("upperdir" | "workdir"), path)) => context.set_string(key, path)?,
            Some((key, value)) => context.set_string(key, value)?,
            None if option == "ro" => attributes |= attr::RDONLY,
            None if option == "rw" => {}
            None => context.set_flag(option)?,
        }
    }
    context.mount(attributes)
}

/// Layers one by one (Linux 6.5), since the kernel takes at most 255 bytes a value; else all in one.
fn lower(context: &FsContext, layers: &str) -> crated_sys::Result<()> {
    let each = || layers.split(':').try_for_each(|layer| context.set_string("lowerdir+", layer));
    match each() {
        Err(_) if layers.len() < 256 => context.set_string("lowerdir", layers),
        answer => answer,
    }
}

/// By `mount(2)` in a mount namespace of a thread of its own: the folder stays open when thread and namespace are gone.
fn aside(mount: &Mount, access: Access) -> crated_sys::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            namespace::unshare(Kinds::MOUNT)?;
            mount::mount(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
            // /proc is there on any host of ours, and what is mounted over it is seen by this thread only.
            let place = PathBuf::from("/proc");
            let (mut flags, mut data) = (MsFlags::empty(), Vec::new());
            for option in &mount.options {
                match option.as_str() {
                    "ro" => flags |= MsFlags::MS_RDONLY,
                    "rw" => {}
                    other => data.push(other),
                }
            }
            if access == Access::ReadOnly {
                flags |= MsFlags::MS_RDONLY;
            }
            let data = data.join(",");
            mount::mount(Some(Path::new(&mount.source)), &place, Some(&mount.fstype), flags, Some(&data))?;
            let opened = fs::open(&place, OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
            mount::umount(&place, MntFlags::MNT_DETACH)?;
            opened
        });
        match worker.join() {
            Ok(answer) => answer,
            Err(_) => Err(SysError::new("unshare", "the thread of a mount", crated_sys::Errno::EIO)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(folder: &Path) -> Mount {
        for name in ["one", "two", "upper", "work"] {
            std::fs::create_dir(folder.join(name)).unwrap();
        }
        std::fs::create_dir(folder.join("one/etc")).unwrap();
        std::fs::write(folder.join("one/etc/passwd"), "old").unwrap();
        std::fs::create_dir(folder.join("two/etc")).unwrap();
        std::fs::write(folder.join("two/etc/passwd"), "new").unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        Mount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                format!("workdir={}", path("work")),
                format!("upperdir={}", path("upper")),
                format!("lowerdir={}:{}", path("two"), path("one")),
            ],
        }
    }

    #[test]
    fn an_overlay_is_read_and_written_without_a_mount_point() {
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for how in [detached, aside] {
            let folder = tempfile::tempdir().unwrap();
            let mount = overlay(folder.path());
            let root = match how(&mount, Access::ReadWrite) {
                Ok(fd) => Root::from_fd(fd),
                Err(error) => {
                    println!("skip: overlay here ({error})");
                    continue;
                }
            };
            assert_eq!(root.read(Path::new("/etc/passwd"), 10).unwrap(), b"new");
            root.mkdir_all(Path::new("/made"), 0o755).unwrap();
            assert!(folder.path().join("upper/made").is_dir());
            drop(root);
        }
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    }

    #[test]
    fn a_bind_for_reading_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let mount = Mount { fstype: "bind".into(), source: folder.path().display().to_string(), ..Mount::default() };
        match open(std::slice::from_ref(&mount), Access::ReadOnly) {
            Ok(root) => assert!(root.mkdir_all(Path::new("x"), 0o755).is_err()),
            Err(error) => println!("skip: detached binds ({error})"),
        }
        open(&[mount], Access::ReadWrite).unwrap().mkdir_all(Path::new("x"), 0o755).unwrap();
        assert!(folder.path().join("x").is_dir());
    }

    #[test]
    fn the_root_of_a_process_is_its_own() {
        let root = of_process(std::process::id()).unwrap();
        assert!(root.resolve(Path::new("/proc/self")).is_ok() || root.resolve(Path::new("/etc")).is_ok());
        assert_eq!(of_process(4_000_000).unwrap_err().fault(), Fault::Precondition);
    }
}
