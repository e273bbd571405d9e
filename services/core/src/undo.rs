//! Undo steps that run where a change did not reach its end, even when its future was dropped.

use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;

type Step = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Steps to take back, newest first, unless [`Undo::disarm`] is called.
pub struct Undo {
    tracker: TaskTracker,
    steps: Vec<Step>,
}

impl std::fmt::Debug for Undo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Undo({})", self.steps.len())
    }
}

impl Undo {
    /// Steps run on `tracker`, so that a shutdown waits for them.
    #[must_use]
    pub fn new(tracker: &TaskTracker) -> Self {
        Self { tracker: tracker.clone(), steps: Vec::new() }
    }

    /// Registers a step, before the step that it takes back.
    pub fn on_failure<F, Fut>(&mut self, step: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.steps.push(Box::new(move || Box::pin(step())));
    }

    /// The change is whole: keep it.
    pub fn disarm(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return;
        }
        self.tracker.spawn(async move {
            for step in steps.into_iter().rev() {
                step().await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn note(undo: &mut Undo, seen: &Arc<Mutex<Vec<i32>>>, number: i32) {
        let seen = Arc::clone(seen);
        undo.on_failure(move || async move { seen.lock().unwrap().push(number) });
    }

    #[tokio::test]
    async fn a_dropped_change_is_undone_newest_first() {
        let tracker = TaskTracker::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::new(&tracker);
        note(&mut undo, &seen, 1);
        note(&mut undo, &seen, 2);
        drop(undo);
        tracker.close();
        tracker.wait().await;
        assert_eq!(*seen.lock().unwrap(), [2, 1]);
    }

    #[tokio::test]
    async fn a_whole_change_stays() {
        let tracker = TaskTracker::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::new(&tracker);
        note(&mut undo, &seen, 1);
        undo.disarm();
        tracker.close();
        tracker.wait().await;
        assert!(seen.lock().unwrap().is_empty());
    }
}
