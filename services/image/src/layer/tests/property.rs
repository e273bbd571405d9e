//! Apply after diff gives the upper tree, whatever the two trees are; through a whole tree and through an overlay.

use super::super::{
    ApplyOptions, ApplyTarget, Compression, DiffOptions, apply, apply_to_mounts, diff, diff_mounts, with_mounts,
};
use super::overlay_mount;
use super::support::Tree;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

#[derive(Clone, Debug)]
enum Thing {
    File {
        text: Vec<u8>,
        mode: u32,
        uid: u32,
    },
    Folder {
        mode: u32,
        note: bool,
    },
    Link(String),
    Pipe,
    /// A further name of the file at this path, if there is one.
    Hard(String),
}

/// Things by their paths, made in order.
type Plan = BTreeMap<String, (Thing, i64)>;

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "wh", "x y"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn thing() -> impl Strategy<Value = Thing> {
    let mode = || prop::sample::select(vec![0o644, 0o600, 0o4755, 0o000, 0o777]);
    prop_oneof![
        4 => (prop::collection::vec(any::<u8>(), 0..700), mode(), 0u32..3).prop_map(|(text, mode, uid)| Thing::File { text, mode, uid }),
        3 => (prop::sample::select(vec![0o755, 0o700, 0o1777]), any::<bool>()).prop_map(|(mode, note)| Thing::Folder { mode, note }),
        1 => path().prop_map(Thing::Link),
        1 => Just(Thing::Pipe),
        1 => path().prop_map(Thing::Hard),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    prop::collection::btree_map(path(), (thing(), 0i64..2_000_000_000), 0..12)
}

/// Makes what the plan says where nothing is in its way.
fn build(root: &Path, plan: &Plan) {
    for (path, (thing, time)) in plan {
        let place = root.join(path);
        let parent = place.parent().unwrap();
        if place.symlink_metadata().is_ok() || !inside(root, parent) {
            continue;
        }
        match thing {
            Thing::File { text, mode, uid } => {
                fs::write(&place, text).unwrap();
                std::os::unix::fs::chown(&place, Some(*uid), Some(0)).unwrap();
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Thing::Folder { mode, note } => {
                fs::create_dir(&place).unwrap();
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode)).unwrap();
                if *note {
                    rustix::fs::setxattr(&place, "user.note", b"n", rustix::fs::XattrFlags::empty()).unwrap();
                }
            }
            Thing::Link(target) => std::os::unix::fs::symlink(target, &place).unwrap(),
            Thing::Pipe => rustix::fs::mknodat(
                rustix::fs::CWD,
                &place,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap(),
            Thing::Hard(target) => {
                let target = root.join(target);
                if is_real(root, &target) && target.symlink_metadata().is_ok_and(|stat| stat.is_file()) {
                    fs::hard_link(target, &place).unwrap();
                } else {
                    fs::write(&place, b"").unwrap();
                }
            }
        }
        touch(&place, *time);
    }
}

/// Whether a folder is there, reached through no link; makes it where nothing is.
fn inside(root: &Path, folder: &Path) -> bool {
    let mut at = root.to_owned();
    for part in folder.strip_prefix(root).unwrap() {
        at.push(part);
        match at.symlink_metadata() {
            Ok(stat) if stat.is_dir() => {}
            Ok(_) => return false,
            Err(_) => fs::create_dir(&at).unwrap(),
        }
    }
    true
}

/// Whether nothing on the way to `path` is a link.
fn is_real(root: &Path, path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .take_while(|at| *at != root)
        .all(|at| at.symlink_metadata().is_ok_and(|stat| stat.is_dir()))
}

fn touch(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// All folders get a time that follows from their path, so that what was made in them leaves no trace.
fn settle(root: &Path) {
    for name in super::support::names(root).into_iter().rev() {
        let path = root.join(&name);
        if path.symlink_metadata().unwrap().is_dir() {
            touch(&path, 1000 + name.len() as i64);
        }
    }
}

/// Everything that a layer can say of a tree; hard links as groups, named by their first member.
fn describe(root: &Path) -> Vec<String> {
    let mut groups = BTreeMap::new();
    super::support::names(root)
        .into_iter()
        .map(|name| {
            let path = root.join(&name);
            let stat = path.symlink_metadata().unwrap();
            let content = if stat.is_file() {
                format!("{:?}", fs::read(&path).unwrap())
            } else if stat.is_symlink() {
                format!("{:?}", fs::read_link(&path).unwrap())
            } else {
                String::new()
            };
            let mut note = [0; 8];
            let note = rustix::fs::lgetxattr(&path, "user.note", note.as_mut_slice()).is_ok();
            let group = groups.entry(stat.ino()).or_insert_with(|| name.clone()).clone();
            let group = if stat.is_dir() { String::new() } else { group };
            format!("{name:?} {:o} {} {} {note} {group:?} {content}", stat.mode(), stat.uid(), stat.mtime())
        })
        .collect()
}

/// The upper tree: the lower one with some of it gone and more made.
fn change(lower: &Tree, gone: &[String], more: &Plan) -> Tree {
    let upper = Tree::new();
    upper.copy_of(lower);
    for path in gone {
        let path = upper.path().join(path);
        match path.symlink_metadata() {
            Ok(stat) if stat.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }
    build(upper.path(), more);
    settle(upper.path());
    upper
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apply_undoes_diff_in_a_whole_tree(first in plan(), gone in prop::collection::vec(path(), 0..4), more in plan()) {
        let lower = Tree::new();
        build(lower.path(), &first);
        settle(lower.path());
        let upper = change(&lower, &gone, &more);
        let mut layer = Vec::new();
        let options = DiffOptions { compression: Compression::Zstd, source_date_epoch: None };
        let written = diff(Some(lower.path()), upper.path(), &mut layer, &options).unwrap();
        let applied = apply(&layer[..], &ApplyTarget::direct(lower.path()), &ApplyOptions::default()).unwrap();
        prop_assert_eq!(written.diff_id, applied.diff_id);
        settle(lower.path());
        prop_assert_eq!(describe(lower.path()), describe(upper.path()));
        // Nothing is left to say.
        let mut rest = Vec::new();
        let written = diff(Some(lower.path()), upper.path(), &mut rest, &options).unwrap();
        prop_assert_eq!(written.entries, 0);
    }

    #[test]
    fn apply_undoes_diff_over_an_overlay(first in plan(), gone in prop::collection::vec(path(), 0..4), more in plan()) {
        let lower = Tree::new();
        build(lower.path(), &first);
        settle(lower.path());
        let upper = change(&lower, &gone, &more);
        let mut layer = Vec::new();
        let options = DiffOptions { compression: Compression::None, source_date_epoch: None };
        diff(Some(lower.path()), upper.path(), &mut layer, &options).unwrap();

        let below = describe(lower.path());
        let (folder, work, again) = (Tree::new(), Tree::new(), Tree::new());
        let mount = overlay_mount(&[&lower], Some(&folder), &work);
        apply_to_mounts(&layer[..], std::slice::from_ref(&mount), &ApplyOptions::default()).unwrap();
        prop_assert_eq!(&describe(lower.path()), &below, "what is below never changes");
        let merged = with_mounts(std::slice::from_ref(&mount), |root| Ok(super::support::names(root))).unwrap();
        prop_assert_eq!(merged, upper.names());

        // The upper folder, read back as a layer, does the same to a copy.
        again.copy_of(&lower);
        let bind = crated_types::Mount {
            fstype: "bind".into(),
            source: lower.path().display().to_string(),
            target: String::new(),
            options: vec!["ro".into(), "rbind".into()],
        };
        let mut back = Vec::new();
        diff_mounts(&[bind], std::slice::from_ref(&mount), &mut back, &options).unwrap();
        apply(&back[..], &ApplyTarget::direct(again.path()), &ApplyOptions::default()).unwrap();
        settle(again.path());
        prop_assert_eq!(again.names(), upper.names());
        for name in upper.names() {
            let (one, other) = (again.stat(&name), upper.stat(&name));
            prop_assert_eq!((one.mode(), one.uid(), one.mtime()), (other.mode(), other.uid(), other.mtime()), "{}", name);
        }
    }
}
