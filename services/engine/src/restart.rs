//! Restart policies: whether an ended container is started again, and after how long. Pure; the watcher acts.

use crated_api::crated::engine::v1::RestartPolicy;
use crated_types::{Error, Result};
use std::time::Duration;

/// First wait before a restart.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
/// Longest wait.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// A container that was up so long begins with the first wait again.
pub(crate) const STEADY: Duration = Duration::from_secs(10);

/// A checked policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// With the most restarts; 0: no bound.
    OnFailure(u32),
}

/// How a life ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) status: u32,
    pub(crate) up: Duration,
    /// Restarts so far.
    pub(crate) restarts: u32,
    /// The wait before the last restart; zero: none.
    pub(crate) waited: Duration,
}

impl Policy {
    /// Reads a policy.
    pub(crate) fn parse(policy: Option<&RestartPolicy>) -> Result<Self> {
        let Some(policy) = policy else { return Ok(Self::No) };
        let parsed = match policy.name.as_str() {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure(policy.maximum_retries),
            other => {
                return Err(Error::invalid("restart.name", format_args!("{other:?} is no restart policy"))
                    .remedy_is("use no, always, unless-stopped or on-failure[:MAX]"));
            }
        };
        match parsed {
            Self::Always | Self::UnlessStopped if policy.maximum_retries != 0 => {
                Err(Error::invalid("restart.maximum_retries", format_args!("has no meaning with {:?}", policy.name)))
            }
            parsed => Ok(parsed),
        }
    }

    /// The wait before the next start; none where it is not started again. A container that a person stopped is never asked about.
    pub(crate) fn after(self, ended: Ended) -> Option<Duration> {
        let again = match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(most) => ended.status != 0 && (most == 0 || ended.restarts < most),
        };
        again.then(
            || {
                if ended.up >= STEADY || ended.waited.is_zero() { FIRST } else { (ended.waited * 2).min(LONGEST) }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u32, up: u64, restarts: u32, waited: u64) -> Ended {
        Ended { status, up: Duration::from_secs(up), restarts, waited: Duration::from_millis(waited) }
    }

    fn policy(name: &str, maximum_retries: u32) -> Result<Policy> {
        Policy::parse(Some(&RestartPolicy { name: name.into(), maximum_retries }))
    }

    #[test]
    fn waits_double_up_to_a_minute_and_begin_again_after_ten_seconds_up() {
        let mut waited = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..12 {
            waited = Policy::Always.after(Ended { waited, ..ended(1, 0, 0, 0) }).unwrap();
            waits.push(waited.as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(Policy::Always.after(ended(0, 10, 9, 60_000)), Some(FIRST));
        assert_eq!(Policy::Always.after(ended(0, 9, 9, 60_000)), Some(LONGEST));
    }

    #[test]
    fn failures_count_and_successes_do_not() {
        let policy = policy("on-failure", 2).unwrap();
        assert!(policy.after(ended(0, 0, 0, 0)).is_none());
        assert!(policy.after(ended(1, 0, 1, 0)).is_some());
        assert!(policy.after(ended(1, 0, 2, 0)).is_none());
        assert!(Policy::OnFailure(0).after(ended(137, 0, 1000, 0)).is_some());
        assert!(Policy::No.after(ended(1, 0, 0, 0)).is_none());
        assert!(Policy::UnlessStopped.after(ended(0, 0, 0, 0)).is_some());
    }

    #[test]
    fn unknown_policies_are_refused() {
        assert_eq!(Policy::parse(None).unwrap(), Policy::No);
        assert_eq!(policy("", 0).unwrap(), Policy::No);
        assert!(policy("sometimes", 0).is_err());
        assert!(policy("always", 3).is_err());
    }
}
