//! What daemon and helper say to one another: one JSON object a line, one answer to each request, in order.

use super::datagrams::Flows;
use crate::names::{Counters, Endpoint, Network};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Version of these words; a helper of another version is replaced.
pub(super) const VERSION: u32 = 2;
/// Longest line, in bytes: some 50,000 endpoints.
pub(super) const LINE_MAX: u64 = 32 << 20;

/// Transport of a held port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Transport.
    pub transport: Transport,
    /// Address; unspecified for all of its family.
    pub address: IpAddr,
    /// Number.
    pub port: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        };
        write!(f, "{}/{transport}", SocketAddr::new(self.address, self.port))
    }
}

/// A port that is held: bound, so that no other process can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The port.
    pub port: Port,
    /// Who holds it: a container's id.
    pub owner: String,
    /// For TCP and UDP on `::` and `::1`: where connections and datagrams to `[::1]` are led.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splice: Option<SocketAddr>,
}

/// Everything that a helper serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Networks with a resolver.
    pub networks: Vec<Network>,
    /// Who is called what.
    pub endpoints: Vec<Endpoint>,
    /// Held ports.
    pub holds: Vec<Hold>,
}

/// A change of it. Ports are taken all or none, before anything else changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Networks that are new or differ.
    pub networks: Vec<Network>,
    /// Ids of networks that are gone.
    pub forget_networks: Vec<String>,
    /// Endpoints that are new or differ.
    pub endpoints: Vec<Endpoint>,
    /// Ids of endpoints that are gone.
    pub forget_endpoints: Vec<String>,
    /// Ports to hold; one that its owner holds already is no failure.
    pub holds: Vec<Hold>,
    /// Ports to let go.
    pub release: Vec<Port>,
}

impl Change {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a helper is and does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Its process.
    pub pid: u32,
    /// What it serves.
    pub state: State,
    /// What its resolver did.
    pub counters: Counters,
    /// Datagrams to `[::1]`, by port.
    pub datagrams: Vec<Flows>,
    /// What it could not do, e.g. listen on an address, and why.
    pub troubles: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", content = "with", rename_all = "snake_case")]
pub(super) enum Request {
    /// Which version?
    Hello,
    /// This is everything; what is there already stays as it is.
    Replace(State),
    /// This changes.
    Change(Change),
    /// What do you do?
    Show,
    /// End.
    Stop,
}

/// Why a port could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refused {
    /// Somebody has it.
    InUse,
    /// The kernel has no such transport.
    Unsupported,
    /// Anything else.
    Other,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", content = "with", rename_all = "snake_case")]
pub(super) enum Answer {
    Hello {
        version: u32,
    },
    Done {
        troubles: Vec<String>,
    },
    Report(Box<Report>),
    /// A port is taken; nothing was changed.
    Taken {
        port: Port,
        why: String,
        fault: Refused,
    },
    /// The request could not be read.
    Bad {
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_come_back_as_they_went() {
        let hold = Hold {
            port: Port { transport: Transport::Tcp, address: "::".parse().unwrap(), port: 80 },
            owner: "c".into(),
            splice: Some("172.17.0.2:8080".parse().unwrap()),
        };
        assert_eq!(hold.port.to_string(), "[::]:80/tcp");
        let requests = [
            Request::Hello,
            Request::Show,
            Request::Stop,
            Request::Replace(State::default()),
            Request::Change(Change { holds: vec![hold], ..Change::default() }),
        ];
        for request in requests {
            let line = serde_json::to_string(&request).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request, "{line}");
        }
        for answer in [Answer::Hello { version: 1 }, Answer::Report(Box::default()), Answer::Bad { why: "x".into() }] {
            assert_eq!(serde_json::from_str::<Answer>(&serde_json::to_string(&answer).unwrap()).unwrap(), answer);
        }
    }
}
