//! Layers against the kernel: hostile archives, archives of GNU tar, and apply after diff on random trees. Needs root.

mod golden;
mod hostile;
mod property;
mod support;

use super::{
    ApplyOptions, ApplyTarget, Compression, DiffOptions, apply, apply_to_mounts, diff, diff_mounts, diff_upperdir,
};
use crated_types::Mount;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use support::{Archive, Tree, applied, is_whiteout, opaque};

#[test]
fn whiteouts_delete_in_a_whole_tree() {
    let root = Tree::new();
    root.file("keep", "k").file("gone", "g").file("d/old", "o").file("d/sub/older", "o").file("tree/a/b", "x");
    let layer = Archive::new()
        .folder("d/")
        .file("d/new", "n")
        .file("d/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .file(".wh.tree", "");
    applied(&layer, &ApplyTarget::direct(root.path())).unwrap();
    assert_eq!(root.names(), ["d", "d/new", "keep"], "what the layer made before its opaque mark stays");
}

#[test]
fn a_whiteout_never_hides_what_its_own_layer_made() {
    let root = Tree::new();
    root.file("a", "old").file("d/old", "o");
    let layer = Archive::new().file("a", "new").file(".wh.a", "").file("d/new", "n").file(".wh.d", "");
    applied(&layer, &ApplyTarget::direct(root.path())).unwrap();
    assert_eq!(root.names(), ["a", "d", "d/new"]);
    assert_eq!(root.read("a"), "new");
}

#[test]
fn whiteouts_become_devices_over_an_overlay() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("gone", "").file("d/old", "").file("replaced/x", "").file("e/f", "");
    let layer = Archive::new()
        .file(".wh.gone", "")
        .folder("d/")
        .file("d/.wh..wh..opq", "")
        .file("d/new", "n")
        .file(".wh.replaced", "")
        .folder("replaced/")
        .file("e/.wh.f", "");
    applied(&layer, &ApplyTarget::overlay(upper.path(), vec![lower.path().into()])).unwrap();
    assert!(is_whiteout(&upper.path().join("gone")));
    assert!(opaque(&upper.path().join("d")));
    assert!(opaque(&upper.path().join("replaced")), "a folder over a whiteout hides the one below");
    assert!(is_whiteout(&upper.path().join("e/f")));
    assert!(!opaque(&upper.path().join("e")));
}

#[test]
fn an_opaque_root_hides_each_name_below() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("a", "").file("d/x", "");
    let layer = Archive::new().file(".wh..wh..opq", "").folder("d/").file("n", "");
    applied(&layer, &ApplyTarget::overlay(upper.path(), vec![lower.path().into()])).unwrap();
    assert!(is_whiteout(&upper.path().join("a")));
    assert_eq!(fs::read_dir(upper.path().join("d")).unwrap().count(), 0);
    // The folder came after the mark: it replaced a whiteout.
    assert!(opaque(&upper.path().join("d")));
}

#[test]
fn missing_parents_are_made_as_they_are_below() {
    let (near, far, upper) = (Tree::new(), Tree::new(), Tree::new());
    near.file("usr/lib/x", "");
    near.chmod("usr", 0o750).link("lib", "usr/lib");
    far.file("var/spool/y", "");
    far.chmod("var", 0o1777).chown("var", 12, 34);
    let layer = Archive::new().file("lib/new", "n").file("var/spool/z", "z").file("fresh/a", "a");
    let lower = vec![near.path().into(), far.path().into()];
    applied(&layer, &ApplyTarget::overlay(upper.path(), lower)).unwrap();
    assert_eq!(upper.names(), ["fresh", "fresh/a", "usr", "usr/lib", "usr/lib/new", "var", "var/spool", "var/spool/z"]);
    assert_eq!(upper.stat("usr").mode() & 0o7777, 0o750);
    let var = upper.stat("var");
    assert_eq!((var.mode() & 0o7777, var.uid(), var.gid()), (0o1777, 12, 34));
    assert_eq!(var.mtime(), far.stat("var").mtime());
    assert_eq!(upper.stat("fresh").mode() & 0o7777, 0o755);
}

#[test]
fn a_hard_link_to_a_lower_file_copies_it_up() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("d/a", "text");
    let layer = Archive::new().hard_link("b", "d/a");
    applied(&layer, &ApplyTarget::overlay(upper.path(), vec![lower.path().into()])).unwrap();
    assert_eq!(upper.read("b"), "text");
    assert_eq!(upper.stat("b").ino(), upper.stat("d/a").ino());
}

