//! Values of the OCI spec, which speaks cgroup v1, as cgroup v2 wants them. Pure.

use super::error::{Error, Result};

/// `cpu.weight` for OCI `cpu.shares` (runtime-spec config-linux.md §CPU).
///
/// `shares` is 2..=262144 (others are clamped), the answer 1..=10000 (cgroup-v2.rst, "CPU Interface Files"). The curve goes
/// through the ends of both ranges and maps the one default, 1024, to the other, 100; it is the one that runc and crun
/// adopted in 2025 in place of a straight line, which had put 1024 at 39.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
    let l = (shares as f64).log2();
    let weight = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
    // Rounding before ceil: 1024 must be 100 and not 101 by the last bit of a float.
    let weight = ((weight * 1e6).round() / 1e6).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1..=10000 by the curve")]
    let weight = weight as u64;
    weight.clamp(1, 10_000)
}

/// `io.weight` for OCI `blockIO.weight`: 10..=1000 to 1..=10000, a straight line (crun's and runc's formula).
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

/// `memory.swap.max`, which counts swap alone, for OCI `memory.swap`, which counts memory and swap.
///
/// # Errors
/// [`Error::Resource`] where swap is limited without a limit of memory, or below it.
pub(super) fn swap_max(limit: Option<i64>, swap: Option<i64>) -> Result<Option<String>> {
    let bad = |reason: &str| Error::Resource { field: "memory.swap", reason: reason.into() };
    match (limit.unwrap_or(0), swap.unwrap_or(0)) {
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some("max".into())),
        (-1, _) => Err(bad("swap is limited while memory is unlimited")),
        (0, _) => Err(bad("a limit of memory and swap needs a limit of memory")),
        (limit, swap) if swap < limit => Err(bad("memory and swap together are less than memory")),
        (limit, swap) => Ok(Some((swap - limit).to_string())),
    }
}

/// A limit where -1 stands for `max`.
pub(super) fn or_max(limit: i64) -> String {
    if limit < 0 { "max".into() } else { limit.to_string() }
}

/// `cpu.max`: quota and period in microseconds; the kernel's default period is 100 ms.
pub(super) fn cpu_max(quota: Option<i64>, period: Option<u64>) -> Option<String> {
    let quota = quota.filter(|quota| *quota != 0);
    let period = period.filter(|period| *period != 0);
    if quota.is_none() && period.is_none() {
        return None;
    }
    let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
    Some(format!("{quota} {}", period.unwrap_or(100_000)))
}

/// `pids.max`: 0 and negative numbers are unlimited.
pub(super) fn pids_max(limit: i64) -> String {
    if limit <= 0 { "max".into() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_known_points_hold() {
        assert_eq!([2, 1024, 262_144].map(cpu_weight), [1, 100, 10_000]);
        assert_eq!([0, u64::MAX].map(cpu_weight), [1, 10_000]);
        assert_eq!([10, 500, 1000, 0, 5000].map(io_weight), [1, 4950, 10_000, 1, 10_000]);
        assert_eq!(cpu_max(Some(50_000), None).as_deref(), Some("50000 100000"));
        assert_eq!(cpu_max(Some(-1), Some(50_000)).as_deref(), Some("max 50000"));
        assert_eq!(cpu_max(Some(0), Some(0)), None);
        assert_eq!(swap_max(Some(100), Some(100)).unwrap().as_deref(), Some("0"));
        assert_eq!(swap_max(None, Some(-1)).unwrap().as_deref(), Some("max"));
        assert!(swap_max(None, Some(5)).is_err() && swap_max(Some(6), Some(5)).is_err());
        assert!(swap_max(Some(-1), Some(5)).is_err());
        assert_eq!([pids_max(0), pids_max(-1), pids_max(7)], ["max", "max", "7"]);
    }

    proptest! {
        #[test]
        fn weights_are_in_range_and_keep_order(a in 0_u64..300_000, b in 0_u64..300_000) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!((1..=10_000).contains(&cpu_weight(a)));
            prop_assert!(cpu_weight(low) <= cpu_weight(high));
        }

        #[test]
        fn io_weights_are_in_range_and_keep_order(a: u16, b: u16) {
            prop_assert!((1..=10_000).contains(&io_weight(a)));
            prop_assert!(io_weight(a.min(b)) <= io_weight(a.max(b)));
        }

        #[test]
        fn swap_plus_memory_is_what_was_asked(limit in 1_i64..1 << 50, more in 0_i64..1 << 50) {
            let swap = swap_max(Some(limit), Some(limit + more)).unwrap().unwrap();
            prop_assert_eq!(swap.parse::<i64>().unwrap(), more);
        }
    }
}
