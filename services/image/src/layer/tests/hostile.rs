//! Layers that mean harm, or are damaged: a clear refusal, and nothing outside of the root.

use super::super::{ApplyOptions, ApplyTarget, Limits, apply};
use super::support::{Archive, Tree, applied};
use crated_types::{Error, Fault};
use std::fs;

/// A root inside a folder that must not change.
struct Cage {
    outer: Tree,
}

impl Cage {
    fn new() -> Self {
        let outer = Tree::new();
        outer.file("root/etc/hosts", "inside").file("secret/file", "outside");
        Self { outer }
    }

    fn target(&self) -> ApplyTarget {
        ApplyTarget::direct(self.outer.path().join("root"))
    }

    /// The outside is as it was.
    fn check(&self) {
        assert_eq!(fs::read_dir(self.outer.path()).unwrap().count(), 2);
        assert_eq!(super::support::names(&self.outer.path().join("secret")), ["file"]);
        assert_eq!(self.outer.read("secret/file"), "outside");
        let secret = self.outer.stat("secret/file");
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&secret), 1);
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&secret) & 0o7777, 0o644);
    }

    fn inside(&self) -> Vec<String> {
        super::support::names(&self.outer.path().join("root"))
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Deeper than the standard library can remove.
        let folder = fs::File::open(self.outer.path()).unwrap();
        crated_sys::tree::remove(&folder, std::ffi::OsStr::new("root")).unwrap();
    }
}

fn refused(archive: &Archive, word: &str) -> Error {
    let cage = Cage::new();
    let error = applied(archive, &cage.target()).expect_err(word);
    assert_eq!(error.fault(), Fault::Malformed, "{error}");
    assert!(error.to_string().contains(word), "{word:?} in {error}");
    cage.check();
    error
}

#[test]
fn dots_are_refused_by_name() {
    for name in ["../secret/file", "a/../../secret/file", "..", "a/..", "/../x"] {
        refused(&Archive::new().file(name, "evil"), "..");
    }
    let error = refused(&Archive::new().file("ok/../../x", ""), "ok/../../x");
    assert!(error.remedy().is_some());
    refused(&Archive::new().hard_link("x", "../secret/file"), "..");
    refused(&Archive::new().file(".wh...", ""), "whiteout");
    refused(&Archive::new().file("d/.wh..", ""), "whiteout");
    refused(&Archive::new().file(".wh.", ""), "whiteout");
}

#[test]
fn absolute_names_are_below_the_root() {
    let cage = Cage::new();
    let secret = cage.outer.path().join("secret/file");
    let archive = Archive::new().file(secret.to_str().unwrap(), "mine");
    applied(&archive, &cage.target()).unwrap();
    let inside = cage.outer.path().join("root").join(secret.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(inside).unwrap(), "mine");
    cage.check();
}

#[test]
fn symbolic_links_lead_nowhere_else() {
    for target in ["../secret", "/../secret", "../../../../../../../../secret", "etc/../../secret"] {
        let cage = Cage::new();
        let archive = Archive::new()
            .symlink("out", target)
            .file("out/file", "mine")
            .file("out/.wh.other", "")
            .entry("out/file2", b'0', |head| head.mode = 0o777)
            .hard_link("stolen", "out/file");
        applied(&archive, &cage.target()).unwrap();
        cage.check();
        assert_eq!(fs::read_to_string(cage.outer.path().join("root/secret/file")).unwrap(), "mine");
    }
}

#[test]
fn an_absolute_link_to_the_host_stays_inside() {
    let cage = Cage::new();
    let secret = cage.outer.path().join("secret").display().to_string();
    let archive =
        Archive::new().symlink("out", &secret).file("out/file", "mine").file("out/.wh.file", "").folder("out/");
    applied(&archive, &cage.target()).unwrap();
    cage.check();
}

