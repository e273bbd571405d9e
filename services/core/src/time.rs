//! Times of records and messages.

use prost_types::Timestamp;
use std::time::{Duration, SystemTime};

/// Now, in UTC with nanoseconds.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// A time of a message as a system time; times before 1970 become 1970.
#[must_use]
pub fn system(time: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(time.nanos).unwrap_or(0))
}
