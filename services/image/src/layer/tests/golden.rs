//! Archives that GNU tar made, and ours read by it.

use super::super::{ApplyOptions, ApplyTarget, Compression, DiffOptions, apply, diff};
use super::support::Tree;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn tar(arguments: &[&str], folder: &Path) -> Option<Vec<u8>> {
    let Ok(output) = Command::new("tar").args(arguments).current_dir(folder).output() else {
        println!("skip: tar absent");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

/// Two trees are the same in all that GNU tar keeps.
fn same(left: &Tree, right: &Tree, whole_seconds: bool) {
    assert_eq!(left.names(), right.names());
    for name in left.names() {
        let (one, other) = (left.stat(&name), right.stat(&name));
        let of = |stat: &fs::Metadata| {
            let size = if stat.is_dir() { 0 } else { stat.len() };
            (stat.mode(), stat.uid(), stat.gid(), size, stat.rdev(), stat.mtime())
        };
        assert_eq!(of(&one), of(&other), "{name}");
        assert!(whole_seconds || one.mtime_nsec() == other.mtime_nsec(), "{name}");
        if one.is_file() {
            assert_eq!(
                fs::read(left.path().join(&name)).unwrap(),
                fs::read(right.path().join(&name)).unwrap(),
                "{name}"
            );
        }
        if one.is_symlink() {
            let target = |tree: &Tree| fs::read_link(tree.path().join(&name)).unwrap();
            assert_eq!(target(left), target(right), "{name}");
        }
    }
}

/// Long names and links, holes, hard links, devices, strange letters, owners.
fn rich() -> Tree {
    let tree = Tree::new();
    let long = format!("{}/{}", "folder".repeat(30), "n".repeat(200));
    tree.file("a", "text").file(&long, "long").file("d/ünïcödé\n", "u").link("l", &"target/".repeat(40));
    fs::hard_link(tree.path().join("a"), tree.path().join("d/hard")).unwrap();
    fs::hard_link(tree.path().join("a"), tree.path().join(format!("{}/hard", "folder".repeat(30)))).unwrap();
    tree.chown("d", 70_000, 3_000_000).chmod("d", 0o2770).chmod("a", 0o4711);
    let sparse = fs::File::create(tree.path().join("sparse")).unwrap();
    for segment in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[segment as u8 + 1; 4096], segment * (1 << 20)).unwrap();
    }
    sparse.set_len(50 << 20).unwrap();
    fs::File::create(tree.path().join("hole")).unwrap().set_len(3 << 20).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.path().join("null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let nul = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.path().join("d"), "user.note", b"of a \0 folder", nul).unwrap();
    rustix::fs::setxattr(tree.path().join("a"), "trusted.mark", b"t", nul).unwrap();
    tree
}

#[test]
fn archives_of_gnu_tar_are_read_in_every_format() {
    let source = rich();
    let formats: [&[&str]; 6] = [
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "-z"],
        &["--format=gnu", "--zstd"],
    ];
    for format in formats {
        let arguments: Vec<_> = ["--numeric-owner"].iter().chain(format).chain(&["-cf", "-", "."]).copied().collect();
        let Some(archive) = tar(&arguments, source.path()) else { return };
        let target = Tree::new();
        apply(&archive[..], &ApplyTarget::direct(target.path()), &ApplyOptions::default())
            .unwrap_or_else(|error| panic!("{format:?}: {error}"));
        same(&source, &target, format[0] == "--format=gnu");
        assert_eq!(target.stat("a").ino(), target.stat("d/hard").ino());
        if format.contains(&"--sparse") {
            assert!(target.stat("sparse").blocks() * 512 < 4 << 20, "{format:?}");
            assert!(target.stat("hole").blocks() * 512 < 1 << 20, "{format:?}");
        }
        if format.contains(&"--xattrs") {
            let mut value = [0; 64];
            let length = rustix::fs::lgetxattr(target.path().join("d"), "user.note", value.as_mut_slice()).unwrap();
            assert_eq!(&value[..length], b"of a \0 folder");
        }
    }
}

#[test]
fn an_archive_of_busybox_is_read() {
    let source = Tree::new();
    source.file("a", "text").file("d/b", &"x".repeat(9000)).link("l", "d/b").chmod("d", 0o1777);
    let Ok(output) = Command::new("busybox").args(["tar", "-cf", "-", "."]).current_dir(source.path()).output() else {
        return println!("skip: busybox absent");
    };
    let target = Tree::new();
    apply(&output.stdout[..], &ApplyTarget::direct(target.path()), &ApplyOptions::default()).unwrap();
    same(&source, &target, true);
}

#[test]
fn gnu_tar_reads_our_archives() {
    let source = rich();
    for (compression, flag) in [(Compression::None, "--"), (Compression::Gzip, "-z"), (Compression::Zstd, "--zstd")] {
        let mut layer = Vec::new();
        diff(None, source.path(), &mut layer, &DiffOptions { compression, source_date_epoch: None }).unwrap();
        let target = Tree::new();
        let mut command = Command::new("tar");
        if flag != "--" {
            command.arg(flag);
        }
        command.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", "-"]).current_dir(target.path());
        let Ok(mut child) = command.stdin(Stdio::piped()).spawn() else { return println!("skip: tar absent") };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), &layer).unwrap();
        assert!(child.wait().unwrap().success());
        same(&source, &target, true);
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(target.path().join("a"), "trusted.mark", value.as_mut_slice()).unwrap();
        assert_eq!(&value[..length], b"t");
    }
}
