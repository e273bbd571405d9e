//! Hostile clients: whatever they send, leave open or do not read, memory stays bounded, errors are clear, others are unharmed.
//!
//! Memory is what the kernel says of the daemon (`/proc/PID/smaps_rollup`), printed before, at the worst and after. Bounds in
//! these tests are far above what is measured: they catch what grows with the attack, not a megabyte here or there.

mod bounds;
mod http2;
mod readers;
mod ttrpc;
mod vanish;
mod wire;

use crated_tests::Daemon;
use std::time::{Duration, Instant};

/// Proportional and resident memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
struct Memory {
    pss: u64,
    rss: u64,
}

fn memory(pid: u32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let of = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Memory { pss: of("Pss:"), rss: of("Rss:") }
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Watches a daemon's memory through an attack.
struct Watch<'d> {
    daemon: &'d Daemon,
    before: Memory,
    worst: Memory,
    begun: Instant,
}

impl<'d> Watch<'d> {
    fn new(daemon: &'d Daemon) -> Self {
        daemon.ctl(&["ps"]).ok(); // what the first call brings is no growth
        let before = memory(daemon.pid());
        Self { daemon, before, worst: before, begun: Instant::now() }
    }

    fn look(&mut self) {
        let now = memory(self.daemon.pid());
        self.worst = Memory { pss: self.worst.pss.max(now.pss), rss: self.worst.rss.max(now.rss) };
    }

    /// Others are served, and the daemon has not grown by more than `most` MiB at the worst.
    fn end(mut self, what: &str, most: u64) {
        self.look();
        self.daemon.ctl(&["ps", "-a"]).ok();
        let now = memory(self.daemon.pid());
        let mib = |kib: u64| kib as f64 / 1024.0;
        println!(
            "{what}: PSS {:.1} → {:.1} → {:.1} MiB, RSS {:.1} → {:.1} → {:.1} MiB, {:.1} s",
            mib(self.before.pss),
            mib(self.worst.pss),
            mib(now.pss),
            mib(self.before.rss),
            mib(self.worst.rss),
            mib(now.rss),
            self.begun.elapsed().as_secs_f64()
        );
        let grown = self.worst.pss.saturating_sub(self.before.pss) / 1024;
        assert!(grown < most, "{what}: the daemon grew by {grown} MiB, at most {most} are expected");
    }
}

/// A runtime for a client of several threads.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn client(daemon: &Daemon) -> crated_ctl::Client {
    crated_ctl::Client::connect(&daemon.socket().display().to_string(), "default").await.unwrap()
}

/// Polls an asynchronous condition.
async fn soon<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(60);
    while !check().await {
        assert!(Instant::now() < end, "{what}: not within 60 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
