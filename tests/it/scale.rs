//! Many containers and many lives: all are known again soon, whoever hangs; and nothing grows.
//!
//! `CRATED_SCALE=300 CRATED_LIVES=2000 cargo test -p crated-tests --test it scale -- --nocapture` is the long form.

use crate::api::Api;
use crated_api::crated::engine::v1;
use crated_tests::{Daemon, Options, eventually};
use futures::StreamExt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Runs a container that sleeps.
pub(crate) fn run(api: &Api, name: &str) -> Result<(), String> {
    let config = v1::ContainerConfig {
        name: name.into(),
        image: "bb:1".into(),
        command: vec!["sleep".into(), "1000".into()],
        ..v1::ContainerConfig::default()
    };
    api.call(async |mut engine| {
        let request = v1::RunRequest { config: Some(config), attach: false };
        let mut answers = engine.run(request).await?.into_inner();
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    })
}

/// Does something for each number below `count`, by four clients.
fn each(daemon: &Daemon, count: usize, act: impl Fn(&Api, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let api = Api::new(daemon.socket());
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        break;
                    }
                    act(&api, number);
                }
            });
        }
    });
}

fn signal(pid: i32, number: i32) {
    let pidfd = crated_sys::pidfd::open(pid).unwrap();
    crated_sys::pidfd::send_signal(pidfd.as_fd(), number).unwrap();
}

fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

fn running(api: &Api) -> usize {
    api.list().unwrap().iter().filter(|container| container.state == "running").count()
}

#[test]
fn running_containers_are_known_again_and_one_that_hangs_delays_nobody() {
    const SIGSTOP: i32 = 19;
    const SIGCONT: i32 = 18;
    let count = number("CRATED_SCALE", 40);
    let config = "[plugins.\"io.containerd.runtime.v2\".task]\nshim_timeout_seconds = 2\n".to_owned();
    let mut daemon = Daemon::with(Options { config, ..Options::default() });
    daemon.load_busybox();
    let begun = Instant::now();
    each(&daemon, count, |api, number| run(api, &format!("c{number}")).unwrap());
    let made = begun.elapsed();

    daemon.kill();
    let begun = Instant::now();
    daemon.restart();
    let ready = begun.elapsed();
    let api = Api::new(daemon.socket());
    assert_eq!(running(&api), count, "all are known when the daemon is ready");
    println!("{count} containers run in {made:.1?}; known again {ready:.0?} after the start of the daemon");

    // One shim hangs and one is dead: the others are known, and usable, before the hanging one's deadline.
    let (stuck, dead) = (daemon.container_pid("c0"), daemon.container_pid("c1"));
    let hung = parent(stuck);
    daemon.kill();
    signal(hung, SIGSTOP);
    signal(parent(dead), 9);
    let begun = Instant::now();
    daemon.restart();
    let ready = begun.elapsed();
    assert!(running(&api) >= count - 2, "the others are known when the daemon is ready");
    assert_eq!(daemon.ctl(&["exec", "c2", "echo", "ok"]).ok(), "ok\n");
    eventually("the dead one's end is known", || {
        let listed = api.list().unwrap();
        listed.iter().any(|one| one.name == "c1" && one.state == "exited").then_some(())
    });
    println!("{count} containers, one shim stopped and one dead: ready {ready:.0?} after the start of the daemon");
    signal(hung, SIGCONT);
    eventually("the one that hung answers again", || {
        (daemon.ctl(&["exec", "c0", "echo", "ok"]).stdout == "ok\n").then_some(())
    });
    assert_eq!(daemon.container_pid("c0"), stuck, "it is the same process");

    // One that hangs for good can be removed by force.
    signal(hung, SIGSTOP);
    daemon.ctl(&["rm", "-f", "c0"]).ok();
    eventually("its processes are ended", || {
        (!std::path::Path::new(&format!("/proc/{hung}/exe")).exists()).then_some(())
    });
    let begun = Instant::now();
    each(&daemon, count, |api, number| drop(remove(api, &format!("c{number}"))));
    println!("all removed in {:.1?}", begun.elapsed());
    daemon.finish();
}

fn remove(api: &Api, name: &str) -> Result<(), String> {
    let request = v1::RemoveRequest { container: name.into(), force: true };
    api.call(async |mut engine| engine.remove(request).await.map(drop))
}

/// What a daemon takes.
#[derive(Debug)]
struct Level {
    /// KiB of its own memory.
    memory: u64,
    descriptors: usize,
    threads: usize,
    /// KiB below its root and state.
    disk: u64,
}

fn level(daemon: &Daemon) -> Level {
    let proc = format!("/proc/{}", daemon.pid());
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let count = |what: &str| std::fs::read_dir(format!("{proc}/{what}")).unwrap().count();
    Level {
        memory: memory.split_whitespace().next().unwrap().parse().unwrap(),
        descriptors: count("fd"),
        threads: count("task"),
        disk: (below(&daemon.root()) + below(&daemon.state())) / 1024,
    }
}

/// Bytes on disk below a folder.
fn below(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => below(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0, // gone meanwhile
        })
        .sum()
}

#[test]
fn after_many_lives_and_kills_memory_descriptors_and_disk_are_level() {
    const BETWEEN: usize = 50;
    let lives = number("CRATED_LIVES", 100);
    let mut daemon = Daemon::start();
    daemon.load_busybox();
    let mut levels = Vec::new();
    let mut done = 0;
    while done < lives {
        each(&daemon, BETWEEN, |api, number| {
            let name = format!("c{number}");
            run(api, &name).unwrap();
            remove(api, &name).unwrap();
        });
        done += BETWEEN;
        eventually("nothing of the lives is left", || daemon.traces().is_empty().then_some(()));
        // Connections close, and what was read for a while goes.
        std::thread::sleep(Duration::from_millis(500));
        levels.push(level(&daemon));
        if done % 500 == 0 || done <= 2 * BETWEEN {
            println!("after {done} lives: {:?}", levels.last().unwrap());
        }
        daemon.kill();
        daemon.restart();
    }
    let last = level(&daemon);
    println!("after {done} lives and a start: {last:?}");
    let first = &levels[0];
    for (lived, level) in levels.iter().enumerate() {
        let what = format!("round {lived}: {level:?}, the first {first:?}");
        assert!(level.descriptors <= first.descriptors + 32, "descriptors: {what}");
        assert!(level.threads <= first.threads + 64, "threads: {what}");
        assert!(level.memory <= first.memory * 2 + (16 << 10), "memory: {what}");
        assert!(level.disk <= first.disk + (64 << 10), "disk: {what}");
    }
    daemon.finish();
}
