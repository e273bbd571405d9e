//! `system check`: what is stored against what is recorded, in every namespace, and what can be mended.
//!
//! ```text
//! blobs      re-hashed          damaged: quarantined, fetched again by digest from where its labels say
//! snapshots  folders compared   damaged: unpacked again from the layers of an image; containers' own files cannot be
//! records    against each other contradicting: put right in one commit, where one is the truth
//! orphans    what no record has left behind: removed; what was never ours: moved aside
//! ```
//! In this order, because layers are unpacked from blobs. Nothing is changed but with `repair`. What is being made is left
//! alone, one blob's block and one page of records are in memory at a time, and a client that goes away ends the check.

mod mend;
mod own;

use crated_api::crated::engine::v1::check_response::Step;
use crated_api::crated::engine::v1::{CheckProgress, CheckRequest, CheckResponse, CheckSummary, Finding};
use crated_core::check::{ContentCheck, Kept, Mender, Reading, RecordCheck, Referrer, SnapshotCheck, Strays, Verdict};
use crated_core::record::{NAMESPACES, SNAPSHOTS};
use crated_core::{ImageStore, MetadataStore, Resource, ResourceKind};
use crated_types::{Actor, Digest, Error, Fault, Namespace, Result, Scope};
use futures::StreamExt;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use crate::engine::Stream;
use crate::names::short;
use crate::record::LIVES;

/// Answers that wait for the client.
const QUEUE: usize = 64;
/// How long a client may leave a finding unread before the check ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// Blobs that are read from the records at a time.
const PAGE: usize = 256;
/// Progress is told again after this many bytes.
const STRIDE: u64 = 4 << 20;

/// What the check stands on.
#[derive(Debug)]
pub struct CheckDeps {
    /// Records.
    pub metadata: Arc<dyn MetadataStore>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Blobs.
    pub content: Arc<dyn ContentCheck>,
    /// Snapshots, by snapshotter.
    pub snapshots: Vec<Arc<dyn SnapshotCheck>>,
    /// Records against each other.
    pub records: Arc<dyn RecordCheck>,
    /// Who leaves things behind, besides the engine.
    pub strays: Vec<Arc<dyn Strays>>,
    /// Who makes lost things again.
    pub mender: Arc<dyn Mender>,
    /// Where the engine keeps folders of containers.
    pub root: PathBuf,
    /// Owner of the check; the daemon's end waits for it.
    pub tracker: TaskTracker,
}

/// Checks the daemon's store, one check at a time.
#[derive(Debug)]
pub struct Checker {
    deps: CheckDeps,
    alone: Arc<tokio::sync::Mutex<()>>,
}

impl Checker {
    /// A checker over its ports.
    #[must_use]
    pub fn new(deps: CheckDeps) -> Arc<Self> {
        Arc::new(Self { deps, alone: Arc::default() })
    }

    /// Checks every namespace. Answers progress, findings, and a summary.
    ///
    /// # Errors
    /// [`Fault::Locked`] where a check is under way.
    ///
    /// # Cancel safety
    /// Dropped, the check ends behind the thing that it is at.
    pub async fn check(self: &Arc<Self>, scope: &Scope, request: CheckRequest) -> Result<Stream<CheckResponse>> {
        let Ok(turn) = Arc::clone(&self.alone).try_lock_owned() else {
            return Err(Error::new(Fault::Locked, "another check is under way").remedy_is("wait for its end"));
        };
        let (answers, source) = mpsc::channel(QUEUE);
        let run = Run {
            checker: Arc::clone(self),
            request,
            actor: scope.actor.clone(),
            answers: answers.clone(),
            summary: CheckSummary::default(),
        };
        self.deps.tracker.spawn(async move {
            let _turn = turn;
            if let Err(error) = run.whole().await {
                let _ = answers.send_timeout(Err(error), PATIENCE).await; // nobody listens any more
            }
        });
        Ok(ReceiverStream::new(source).boxed())
    }
}

/// One check.
struct Run {
    checker: Arc<Checker>,
    request: CheckRequest,
    actor: Actor,
    answers: mpsc::Sender<Result<CheckResponse>>,
    summary: CheckSummary,
}

/// What was done about a finding.
enum Done {
    /// It is right now.
    Mended(String),
    /// It is still so; what was done nevertheless, and what a person can do.
    Left(String, String),
}

impl Run {
    fn deps(&self) -> &CheckDeps {
        &self.checker.deps
    }

    fn scope(&self, namespace: &Namespace) -> Scope {
        Scope::new(namespace.clone(), self.actor.clone())
    }

