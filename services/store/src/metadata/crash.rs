//! Crash points: a test names the n-th durable step at which this process "dies"; every later step fails, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Counts durable steps. The default never fires.
#[derive(Clone, Debug, Default)]
pub struct Hook(Option<Arc<State>>);

#[derive(Debug)]
struct State {
    left: AtomicI64,
    dead: AtomicBool,
    stalled: AtomicBool,
}

impl Hook {
    /// Dies at the `n`-th point passed.
    #[cfg(any(test, feature = "crash"))]
    #[must_use]
    pub fn after(n: i64) -> Self {
        Self(Some(Arc::new(State {
            left: AtomicI64::new(n),
            dead: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
        })))
    }

    /// Stops sled, or lets it go on.
    #[cfg(test)]
    pub(crate) fn set_stalled(&self, stalled: bool) {
        if let Some(state) = &self.0 {
            state.stalled.store(stalled, Ordering::SeqCst);
        }
    }

    /// Waits as long as a test stops sled.
    pub(crate) fn stall(&self) {
        while self.0.as_ref().is_some_and(|state| state.stalled.load(Ordering::SeqCst)) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Passes a point; true from the fatal one on.
    pub(crate) fn hit(&self) -> bool {
        let Some(state) = &self.0 else { return false };
        if state.dead.load(Ordering::SeqCst) {
            return true;
        }
        let fatal = state.left.fetch_sub(1, Ordering::SeqCst) == 1;
        if fatal {
            state.dead.store(true, Ordering::SeqCst);
        }
        fatal
    }

    /// Whether the fatal point was passed.
    #[must_use]
    pub fn dead(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.dead.load(Ordering::SeqCst))
    }

    /// Passes a point of a function that does I/O.
    pub(crate) fn io(&self) -> std::io::Result<()> {
        if self.hit() { Err(error()) } else { Ok(()) }
    }
}

/// The error of a crash point.
pub(crate) fn error() -> std::io::Error {
    std::io::Error::other("crash point")
}
