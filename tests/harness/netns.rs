//! A small world of network namespaces: the host of a daemon, and a client outside of it on a wire.

use crate::{Outcome, Run, eventually};
use crated_sys::namespace::{Kinds, join, open, unshare};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// A network namespace; it lasts as long as somebody holds it or runs in it.
#[derive(Clone, Debug)]
pub struct Netns(Arc<OwnedFd>);

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Netns {
    /// A fresh one with its loopback up.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(Kinds::NETWORK).expect("root makes network namespaces");
            crated_sys::net::loopback_up().expect("the loopback comes up");
            open(Path::new("/proc/thread-self/ns/net")).expect("a namespace can be opened")
        });
        Self(Arc::new(made.join().expect("a thread of a namespace")))
    }

    /// The one of a process, e.g. of a container's.
    ///
    /// # Panics
    /// Where the process has gone.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let path = format!("/proc/{pid}/ns/net");
        Self(Arc::new(open(Path::new(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))))
    }

    /// Does something on a thread in it; programs that it starts stay there.
    ///
    /// # Panics
    /// Where `act` does.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                join(self.0.as_fd(), Kinds::NETWORK).expect("root joins network namespaces");
                act()
            });
            match done.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Where other programs find it, as long as this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs a program in it.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Outcome {
        self.inside(|| Run::new(program, arguments).run())
    }

    /// `ip` with words.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.run("ip", &words.split_whitespace().collect::<Vec<_>>()).ok()
    }

    /// Whether everything of a daemon is gone: its container's links, its published ports. Bridges of networks stay as long as
    /// their networks, without anybody on them.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn assert_clean(&self, log: &str) {
        let mut left = String::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("no link of a container is left", || {
                let links = self.ip("-o link");
                let links = links.lines().filter(|line| line.contains(": veth") || line.contains(": macvlan"));
                let elements = self.run("nft", &["list", "ruleset"]).stdout;
                let elements = elements.lines().filter(|line| line.contains("elements =") && line.contains(" . "));
                left = links.chain(elements.filter(|line| line.contains(" : "))).collect::<Vec<_>>().join("\n");
                left.is_empty().then_some(())
            });
        }));
        assert!(clean.is_ok(), "left in the host:\n{left}\n--- crated's log:\n{log}");
    }
}

/// A host with a client outside: `host` 192.0.2.1 and 2001:db8::1 on `up0`, `outside` 192.0.2.2 and 2001:db8::2 on `out0`. The
/// host's default routes lead outside; nobody outside knows a way to what is behind the host.
#[derive(Clone, Debug)]
pub struct World {
    /// Where the daemon is.
    pub host: Netns,
    /// Where others are.
    pub outside: Netns,
}

/// The host's address on the wire.
pub const HOST: &str = "192.0.2.1";

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Makes one.
    ///
    /// # Panics
    /// Without root or iproute2.
    #[must_use]
    pub fn new() -> Self {
        let world = Self { host: Netns::new(), outside: Netns::new() };
        world.host.ip(&format!("link add up0 type veth peer name out0 netns {}", world.outside.path()));
        for (netns, link, four, six) in [
            (&world.host, "up0", "192.0.2.1/24", "2001:db8::1/64"),
            (&world.outside, "out0", "192.0.2.2/24", "2001:db8::2/64"),
        ] {
            netns.ip(&format!("addr add {four} dev {link}"));
            netns.ip(&format!("addr add {six} dev {link} nodad"));
            netns.ip(&format!("link set {link} up"));
        }
        world.host.ip("route add default via 192.0.2.2");
        world.host.ip("-6 route add default via 2001:db8::2");
        world
    }
}
