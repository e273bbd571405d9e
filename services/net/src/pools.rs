//! Default pools: the first subnet that nothing of the host overlaps.

use crated_types::{Cidr, Error, Fault, Result};

/// A range that is cut into subnets of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The range.
    pub base: Cidr,
    /// Bits of each subnet.
    pub size: u8,
}

impl Base {
    /// A range and the length of its subnets.
    ///
    /// # Errors
    /// `Invalid` where they do not fit, or the range would make more than 65,536.
    pub fn new(base: Cidr, size: u8) -> Result<Self> {
        let most = if base.is_v6() { 126 } else { 30 };
        if base.network() != base || size < base.length() || size > most || size - base.length() > 16 {
            return Err(Error::invalid(
                "network.pools",
                format_args!(
                    "{base} cannot be cut into subnets of /{size}: a network, and /{} to /{most}",
                    base.length()
                ),
            ));
        }
        Ok(Self { base, size })
    }

    fn subnets(&self) -> impl Iterator<Item = Cidr> + use<> {
        let (base, size) = (*self, u32::from(self.size));
        let bits = if base.base.is_v6() { 128 } else { 32 };
        (0..1u128 << (base.size - base.base.length()))
            .filter_map(move |index| Cidr::new(base.base.nth(index << (bits - size))?, base.size).ok())
    }
}

/// docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
#[must_use]
pub fn default_bases() -> Vec<Base> {
    let base = |text: &str, size| Base { base: text.parse().expect("a literal subnet"), size };
    let mut bases: Vec<_> = (17..32).map(|second| base(&format!("172.{second}.0.0/16"), 16)).collect();
    bases.push(base("192.168.0.0/16", 20));
    bases
}

/// The first subnet that overlaps none of `used` (networks of ours, and what the host routes).
pub(crate) fn choose(bases: &[Base], used: &[(Cidr, String)]) -> Result<Cidr> {
    let free = |subnet: &Cidr| used.iter().all(|(other, _)| !other.overlaps(subnet));
    bases.iter().flat_map(Base::subnets).find(free).ok_or_else(|| {
        let count = bases.iter().flat_map(Base::subnets).count();
        Error::new(
            Fault::Exhausted,
            format!("all {count} subnets of the pools are in use by networks or routes of the host"),
        )
        .remedy_is("name a subnet (--subnet), remove networks, or set network.pools")
    })
}

/// Refuses a subnet that overlaps another network's or a route of the host.
pub(crate) fn clash(subnet: &Cidr, used: &[(Cidr, String)]) -> Result<()> {
    match used.iter().find(|(other, _)| other.overlaps(subnet)) {
        Some((other, who)) => Err(Error::new(Fault::InUse, format!("subnet {subnet} overlaps {other} of {who}"))
            .remedy_is("choose another subnet")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_skip_what_is_in_use() {
        let used =
            |texts: &[&str]| texts.iter().map(|text| (text.parse().unwrap(), "x".to_owned())).collect::<Vec<_>>();
        let bases = default_bases();
        assert_eq!(choose(&bases, &[]).unwrap().to_string(), "172.17.0.0/16");
        assert_eq!(choose(&bases, &used(&["172.17.3.0/24", "172.18.0.0/15"])).unwrap().to_string(), "172.20.0.0/16");
        assert_eq!(choose(&bases, &used(&["172.16.0.0/12"])).unwrap().to_string(), "192.168.0.0/20");
        assert_eq!(choose(&bases, &used(&["172.16.0.0/12", "192.168.0.0/20"])).unwrap().to_string(), "192.168.16.0/20");
        let full = choose(&bases, &used(&["172.16.0.0/12", "192.168.0.0/16"])).unwrap_err();
        assert_eq!(full.fault(), Fault::Exhausted);
        assert!(
            clash(&"10.1.0.0/16".parse().unwrap(), &used(&["10.0.0.0/8"]))
                .unwrap_err()
                .to_string()
                .contains("10.0.0.0/8")
        );
    }

    #[test]
    fn a_pool_must_fit() {
        assert!(Base::new("10.0.0.0/8".parse().unwrap(), 24).is_ok());
        assert!(Base::new("10.0.0.0/8".parse().unwrap(), 25).is_err());
        assert!(Base::new("10.0.0.1/8".parse().unwrap(), 24).is_err());
        assert!(Base::new("10.0.0.0/24".parse().unwrap(), 8).is_err());
    }
}
