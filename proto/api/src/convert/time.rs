//! Times.

use prost_types::Timestamp;
use std::time::{Duration, SystemTime};

/// A system time as a message.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// A message's time as a system time; times before 1970 become 1970, those beyond what the system counts its end.
#[must_use]
pub fn system(time: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let nanos = u32::try_from(time.nanos).unwrap_or(0).min(999_999_999);
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::new(seconds, nanos))
        .unwrap_or_else(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40))
}
