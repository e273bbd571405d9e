//! How often and how long to wait: exponential back-off with jitter, and what a registry asks for by `Retry-After`.

use super::config::RegistryConfig;
use http::{HeaderMap, header};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

/// The waits that are left of one operation.
#[derive(Debug)]
pub(crate) struct Backoff {
    left: u32,
    next: Duration,
    first: Duration,
    allowed: u32,
    max: Duration,
}

impl Backoff {
    /// All waits of the configuration for the last endpoint, one repetition for a mirror that has others behind it.
    pub(crate) fn new(config: &RegistryConfig, last: bool) -> Self {
        let first = Duration::from_millis(config.retry_wait_milliseconds);
        let allowed = if last { config.retries } else { config.retries.min(1) };
        Self { left: allowed, next: first, first, allowed, max: Duration::from_secs(config.max_retry_wait_seconds) }
    }

    /// The next wait, at least `asked`; `None` where patience has run out or more is asked than is permitted.
    pub(crate) fn wait(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.left == 0 || asked.is_some_and(|asked| asked > self.max) {
            return None;
        }
        self.left -= 1;
        // Between half of the wait and the whole, so that many clients do not come back in step.
        let spread = RandomState::new().build_hasher().finish() % 512;
        let wait = self.next / 2 + (self.next / 2) * u32::try_from(spread).unwrap_or(0) / 512;
        self.next = (self.next * 2).min(self.max);
        Some(wait.max(asked.unwrap_or_default()))
    }

    /// Progress was made: start counting again.
    pub(crate) fn reset(&mut self) {
        self.left = self.allowed;
        self.next = self.first;
    }
}

/// `Retry-After`, in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = http_date(text)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(then.saturating_sub(now)))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7; the two obsolete forms are not read).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = text.split_once(',')?.1.split_whitespace().collect();
    let [day, month, year, clock, "GMT"] = parts[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let clock: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from civil: years start in March.
    let (y, m) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    days.checked_sub(719_468).map(|days| days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let config = RegistryConfig { retries: 3, retry_wait_milliseconds: 100, ..RegistryConfig::default() };
        let mut backoff = Backoff::new(&config, true);
        let waits: Vec<_> = std::iter::from_fn(|| backoff.wait(None)).collect();
        assert_eq!(waits.len(), 3);
        assert!(waits[0] <= Duration::from_millis(100) && waits[2] >= Duration::from_millis(200));
        backoff.reset();
        assert_eq!(backoff.wait(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(backoff.wait(Some(Duration::from_secs(3600))), None);
        assert_eq!(Backoff::new(&config, false).allowed, 1);
    }

    #[test]
    fn dates_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(http_date("yesterday"), None);
        let mut headers = HeaderMap::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        headers.insert(header::RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(7)));
        headers.insert(header::RETRY_AFTER, "12".parse().unwrap());
        assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(12)));
    }
}