#[test]
fn a_link_is_replaced_and_never_written_through() {
    let cage = Cage::new();
    let archive = Archive::new()
        .symlink("f", "../secret/file")
        .file("f", "mine")
        .symlink("g", "../secret/file")
        .entry("g", b'6', |head| head.mode = 0o777)
        .symlink("d", "../secret")
        .folder("d/")
        .file("d/file", "mine");
    applied(&archive, &cage.target()).unwrap();
    cage.check();
    assert_eq!(fs::read_to_string(cage.outer.path().join("root/d/file")).unwrap(), "mine");
}

#[test]
fn a_hard_link_to_a_link_is_the_link_itself() {
    let cage = Cage::new();
    let archive =
        Archive::new().symlink("l", "../secret/file").hard_link("h", "l").entry("h", b'0', |head| head.mode = 0o666);
    applied(&archive, &cage.target()).unwrap();
    cage.check();
}

#[test]
fn hard_links_to_nothing_whiteouts_folders_and_themselves_are_refused() {
    refused(&Archive::new().hard_link("a", "missing"), "not there");
    refused(&Archive::new().hard_link("a", ".wh.b"), "whiteout");
    refused(&Archive::new().hard_link(".wh.a", "etc/hosts"), "whiteout");
    refused(&Archive::new().hard_link("a", "etc"), "folder");
    refused(&Archive::new().hard_link("a", "/"), "root");
    refused(&Archive::new().file("a", "").hard_link("a", "./a"), "itself");
    let (lower, upper) = (Tree::new(), Tree::new());
    lower.file("a", "");
    let archive = Archive::new().file(".wh.a", "").hard_link("b", "a");
    let error = applied(&archive, &ApplyTarget::overlay(upper.path(), vec![lower.path().into()])).unwrap_err();
    assert!(error.to_string().contains("not there"), "{error}");
}

#[test]
fn overlayfs_own_marks_are_refused_from_a_layer() {
    refused(&Archive::new().entry("w", b'3', |head| head.device = (0, 0)), "0/0");
    let marks = [(c"trusted.overlay.redirect".to_owned(), b"/secret".to_vec())];
    refused(&Archive::new().entry("d/", b'5', |head| head.xattrs = &marks), "trusted.overlay.redirect");
    refused(&Archive::new().file(".wh.d/x", ""), "whiteout");
}

#[test]
fn loops_and_long_names_end() {
    refused(&Archive::new().symlink("a", "b").symlink("b", "a").file("a/x", ""), "too many symbolic links");
    refused(&Archive::new().file(&"n".repeat(256), ""), "too long");
    refused(&Archive::new().file(&"abc/".repeat(1100), ""), "too long");
    let target = "t".repeat(300);
    refused(&Archive::new().symlink("a", &target).file("a/x", ""), "too long");
    refused(&Archive::new().file("etc/hosts/x", ""), "used as a folder");
    // Links that make a path longer with each step.
    let step = "d/".repeat(900);
    let archive = Archive::new().folder(&step).symlink("s", &step).symlink("t", &format!("s/{step}"));
    refused(&archive.file("t/ok", "").symlink("u", &format!("t/{step}")).file("u/x", ""), "too long");
}

#[test]
fn bounds_hold() {
    let limited = |archive: Archive, limits: Limits| {
        let cage = Cage::new();
        let options = ApplyOptions { limits, sync: false };
        let error = apply(&archive.bytes()[..], &cage.target(), &options).unwrap_err();
        assert_eq!(error.fault(), Fault::Malformed);
        error.to_string()
    };
    let many = (0..20).fold(Archive::new(), |archive, number| archive.file(&format!("f{number}"), ""));
    assert!(limited(many, Limits { entries: 10, ..Limits::default() }).contains("10 entries"));
    let big = Archive::new().file("f", &"x".repeat(1 << 20));
    assert!(limited(big, Limits { bytes: 4096, ..Limits::default() }).contains("4096 bytes"));
    let long = Archive::new().file(&"a/".repeat(1000), "");
    assert!(limited(long, Limits { header: 100, ..Limits::default() }).contains("extended header"));
}

