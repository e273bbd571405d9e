//! How much of a network a container may take, by the annotations that clients of Kubernetes give.

use crated_core::Bandwidth;
use crated_types::{Error, Result};
use std::collections::BTreeMap;

/// Bits a second into the container.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// Bits a second out of it.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Bits a second that are taken for a limit, both included (Kubernetes: `pkg/util/bandwidth`).
const REASONABLE: std::ops::RangeInclusive<u128> = 1_000..=1_000_000_000_000_000;
/// Bits at once, as containerd asks for: annotations do not tell.
const BURST: u64 = u32::MAX as u64;

/// Whether some limit is asked for.
pub(super) fn is_asked(annotations: &BTreeMap<String, String>) -> bool {
    [INGRESS, EGRESS].iter().any(|key| annotations.contains_key(*key))
}

/// The limits that annotations ask for.
///
/// # Errors
/// `Invalid` for a text that is no quantity of Kubernetes, or lies outside of 1k to 1P.
pub(super) fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Bandwidth>> {
    if !is_asked(annotations) {
        return Ok(None);
    }
    let rate = |key: &str| {
        let Some(text) = annotations.get(key) else { return Ok((0, 0)) };
        let rate = quantity(text).filter(|rate| REASONABLE.contains(rate)).and_then(|rate| u64::try_from(rate).ok());
        rate.map(|rate| (rate, BURST)).ok_or_else(|| {
            Error::invalid("config.annotations", format_args!("{key}={text:?} is no bandwidth of 1k to 1P"))
                .remedy_is("give bits a second as Kubernetes writes them, e.g. 10M")
        })
    };
    let ((ingress_rate, ingress_burst), (egress_rate, egress_burst)) = (rate(INGRESS)?, rate(EGRESS)?);
    Ok(Some(Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst }))
}

/// A quantity as Kubernetes writes it (`10M`, `1.5Gi`, `100000`), rounded up.
fn quantity(text: &str) -> Option<u128> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let factor: u128 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    // So long that the product fits, and longer than any that makes sense.
    if whole.len() + fraction.len() > 18 || fraction.contains('.') || number.trim_matches('.').is_empty() {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    Some((digits * factor).div_ceil(10_u128.pow(u32::try_from(fraction.len()).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_types::Fault;

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<Bandwidth>> {
        bandwidth(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn annotations_of_kubernetes_are_read() {
        assert_eq!(asked(&[("other", "10M")]).unwrap(), None);
        let one = asked(&[(INGRESS, "10M")]).unwrap().unwrap();
        assert_eq!((one.ingress_rate, one.ingress_burst), (10_000_000, BURST));
        assert_eq!((one.egress_rate, one.egress_burst), (0, 0), "no limit");
        let both = asked(&[(INGRESS, "1.5Gi"), (EGRESS, "100000")]).unwrap().unwrap();
        assert_eq!((both.ingress_rate, both.egress_rate), (3 << 29, 100_000));
        assert_eq!(quantity("1.0001k"), Some(1001), "upwards");
        for bad in
            ["", "10", "999", "2P", "M", ".", "1.2.3M", "-1M", "10m", "10 M", "1e6", "10MB", "9999999999999999999"]
        {
            assert_eq!(asked(&[(EGRESS, bad)]).unwrap_err().fault(), Fault::Invalid, "{bad:?}");
        }
    }
}
