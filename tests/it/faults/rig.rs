//! A daemon whose failpoints are armed and disarmed while it runs.

use super::model;
use crated_tests::{Daemon, Options, Outcome, Run, eventually};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Between two rules: the second is armed for the start of the daemon that the first has killed.
pub(super) const THEN: &str = " then ";

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

    /// Waits until so many rules have fired.
    #[track_caller]
    pub(super) fn await_fired(&self, what: &str, count: usize) {
        eventually(&format!("{what} fires"), || (self.fired() >= count).then_some(()));
    }

    fn hits(&self) -> PathBuf {
        PathBuf::from(format!("{}.hit", self.file.display()))
    }

    pub(super) fn disarm(&self) {
        self.arm("");
        let _ = std::fs::remove_file(self.hits());
    }

    /// Runs cratectl with a rule armed that must fire; afterwards a daemon runs and nothing is armed.
    #[track_caller]
    pub(super) fn ctl(&mut self, rule: &str, words: &[&str]) -> Outcome {
        if rule.contains("=delay") {
            return self.vanish(rule, words);
        }
        self.under(rule, 1, |rig| rig.daemon.ctl(words))
    }

    /// Runs `act` with rules armed of which `count` must fire; afterwards a daemon runs and nothing is armed.
    #[track_caller]
    pub(super) fn under<T>(&mut self, rule: &str, count: usize, act: impl FnOnce(&mut Self) -> T) -> T {
        let (first, second) = rule.split_once(THEN).map_or((rule, None), |(first, second)| (first, Some(second)));
        self.arm(first);
        let answer = act(self);
        self.await_fired(first, count);
        self.disarm();
        if let Some(second) = second {
            self.at_start(second);
        } else if rule.contains("=kill") && !rule.starts_with("shim.") {
            self.again();
        }
        answer
    }

    /// Starts the daemon again with a rule armed that must fire, and then without.
    #[track_caller]
    pub(super) fn at_start(&mut self, rule: &str) {
        self.daemon.kill();
        self.arm(rule);
        let died = self.daemon.try_start().is_some();
        assert!(!died || rule.contains("=kill"), "{rule} ends the daemon:\n{}", self.daemon.log());
        self.await_fired(rule, 1); // perhaps beside the start
        self.disarm();
        self.again();
    }

    /// Runs cratectl and kills it while the daemon is held up at the point.
    #[track_caller]
    fn vanish(&mut self, rule: &str, words: &[&str]) -> Outcome {
        self.arm(rule);
        let mut client = Command::new(crated_tests::programs().join("cratectl"))
            .args(words)
            .env("CRATED_ADDRESS", self.daemon.socket())
            .env("CRATED_NAMESPACE", "default")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.await_fired(rule, 1);
        client.kill().unwrap();
        let status = client.wait().unwrap();
        self.disarm();
        // A moment at the very end may come when it has its answer already.
        let (line, status) = (format!("{words:?} ({rule})"), status.code().unwrap_or(137));
        Outcome { line, status, stdout: String::new(), stderr: String::new() }
    }

    /// A new daemon in the place of one that is dead, or is to be.
    #[track_caller]
    pub(super) fn again(&mut self) {
        if self.daemon.lives() {
            self.daemon.kill();
        }
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

    /// Repeats cratectl until it succeeds: what is under way may refuse it for now.
    #[track_caller]
    pub(super) fn until_ok(&self, what: &str, words: &[&str]) -> Outcome {
        let mut last = None;
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                let said = self.daemon.ctl(words);
                let done = (said.status == 0).then(|| said.clone());
                last = Some(said);
                done
            })
        }));
        done.unwrap_or_else(|_| panic!("{what}: {last:?}"))
    }

    /// A container that exists can do what it is for, and goes.
    #[track_caller]
    pub(super) fn works_and_goes(&self, what: &str, name: &str) {
        if self.state(name).as_deref() != Some("running") {
            self.until_ok(what, &["start", name]);
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

    /// A container goes in the end, by the reconciler's work or by ours.
    #[track_caller]
    pub(super) fn goes_in_the_end(&self, what: &str, name: &str) {
        eventually(&format!("{what}: it goes"), || {
            let _ = self.daemon.ctl(&["rm", "-f", name]);
            self.state(name).is_none().then_some(())
        });
        self.is_free(what, name);
    }

    #[track_caller]
    pub(super) fn is_free(&self, what: &str, name: &str) {
        for words in [&["create", "--name", name, "bb:1", "true"][..], &["rm", name][..]] {
            let said = self.daemon.ctl(words);
            assert_eq!(said.status, 0, "{what}: the name is not free: {said:?}");
        }
    }

    #[track_caller]
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

    pub(super) fn load(&self, archive: &[u8]) -> Run {
        self.daemon.ctl_with(&["load"]).input(archive)
    }

    /// Nothing is left, and the events are right.
    #[track_caller]
    pub(super) fn finish(self) {
        self.disarm();
        for id in self.daemon.ctl(&["ps", "-aq", "--no-trunc"]).ok().split_whitespace() {
            self.daemon.ctl(&["rm", "-f", id]).ok();
        }
        model::events_are_right(&self.daemon.events());
        self.leave();
    }

    /// Nothing is left; the events were read before, while they were kept.
    #[track_caller]
    pub(super) fn leave(self) {
        let mut said = String::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("nothing that only an operation holds", || {
                let ctr = |words: &[&str]| self.daemon.ctr(&[&["-n", "default"], words].concat()).ok();
                let (snapshots, leases) = (ctr(&["snapshots", "ls"]), ctr(&["leases", "ls", "-q"]));
                let (ingests, tasks) = (ctr(&["content", "active"]), ctr(&["tasks", "ls", "-q"]));
                said = format!("snapshots:\n{snapshots}leases:\n{leases}ingests:\n{ingests}tasks:\n{tasks}");
                let held = snapshots.contains("Active") || !leases.is_empty() || !tasks.is_empty();
                (!held && ingests.lines().count() <= 1).then_some(())
            });
        }));
        assert!(clean.is_ok(), "it is left:\n{said}");
        self.daemon.finish();
    }
}
