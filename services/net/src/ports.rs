//! The host's sockets of published ports: bound, never listening, so that a taken port is an error before anything starts and
//! no process of the host gets one that is published. Packets never reach them: the rules turn them away before.

use crated_core::network::{Protocol, Published};
use crated_types::{Error, Fault, Result};
use std::collections::HashMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// First port that is chosen where none is asked for.
const CHOSEN_FIRST: u16 = 32768;
/// Last one.
const CHOSEN_LAST: u16 = 60999;

/// Holds ports of the host for owners.
pub trait Holder: Send + Sync + Debug {
    /// Holds what `ports` ask for beside what the owner holds, and fills in their `host_port`.
    ///
    /// # Errors
    /// `InUse` for a port that another has; `Invalid` for an address that is not the host's. Then none of them is held.
    fn hold(&self, owner: &(String, String), ports: &mut [Published]) -> Result<()>;

    /// Gives up these ports of an owner.
    fn release(&self, owner: &(String, String), ports: &[Published]);
}

type Key = (String, String, u32);

/// Sockets of this process.
#[derive(Debug, Default)]
pub struct Sockets {
    held: Mutex<HashMap<(String, String), HashMap<Key, OwnedFd>>>,
    next: Mutex<u16>,
}

fn key(port: &Published) -> Key {
    (port.protocol.clone(), port.host_ip.clone(), port.host_port)
}

impl Holder for Sockets {
    fn hold(&self, owner: &(String, String), ports: &mut [Published]) -> Result<()> {
        let mut fresh: Vec<(Key, OwnedFd)> = Vec::new();
        for port in ports.iter_mut() {
            if port.host_port != 0 {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                if held.get(owner).is_some_and(|mine| mine.contains_key(&key(port))) {
                    continue;
                }
            }
            let (host_port, socket) = self.bind(port)?;
            port.host_port = u32::from(host_port);
            fresh.push((key(port), socket));
        }
        if !fresh.is_empty() {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.entry(owner.clone()).or_default().extend(fresh);
        }
        Ok(())
    }

    fn release(&self, owner: &(String, String), ports: &[Published]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = held.get_mut(owner) {
            for port in ports {
                mine.remove(&key(port));
            }
            if mine.is_empty() {
                held.remove(owner);
            }
        }
    }
}

