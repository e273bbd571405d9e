//! A recording and its cuts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use tempfile::TempDir;

use crate::child::{self, Verdict};
use crate::dice::Dice;
use crate::disk::{self, Disk, Event, Names};
use crate::number;

/// Checks that run at a time.
const AT_A_TIME: usize = 3;

/// What a child did to a disk.
pub(crate) struct Recording {
    home: TempDir,
    events: Vec<Event>,
    /// The inode of the file of acknowledgements.
    acks: u64,
}

/// A folder in memory where there is one.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The recorder, compiled; `None` without a C compiler.
fn recorder(home: &Path) -> Option<PathBuf> {
    let program = home.join("recorder");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/recorder.c");
    match Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).status() {
        Ok(status) => {
            assert!(status.success(), "recorder.c does not compile");
            Some(program)
        }
        Err(why) => {
            println!("skip: no C compiler ({why})");
            None
        }
    }
}

impl Recording {
    /// Runs a child that writes and acknowledges, and records it.
    pub(crate) fn make(role: &str) -> Option<Self> {
        let home = folder();
        let recorder = recorder(home.path())?;
        let real = home.path().canonicalize().unwrap();
        let (traced, trace) = (real.join("traced"), real.join("trace"));
        std::fs::create_dir_all(traced.join("disk")).unwrap();
        let acks = traced.join("acks");
        let mut command = Command::new(recorder);
        command.arg(&traced).arg(&trace);
        let output = child::under(command, role, &traced.join("disk"), &acks).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let events = disk::read(&trace);
        let made = |event: &&Event| event.kind == b'C' && event.first == acks.as_os_str().as_encoded_bytes();
        let acks = events.iter().find(made).expect("the recorder saw no file of acknowledgements").inode;
        Some(Self { home, events, acks })
    }

    /// Moments of cuts: half right behind an acknowledgement, a quarter about changes of names and sizes, the rest anywhere.
    fn moments(&self, cuts: usize, dice: &mut Dice) -> Vec<usize> {
        let places = |wanted: &dyn Fn(&Event) -> bool| -> Vec<usize> {
            self.events.iter().enumerate().filter(|(_, event)| wanted(event)).map(|(at, _)| at).collect()
        };
        let acks = places(&|event| event.kind == b'W' && event.inode == self.acks);
        let rare = places(&|event| matches!(event.kind, b'C' | b'M' | b'R' | b'U' | b'T' | b'L' | b'S' | b'N'));
        let mut moments: Vec<usize> = (0..cuts)
            .map(|_| match dice.below(4) {
                0 | 1 => acks[dice.below(acks.len())] + 1,
                2 => (rare[dice.below(rare.len())] + dice.below(9)).saturating_sub(3).min(self.events.len()),
                _ => dice.below(self.events.len()),
            })
            .collect();
        moments.sort_unstable();
        moments
    }

    /// Cuts and has each checked; answers verdicts and what failed.
    pub(crate) fn cut(&self, check: &str, names: Names, cuts: usize) -> (BTreeMap<String, usize>, Vec<String>) {
        let seed = number("TORTURE_SEED", 1) as u64;
        let mut dice = Dice::new(seed * 2 + u64::from(names == Names::Strict));
        let root = self.home.path().canonicalize().unwrap().join("traced/disk");
        let (mut disk, mut acks, mut played) = (Disk::default(), Vec::new(), 0);
        let mut checks = Checks::default();
        for (number, moment) in self.moments(cuts, &mut dice).into_iter().enumerate() {
            for event in &self.events[played..moment] {
                if event.inode == self.acks && event.kind == b'W' {
                    acks.extend_from_slice(&event.first);
                }
                disk.play(event, names);
            }
            played = moment;
            let work = folder();
            disk.cut(root.to_str().unwrap(), &work.path().join("disk"), names, &mut dice);
            std::fs::write(work.path().join("acks"), &acks).unwrap();
            checks.start(check, work, format!("cut {number} of seed {seed} before call {moment} ({names:?})"));
        }
        checks.end()
    }
}

/// Checks that run beside each other.
#[derive(Default)]
pub(crate) struct Checks {
    running: Vec<(Child, TempDir, String)>,
    tally: BTreeMap<String, usize>,
    faults: Vec<String>,
}

impl Checks {
    /// Starts a check of the folder `disk` in `work`.
    pub(crate) fn start(&mut self, role: &str, work: TempDir, name: String) {
        let child = child::command(role, &work.path().join("disk"), &work.path().join("acks")).spawn().unwrap();
        self.running.push((child, work, name));
        if self.running.len() >= AT_A_TIME {
            self.next();
        }
    }

    fn next(&mut self) {
        let (child, work, name) = self.running.remove(0);
        let (key, fault) = match child::verdict(child) {
            Verdict::Good(note) if name.starts_with("cut") && note == "healed" => {
                (note, Some(format!("{name}: the log was found damaged")))
            }
            Verdict::Good(note) => (format!("good{}", if note.is_empty() { note } else { format!(", {note}") }), None),
            Verdict::Refused(why) if name.starts_with("damage") && why.contains(" at byte ") => {
                ("refused".into(), None)
            }
            Verdict::Refused(why) => ("refused wrongly".into(), Some(format!("{name}: refused: {why}"))),
            Verdict::Wrong(why) => ("wrong".into(), Some(format!("{name}: {why}"))),
        };
        *self.tally.entry(key).or_default() += 1;
        let Some(fault) = fault else { return };
        if let Some(keep) = std::env::var_os("TORTURE_KEEP") {
            let to = Path::new(&keep).join(self.faults.len().to_string());
            let _ = Command::new("cp").arg("-r").arg(work.path()).arg(to).status();
        }
        self.faults.push(fault);
    }

    /// Waits for all.
    pub(crate) fn end(mut self) -> (BTreeMap<String, usize>, Vec<String>) {
        while !self.running.is_empty() {
            self.next();
        }
        (self.tally, self.faults)
    }
}
