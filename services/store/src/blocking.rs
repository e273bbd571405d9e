//! Blocking work of this crate, away from the reactor.

use crated_types::{Error, Fault, Result};

/// Runs `work` on the runtime's blocking threads; it ends whether or not the future is kept.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => Ok(answer),
        Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
        Err(_) => Err(Error::new(Fault::NotReady, "the daemon is stopping")),
    }
}
