//! A small world of network namespaces: the host of a daemon, and a client outside of it on a wire.

use crate::{Outcome, Run, eventually};
use crated_sys::namespace::{Kinds, join, open, unshare};
use serde_json::Value;
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

    /// Whether everything of a daemon is gone but what docs/packets.md says stays: the bridge of the default network, with
    /// nobody on it, and the one table, which knows that network alone.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn assert_clean(&self, log: &str) {
        let mut left = Vec::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("nothing of a container or a network is left", || {
                left = self.left();
                left.is_empty().then_some(())
            });
        }));
        assert!(clean.is_ok(), "left in the host:\n{}\n--- crated's log:\n{log}", left.join("\n"));
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let links = self.json("ip", &["-d", "-j", "link"]);
        let word = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let all = links.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut default = None;
        for link in all {
            let (name, alias) = (word(link, "ifname"), word(link, "ifalias"));
            let kind = word(&link["linkinfo"], "info_kind");
            if alias.starts_with("crated ") && alias.ends_with(" network bridge") {
                default = Some(name);
            } else if alias.starts_with("crated ")
                || name.starts_with("veth")
                || ["macvlan", "ipvlan"].contains(&&*kind)
            {
                left.push(format!("link {name}, {kind}, alias {alias:?}"));
            }
        }
        let ruleset = self.json("nft", &["-j", "list", "ruleset"]);
        let mut tables = 0;
        for object in ruleset["nftables"].as_array().into_iter().flatten() {
            if word(&object["table"], "name").starts_with("crated_") {
                tables += 1;
            }
            for kind in ["set", "map"] {
                let set = &object[kind];
                if !word(set, "table").starts_with("crated_") {
                    continue;
                }
                let elements = set["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
                let known = match word(set, "name").as_str() {
                    // One bridge with one subnet.
                    "bridges" | "pairs" | "sub4" | "masq4" => usize::from(default.is_some()),
                    _ => 0,
                };
                if elements.len() > known {
                    left.push(format!("nft {kind} {}: {}", word(set, "name"), set["elem"]));
                }
            }
        }
        if tables > 1 {
            left.push(format!("{tables} tables of nft"));
        }
        left
    }

    fn json(&self, program: &str, arguments: &[&str]) -> Value {
        let said = self.run(program, arguments).ok();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}: {said}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_leaves_is_found_and_what_may_stay_is_not() {
        let host = Netns::new();
        host.ip("link add crated0 type bridge");
        host.run("sh", &["-c", "ip link set crated0 alias 'crated 0123456789ab network bridge'"]).ok();
        let table = "table inet crated_0123456789ab { set bridges { type ifname; elements = { \"crated0\" } }\n map pub4 { type inet_proto . inet_service : ipv4_addr . inet_service; }\n}\n";
        host.inside(|| Run::new("nft", &["-f", "-"]).input(table).run().ok());
        assert!(host.left().is_empty(), "{:?}", host.left());
        let found = |what: &str| host.left().iter().any(|line| line.contains(what));
        host.run("nft", &["add", "element", "inet", "crated_0123456789ab", "pub4", "{ tcp . 80 : 10.0.0.2 . 80 }"])
            .ok();
        assert!(found("map pub4"), "{:?}", host.left());
        host.run("nft", &["flush", "map", "inet", "crated_0123456789ab", "pub4"]).ok();
        host.run("nft", &["add", "element", "inet", "crated_0123456789ab", "bridges", "{ \"br-x\" }"]).ok();
        assert!(found("set bridges") && host.left().len() == 1, "{:?}", host.left());
        host.run("nft", &["delete", "element", "inet", "crated_0123456789ab", "bridges", "{ \"br-x\" }"]).ok();
        host.run("nft", &["add", "table", "inet", "crated_other"]).ok();
        assert!(found("2 tables"), "{:?}", host.left());
        host.run("nft", &["delete", "table", "inet", "crated_other"]).ok();
        host.run(
            "sh",
            &["-c", "ip link add br-x type bridge; ip link set br-x alias 'crated 0123456789ab network own'"],
        )
        .ok();
        host.ip("link add veth1234567 type veth peer name eth0");
        assert!(
            found("link br-x, bridge") && found("link veth1234567, veth") && host.left().len() == 2,
            "{:?}",
            host.left()
        );
    }
}
