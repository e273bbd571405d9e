//! A daemon whose failpoints are armed and disarmed while it runs.

use super::model;
use crated_tests::{Daemon, Options, Outcome, eventually};
use std::path::PathBuf;
use tempfile::TempDir;

/// The daemon, and the file that arms it.
pub(super) struct Rig {
    pub(super) daemon: Daemon,
    file: PathBuf,
    round: u32,
    _folder: TempDir,
}

impl Rig {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("points");
        std::fs::write(&file, "").unwrap();
        let env = vec![("CRATED_FAILPOINTS".to_owned(), format!("@{}", file.display()))];
        let daemon = Daemon::with(Options { env, ..Options::default() });
        daemon.load_busybox();
        Self { daemon, file, round: 0, _folder: folder }
    }

    /// A name that no earlier round had.
    pub(super) fn name(&mut self) -> String {
        self.round += 1;
        format!("box{}", self.round) // no beginning of any id
    }

    pub(super) fn arm(&self, rules: &str) {
        // Renamed into its place: nobody reads half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, rules).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// How much fired since the last time.
    pub(super) fn fired(&self) -> usize {
        std::fs::read_to_string(self.hits()).map_or(0, |text| text.lines().count())
    }

    fn hits(&self) -> PathBuf {
        PathBuf::from(format!("{}.hit", self.file.display()))
    }

    pub(super) fn disarm(&self) {
        self.arm("");
        let _ = std::fs::remove_file(self.hits());
    }

    /// Runs `act` with a rule armed that must fire; afterwards a daemon runs and nothing is armed.
    pub(super) fn under<T>(&mut self, rule: &str, act: impl FnOnce(&Daemon) -> T) -> T {
        self.under_all(rule, 1, act)
    }

    /// The same, with several rules that must all fire.
    pub(super) fn under_all<T>(&mut self, rule: &str, count: usize, act: impl FnOnce(&Daemon) -> T) -> T {
        self.arm(rule);
        let answer = act(&self.daemon);
        eventually(&format!("{rule} fires"), || (self.fired() >= count).then_some(()));
        self.disarm();
        if rule.contains("=kill") && !rule.starts_with("shim.") {
            self.again();
        }
        answer
    }

    /// A new daemon in the place of one that is dead, or is to be.
    pub(super) fn again(&mut self) {
        self.daemon.kill();
        self.daemon.restart();
    }

    /// The state of a container by `ps`' words; none where it is not there.
    pub(super) fn state(&self, name: &str) -> Option<String> {
        let said = self.daemon.ctl(&["inspect", "--format", "{{.State.Status}}", name]);
        (said.status == 0).then(|| said.stdout.trim().to_owned())
    }

    /// Waits until a container is in one of these states (`-`: not there), and answers which.
    #[track_caller]
    pub(super) fn settles(&self, what: &str, name: &str, allowed: &[&str]) -> String {
        let mut last = String::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                last = self.state(name).unwrap_or_else(|| "-".into());
                allowed.contains(&last.as_str()).then(|| last.clone())
            })
        }));
        seen.unwrap_or_else(|_| panic!("{what}: {name} is {last:?}, want one of {allowed:?}"))
    }

    /// A container that exists can do what it is for, and goes.
    #[track_caller]
    pub(super) fn works_and_goes(&self, what: &str, name: &str) {
        if self.state(name).as_deref() != Some("running") {
            let said = self.daemon.ctl(&["start", name]);
            assert_eq!(said.status, 0, "{what}: {said:?}");
        }
        let said = self.daemon.ctl(&["exec", name, "echo", "ok"]);
        assert_eq!((said.status, said.stdout.as_str()), (0, "ok\n"), "{what}: {said:?}");
        self.goes(what, name);
    }

    /// A container can be removed, and its name is free.
    #[track_caller]
    pub(super) fn goes(&self, what: &str, name: &str) {
        let said = self.daemon.ctl(&["rm", "-f", name]);
        assert_eq!(said.status, 0, "{what}: {said:?}");
        self.is_free(what, name);
    }

    #[track_caller]
    pub(super) fn is_free(&self, what: &str, name: &str) {
        for words in [&["create", "--name", name, "bb:1", "true"][..], &["rm", name][..]] {
            let said = self.daemon.ctl(words);
            assert_eq!(said.status, 0, "{what}: the name is not free: {said:?}");
        }
    }

    pub(super) fn prepare(&self, words: &[&str]) -> String {
        self.daemon.ctl(words).word()
    }

    /// An archive of an image whose layer no other image has.
    pub(super) fn image(&mut self) -> (String, Vec<u8>) {
        let name = format!("im{}:1", self.name());
        let program = self.daemon.folder().join("payload");
        std::fs::write(&program, name.repeat(1000)).unwrap();
        let archive = crated_tests::true_archive(&program, &name);
        (name, archive)
    }

    pub(super) fn load(daemon: &Daemon, archive: &[u8]) -> Outcome {
        daemon.ctl_with(&["load"]).input(archive).run()
    }

    /// Nothing is left, and the events are right.
    pub(super) fn finish(self) {
        self.disarm();
        for id in self.daemon.ctl(&["ps", "-aq", "--no-trunc"]).ok().split_whitespace() {
            self.daemon.ctl(&["rm", "-f", id]).ok();
        }
        model::events_are_right(&self.daemon.events());
        let mut said = String::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("no snapshot of a container or of an extraction", || {
                said = self.daemon.ctr(&["-n", "default", "snapshots", "ls"]).ok();
                (!said.contains("Active")).then_some(())
            });
        }));
        assert!(clean.is_ok(), "snapshots are left:\n{said}");
        let leases = self.daemon.ctr(&["-n", "default", "leases", "ls", "-q"]).ok();
        // Those of imports and unpacks that a kill cut short keep their ingests until they expire.
        let expiring = |lease: &&str| lease.starts_with("crated-import-") || lease.starts_with("crated-unpack-");
        let (kept, left): (Vec<&str>, Vec<&str>) = leases.split_whitespace().partition(expiring);
        assert!(left.is_empty(), "leases are left: {left:?}");
        let ingests = self.daemon.ctr(&["-n", "default", "content", "active"]).ok();
        assert!(!kept.is_empty() || ingests.lines().count() <= 1, "ingests are left:\n{ingests}");
        self.daemon.finish();
    }
}