#[test]
fn everything_that_is_no_file_is_made() {
    let root = Tree::new();
    let layer = Archive::new()
        .entry("null", b'3', |head| (head.mode, head.device) = (0o666, (1, 3)))
        .entry("disk", b'4', |head| (head.mode, head.device, head.gid) = (0o660, (259, 300), 6))
        .entry("pipe", b'6', |head| head.mode = 0o622)
        .entry("link", b'2', |head| (head.link, head.uid) = (b"/etc/passwd", 5))
        .entry("suid", b'0', |head| (head.mode, head.uid, head.gid) = (0o6755, 7, 8));
    applied(&layer, &ApplyTarget::direct(root.path())).unwrap();
    let null = root.stat("null");
    assert!(null.file_type().is_char_device());
    assert_eq!((null.mode() & 0o7777, null.rdev()), (0o666, rustix::fs::makedev(1, 3)));
    let disk = root.stat("disk");
    assert!(disk.file_type().is_block_device());
    assert_eq!((disk.gid(), disk.rdev()), (6, rustix::fs::makedev(259, 300)));
    assert!(root.stat("pipe").file_type().is_fifo());
    assert_eq!(root.stat("pipe").mode() & 0o7777, 0o622);
    assert_eq!((root.stat("link").uid(), fs::read_link(root.path().join("link")).unwrap()), (5, "/etc/passwd".into()));
    let suid = root.stat("suid");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid()), (0o6755, 7, 8));
}

#[test]
fn a_setgid_folder_does_not_leak_its_group() {
    let root = Tree::new();
    let layer = Archive::new()
        .entry("mail/", b'5', |head| (head.mode, head.gid) = (0o2775, 8))
        .file("mail/box", "")
        .folder("mail/dir/");
    applied(&layer, &ApplyTarget::direct(root.path())).unwrap();
    assert_eq!(root.stat("mail").mode() & 0o7777, 0o2775);
    assert_eq!(root.stat("mail/box").gid(), 0);
    assert_eq!((root.stat("mail/dir").gid(), root.stat("mail/dir").mode() & 0o7777), (0, 0o755));
}

#[test]
fn times_of_folders_are_set_last() {
    let root = Tree::new();
    let layer = Archive::new()
        .entry("./", b'5', |head| (head.mode, head.mtime) = (0o711, 10))
        .entry("a/", b'5', |head| head.mtime = 20)
        .entry("a/b/", b'5', |head| head.mtime = 30)
        .entry("a/b/f", b'0', |head| head.mtime = -40);
    applied(&layer, &ApplyTarget::direct(root.path())).unwrap();
    let times = ["", "a", "a/b", "a/b/f"].map(|name| root.stat(name).mtime());
    assert_eq!(times, [10, 20, 30, -40]);
    assert_eq!(root.stat("").mode() & 0o7777, 0o711);
}

#[test]
fn trailing_bytes_count_and_all_compressions_give_one_diff_id() {
    use std::io::Write;
    let mut tar = Archive::new().file("a", "text").bytes();
    tar.extend(vec![0; 10240]);
    tar.extend(b"junk behind the end");
    let mut gzip = Vec::new();
    for part in tar.chunks(700) {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        member.write_all(part).unwrap();
        gzip.extend(member.finish().unwrap());
    }
    let zstd = zstd::stream::encode_all(&tar[..], 1).unwrap();
    let digest = crated_types::Digest::sha256(
        sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(&tar)).into(),
    );
    for bytes in [&tar, &gzip, &zstd] {
        let root = Tree::new();
        let answer =
            apply(&bytes[..], &ApplyTarget::direct(root.path()), &ApplyOptions { sync: true, ..Default::default() });
        let answer = answer.unwrap();
        assert_eq!((answer.diff_id, answer.size, answer.entries), (digest.clone(), tar.len() as u64, 1));
        assert_eq!(root.read("a"), "text");
    }
}

#[test]
fn the_readers_own_error_comes_through() {
    struct Cut;
    impl std::io::Read for Cut {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            let ours = crated_types::Error::new(crated_types::Fault::Unreachable, "registry hung up");
            Err(std::io::Error::other(ours))
        }
    }
    let root = Tree::new();
    let error = apply(Cut, &ApplyTarget::direct(root.path()), &ApplyOptions::default()).unwrap_err();
    assert_eq!(error.fault(), crated_types::Fault::Unreachable);
}

