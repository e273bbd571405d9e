//! The suite that every backend passes: what the port promises, tried on the real thing through real mounts.
//!
//! It needs root, panics where a promise is broken, and leaves the backend empty. Mounts are attached below `scratch`
//! and detached again.

use crate::{Access, Backend, SnapshotId, Usage};
use crated_types::{Fault, Mount};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Runs every case on an empty backend.
///
/// # Panics
/// Where the backend breaks a promise.
pub fn run(backend: &dyn Backend, scratch: &Path) {
    assert!(backend.ids().expect("ids").is_empty(), "the suite wants an empty backend");
    for (number, case) in [
        a_layer_is_seen_by_its_children,
        a_view_is_read_only,
        names_and_errors,
        removal_is_done_twice,
        many_parents,
        deletions_are_kept,
    ]
    .into_iter()
    .enumerate()
    {
        case(&Bench { backend, scratch, base: 1000 * number as u64 });
        for id in backend.ids().expect("ids") {
            backend.remove(id).expect("remove");
        }
        backend.cleanup().expect("cleanup");
        assert!(backend.ids().expect("ids").is_empty());
        let trash = fs::read_dir(backend.root().join("trash")).expect("read trash").count();
        assert_eq!(trash, 0, "cleanup frees everything");
    }
}

struct Bench<'a> {
    backend: &'a dyn Backend,
    scratch: &'a Path,
    base: u64,
}

impl Bench<'_> {
    fn id(&self, number: u64) -> SnapshotId {
        SnapshotId(self.base + number)
    }

    /// Shows a snapshot to `act`.
    fn show<T>(&self, number: u64, parents: &[SnapshotId], access: Access, act: impl FnOnce(&Path) -> T) -> T {
        let mounts = self.backend.mounts(self.id(number), parents, access).expect("mounts");
        let mounted = Mounted::new(&mounts, self.scratch);
        act(&mounted.0)
    }

    /// Makes a committed snapshot with what `act` does in it.
    fn layer(&self, number: u64, parents: &[SnapshotId], act: impl FnOnce(&Path)) -> Usage {
        self.backend.create(self.id(number), parents).expect("create");
        self.show(number, parents, Access::ReadWrite, act);
        self.backend.commit(self.id(number)).expect("commit")
    }
}

/// A mount as clients do it, with plain `mount(2)`.
struct Mounted(PathBuf);

impl Mounted {
    fn new(mounts: &[Mount], scratch: &Path) -> Self {
        let [mount] = mounts else { panic!("one mount expected: {mounts:?}") };
        let place = scratch.join("mount");
        fs::create_dir_all(&place).expect("make the mount point");
        let has = |flag: &str| mount.options.iter().any(|option| option == flag);
        if mount.fstype == "bind" {
            assert!(has("rbind"));
            rustix::mount::mount_bind_recursive(&mount.source, &place).expect("bind");
            if has("ro") {
                let flags = MountFlags::BIND | MountFlags::RDONLY;
                rustix::mount::mount_remount(&place, flags, c"").expect("remount");
            }
        } else {
            let data = CString::new(mount.options.join(",")).expect("no NUL in options");
            rustix::mount::mount(&mount.source, &place, &mount.fstype, MountFlags::empty(), Some(data.as_c_str()))
                .unwrap_or_else(|error| panic!("{error}: {mount:?}"));
        }
        Self(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.0.display());
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn a_layer_is_seen_by_its_children(bench: &Bench<'_>) {
    let parent = [bench.id(1)];
    let usage = bench.layer(1, &[], |root| {
        fs::write(root.join("a"), "one").expect("write");
        fs::create_dir(root.join("d")).expect("make folder");
        fs::write(root.join("d/b"), vec![7; 1 << 20]).expect("write");
        fs::hard_link(root.join("a"), root.join("linked")).expect("link");
        symlink("a", root.join("l")).expect("symlink");
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o4751)).expect("chmod");
        rustix::fs::chownat(
            rustix::fs::CWD,
            root.join("d"),
            Some(rustix::fs::Uid::from_raw(1234)),
            Some(rustix::fs::Gid::from_raw(4321)),
            rustix::fs::AtFlags::empty(),
        )
        .expect("chown");
    });
    assert!(usage.bytes >= 1 << 20 && usage.inodes >= 4, "{usage:?}");
    assert_eq!(bench.backend.commit(bench.id(1)).expect("commit again"), usage);

