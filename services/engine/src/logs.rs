//! Logs: what a container wrote, from its json-file log with the files that were rotated away, and on as it comes.

mod reader;

use crated_api::crated::engine::v1::{LogEntry, LogsRequest};
use crated_sys::inotify::{Inotify, WatchFlags};
use crated_types::{Error, Fault, Kind, Result, Scope};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::engine::{Engine, Stream, blocking};
use crate::lookup::Found;
use reader::{Filter, Reader};

/// Entries that are read at once, and wait for a client at most.
const BATCH: usize = 256;
/// How long we wait where the kernel does not tell of writes.
const UNTOLD: Duration = Duration::from_millis(250);

impl Engine {
    /// The log of a container; with `follow` until the container has ended.
    ///
    /// # Errors
    /// [`Fault::Precondition`] where no log is kept.
    ///
    /// # Cancel safety
    /// Dropped, the reading ends.
    pub async fn logs(self: &Arc<Self>, scope: &Scope, request: LogsRequest) -> Result<Stream<LogEntry>> {
        let found = self.find(scope, &request.container).await?;
        let path = log_path(&found)?;
        let filter = Filter::new(&request);
        let tail = request.tail.and_then(|lines| usize::try_from(lines).ok());
        let follow = request.follow;
        Ok(self.answering(scope, move |engine, scope, answers| async move {
            let opened = path.clone();
            let reader = blocking(move || Reader::open(&opened, tail)).await?;
            let ended = engine.pump(&scope, &found, reader, filter, follow, &answers);
            tokio::select! {
                ended = ended => ended,
                () = answers.closed() => Ok(()),
                () = engine.closing.cancelled() => Ok(()),
            }
        }))
    }

    async fn pump(
        &self,
        scope: &Scope,
        found: &Found,
        mut reader: Reader,
        filter: Filter,
        follow: bool,
        answers: &mpsc::Sender<Result<LogEntry>>,
    ) -> Result<()> {
        let slot = self.slots.get(scope.namespace.as_str(), found.id.as_str());
        let mut bell = slot.listen();
        let watch = if follow { Watch::new(reader.path()) } else { Watch(None) };
        loop {
            // Asked before the read: what was written until the end is then read, too.
            let life = self.life(&scope.namespace, found.id.as_str()).await?;
            let over = !follow || !life.is_some_and(|life| life.has_task() || life.restarting);
            loop {
                let (back, batch) = blocking(move || {
                    let batch = reader.read(BATCH)?;
                    Ok((reader, batch))
                })
                .await?;
                reader = back;
                if batch.is_empty() {
                    break;
                }
                for entry in batch {
                    if filter.ended_by(&entry) {
                        return Ok(());
                    }
                    if filter.passes(&entry) && answers.send(Ok(entry)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if over {
                return Ok(());
            }
            tokio::select! {
                () = watch.change() => {}
                _ = bell.changed() => {}
            }
        }
    }
}

fn log_path(found: &Found) -> Result<PathBuf> {
    let refused = |why: &'static str| Error::new(Fault::Precondition, why).on(Kind::Container, found.name());
    let Some(life) = &found.life else {
        return Err(refused("no log is kept: a client of containerd made it and has its output")
            .remedy_is("ask that client, or make the container with `cratectl run`"));
    };
    if life.log_path.is_empty() {
        return Err(refused("no log is kept: its log driver is none"));
    }
    Ok(PathBuf::from(&life.log_path))
}

/// Tells of changes in the folder of a log.
struct Watch(Option<AsyncFd<Told>>);

struct Told(Inotify);

impl AsRawFd for Told {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    fn new(log: &Path) -> Self {
        let told = (|| {
            let inotify = Inotify::new().ok()?;
            let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
            inotify.watch(log.parent()?, flags).ok()?;
            // The safe constructor is deprecated for types that may answer another descriptor each time; this one owns one.
            #[allow(deprecated)]
            AsyncFd::new(Told(inotify)).ok()
        })();
        Self(told)
    }

    /// Until something may have been written; where the kernel has no watch left, a while.
    async fn change(&self) {
        let Some(told) = &self.0 else {
            return tokio::time::sleep(UNTOLD).await;
        };
        match told.readable().await {
            Ok(mut ready) => {
                let _ = ready.get_inner().0.events(Some(Duration::ZERO)); // what changed does not matter
                ready.clear_ready();
            }
            Err(_) => tokio::time::sleep(UNTOLD).await,
        }
    }
}
