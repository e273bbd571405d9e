//! Damage to a good store: one file of one part, one kind of damage, then a child opens it. Wrong data is the only failure; a refusal
//! names file and byte.
//!
//! One thing cannot be told: with the index and the note of the log's end lost, damage to the very last frames of the log looks like a
//! torn tail. Such a copy need hold only what lies before the damage.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

use crate::dice::{Dice, bytes};
use crate::metadata::{ACK, Wait};
use crate::replay::{Checks, folder};
use crate::{metadata, number};
use crated_store::Metadata;

const COMMITS: usize = 500;
const HEADER: usize = 64;
/// Bytes of a frame before its payload.
const HEAD: usize = 32;

/// A store, and its acknowledgements in order: the n-th belongs to revision n.
pub(crate) struct Good {
    home: TempDir,
}

/// What is damaged, and what else is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    /// The part whose files are damaged.
    pub part: &'static str,
    /// Parts that are not there.
    pub lost: &'static [&'static str],
    /// Where.
    pub place: Place,
}

/// Where damage strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Anywhere in any file.
    Anywhere,
    /// In the last segment, before its last frame: whole frames stand behind the damage.
    Inside,
    /// In the last frame.
    End,
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.place {
            Place::Anywhere => "",
            Place::Inside => "inside the end of ",
            Place::End => "at the end of ",
        };
        write!(f, "damage {place}{}, lost: {}", self.part, self.lost.join(" "))
    }
}

/// What sled itself is made to hold: its own checksums notice nothing.
pub(crate) const TAMPERINGS: [&str; 4] = ["changed record", "missing record", "older record", "missing tally"];

/// The stretch of a file that was damaged.
struct Damage {
    what: &'static str,
    start: usize,
    end: usize,
}

