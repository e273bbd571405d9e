//! Who gets which address of a subnet: upwards from the one that was given last, so that a freed one rests until the subnet
//! has gone round (a peer's ARP cache and the kernel's connections forget it meanwhile).

use crated_core::network::Pool;
use crated_types::cidr::{from_number, number};
use crated_types::{Cidr, Error, Fault, Result};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a freed address rests even where the subnet has gone round, unless no other is left.
const REST: Duration = Duration::from_secs(60);
/// Most addresses that are looked at for a free one: beyond that a range counts as full.
const LOOK_MAX: u128 = 1 << 20;

/// Who has an address: namespace and container.
pub(crate) type Holder = (String, String);

/// The addresses of a subnet.
#[derive(Debug)]
pub(crate) struct Subnet {
    subnet: Cidr,
    first: u128,
    last: u128,
    reserved: BTreeMap<u128, String>,
    taken: BTreeMap<u128, Holder>,
    resting: BTreeMap<u128, Instant>,
    next: u128,
}

impl Subnet {
    /// A pool's addresses; its texts were checked when the network was made.
    pub(crate) fn new(pool: &Pool) -> Result<Self> {
        let subnet: Cidr = pool.subnet.parse()?;
        let range: Cidr = if pool.range.is_empty() { subnet } else { pool.range.parse()? };
        let mut reserved = BTreeMap::new();
        reserved.insert(subnet.first(), "the subnet itself".to_owned());
        if !subnet.is_v6() && subnet.length() < 31 {
            reserved.insert(subnet.last(), "the broadcast address".to_owned());
        }
        if subnet.length() == 31 || subnet.length() == 32 && !subnet.is_v6() || subnet.length() == 128 {
            reserved.remove(&subnet.first());
        }
        if let Ok(gateway) = pool.gateway.parse::<IpAddr>() {
            reserved.insert(number(gateway), "the gateway".to_owned());
        }
        for (name, address) in &pool.reserved {
            if let Ok(address) = address.parse::<IpAddr>() {
                reserved.insert(number(address), format!("auxiliary address {name:?}"));
            }
        }
        let (first, last) = (range.first().max(subnet.first()), range.last().min(subnet.last()));
        Ok(Self { subnet, first, last, reserved, taken: BTreeMap::new(), resting: BTreeMap::new(), next: first })
    }

    pub(crate) const fn is_v6(&self) -> bool {
        self.subnet.is_v6()
    }

    /// Takes an address that a record has.
    pub(crate) fn recall(&mut self, address: IpAddr, holder: Holder) {
        let at = number(address);
        self.taken.insert(at, holder);
        if at >= self.next && at < self.last {
            self.next = at + 1;
        }
    }

    /// Gives the wanted address, or the next free one.
    ///
    /// # Errors
    /// `Invalid` for one outside; `InUse` that names the holder; `Exhausted` that names the subnet.
    pub(crate) fn take(&mut self, wanted: Option<IpAddr>, holder: &Holder) -> Result<IpAddr> {
        let at = match wanted {
            Some(address) => self.wanted(address, holder)?,
            None => self.free().ok_or_else(|| {
                Error::new(
                    Fault::Exhausted,
                    format!("subnet {}: no address is free ({} are taken)", self.subnet, self.taken.len()),
                )
                .remedy_is("remove containers, or make a network with a larger subnet or ip-range")
            })?,
        };
        self.taken.insert(at, holder.clone());
        self.resting.remove(&at);
        if wanted.is_none() {
            self.next = if at >= self.last { self.first } else { at + 1 };
        }
        Ok(from_number(at, self.is_v6()))
    }

    /// Whether an address may be asked for.
    pub(crate) fn may(&self, address: IpAddr) -> Result<()> {
        if !self.subnet.contains(address) {
            return Err(Error::invalid("address", format_args!("{address} is not in subnet {}", self.subnet)));
        }
        match self.reserved.get(&number(address)) {
            Some(why) => Err(Error::invalid("address", format_args!("{address} of subnet {} is {why}", self.subnet))),
            None => Ok(()),
        }
    }

    fn wanted(&self, address: IpAddr, holder: &Holder) -> Result<u128> {
        self.may(address)?;
        let at = number(address);
        match self.taken.get(&at) {
            Some(other) if other != holder => Err(Error::new(
                Fault::InUse,
                format!("address {address} belongs to container {:?} of namespace {}", crate::short(&other.1), other.0),
            )),
            _ => Ok(at),
        }
    }

