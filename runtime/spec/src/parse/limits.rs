//! Sizes, CPUs and ulimits.

use crate::options::Ulimit;
use crate::resources::rlimit_type;
use crated_types::{Error, Result};

/// A size in bytes: `512m`, `1.5g`, `64KiB`, `100`; units are powers of 1024.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for what is no size or too large.
///
/// ```
/// assert_eq!(crated_spec::parse::size("512m")?, 512 << 20);
/// # Ok::<(), crated_types::Error>(())
/// ```
pub fn size(text: &str) -> Result<u64> {
    let bad = || Error::invalid("size", format_args!("{text:?} is not a size like 512m"));
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if !unit.contains('i') && unit.len() < 2 => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    if unit.len() > 3 || (unit.ends_with('i')) || unit.matches('b').count() > 1 {
        return Err(bad());
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let base = whole.checked_mul(1 << shift).ok_or_else(bad)?;
    // More digits than these are less than a byte.
    let digits = &fraction[..fraction.len().min(18)];
    let part = match digits.parse::<u128>() {
        Ok(value) => (value << shift) / 10_u128.pow(digits.len() as u32),
        Err(_) if digits.is_empty() => 0,
        Err(_) => return Err(bad()),
    };
    let total = base.checked_add(u64::try_from(part).map_err(|_| bad())?).ok_or_else(bad)?;
    if total > i64::MAX as u64 { Err(bad()) } else { Ok(total) }
}

/// `--memory-swap`: a size, or `-1` for no limit.
///
/// # Errors
/// As [`size`].
pub fn memory_swap(text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    Ok(i64::try_from(size(text)?).expect("size() answers at most i64::MAX"))
}

/// `--cpus 1.5`, in billionths of a CPU.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for what is no positive number with at most nine decimals.
pub fn cpus(text: &str) -> Result<u64> {
    let bad = || Error::invalid("cpus", format_args!("{text:?} is not a number of CPUs like 1.5"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let part: u64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    whole.checked_mul(1_000_000_000).and_then(|nano| nano.checked_add(part)).filter(|nano| *nano > 0).ok_or_else(bad)
}

/// `--ulimit nofile=1024:2048`; one number is both limits, `-1` is unlimited.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for unknown names, missing numbers, and a soft limit above the hard one.
pub fn ulimit(text: &str) -> Result<Ulimit> {
    let bad = |reason: &str| Error::invalid("ulimit", format_args!("{text:?}: {reason}"));
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("it is not like nofile=1024:2048"))?;
    if rlimit_type(name).is_none() {
        return Err(bad("this limit is not known"));
    }
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        text if text.starts_with('+') => Err(bad("a limit is no number")),
        text => text.parse().map_err(|_| bad("a limit is no number")),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(bad("the soft limit is above the hard one"));
    }
    Ok(Ulimit { name: name.into(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_dockers_units() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("100b", 100),
            ("1k", 1024),
            ("1K", 1024),
            ("1kb", 1024),
            ("1KiB", 1024),
            ("1.5g", 3 << 29),
            ("2 g", 2 << 30),
            ("1T", 1 << 40),
            ("0.5k", 512),
            ("1p", 1 << 50),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "1x",
            "1.k",
            ".5k",
            "1..5k",
            "1 kk",
            "1bb",
            "1ki",
            "1ib",
            "99999999999999999999",
            "9000000p",
            "1e3",
            "+1",
        ] {
            assert!(size(text).is_err(), "{text:?}");
        }
        assert_eq!(memory_swap("-1").unwrap(), -1);
        assert_eq!(memory_swap("1g").unwrap(), 1 << 30);
    }

    #[test]
    fn cpus_and_ulimits_are_read() {
        assert_eq!(cpus("1.5").unwrap(), 1_500_000_000);
        assert_eq!(cpus(".25").unwrap(), 250_000_000);
        assert_eq!(cpus("2").unwrap(), 2_000_000_000);
        for text in ["", ".", "0", "-1", "1.0000000001", "x", "99999999999999999999", "+1"] {
            assert!(cpus(text).is_err(), "{text:?}");
        }
        assert_eq!(ulimit("nofile=1024:2048").unwrap(), Ulimit { name: "nofile".into(), soft: 1024, hard: 2048 });
        assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
        for text in ["", "nofile", "nofile=", "nofile=2:1", "what=1", "nofile=1:2:3", "nofile=-2", "nofile=+1"] {
            assert!(ulimit(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn sizes_never_panic_and_print_back(text in "\\PC{0,12}", bytes in 0_u64..1 << 62) {
            let _ = size(&text);
            let _ = cpus(&text);
            let _ = ulimit(&text);
            prop_assert_eq!(size(&bytes.to_string()).unwrap(), bytes);
        }
    }
}
