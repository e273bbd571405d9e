//! A daemon under test: its own root, state, sockets; killed, restarted, stopped, and looked behind.

use crate::leak::Leftovers;
use crate::netns::Netns;
use crate::{Outcome, Run, eventually, image, programs};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::Duration;
use tempfile::TempDir;

/// What a daemon is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Text of its configuration.
    pub config: String,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// Put root on the file system at this path instead of the temporary folder's.
    pub root: Option<PathBuf>,
    /// The network namespace that is its host. Without one it stands in the machine's own, and its containers get no network
    /// unless they ask for one, so that no test touches links, rules or settings of the machine.
    pub netns: Option<Netns>,
}

impl Options {
    fn text(&self) -> String {
        if self.netns.is_some() || self.config.contains("[network]") {
            return self.config.clone();
        }
        format!("{}\n[network]\ndefault = \"none\"\n", self.config)
    }
}

/// A running (or killed) daemon.
#[derive(Debug)]
pub struct Daemon {
    folder: TempDir,
    options: Options,
    child: Option<Child>,
    starts: u32,
    before: Leftovers,
}

impl Daemon {
    /// Starts one with defaults and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts one with options.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    #[track_caller]
    pub fn with(options: Options) -> Self {
        adopt_orphans();
        // Short, because sockets below it have at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("cr").tempdir_in("/tmp").expect("a temporary folder");
        let before = Leftovers::of(folder.path());
        let mut daemon = Self { folder, options, child: None, starts: 0, before };
        daemon.restart();
        daemon
    }

