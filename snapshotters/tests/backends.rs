//! Every backend on a real file system, through the one suite. Needs root.
#![allow(clippy::unwrap_used, reason = "a test")]

use crated_snapshotters::{Access, Backend, Btrfs, Native, Offload, Overlay, SnapshotId, suite};
use crated_types::Fault;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Runs a program; its words are shown where it fails.
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn overlay_passes_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    match Overlay::open(&folder.path().join("root")) {
        Ok(overlay) => suite::run(&overlay, folder.path()),
        Err(error) if error.fault() == Fault::Unsupported => println!("skip: {error}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn native_passes_the_suite() {
    for base in ["/tmp", "/dev/shm"] {
        let folder = tempfile::tempdir_in(base).unwrap();
        suite::run(&Native::open(&folder.path().join("root")).unwrap(), folder.path());
    }
}

/// A btrfs in a file, mounted until it is dropped.
struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Option<Self> {
        if !fs::read_to_string("/proc/filesystems").unwrap().contains("btrfs") {
            println!("skip: btrfs (the kernel has none)");
            return None;
        }
        if Command::new("mkfs.btrfs").arg("--version").output().is_err() {
            println!("skip: btrfs (mkfs.btrfs absent)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image");
        fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
        tool("mkfs.btrfs", &["-q", file.to_str().unwrap()]);
        let place = folder.path().join("mount");
        fs::create_dir(&place).unwrap();
        tool("mount", &["-o", "loop", file.to_str().unwrap(), place.to_str().unwrap()]);
        Some(Self(folder))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mount")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn btrfs_passes_the_suite() {
    let Some(image) = Image::new() else { return };
    let btrfs = Btrfs::open(&image.path().join("root")).unwrap();
    suite::run(&btrfs, image.0.path());

    // A committed one is frozen, also for who has its path; what a container nested in it goes with it.
    let (one, two) = (SnapshotId(1), SnapshotId(2));
    btrfs.create(one, &[]).unwrap();
    let source = |id, parents: &[SnapshotId]| btrfs.mounts(id, parents, Access::ReadWrite).unwrap()[0].source.clone();
    fs::write(Path::new(&source(one, &[])).join("big"), vec![1; 1 << 20]).unwrap();
    btrfs.commit(one).unwrap();
    assert!(fs::write(Path::new(&source(one, &[])).join("x"), "").is_err());
    btrfs.create(two, &[one]).unwrap();
    fs::write(Path::new(&source(two, &[one])).join("small"), vec![1; 8192]).unwrap();
    tool("btrfs", &["subvolume", "create", Path::new(&source(two, &[one])).join("nested").to_str().unwrap()]);
    let usage = btrfs.usage(two).unwrap();
    assert!(usage.bytes < 1 << 19, "the parent's bytes are not its own: {usage:?}");
    btrfs.remove(two).unwrap();
    btrfs.remove(one).unwrap();
    btrfs.cleanup().unwrap();
    assert_eq!(fs::read_dir(btrfs.root().join("trash")).unwrap().count(), 0);
}

#[test]
fn overlay_mounts_are_containerds() {
    let folder = tempfile::tempdir().unwrap();
    let Ok(overlay) = Overlay::open(folder.path()) else { return println!("skip: overlay") };
    let ids: Vec<_> = (1..=3).map(SnapshotId).collect();
    for id in &ids {
        overlay.create(*id, &[]).unwrap();
    }
    let base = folder.path().join("snapshots");
    let path = |id: u64, name: &str| base.join(id.to_string()).join(name).display().to_string();
    let one = |parents: &[SnapshotId], access| {
        let mounts = overlay.mounts(SnapshotId(1), parents, access).unwrap();
        let [mount] = mounts.as_slice() else { panic!("{mounts:?}") };
        (mount.fstype.clone(), mount.source.clone(), mount.options.join(","))
    };
    let bind = |source: String, options: &str| ("bind".to_owned(), source, options.to_owned());
    assert_eq!(one(&[], Access::ReadWrite), bind(path(1, "fs"), "rw,rbind"));
    assert_eq!(one(&[], Access::ReadOnly), bind(path(1, "fs"), "ro,rbind"));
    assert_eq!(one(&ids[1..2], Access::ReadOnly), bind(path(2, "fs"), "ro,rbind"));
    let lower = format!("lowerdir={}:{},index=off", path(2, "fs"), path(3, "fs"));
    let overlay_of = |options| ("overlay".to_owned(), "overlay".to_owned(), options);
    assert_eq!(one(&ids[1..], Access::ReadOnly), overlay_of(lower.clone()));
    let upper = format!("workdir={},upperdir={},{lower}", path(1, "work"), path(1, "fs"));
    assert_eq!(one(&ids[1..], Access::ReadWrite), overlay_of(upper));
    let mode = |path: String| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o7777;
    assert_eq!((mode(path(1, "fs")), mode(path(1, "work"))), (0o755, 0o711));
}

#[test]
fn what_a_crash_left_half_made_is_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    drop(Native::open(folder.path()).unwrap());
    fs::create_dir_all(folder.path().join("new/7-1-0/etc")).unwrap();
    let native = Native::open(folder.path()).unwrap();
    assert!(native.ids().unwrap().is_empty());
    native.create(SnapshotId(7), &[]).unwrap();
    native.cleanup().unwrap();
    assert_eq!(fs::read_dir(folder.path().join("trash")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
}

#[tokio::test]
async fn offload_carries_every_call() {
    let folder = tempfile::tempdir().unwrap();
    let offload = Offload::new(Arc::new(Native::open(folder.path()).unwrap()), 2);
    let (one, two) = (SnapshotId(1), SnapshotId(2));
    offload.create(one, vec![]).await.unwrap();
    offload.commit(one).await.unwrap();
    offload.view(two, vec![one]).await.unwrap();
    assert_eq!(offload.mounts(two, vec![one], Access::ReadOnly).await.unwrap().len(), 1);
    assert_eq!(offload.usage(one).await.unwrap().inodes, 1);
    assert_eq!(offload.ids().await.unwrap(), [one, two]);
    offload.remove(two).await.unwrap();
    offload.cleanup().await.unwrap();
    assert_eq!(offload.ids().await.unwrap(), [one]);
}
