//! Damage to a good store: one file of one part, one kind of damage, then a child opens it. Wrong data is the only failure; a refusal
//! names file and byte.
//!
//! One thing cannot be told: with the index lost, damage to the very last frames of the log looks like a torn tail. Such a copy need
//! hold only what lies before the damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

use crate::dice::{Dice, bytes};
use crate::replay::{Checks, folder};
use crate::{metadata, number};
use crated_store::Metadata;

const COMMITS: usize = 500;
const HEADER: usize = 64;

/// A store, and its acknowledgements in order: the n-th belongs to revision n.
pub(crate) struct Good {
    home: TempDir,
}

/// The stretch of a file that was damaged.
struct Damage {
    what: &'static str,
    start: usize,
    end: usize,
}

impl Good {
    /// Makes it: one writer, one commit a frame.
    pub(crate) fn make() -> Self {
        let home = folder();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            std::fs::create_dir(home.path().join("disk")).unwrap();
            let acks = std::fs::File::create(home.path().join("acks")).unwrap();
            let mut counts = BTreeMap::<(u64, u64), u64>::new();
            let mut dice = Dice::new(number("TORTURE_SEED", 1) as u64);
            for _ in 0..2 {
                let (store, _) = Metadata::open(&home.path().join("disk/metadata"), metadata::options()).unwrap();
                for _ in 0..COMMITS / 2 {
                    let (writer, slot) = (dice.below(4) as u64, dice.below(8) as u64);
                    let count = counts.entry((writer, slot)).or_default();
                    *count += 1;
                    metadata::commit(&store, &acks, writer, slot, *count).await;
                }
            }
        });
        Self { home }
    }

    /// Damages copies and has each checked.
    pub(crate) fn damage(&self, part: &str, index: bool, copies: usize) -> (BTreeMap<String, usize>, Vec<String>) {
        let seed = number("TORTURE_SEED", 1) as u64;
        let mut dice = Dice::new(seed * 100 + part.len() as u64 + u64::from(index));
        let acks = std::fs::read(self.home.path().join("acks")).unwrap();
        let mut checks = Checks::default();
        for copy in 0..copies {
            let work = folder();
            let status = Command::new("cp").arg("-r").arg(self.home.path().join("disk")).arg(work.path()).status();
            assert!(status.unwrap().success());
            let store = work.path().join("disk/metadata");
            if !index {
                std::fs::remove_dir_all(store.join("index")).unwrap();
            }
            let files = files(&store.join(part));
            let file = files[dice.below(files.len())].clone();
            let damage = hurt(&file, &mut dice);
            let last = part == "log" && files.iter().max() == Some(&file);
            let held = match last.then(|| frames_before(&self.original(&store, &file), &damage)).flatten() {
                Some(revision) => &acks[..revision * 24],
                None => &acks[..],
            };
            std::fs::write(work.path().join("acks"), held).unwrap();
            let name = file.strip_prefix(&store).unwrap().display().to_string();
            let Damage { what, start, end } = damage;
            checks.start(
                "check-damage",
                work,
                format!("damage {copy} of seed {seed}: {what} in {name} at {start}..{end}"),
            );
        }
        checks.end()
    }

    fn original(&self, store: &Path, file: &Path) -> Vec<u8> {
        std::fs::read(self.home.path().join("disk/metadata").join(file.strip_prefix(store).unwrap())).unwrap()
    }
}

/// Files below a folder that hold something.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path if path.ends_with("spare") || entry.metadata().unwrap().len() == 0 => {}
            path => found.push(path),
        }
    }
    found.sort();
    found
}

/// Damages a file where it holds something.
fn hurt(file: &Path, dice: &mut Dice) -> Damage {
    let mut content = std::fs::read(file).unwrap();
    let live = content.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let at = dice.below(live);
    let unit = |size: usize, all: usize| (at / size * size, (at / size * size + size).min(all));
    let (what, (start, end)) = match dice.below(6) {
        0 | 1 => ("bit", (at, at + 1)),
        2 => ("sector of garbage", unit(512, content.len())),
        3 => ("zeroed page", unit(4096, content.len())),
        4 => ("lost end", (at, content.len())),
        _ => ("eight bytes", (at, (at + 8).min(content.len()))),
    };
    match what {
        "bit" => content[at] ^= 1 << dice.below(8),
        "zeroed page" => content[start..end].fill(0),
        "lost end" => content.truncate(at),
        _ => content[start..end].copy_from_slice(&bytes(dice.roll(), end - start)),
    }
    std::fs::write(file, content).unwrap();
    Damage { what, start, end }
}

/// The newest revision before damage that reaches into a segment's last frame; `None` where a whole frame stands behind it.
fn frames_before(segment: &[u8], damage: &Damage) -> Option<usize> {
    let number = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let mut at = HEADER;
    let mut newest = u64::from_le_bytes(segment[16..24].try_into().unwrap()) as usize - 1;
    let (mut held, mut last) = (newest, at);
    while segment.get(at..at + 4) == Some(b"GRP3") {
        last = at;
        let end = at + 32 + number(at + 4);
        newest += number(at + 24);
        if end <= damage.start {
            held = newest;
        }
        at = end;
    }
    (damage.end > last && damage.start >= HEADER).then_some(held)
}