#[test]
fn a_diff_is_the_same_bytes_twice_and_knows_both_digests() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("same", "s").file("gone", "g").file("kind/x", "");
    upper.file("same", "s").file("new", "n").file("kind", "now a file").file("p/q/r", "deep");
    upper.times_of(&lower, "same");
    let options = DiffOptions { source_date_epoch: Some(std::time::UNIX_EPOCH), ..Default::default() };
    let write = || {
        let mut bytes = Vec::new();
        let written = diff(Some(lower.path()), upper.path(), &mut bytes, &options).unwrap();
        (bytes, written)
    };
    let (bytes, written) = write();
    assert_eq!(write(), (bytes.clone(), written.clone()));
    assert_eq!(written.size, bytes.len() as u64);
    assert_eq!(support::names_in(&bytes), [".wh.gone", "kind", "new", "p/", "p/q/", "p/q/r"]);
    let answer = apply(&bytes[..], &ApplyTarget::direct(lower.path()), &ApplyOptions::default()).unwrap();
    assert_eq!((answer.diff_id, answer.size), (written.diff_id, written.diff_size));
    assert_eq!(lower.names(), upper.names());
}

#[test]
fn a_new_name_of_an_old_file_brings_its_group() {
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("a", "text").file("z", "text");
    fs::remove_file(lower.path().join("z")).unwrap();
    fs::hard_link(lower.path().join("a"), lower.path().join("z")).unwrap();
    upper.copy_of(&lower);
    fs::hard_link(upper.path().join("a"), upper.path().join("m")).unwrap();
    let mut bytes = Vec::new();
    diff(Some(lower.path()), upper.path(), &mut bytes, &DiffOptions::default()).unwrap();
    applied_bytes(&bytes, &lower);
    let inode = lower.stat("a").ino();
    assert_eq!(["m", "z"].map(|name| lower.stat(name).ino()), [inode, inode]);
}

fn applied_bytes(bytes: &[u8], root: &Tree) {
    apply(bytes, &ApplyTarget::direct(root.path()), &ApplyOptions::default()).unwrap();
}

/// An overlay's mounts over `lower`, as the snapshotter gives them.
fn overlay_mount(lower: &[&Tree], upper: Option<&Tree>, work: &Tree) -> Mount {
    let lower: Vec<_> = lower.iter().map(|tree| tree.path().display().to_string()).collect();
    let mut options = Vec::new();
    if let Some(upper) = upper {
        options.push(format!("workdir={}", work.path().display()));
        options.push(format!("upperdir={}", upper.path().display()));
    }
    options.push(format!("lowerdir={}", lower.join(":")));
    options.push("index=off".into());
    Mount { fstype: "overlay".into(), source: "overlay".into(), target: String::new(), options }
}

#[test]
fn an_upper_folder_and_the_merged_tree_give_layers_of_one_effect() {
    let [base, near, upper, work] = [Tree::new(), Tree::new(), Tree::new(), Tree::new()];
    base.file("etc/a", "a").file("etc/b", "b").file("opt/x/y", "y").file("top", "t");
    near.file("etc/c", "c");
    let active = overlay_mount(&[&near, &base], Some(&upper), &work);
    let view = overlay_mount(&[&near, &base], None, &work);
    let layer = Archive::new()
        .file("etc/.wh.a", "")
        .file("opt/.wh.x", "")
        .file("opt/new", "n")
        .file("etc/b", "changed")
        .file(".wh.top", "");
    apply_to_mounts(&layer.bytes()[..], std::slice::from_ref(&active), &ApplyOptions::default()).unwrap();

    let merged =
        |mount: &Mount| super::with_mounts(std::slice::from_ref(mount), |root| Ok(support::names(root))).unwrap();
    assert_eq!(merged(&active), ["etc", "etc/b", "etc/c", "opt", "opt/new"]);
    let options = DiffOptions { compression: Compression::None, source_date_epoch: None };
    let (mut fast, mut slow, mut through) = (Vec::new(), Vec::new(), Vec::new());
    diff_upperdir(upper.path(), &mut fast, &options).unwrap();
    super::with_mounts(std::slice::from_ref(&view), |lower| {
        super::with_mounts(std::slice::from_ref(&active), |upper| diff(Some(lower), upper, &mut slow, &options))
    })
    .unwrap();
    diff_mounts(std::slice::from_ref(&view), std::slice::from_ref(&active), &mut through, &options).unwrap();
    assert_eq!(support::names_in(&fast), support::names_in(&slow));
    assert_eq!(fast, through);

    let again = Tree::new();
    let whole = overlay_mount(&[&near, &base], Some(&again), &work);
    apply_to_mounts(&slow[..], std::slice::from_ref(&whole), &ApplyOptions::default()).unwrap();
    assert_eq!(merged(&whole), merged(&active));
}

#[test]
fn a_view_cannot_be_applied_to() {
    let [one, two, work] = [Tree::new(), Tree::new(), Tree::new()];
    let view = overlay_mount(&[&one, &two], None, &work);
    let layer = Archive::new().file("a", "");
    let error = apply_to_mounts(&layer.bytes()[..], &[view], &ApplyOptions::default()).unwrap_err();
    assert!(error.to_string().contains("Read-only file system"), "{error}");
}