    async fn whole(mut self) -> Result<()> {
        let begun = Instant::now();
        let repair = self.request.repair;
        tracing::info!(repair, quick = self.request.quick, "store check begins");
        self.blobs().await?;
        self.snapshots().await?;
        self.records().await?;
        self.orphans().await?;
        let mut summary = self.summary;
        summary.took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(
            findings = summary.findings,
            repaired = summary.repaired,
            open = summary.open,
            "store check ends"
        );
        self.send(Step::Summary(summary)).await
    }

    async fn send(&self, step: Step) -> Result<()> {
        let answer = CheckResponse { step: Some(step) };
        let sent = self.answers.send_timeout(Ok(answer), PATIENCE).await;
        sent.map_err(|_| Error::new(Fault::Cancelled, "nobody reads the findings any more"))
    }

    /// Progress is advice: one that cannot be sent at once is not missed.
    fn progress(&self, part: &str, current: u64, total: u64) {
        let count = |number| i64::try_from(number).unwrap_or(i64::MAX);
        let progress = CheckProgress { part: part.into(), current: count(current), total: count(total) };
        let _ = self.answers.try_send(Ok(CheckResponse { step: Some(Step::Progress(progress)) }));
    }

    /// Tells of a finding. Without `done` nothing was tried.
    async fn found(&mut self, finding: Finding, done: Option<Done>) -> Result<()> {
        let (outcome, open, remedy) = match done {
            None if finding.remedy.is_empty() => (String::new(), true, "run the check again with --repair".to_owned()),
            None => (String::new(), true, finding.remedy.clone()),
            Some(Done::Mended(outcome)) => (outcome, false, String::new()),
            Some(Done::Left(outcome, remedy)) => (outcome, true, remedy),
        };
        let finding = Finding { outcome, open, remedy, ..finding };
        let Finding { kind, namespace, object, problem, outcome, .. } = &finding;
        tracing::warn!(kind, namespace, object, problem, outcome, open, used_by = ?finding.used_by, "store check found");
        self.summary.findings += 1;
        if open {
            self.summary.open += 1;
        } else {
            self.summary.repaired += 1;
        }
        self.send(Step::Finding(finding)).await
    }

