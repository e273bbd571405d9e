//! The text of resolv.conf(5): what a host says, and what of it is of use to a container.

use std::fmt::Write;
use std::net::IpAddr;

/// Where the host says which resolvers it uses.
pub const HOST: &str = "/etc/resolv.conf";
/// Where systemd-resolved says which resolvers stand behind its own.
pub const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What such a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// Name servers, some with a zone (`fe80::1%eth0`).
    pub servers: Vec<String>,
    /// Domains that are searched.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolv {
    /// Reads a text; lines that are no use to anybody are left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => found.servers.extend(words.next()),
                // The last of `domain` and `search` counts.
                Some("domain" | "search") => found.search = words.collect(),
                Some("options") => found.options.extend(words),
                _ => {}
            }
        }
        found
    }

    /// The servers that a container reaches from a network of its own: none of the host's loopback, and none that only a link of
    /// the host leads to.
    #[must_use]
    pub fn reachable(&self) -> Vec<IpAddr> {
        let own = self.servers.iter().filter_map(|server| server.parse::<IpAddr>().ok());
        own.filter(|server| !server.is_loopback() && !server.is_unspecified()).collect()
    }

    /// The text again.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// What the host says in the file `path`; where that names nothing but a resolver of its own loopback, what stands behind it.
/// No file: nothing.
#[must_use]
pub fn of_host(path: &std::path::Path) -> Resolv {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).ok().map(|text| Resolv::parse(&text));
    let own = read(path).unwrap_or_default();
    if !own.reachable().is_empty() || path != std::path::Path::new(HOST) {
        return own;
    }
    match read(std::path::Path::new(RESOLVED)) {
        Some(behind) if !behind.reachable().is_empty() => Resolv { servers: behind.servers, ..own },
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_cannot_reach_is_left_out() {
        let text = "domain x\nsearch a.b c # d\nnameserver 127.0.0.53\nnameserver 10.0.0.1 ; mine\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver fd00::1\noptions edns0 trust-ad\noptions ndots:2\nsortlist x\n";
        let found = Resolv::parse(text);
        assert_eq!(found.servers.len(), 5);
        assert_eq!(found.reachable(), ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(
            (found.search.join(" "), found.options.join(" ")),
            ("a.b c".into(), "edns0 trust-ad ndots:2".into())
        );
        assert_eq!(Resolv::parse(&found.text()), found);
        assert_eq!(Resolv::default().text(), "");
    }
}