#[test]
fn a_bomb_is_cut_while_it_unfolds() {
    use std::io::Write;
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&Archive::new().entry("f", b'0', |head| head.size = 1 << 32).bytes()[..512]).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        bomb.write_all(&zeros).unwrap();
    }
    let cage = Cage::new();
    let options = ApplyOptions { limits: Limits { bytes: 8 << 20, ..Limits::default() }, sync: false };
    let error = apply(&bomb.finish().unwrap()[..], &cage.target(), &options).unwrap_err();
    assert!(error.to_string().contains("bytes uncompressed"), "{error}");
    assert!(cage.outer.stat("root/f").len() <= 8 << 20);
}

#[test]
fn damage_is_named() {
    use std::io::Write;
    let cage = Cage::new();
    let run = |bytes: &[u8]| apply(bytes, &cage.target(), &ApplyOptions::default());
    let tar = Archive::new().file("a", &"x".repeat(5000)).bytes();
    for (cut, word) in [(300, "within a header"), (2000, "within its data")] {
        let error = run(&tar[..cut]).unwrap_err();
        assert!(error.fault() == Fault::Malformed && error.to_string().contains(word), "{error}");
    }
    let mut flipped = tar.clone();
    flipped[5] ^= 1;
    assert!(run(&flipped).unwrap_err().to_string().contains("checksum"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    for cut in [12, gzip.len() / 2, gzip.len() - 3] {
        let error = run(&gzip[..cut]).unwrap_err();
        assert!(error.fault() == Fault::Malformed && error.to_string().contains("damaged"), "{cut}: {error}");
    }
    let zstd = zstd::stream::encode_all(&tar[..], 1).unwrap();
    assert_eq!(run(&zstd[..zstd.len() - 4]).unwrap_err().fault(), Fault::Malformed);
    assert_eq!(run(b"no tar at all, but long enough to be looked at").unwrap_err().fault(), Fault::Malformed);
    assert_eq!(run(b"").unwrap().entries, 0);
    cage.check();
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let record = |text: &str| format!("{} {text}\n", text.len() + 4);
    for map in [
        "GNU.sparse.map=0,9999",
        "GNU.sparse.map=9,1,0,1",
        "GNU.sparse.map=1,2,3",
        "GNU.sparse.map=18446744073709551615,2",
    ] {
        let mut pax = record("GNU.sparse.size=100");
        pax.push_str(&format!("{} {map}\n", map.len() + 4));
        let mut body = pax.clone().into_bytes();
        body.resize(512, 0);
        let archive = Archive::new().entry("pax", b'x', |head| head.size = pax.len() as u64).raw(&body).file("s", "xy");
        refused(&archive, "sparse");
    }
}

#[test]
fn any_bytes_end_without_a_panic() {
    // A generator of our own: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let base = Archive::new()
        .folder("d/")
        .file("d/f", "text")
        .symlink("l", "d")
        .hard_link("h", "d/f")
        .file(&"long/".repeat(40), "")
        .file("d/.wh.x", "")
        .bytes();
    for _ in 0..300 {
        let mut bytes = base.clone();
        for _ in 0..1 + random() % 4 {
            let block = random() as usize % (bytes.len() / 512) * 512;
            let at = block + random() as usize % 512;
            bytes[at] = random() as u8;
            // With its sum put right, a damaged header is read on.
            if random() % 4 > 0 && bytes[block] != 0 {
                bytes[block + 148..block + 156].fill(b' ');
                let sum: u32 = bytes[block..block + 512].iter().map(|byte| u32::from(*byte)).sum();
                bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let cage = Cage::new();
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        let _ = apply(&bytes[..], &cage.target(), &ApplyOptions { limits, sync: false });
        cage.check();
        assert!(cage.inside().len() < 200);
    }
}