    async fn blobs(&mut self) -> Result<()> {
        let content = Arc::clone(&self.deps().content);
        let (mut total, mut after) = (0_u64, Vec::new());
        while let (page, Some(last)) = content.kept(&after, PAGE).await? {
            total = page.iter().fold(total, |sum, blob| sum.saturating_add(blob.size));
            after = last;
        }
        let read = Arc::new(AtomicU64::new(0));
        let mut seen: HashSet<Digest> = HashSet::new();
        after.clear();
        while let (page, Some(last)) = content.kept(&after, PAGE).await? {
            for blob in page {
                // the bytes are the same in every namespace
                if !seen.insert(blob.digest.clone()) {
                    total -= blob.size.min(total);
                    continue;
                }
                self.summary.blobs += 1;
                let verdict = content.verify(&blob, self.reading(&read, total)).await?;
                let problem = match verdict {
                    Verdict::Whole => continue,
                    Verdict::Stopped if self.request.quick => continue,
                    Verdict::Stopped => return Err(Error::new(Fault::Cancelled, "nobody reads the findings any more")),
                    Verdict::Missing => "its file is gone".to_owned(),
                    Verdict::Size(found) => format!("its file has {found} bytes, not {}", blob.size),
                    Verdict::Digest(found) => format!("its bytes are damaged: they hash to {found}"),
                    Verdict::Unreadable(why) => format!("its file cannot be read: {why}"),
                };
                self.damaged_blob(blob, problem).await?;
            }
            after = last;
        }
        self.summary.bytes = i64::try_from(read.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        Ok(())
    }

    /// Counts bytes, tells of them now and then, and ends the reading with the client.
    fn reading(&self, read: &Arc<AtomicU64>, total: u64) -> Reading {
        let (read, answers, quick) = (Arc::clone(read), self.answers.clone(), self.request.quick);
        let count = |number| i64::try_from(number).unwrap_or(i64::MAX);
        Arc::new(move |bytes| {
            let before = read.fetch_add(bytes, Ordering::Relaxed);
            let now = before + bytes;
            if before / STRIDE != now / STRIDE || now == total {
                let progress = CheckProgress { part: "blobs".into(), current: count(now), total: count(total) };
                let _ = answers.try_send(Ok(CheckResponse { step: Some(Step::Progress(progress)) }));
            }
            !quick && !answers.is_closed()
        })
    }

    async fn damaged_blob(&mut self, blob: Kept, problem: String) -> Result<()> {
        let thing = Resource { kind: ResourceKind::Content, id: blob.digest.to_string() };
        let mut used_by = Vec::new();
        for namespace in self.namespaces().await? {
            let users = self.users(&namespace, &thing).await?;
            let elsewhere = namespace != blob.namespace;
            used_by.extend(users.into_iter().map(|user| match elsewhere {
                true => format!("{user} (namespace {namespace})"),
                false => user,
            }));
        }
        let done = match self.request.repair {
            true => Some(self.mend_blob(&blob, &used_by).await),
            false => None,
        };
        let finding = Finding {
            kind: "blob".into(),
            namespace: blob.namespace.to_string(),
            object: blob.digest.to_string(),
            problem,
            used_by,
            ..Finding::default()
        };
        self.found(finding, done).await
    }

    async fn snapshots(&mut self) -> Result<()> {
        let count = self.deps().metadata.scan_all(&SNAPSHOTS.prefix("")).await?.len();
        self.summary.snapshots = i64::try_from(count).unwrap_or(i64::MAX);
        self.progress("snapshots", 0, count as u64);
        for snapshotter in self.deps().snapshots.clone() {
            for damaged in snapshotter.damaged(!self.request.quick).await? {
                let thing = Resource {
                    kind: ResourceKind::Snapshot(damaged.snapshotter.clone()),
                    id: damaged.name.to_string(),
                };
                let users =
                    self.deps().records.referrers(&damaged.namespace, &[thing]).await?.pop().unwrap_or_default();
                let used_by = self.told(&damaged.namespace, &users).await?;
                let done = match self.request.repair {
                    true => Some(self.mend_snapshot(&damaged, &users, &used_by).await),
                    false => None,
                };
                let finding = Finding {
                    kind: "snapshot".into(),
                    namespace: damaged.namespace.to_string(),
                    object: format!("{} {}", damaged.snapshotter, damaged.name),
                    problem: damaged.problem,
                    used_by,
                    ..Finding::default()
                };
                self.found(finding, done).await?;
            }
        }
        self.progress("snapshots", count as u64, count as u64);
        Ok(())
    }

    async fn records(&mut self) -> Result<()> {
        self.progress("records", 0, 0);
        let mut bad = self.deps().records.bad().await?;
        bad.extend(own::bad(&*self.deps().metadata).await?);
        for record in bad {
            let done = match self.request.repair && !record.repair.is_empty() {
                true => Some(self.mend_record(record.repair).await),
                false => None,
            };
            let finding = Finding {
                kind: "record".into(),
                namespace: record.namespace,
                object: record.object,
                problem: record.problem,
                remedy: record.remedy,
                ..Finding::default()
            };
            self.found(finding, done).await?;
        }
        Ok(())
    }

    async fn orphans(&mut self) -> Result<()> {
        self.progress("orphans", 0, 0);
        let mut keepers = self.deps().strays.clone();
        keepers.push(Arc::new(own::Folders::new(self.deps())));
        for keeper in keepers {
            for stray in keeper.strays().await? {
                let done = match self.request.repair {
                    true => Some(match keeper.clear(&stray).await {
                        Ok(outcome) => Done::Mended(outcome),
                        Err(error) => Done::Left(format!("not removed: {error}"), mend::remedy(&error)),
                    }),
                    false => None,
                };
                let finding = Finding {
                    kind: stray.kind.into(),
                    object: stray.path.display().to_string(),
                    problem: stray.why,
                    ..Finding::default()
                };
                self.found(finding, done).await?;
            }
        }
        Ok(())
    }

    async fn namespaces(&self) -> Result<Vec<Namespace>> {
        let keys = self.deps().metadata.scan_all(&NAMESPACES.prefix("")).await?;
        Ok(keys.iter().filter_map(|(key, _)| NAMESPACES.parts(key)?.1.parse().ok()).collect())
    }

    async fn users(&self, namespace: &Namespace, thing: &Resource) -> Result<Vec<String>> {
        let users = self.deps().records.referrers(namespace, std::slice::from_ref(thing)).await?.pop();
        self.told(namespace, &users.unwrap_or_default()).await
    }

    /// Who needs a thing, in people's words.
    async fn told(&self, namespace: &Namespace, users: &[Referrer]) -> Result<Vec<String>> {
        let mut told = BTreeSet::new();
        for user in users {
            told.insert(match user {
                Referrer::Image(name) => format!("image {name}"),
                Referrer::Lease(id) => format!("lease {id}"),
                Referrer::Container(id) => {
                    let key = LIVES.key(namespace.as_str(), id);
                    match LIVES.get(&*self.deps().metadata, &key).await {
                        Ok(Some((_, life))) => format!("container {} ({})", life.name, short(id)),
                        _ => format!("container {id}"),
                    }
                }
            });
        }
        Ok(told.into_iter().collect())
    }
}