impl Good {
    /// Makes it: one writer, one commit a frame.
    pub(crate) fn make(soon: bool) -> Self {
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
                    let wait = if soon && dice.coin() { Wait::Soon } else { Wait::Durable };
                    metadata::commit(&store, &acks, (writer, slot, *count), wait).await;
                }
            }
        });
        Self { home }
    }

    fn acks(&self) -> Vec<u8> {
        std::fs::read(self.home.path().join("acks")).unwrap()
    }

    /// A copy in a folder of its own; answers where its store is.
    fn copy(&self) -> (TempDir, PathBuf) {
        let work = folder();
        let status = Command::new("cp").arg("-r").arg(self.home.path().join("disk")).arg(work.path()).status();
        assert!(status.unwrap().success());
        let store = work.path().join("disk/metadata");
        (work, store)
    }

    /// Damages copies and has each checked.
    pub(crate) fn damage(&self, aim: Aim, copies: usize) -> (BTreeMap<String, usize>, Vec<String>) {
        let seed = number("TORTURE_SEED", 1) as u64;
        let mut dice = Dice::new(seed * 100 + aim.to_string().len() as u64);
        let acks = self.acks();
        let mut checks = Checks::default();
        for copy in 0..copies {
            let (work, store) = self.copy();
            for lost in aim.lost {
                let lost = store.join(lost);
                std::fs::remove_dir_all(&lost).or_else(|_| std::fs::remove_file(&lost)).unwrap();
            }
            let files = files(&store.join(aim.part));
            let anywhere = aim.place == Place::Anywhere;
            let file = if anywhere { &files[dice.below(files.len())] } else { files.last().unwrap() }.clone();
            let frame = last_frame(&std::fs::read(&file).unwrap());
            let within = match aim.place {
                Place::Anywhere => None,
                Place::Inside => Some(HEADER..frame.start),
                Place::End => Some(frame),
            };
            let damage = hurt(&file, within, &mut dice);
            // the note of the log's end tells even what looks like a torn tail
            let last = aim.part == "log" && aim.lost.contains(&"tail") && files.iter().max() == Some(&file);
            let held = match last.then(|| frames_before(&self.original(&store, &file), &damage)).flatten() {
                Some(revision) => &acks[..revision * ACK],
                None => &acks[..],
            };
            std::fs::write(work.path().join("acks"), held).unwrap();
            let name = file.strip_prefix(&store).unwrap().display().to_string();
            let Damage { what, start, end } = damage;
            let name = format!("damage {copy} of seed {seed}: {what} in {name} at {start}..{end}");
            checks.start("check-damage", work, name);
        }
        checks.end()
    }

    /// Has sled hold what it should not, and each copy checked: all of the data must be right.
    pub(crate) fn tamper(&self, how: &str, copies: usize) -> (BTreeMap<String, usize>, Vec<String>) {
        let seed = number("TORTURE_SEED", 1) as u64;
        let mut dice = Dice::new(seed * 1000 + how.len() as u64);
        let mut checks = Checks::default();
        for copy in 0..copies {
            let (work, store) = self.copy();
            std::fs::write(work.path().join("acks"), self.acks()).unwrap();
            let key = tamper(&store.join("index"), how, &mut dice);
            let key = String::from_utf8_lossy(&key).into_owned();
            checks.start("check-damage", work, format!("tampering {copy} of seed {seed}: {how}, {key:?}"));
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

/// Changes a sled through sled; answers the key.
fn tamper(index: &Path, how: &str, dice: &mut Dice) -> Vec<u8> {
    const SEAL: usize = 12;
    let db = sled::Config::new().path(index).flush_every_ms(None).open().unwrap();
    let records: Vec<_> =
        db.iter().map(Result::unwrap).filter(|(key, value)| key[0] != 0 && value.len() > SEAL).collect();
    let (key, value) = &records[dice.below(records.len())];
    let mut value = value.to_vec();
    match how {
        "changed record" => {
            let at = SEAL + dice.below(value.len() - SEAL);
            value[at] ^= 1 << dice.below(8);
            drop(db.insert(key, value).unwrap());
        }
        "missing record" => drop(db.remove(key).unwrap()),
        // whole in itself, of an earlier commit
        "older record" => {
            let revision = u64::from_le_bytes(value[..8].try_into().unwrap()) - 1;
            let mut sum = crc32fast::Hasher::new();
            sum.update(&(key.len() as u32).to_le_bytes());
            sum.update(key);
            sum.update(&revision.to_le_bytes());
            sum.update(b"an older value");
            let older = [&revision.to_le_bytes()[..], &sum.finalize().to_le_bytes(), b"an older value"].concat();
            drop(db.insert(key, older).unwrap());
        }
        "missing tally" => drop(db.remove(b"\0applied").unwrap().expect("a tally")),
        other => panic!("no tampering {other}"),
    }
    db.flush().unwrap();
    key.to_vec()
}

/// Damages a file where it holds something, or within a stretch of it.
fn hurt(file: &Path, within: Option<Range<usize>>, dice: &mut Dice) -> Damage {
    let mut content = std::fs::read(file).unwrap();
    let live = content.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let whole = 0..content.len();
    let (from, to) = within.as_ref().map_or((0, live), |within| (within.start, within.end));
    let at = from + dice.below(to - from);
    let bounds = within.clone().unwrap_or(whole);
    let unit = |size: usize| ((at / size * size).max(bounds.start), (at / size * size + size).min(bounds.end));
    let (what, (start, end)) = match dice.below(6) {
        0 | 1 => ("bit", (at, at + 1)),
        2 => ("sector of garbage", unit(512)),
        3 => ("zeroed page", unit(4096)),
        4 if within.is_none() => ("lost end", (at, content.len())),
        _ => ("eight bytes", (at, (at + 8).min(bounds.end))),
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

/// The last frame of a segment.
fn last_frame(segment: &[u8]) -> Range<usize> {
    let mut at = HEADER;
    let mut last = at..at;
    while segment.get(at..at + 4) == Some(b"GRP3") {
        last = at..at + HEAD + u32::from_le_bytes(segment[at + 4..at + 8].try_into().unwrap()) as usize;
        at = last.end;
    }
    last
}

/// The newest revision before damage that reaches into a segment's last frame; `None` where a whole frame stands behind it.
fn frames_before(segment: &[u8], damage: &Damage) -> Option<usize> {
    let number = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
    let mut at = HEADER;
    let mut newest = u64::from_le_bytes(segment[16..24].try_into().unwrap()) as usize - 1;
    let (mut held, mut last) = (newest, at);
    while segment.get(at..at + 4) == Some(b"GRP3") {
        last = at;
        let end = at + HEAD + number(at + 4);
        newest += number(at + 24);
        if end <= damage.start {
            held = newest;
        }
        at = end;
    }
    (damage.end > last && damage.start >= HEADER).then_some(held)
}
