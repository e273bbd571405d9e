//! How the stores ask for a collection, and how a caller waits for one.

use crated_types::{Error, Fault, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Mutations after which a collection is due.
const MUTATIONS: u64 = 100;
/// Callers that may wait for collections at a time.
const WAITING: usize = 1024;

/// What a caller waits for.
pub(crate) type Waiter = oneshot::Sender<Result<()>>;

/// Asks for collections; clones ask the same collector.
#[derive(Clone, Debug)]
pub struct Requests {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    due: tokio::sync::Notify,
    mutations: AtomicU64,
    waiters: mpsc::Sender<Waiter>,
    queue: Mutex<Option<mpsc::Receiver<Waiter>>>,
}

impl Default for Requests {
    fn default() -> Self {
        Self::new()
    }
}

impl Requests {
    /// Requests for the [`Collector`](crate::Collector) that is made with them.
    #[must_use]
    pub fn new() -> Self {
        let (waiters, queue) = mpsc::channel(WAITING);
        let shared = Shared {
            due: tokio::sync::Notify::new(),
            mutations: AtomicU64::new(0),
            waiters,
            queue: Mutex::new(Some(queue)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Something was removed: a collection is due soon.
    pub fn request(&self) {
        self.shared.due.notify_one();
    }

    /// Something was changed: a collection is due after some of these.
    pub fn mutated(&self) {
        if self.shared.mutations.fetch_add(1, Ordering::Relaxed) + 1 >= MUTATIONS {
            self.shared.mutations.store(0, Ordering::Relaxed);
            self.request();
        }
    }

    /// Waits for a whole collection that begins after this call.
    ///
    /// # Errors
    /// The collection's; [`Fault::NotReady`] where there is no collector, or none any more.
    pub async fn run_now(&self) -> Result<()> {
        let stopped = || Error::new(Fault::NotReady, "the collector is not running");
        if self.queue().is_some() {
            return Err(stopped());
        }
        let (answer, result) = oneshot::channel();
        self.shared.waiters.send(answer).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }

    /// Waits until a collection is due.
    pub(crate) async fn due(&self) {
        self.shared.due.notified().await;
    }

    /// The queue of waiters, for the one collector.
    pub(crate) fn take_queue(&self) -> Option<mpsc::Receiver<Waiter>> {
        self.queue().take()
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Receiver<Waiter>>> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