    bench.backend.create(bench.id(2), &parent).expect("create");
    bench.show(2, &parent, Access::ReadWrite, |root| {
        assert_eq!(read(&root.join("a")), "one");
        assert_eq!(fs::read_link(root.join("l")).expect("read link"), Path::new("a"));
        let of = |name: &str| fs::symlink_metadata(root.join(name)).expect("stat");
        assert_eq!(of("a").mode() & 0o7777, 0o4751);
        assert_eq!(of("a").ino(), of("linked").ino());
        assert_eq!((of("d").uid(), of("d").gid()), (1234, 4321));
        assert_eq!(fs::metadata(root).expect("stat").mode() & 0o7777, 0o755);
        fs::write(root.join("a"), "two").expect("write");
    });
    // Mounted again it is as it was left, and the parent did not change.
    bench.show(2, &parent, Access::ReadWrite, |root| assert_eq!(read(&root.join("a")), "two"));
    bench.backend.view(bench.id(3), &parent).expect("view");
    bench.show(3, &parent, Access::ReadOnly, |root| assert_eq!(read(&root.join("a")), "one"));
}

fn a_view_is_read_only(bench: &Bench<'_>) {
    bench.layer(1, &[], |root| fs::write(root.join("a"), "one").expect("write"));
    for (number, parents) in [(2, vec![bench.id(1)]), (3, vec![])] {
        bench.backend.view(bench.id(number), &parents).expect("view");
        bench.show(number, &parents, Access::ReadOnly, |root| {
            let error = fs::write(root.join("b"), "no").expect_err("a view cannot be written");
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            assert_eq!(fs::read_dir(root).expect("read").count(), parents.len());
        });
    }
}

fn names_and_errors(bench: &Bench<'_>) {
    let backend = bench.backend;
    let (one, missing) = (bench.id(1), bench.id(99));
    backend.create(one, &[]).expect("create");
    assert_eq!(backend.create(one, &[]).expect_err("taken").fault(), Fault::AlreadyExists);
    assert_eq!(backend.view(one, &[]).expect_err("taken").fault(), Fault::AlreadyExists);
    assert!(backend.create(bench.id(2), &[missing]).expect_err("no parent").is_not_found());
    assert!(backend.view(bench.id(2), &[missing]).expect_err("no parent").is_not_found());
    assert!(backend.mounts(missing, &[], Access::ReadWrite).expect_err("not there").is_not_found());
    assert!(backend.commit(missing).expect_err("not there").is_not_found());
    assert!(backend.usage(missing).expect_err("not there").is_not_found());
    backend.create(bench.id(10), &[]).expect("create");
    assert_eq!(backend.ids().expect("ids"), [one, bench.id(10)]);
    assert!(backend.root().is_absolute() && !backend.name().is_empty());
}

fn removal_is_done_twice(bench: &Bench<'_>) {
    let backend = bench.backend;
    bench.layer(1, &[], |root| {
        fs::create_dir_all(root.join("x/y/z")).expect("make folders");
        fs::write(root.join("x/y/z/f"), "f").expect("write");
        fs::set_permissions(root.join("x/y"), fs::Permissions::from_mode(0o000)).expect("chmod");
    });
    backend.remove(bench.id(1)).expect("remove");
    assert!(backend.ids().expect("ids").is_empty(), "gone at once");
    backend.remove(bench.id(1)).expect("remove again");
    backend.create(bench.id(1), &[]).expect("its number is free");
    bench.show(1, &[], Access::ReadWrite, |root| assert_eq!(fs::read_dir(root).expect("read").count(), 0));
    backend.cleanup().expect("cleanup");
    backend.cleanup().expect("cleanup again");
    assert_eq!(backend.ids().expect("ids"), [bench.id(1)], "cleanup takes only what was removed");
}

fn many_parents(bench: &Bench<'_>) {
    let mut parents: Vec<SnapshotId> = Vec::new();
    for number in 1..=12 {
        bench.layer(number, &parents, |root| {
            fs::write(root.join(format!("f{number}")), number.to_string()).expect("write");
            fs::write(root.join("last"), number.to_string()).expect("write");
        });
        parents.insert(0, bench.id(number));
    }
    bench.backend.view(bench.id(50), &parents).expect("view");
    bench.show(50, &parents, Access::ReadOnly, |root| {
        assert_eq!(read(&root.join("last")), "12");
        for number in 1..=12 {
            assert_eq!(read(&root.join(format!("f{number}"))), number.to_string());
        }
    });
}

fn deletions_are_kept(bench: &Bench<'_>) {
    bench.layer(1, &[], |root| {
        fs::create_dir(root.join("d")).expect("make folder");
        fs::write(root.join("d/old"), "").expect("write");
        fs::write(root.join("gone"), "").expect("write");
    });
    let first = [bench.id(1)];
    bench.layer(2, &first, |root| {
        fs::remove_file(root.join("gone")).expect("remove");
        fs::remove_dir_all(root.join("d")).expect("remove");
        fs::create_dir(root.join("d")).expect("make folder");
        fs::write(root.join("d/new"), "").expect("write");
    });
    let both = [bench.id(2), bench.id(1)];
    bench.backend.create(bench.id(3), &both).expect("create");
    bench.show(3, &both, Access::ReadWrite, |root| {
        assert!(!root.join("gone").exists() && !root.join("d/old").exists() && root.join("d/new").exists());
    });
}
