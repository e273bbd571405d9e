//! An IP address with the length of its network: `172.17.0.1/16`, `fd00::/64`.

use crate::error::{Error, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address in its network. Host bits may be set: it is the address of a link as well as the name of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// An address and the length of its network, 0..=32 or 0..=128.
    ///
    /// # Errors
    /// [`crate::Fault::Invalid`] where the length is beyond the family's.
    pub fn new(address: IpAddr, length: u8) -> Result<Self> {
        if length > bits(address) {
            return Err(Error::invalid("cidr", format_args!("{address}/{length}: at most /{} fits", bits(address))));
        }
        Ok(Self { address, length })
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits of the network.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is of IPv6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// The network with no host bit set.
    #[must_use]
    pub fn network(&self) -> Self {
        Self { address: from_number(self.first(), self.is_v6()), length: self.length }
    }

    /// The first address as a number.
    #[must_use]
    pub fn first(&self) -> u128 {
        number(self.address) & !self.host_mask()
    }

    /// The last address as a number; of IPv4 it is the broadcast address.
    #[must_use]
    pub fn last(&self) -> u128 {
        number(self.address) | self.host_mask()
    }

    /// Whether `address` lies in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_v6() && (self.first()..=self.last()).contains(&number(address))
    }

    /// Whether all of `other` lies in the network.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.is_v6() == self.is_v6() && self.first() <= other.first() && other.last() <= self.last()
    }

    /// Whether some address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_v6() == other.is_v6() && self.first() <= other.last() && other.first() <= self.last()
    }

    /// The `index`-th address of the network, from 0; none behind its end.
    #[must_use]
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        let found = self.first().checked_add(index)?;
        (found <= self.last()).then(|| from_number(found, self.is_v6()))
    }

    fn host_mask(&self) -> u128 {
        let free = u32::from(bits(self.address) - self.length);
        if free == 128 { u128::MAX } else { (1 << free) - 1 }
    }
}

/// An address as a number.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of a number; of IPv4 its lowest 32 bits count.
#[must_use]
pub fn from_number(number: u128, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::from(number).into()
    } else {
        Ipv4Addr::from(u32::try_from(number & u128::from(u32::MAX)).unwrap_or_default()).into()
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Cidr {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid("cidr", format_args!("{text:?} is not ADDRESS/LENGTH, as in 172.17.0.0/16"));
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        if length.is_empty() || length.len() > 3 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        Self::new(address.parse().map_err(|_| bad())?, length.parse().map_err(|_| bad())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_printed_is_read() {
        for text in ["172.17.0.1/16", "fd00::1/64", "0.0.0.0/0", "::/0", "10.0.0.1/32", "::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        for text in ["", "1.2.3.4", "1.2.3.4/33", "::/129", "1.2.3/24", "1.2.3.4/+8", "fe80::1%eth0/64", "1.2.3.4/"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_know_their_borders() {
        let net = cidr("172.17.3.4/16");
        assert_eq!(net.network(), cidr("172.17.0.0/16"));
        assert_eq!(net.nth(1).unwrap().to_string(), "172.17.0.1");
        assert_eq!(from_number(net.last(), false).to_string(), "172.17.255.255");
        assert_eq!(net.nth(1 << 16), None);
        assert!(net.contains("172.17.255.255".parse().unwrap()) && !net.contains("172.18.0.0".parse().unwrap()));
        assert!(!net.contains("::ffff:172.17.0.1".parse().unwrap()));
        assert!(net.overlaps(&cidr("172.0.0.0/8")) && !net.covers(&cidr("172.0.0.0/8")));
        assert!(cidr("0.0.0.0/0").covers(&net) && cidr("::/0").contains("fd00::1".parse().unwrap()));
        assert!(!cidr("::/0").overlaps(&net));
    }
}
