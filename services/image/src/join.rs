//! The same pull asked for twice at once is one pull: the second asker joins the first.
//!
//! A job runs on the service's tracker. It goes on while anybody waits for it; when the last one has gone it is told to stop, and
//! what it fetched is kept for the next attempt.

use crate::progress::Progress;
use crated_core::pull::ProgressSink;
use crated_core::record::Image;
use crated_types::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

type Outcome = Option<Result<Image, Arc<Error>>>;

/// Running jobs by what they do.
#[derive(Debug, Default)]
pub(crate) struct Joins(Arc<Mutex<HashMap<String, Weak<Job>>>>);

/// A running job, as those who wait for it hold it.
#[derive(Debug)]
struct Job {
    progress: Progress,
    outcome: watch::Receiver<Outcome>,
    /// Dropped with the last waiter.
    _stop: DropGuard,
}

impl Joins {
    /// Joins the job of `key`, or starts it with `work`.
    pub(crate) async fn run<F>(
        &self,
        key: String,
        sink: ProgressSink,
        tracker: &TaskTracker,
        stop: CancellationToken,
        work: impl FnOnce(Progress, CancellationToken) -> F,
    ) -> Result<Image>
    where
        F: Future<Output = Result<Image>> + Send + 'static,
    {
        let job = {
            let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match jobs.get(&key).and_then(Weak::upgrade) {
                Some(job) => {
                    job.progress.join(sink);
                    job
                }
                None => {
                    let job = self.start(key.clone(), Progress::new(sink), tracker, stop, work);
                    jobs.insert(key, Arc::downgrade(&job));
                    job
                }
            }
        };
        let mut outcome = job.outcome.clone();
        let seen = outcome.wait_for(Option::is_some).await;
        match seen.as_deref() {
            Ok(Some(Ok(image))) => Ok(image.clone()),
            Ok(Some(Err(error))) => Err(error.duplicate()),
            _ => Err(Error::internal("a pull ended without an answer")),
        }
    }

    fn start<F>(
        &self,
        key: String,
        progress: Progress,
        tracker: &TaskTracker,
        stop: CancellationToken,
        work: impl FnOnce(Progress, CancellationToken) -> F,
    ) -> Arc<Job>
    where
        F: Future<Output = Result<Image>> + Send + 'static,
    {
        let (sender, outcome) = watch::channel(None);
        let job = Arc::new(Job { progress: progress.clone(), outcome, _stop: stop.clone().drop_guard() });
        let (jobs, own) = (self.0.clone(), Arc::downgrade(&job));
        let work = work(progress, stop);
        tracker.spawn(async move {
            let answer = work.await.map_err(Arc::new);
            {
                let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                if jobs.get(&key).is_some_and(|job| job.ptr_eq(&own)) {
                    jobs.remove(&key);
                }
            }
            sender.send_replace(Some(answer));
        });
        job
    }
}
