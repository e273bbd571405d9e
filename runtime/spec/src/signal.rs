//! Signals by name and number, as docker's flags take them.

use crated_types::{Error, Result};

/// Names of 1..=31 (signal(7), the numbers of x86 and ARM).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// First and last real-time signal that programs may use (the C library keeps 32 and 33).
const REAL_TIME: (i32, i32) = (34, 64);

/// Parses `SIGTERM`, `term`, `15`, `RTMIN+3`, `SIGRTMAX-1`.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for what is no signal.
///
/// ```
/// assert_eq!(crated_spec::signal::parse("sigkill")?, 9);
/// assert_eq!(crated_spec::signal::parse("RTMIN+1")?, 35);
/// # Ok::<(), crated_types::Error>(())
/// ```
pub fn parse(text: &str) -> Result<i32> {
    let bad = || Error::invalid("signal", format_args!("{text:?} is no signal"));
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return text.parse().ok().filter(|number| (1..=REAL_TIME.1).contains(number)).ok_or_else(bad);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let alias = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        name => name,
    };
    if let Some(at) = NAMES.iter().position(|known| *known == alias) {
        return i32::try_from(at + 1).map_err(|_| bad());
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').and_then(|offset: i32| REAL_TIME.0.checked_add(offset))
    } else {
        name.strip_prefix("RTMAX")
            .and_then(|rest| offset(rest, '-'))
            .and_then(|offset: i32| REAL_TIME.1.checked_sub(offset))
    };
    number.filter(|number| (REAL_TIME.0..=REAL_TIME.1).contains(number)).ok_or_else(bad)
}

/// The name of a signal, `SIGTERM`; `None` for numbers that are none.
#[must_use]
pub fn name(number: i32) -> Option<String> {
    match number {
        1..=31 => usize::try_from(number - 1).ok().map(|at| format!("SIG{}", NAMES[at])),
        34..=64 => Some(if number == 34 { "SIGRTMIN".into() } else { format!("SIGRTMIN+{}", number - 34) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_meet() {
        for number in (1..=31).chain(34..=64) {
            let name = name(number).unwrap();
            assert_eq!(parse(&name).unwrap(), number);
            assert_eq!(parse(&name[3..].to_lowercase()).unwrap(), number);
            assert_eq!(parse(&number.to_string()).unwrap(), number);
        }
        assert_eq!(parse("SIGRTMAX-1").unwrap(), 63);
        assert_eq!(parse("IOT").unwrap(), 6);
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "",
            "0",
            "65",
            "-9",
            "+9",
            "SIG",
            "KILLER",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN+-1",
            "RTMAX+1",
            "9 ",
            "99999999999",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