    fn free(&mut self) -> Option<u128> {
        self.resting.retain(|_, since| since.elapsed() < REST);
        self.look(true).or_else(|| self.look(false))
    }

    fn look(&self, respect_rest: bool) -> Option<u128> {
        let size = (self.last - self.first).saturating_add(1);
        let mut at = self.next.clamp(self.first, self.last);
        for _ in 0..size.min(LOOK_MAX) {
            let resting = respect_rest && self.resting.contains_key(&at);
            if !resting && !self.taken.contains_key(&at) && !self.reserved.contains_key(&at) {
                return Some(at);
            }
            at = if at >= self.last { self.first } else { at + 1 };
        }
        None
    }

    /// Frees an address if the holder has it.
    pub(crate) fn release(&mut self, address: IpAddr, holder: &Holder) {
        let at = number(address);
        if self.taken.get(&at) == Some(holder) {
            self.taken.remove(&at);
            self.resting.insert(at, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(subnet: &str, range: &str) -> Pool {
        let gateway = subnet.parse::<Cidr>().unwrap().nth(1).unwrap().to_string();
        let reserved = BTreeMap::from([("printer".to_owned(), "10.0.0.3".to_owned())]);
        Pool { subnet: subnet.into(), gateway, range: range.into(), reserved }
    }

    fn holder(name: &str) -> Holder {
        ("n".into(), name.into())
    }

    #[test]
    fn addresses_go_upwards_and_rest() {
        let mut subnet = Subnet::new(&pool("10.0.0.0/29", "")).unwrap();
        let mut take = |who| subnet.take(None, &holder(who)).map(|address| address.to_string());
        assert_eq!(take("a").unwrap(), "10.0.0.2"); // .0 subnet, .1 gateway, .3 printer
        assert_eq!(take("b").unwrap(), "10.0.0.4");
        subnet.release("10.0.0.2".parse().unwrap(), &holder("a"));
        let mut take = |who| subnet.take(None, &holder(who)).map(|address| address.to_string());
        assert_eq!((take("c").unwrap().as_str(), take("d").unwrap().as_str()), ("10.0.0.5", "10.0.0.6"));
        assert_eq!(take("e").unwrap(), "10.0.0.2"); // nothing but the resting one is left
        let full = take("f").unwrap_err();
        assert_eq!(full.fault(), Fault::Exhausted);
        assert!(full.to_string().contains("10.0.0.0/29"), "{full}");
    }

    #[test]
    fn a_wanted_address_is_given_or_refused_with_the_reason() {
        let mut subnet = Subnet::new(&pool("10.0.0.0/24", "10.0.0.128/25")).unwrap();
        let mut want = |address: &str, who| subnet.take(Some(address.parse().unwrap()), &holder(who));
        want("10.0.0.9", "a").unwrap(); // outside of the range, inside of the subnet
        want("10.0.0.9", "a").unwrap();
        for (address, fault, word) in [
            ("10.0.0.9", Fault::InUse, "\"a\""),
            ("10.0.0.1", Fault::Invalid, "gateway"),
            ("10.0.0.0", Fault::Invalid, "subnet itself"),
            ("10.0.0.255", Fault::Invalid, "broadcast"),
            ("10.0.0.3", Fault::Invalid, "printer"),
            ("10.0.1.1", Fault::Invalid, "not in subnet"),
            ("fd00::1", Fault::Invalid, "not in subnet"),
        ] {
            let error = want(address, "b").unwrap_err();
            assert!(error.fault() == fault && error.to_string().contains(word), "{address}: {error}");
        }
        assert_eq!(subnet.take(None, &holder("b")).unwrap().to_string(), "10.0.0.128");
        subnet.release("10.0.0.9".parse().unwrap(), &holder("b")); // not its own
        assert!(subnet.take(Some("10.0.0.9".parse().unwrap()), &holder("b")).is_err());
    }

    proptest! {
        #[test]
        fn nobody_gets_an_address_twice(steps in proptest::collection::vec((0..6usize, any::<bool>()), 1..200)) {
            let mut subnet = Subnet::new(&pool("10.0.0.0/28", "")).unwrap();
            let mut held: BTreeMap<usize, IpAddr> = BTreeMap::new();
            for (who, take) in steps {
                let name = holder(&who.to_string());
                if take && !held.contains_key(&who) {
                    let given = subnet.take(None, &name).unwrap();
                    prop_assert!(held.values().all(|other| *other != given));
                    held.insert(who, given);
                } else if let Some(address) = held.remove(&who) {
                    subnet.release(address, &name);
                }
            }
        }
    }
}
