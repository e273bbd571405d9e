//! Named failpoints: a test arms one, and there the process dies at once, fails with an error of the system, or is late.
//!
//! `CRATED_FAILPOINTS="engine.create.files=error(28);task.create.call=kill@2;store.commit=delay(100)"` arms by name; `@N` means
//! the N-th time it is passed in this process (else the first). `CRATED_FAILPOINTS=@FILE` reads the same text from a file at
//! each point, so that one process can be armed many times; what fires is appended to `FILE.hit`.
//!
//! Builds without debug assertions, as a release is, have none of this: the functions are empty there.

#[cfg(debug_assertions)]
use crated_types::Error;
use crated_types::Result;
use std::fmt::Display;

/// A point where the work can fail or the process die.
///
/// # Errors
/// The armed error of the system.
#[inline]
pub fn point(name: impl Display) -> Result<()> {
    #[cfg(debug_assertions)]
    if let Some(error) = armed::pass(&name) {
        return Err(Error::os(format!("failpoint {name}"), error));
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
    Ok(())
}

/// A moment between two steps: the process can die here or be late, nothing can fail.
#[inline]
pub fn moment(name: impl Display) {
    #[cfg(debug_assertions)]
    drop(armed::pass(&name));
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// What arms the points: passed on to the programs that the daemon starts. None in a release.
#[must_use]
pub fn arms() -> Option<&'static str> {
    #[cfg(debug_assertions)]
    return armed::text();
    #[cfg(not(debug_assertions))]
    None
}

#[cfg(debug_assertions)]
mod armed {
    use std::collections::HashMap;
    use std::fmt::Display;
    use std::io::{Error, Write};
    use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    /// The text that was armed last, and how often its points were passed.
    static PASSED: LazyLock<Mutex<(String, HashMap<String, u64>)>> = LazyLock::new(Mutex::default);

    pub(super) fn text() -> Option<&'static str> {
        static TEXT: OnceLock<Option<String>> = OnceLock::new();
        let text = TEXT.get_or_init(|| std::env::var("CRATED_FAILPOINTS").ok().filter(|text| !text.is_empty()));
        text.as_deref()
    }

    /// What is armed at a point, as it stands in the text: `kill`, `error(28)@2`.
    pub(super) fn rule<'a>(text: &'a str, name: &str) -> Option<(&'a str, u64)> {
        let rule = text.split(';').filter_map(|rule| rule.trim().split_once('=')).find(|(point, _)| *point == name)?.1;
        let (action, at) = rule.split_once('@').unwrap_or((rule, "1"));
        Some((action, at.trim().parse().unwrap_or(1)))
    }

    pub(super) fn number(action: &str, verb: &str) -> Option<u64> {
        action.strip_prefix(verb)?.strip_prefix('(')?.strip_suffix(')')?.parse().ok()
    }

    pub(super) fn pass(name: &dyn Display) -> Option<Error> {
        let told = text()?;
        let file = told.strip_prefix('@');
        let text = file.map_or_else(|| told.to_owned(), |file| std::fs::read_to_string(file).unwrap_or_default());
        let name = name.to_string();
        let (action, at) = rule(&text, &name)?;
        {
            let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
            if passed.0 != text {
                *passed = (text.clone(), HashMap::new());
            }
            let count = passed.1.entry(name.clone()).or_default();
            *count += 1;
            if *count != at {
                return None;
            }
        }
        if let Some(file) = file {
            let hits = std::fs::OpenOptions::new().append(true).create(true).open(format!("{file}.hit"));
            let _ = hits.and_then(|mut hits| writeln!(hits, "{name}"));
        }
        if action == "kill" {
            // No destructor runs, nothing is flushed: for everybody else the same as a kill.
            std::process::abort();
        }
        if let Some(time) = number(action, "delay") {
            sleep(Duration::from_millis(time));
        }
        number(action, "error").and_then(|error| i32::try_from(error).ok()).map(Error::from_raw_os_error)
    }

    /// Only who passes the point is late: a worker that slept would keep the task that it was to run next from all others.
    fn sleep(time: Duration) {
        let flavor = tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor());
        if matches!(flavor, Ok(tokio::runtime::RuntimeFlavor::MultiThread)) {
            tokio::task::block_in_place(|| std::thread::sleep(time));
        } else {
            std::thread::sleep(time);
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::armed::{number, rule};

    #[test]
    fn rules_are_read() {
        let text = "a.b=kill; c=error(28)@2;d=delay(100)";
        assert_eq!(rule(text, "a.b"), Some(("kill", 1)));
        assert_eq!(rule(text, "c"), Some(("error(28)", 2)));
        assert_eq!(rule(text, "a"), None);
        assert_eq!((number("error(28)", "error"), number("delay(7)", "error")), (Some(28), None));
    }

    #[test]
    fn what_is_not_armed_does_nothing() {
        super::point("no.such.point").unwrap();
        super::moment("no.such.point");
    }
}