impl Sockets {
    fn bind(&self, port: &Published) -> Result<(u16, OwnedFd)> {
        let protocol = Protocol::from_name(&port.protocol)
            .ok_or_else(|| Error::invalid("publish", format_args!("{:?} is not tcp, udp or sctp", port.protocol)))?;
        let narrow = |number: u32| {
            u16::try_from(number).map_err(|_| Error::invalid("publish", format_args!("{number} is not a port")))
        };
        let (first, last) = if port.host_port != 0 {
            (narrow(port.host_port)?, narrow(port.host_port)?)
        } else if port.first != 0 {
            (narrow(port.first)?, narrow(port.last)?)
        } else {
            return self.choose(protocol, port);
        };
        let mut taken = None;
        for number in first..=last {
            match attempt(protocol, &port.host_ip, number) {
                Ok(socket) => return Ok((number, socket)),
                Err(error) if error.fault() == Fault::InUse => taken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(taken.unwrap_or_else(|| Error::invalid("publish", format_args!("{first}-{last} is no range of ports"))))
    }

    /// Any free port, from where the last choice ended.
    fn choose(&self, protocol: Protocol, port: &Published) -> Result<(u16, OwnedFd)> {
        for _ in CHOSEN_FIRST..=CHOSEN_LAST {
            let number = {
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                let number = (*next).clamp(CHOSEN_FIRST, CHOSEN_LAST);
                *next = if number == CHOSEN_LAST { CHOSEN_FIRST } else { number + 1 };
                number
            };
            match attempt(protocol, &port.host_ip, number) {
                Ok(socket) => return Ok((number, socket)),
                Err(error) if error.fault() == Fault::InUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(Fault::Exhausted, format!("no port of {CHOSEN_FIRST}-{CHOSEN_LAST}/{protocol} is free")))
    }
}

fn attempt(protocol: Protocol, host_ip: &str, port: u16) -> Result<OwnedFd> {
    let (address, both) = if host_ip.is_empty() {
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), true)
    } else {
        let address =
            host_ip.parse().map_err(|_| Error::invalid("publish", format_args!("{host_ip:?} is not an address")))?;
        (address, false)
    };
    let bind = |address: IpAddr, both| crated_sys::net::bind(protocol.number(), SocketAddr::new(address, port), both);
    let bound = match bind(address, both) {
        // A host without IPv6.
        Err(error) if both && error.errno == crated_sys::Errno::EAFNOSUPPORT => {
            bind(Ipv4Addr::UNSPECIFIED.into(), false)
        }
        bound => bound,
    };
    bound.map_err(|error| {
        use crated_sys::Errno as E;
        let shown =
            if host_ip.is_empty() { format!("{port}/{protocol}") } else { format!("{host_ip}:{port}/{protocol}") };
        match error.errno {
            E::EADDRINUSE => Error::new(
                Fault::InUse,
                format!("host port {shown} is taken by another container or a process of the host"),
            )
            .remedy_is(format!("choose another port, or find who has it: `ss -lnp sport = {port}`")),
            E::EADDRNOTAVAIL => Error::invalid("publish", format_args!("{host_ip} is not an address of this host")),
            E::EPROTONOSUPPORT | E::ESOCKTNOSUPPORT => {
                Error::new(Fault::Unsupported, format!("the kernel has no {protocol}"))
            }
            _ => Error::os(format!("hold host port {shown}"), error.into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: &str, host_ip: &str, first: u32, last: u32) -> Published {
        Published { protocol: protocol.into(), container_port: 80, host_ip: host_ip.into(), host_port: 0, first, last }
    }

    #[test]
    fn a_held_port_is_nobody_elses() {
        let (ours, theirs) = (("n".to_owned(), "a".to_owned()), ("n".to_owned(), "b".to_owned()));
        let sockets = Sockets::default();
        let mut chosen = [port("tcp", "127.0.0.1", 0, 0), port("udp", "127.0.0.1", 0, 0)];
        sockets.hold(&ours, &mut chosen).unwrap();
        let number = chosen[0].host_port;
        assert!((32768..=60999).contains(&number) && chosen[1].host_port != 0);
        sockets.hold(&ours, &mut chosen).unwrap(); // again: the same
        let taken = sockets.hold(&theirs, &mut [port("tcp", "127.0.0.1", number, number)]).unwrap_err();
        assert_eq!(taken.fault(), Fault::InUse);
        assert!(taken.to_string().contains(&format!("127.0.0.1:{number}/tcp")), "{taken}");
        let process = std::net::TcpListener::bind(("127.0.0.1", u16::try_from(number).unwrap()));
        assert_eq!(process.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        sockets.release(&ours, &chosen);
        sockets.hold(&theirs, &mut [port("tcp", "127.0.0.1", number, number)]).unwrap();
    }

    #[test]
    fn a_range_gives_its_first_free_port_and_a_failure_holds_nothing() {
        let owner = ("n".to_owned(), "a".to_owned());
        let sockets = Sockets::default();
        let mut one = [port("tcp", "127.0.0.1", 0, 0)];
        sockets.hold(&owner, &mut one).unwrap();
        let first = one[0].host_port;
        let mut ranged = [port("tcp", "127.0.0.1", first, first + 50)];
        sockets.hold(&owner, &mut ranged).unwrap();
        assert!(ranged[0].host_port > first);
        let free = ranged[0].host_port;
        sockets.release(&owner, &ranged);
        let other = ("n".to_owned(), "b".to_owned());
        let mut both = [port("tcp", "127.0.0.1", free, free), port("tcp", "127.0.0.1", first, first)];
        assert!(sockets.hold(&other, &mut both).is_err());
        sockets.hold(&owner, &mut [port("tcp", "127.0.0.1", free, free)]).unwrap();
        assert_eq!(sockets.hold(&owner, &mut [port("tcp", "192.0.2.1", 1, 1)]).unwrap_err().fault(), Fault::Invalid);
    }
}