    /// The temporary folder that holds everything of this daemon.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What outlives a reboot.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.options.root.clone().unwrap_or_else(|| self.folder().join("root"))
    }

    /// What does not.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// Its gRPC socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("crated.sock")
    }

    /// Its process.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Everything it logged since its first start.
    #[must_use]
    pub fn log(&self) -> String {
        (1..=self.starts)
            .map(|start| std::fs::read_to_string(self.folder().join(format!("log.{start}"))).unwrap_or_default())
            .collect()
    }

    /// Starts it (again) and waits for its READY.
    ///
    /// # Panics
    /// Where it ends or does not get ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        if let Some(status) = self.try_start() {
            panic!("crated ended with {status}:\n{}", self.log());
        }
    }

    /// Sets a variable of its environment, from its next start on.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.options.env.retain(|(known, _)| known != name);
        self.options.env.push((name.into(), value.into()));
    }

    /// Starts it, as [`Daemon::restart`] does, where it may die before its READY: then it answers how.
    ///
    /// # Panics
    /// Where it runs already, or neither ends nor gets ready.
    #[track_caller]
    pub fn try_start(&mut self) -> Option<ExitStatus> {
        assert!(self.child.is_none(), "the daemon runs");
        self.starts += 1;
        let folder = self.folder.path();
        let config = folder.join("config.toml");
        std::fs::write(&config, self.options.text()).expect("write the configuration");
        let ready = folder.join("ready");
        let _ = std::fs::remove_file(&ready);
        let notified = UnixDatagram::bind(&ready).expect("a socket for READY");
        notified.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let log = File::create(folder.join(format!("log.{}", self.starts))).expect("a log");
        let mut command = Command::new(programs().join("crated"));
        command
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.state())
            .arg("--address")
            .arg(self.socket())
            .arg("--config")
            .arg(&config)
            .env("NOTIFY_SOCKET", &ready)
            .envs(self.options.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        let spawned = match &self.options.netns {
            Some(netns) => netns.inside(|| command.spawn()),
            None => command.spawn(),
        };
        let mut child = spawned.expect("start crated");
        let mut buffer = [0; 256];
        let ended = eventually("crated gets ready", || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Some(status));
            }
            let count = notified.recv(&mut buffer).ok()?;
            String::from_utf8_lossy(&buffer[..count]).contains("READY=1").then_some(None)
        });
        if ended.is_none() {
            self.child = Some(child);
        }
        ended
    }

    /// Whether it is there; one that has died is taken note of, so that it can be started again.
    ///
    /// # Panics
    /// Where its process cannot be waited for.
    pub fn lives(&mut self) -> bool {
        if self.child.as_mut().is_some_and(|child| child.try_wait().expect("wait").is_some()) {
            self.child = None;
        }
        self.child.is_some()
    }

    /// What of containers is there beside the daemon: processes, mounts, cgroups, bundles, folders.
    #[must_use]
    pub fn traces(&self) -> Vec<String> {
        let own = self.child.as_ref().map(Child::id);
        self.before.left(self.folder.path(), &self.root(), &self.state(), own)
    }

    /// What a power cut or a reboot does: daemon, shims and containers end at once, mounts and cgroups are gone, the state
    /// folder is empty where it is a tmpfs. The next start finds another boot.
    ///
    /// # Panics
    /// Where something of it does not end.
    #[track_caller]
    pub fn reboot(&mut self, boot: &str, tmpfs: bool) {
        if self.child.is_some() {
            self.kill();
        }
        crate::leak::end_all_below(self.folder.path(), &self.root());
        if tmpfs {
            let _ = std::fs::remove_dir_all(self.state());
        }
        self.set_env("CRATED_BOOT_ID", boot);
    }

    /// kill -9.
    ///
    /// # Panics
    /// Where it does not run.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// SIGTERM, and waits for its end; does nothing where it does not run.
    ///
    /// # Panics
    /// Where it does not end, or not with success.
    #[track_caller]
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pidfd = crated_sys::pidfd::open(child.id().cast_signed()).expect("pidfd");
        crated_sys::pidfd::send_signal(pidfd.as_fd(), 15).expect("SIGTERM");
        let ended = crated_sys::poll::readable(pidfd.as_fd(), Some(crate::PATIENCE)).expect("poll");
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait().expect("wait");
        assert!(ended && status.success(), "crated ended with {status} (in time: {ended}):\n{}", self.log());
    }

    /// Runs cratectl against it.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Outcome {
        self.ctl_with(arguments).run()
    }

    /// cratectl against it, to be given more.
    #[must_use]
    pub fn ctl_with(&self, arguments: &[&str]) -> Run {
        Run::new(programs().join("cratectl"), arguments)
            .env("CRATED_ADDRESS", self.socket())
            .env("CRATED_NAMESPACE", "default")
    }

    /// Runs Debian's ctr against it.
    #[track_caller]
    pub fn ctr(&self, arguments: &[&str]) -> Outcome {
        self.ctr_with(arguments).run()
    }

    /// Debian's ctr against it, to be given more.
    #[must_use]
    pub fn ctr_with(&self, arguments: &[&str]) -> Run {
        let socket = self.socket().display().to_string();
        Run::new("ctr", &[&["--address", &socket], arguments].concat())
    }

    /// Loads the busybox image as `docker.io/library/bb:1`.
    #[track_caller]
    pub fn load_busybox(&self) {
        self.ctl_with(&["load"]).input(image::busybox_archive()).run().ok();
    }

    /// The id of a container.
    #[track_caller]
    pub fn id(&self, name: &str) -> String {
        self.ctl(&["inspect", "--format", "{{.Id}}", name]).word()
    }

    /// The pid of a container's process.
    #[track_caller]
    pub fn container_pid(&self, name: &str) -> i32 {
        self.ctl(&["inspect", "--format", "{{.State.Pid}}", name]).word().parse().expect("a pid")
    }

    /// Events that are kept, oldest first, as JSON lines.
    #[track_caller]
    pub fn events(&self) -> Vec<serde_json::Value> {
        let said = self.ctl(&["events", "--since", "0.0", "--no-follow", "--json", "-A"]).ok();
        said.lines().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
    }

    /// Removes every container and network, stops the daemon, and looks for what is left: mounts, processes, cgroups, named
    /// network namespaces, sockets, bundles, snapshots; in the network namespace that is its host links and rules.
    ///
    /// # Panics
    /// Where something is left.
    #[track_caller]
    pub fn finish(mut self) {
        if self.child.is_none() {
            self.restart();
        }
        let names = self.ctl(&["ps", "-aq", "--no-trunc"]).ok();
        for name in names.split_whitespace() {
            self.ctl(&["rm", "-f", name]).ok();
        }
        if self.options.netns.is_some() {
            let networks = self.ctl(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"]).ok();
            let own = |line: &&str| ["bridge", "macvlan", "ipvlan"].iter().any(|kind| line.ends_with(kind));
            for line in networks.lines().filter(own) {
                match line.split_whitespace().next() {
                    Some("bridge") | None => {} // the default one stays
                    Some(name) => drop(self.ctl(&["network", "rm", name]).ok()),
                }
            }
        }
        self.stop();
        self.before.assert_nothing_new(self.folder.path(), &self.root(), &self.state(), &self.log());
        if let Some(netns) = &self.options.netns {
            netns.assert_clean(&self.log());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- crated's log:\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        crate::leak::kill_all_below(self.folder.path());
    }
}

/// Shims outlive their daemon: they become our children, and end with us.
fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| crated_sys::process::set_subreaper(true).expect("become a subreaper"));
}
