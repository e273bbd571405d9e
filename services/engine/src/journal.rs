//! The journal: what an operation is going to do is committed before it acts; its last commit forgets the intent and keeps its timeline.

use crated_api::crated::engine::v1::timeline_response::{Operation as Past, Step};
use crated_core::fail;
use crated_core::operation::OPERATIONS;
use crated_core::{Direction, MetadataStore, Op, Operation, Revision};
use crated_types::{Error, Kind, Namespace, Result, Scope};
use prost_types::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::record::{TIMELINES, TimelineRecord};

/// Operations that a container's timeline keeps.
pub(crate) const TIMELINE_MAX: usize = 16;
/// What the types of our arguments begin with: other services keep their operations in the same table.
const ARGUMENTS: &str = "crated.engine.";

/// Kinds of the engine's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    Create,
    Start,
    Stop,
    Restart,
    Remove,
    Exec,
}

impl Kinds {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Remove => "remove",
            Self::Exec => "exec",
        }
    }

    /// Whether the intent must be on the disk before it is acted upon: a power cut leaves what create makes on the disk, and what
    /// remove took from it. Of the others nothing is left after another boot.
    const fn outlives_boot(self) -> bool {
        matches!(self, Self::Create | Self::Remove)
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Create, Self::Start, Self::Stop, Self::Restart, Self::Remove, Self::Exec]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// An open operation: its record, and the clock of its steps.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) scope: Scope,
    pub(crate) kind: Kinds,
    pub(crate) operation: Operation,
    pub(crate) trace: Trace,
    key: Vec<u8>,
    /// A daemon that ended had left it open.
    found: bool,
}

impl Open {
    /// The container.
    pub(crate) fn subject(&self) -> &str {
        &self.operation.subject
    }

    /// Its arguments.
    pub(crate) fn arguments<M: prost::Message + Default>(&self) -> Result<M> {
        let bytes = self.operation.arguments.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        M::decode(bytes).map_err(|source| {
            Error::new(crated_types::Fault::Corrupt, "arguments")
                .on(Kind::Operation, &self.operation.id)
                .caused_by(source)
        })
    }

    fn resumed(scope: Scope, kind: Kinds, operation: Operation, key: Vec<u8>) -> Self {
        let mut trace = Trace::new(kind.name(), &scope);
        trace.actor.clone_from(&operation.actor);
        if let Some(time) = &operation.started_at {
            trace.started_at = crated_core::time::system(time);
        }
        Self { scope, kind, operation, trace, key, found: false }
    }

    /// Whether it has turned back.
    pub(crate) fn is_back(&self) -> bool {
        self.operation.direction == Direction::Back as i32
    }

    /// Runs a step, keeps its time, and names it in its error.
    pub(crate) async fn step<T>(&mut self, name: &'static str, act: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let kind = self.kind.name();
        let armed = fail::point(format_args!("engine.{kind}.{name}"));
        let answer = match armed {
            Ok(()) => act.await,
            Err(error) => Err(error),
        };
        fail::moment(format_args!("engine.{kind}.{name}.done"));
        let note = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
        self.trace.passed(name, begun, note);
        answer.map_err(|error| error.at(name))
    }
}

/// The steps of an operation with their times.
#[derive(Debug)]
pub(crate) struct Trace {
    kind: Cow<'static, str>,
    actor: String,
    started_at: SystemTime,
    clock: Instant,
    steps: Vec<Step>,
}

impl Trace {
    pub(crate) fn new(kind: impl Into<Cow<'static, str>>, scope: &Scope) -> Self {
        Self {
            kind: kind.into(),
            actor: format!("{} {}", scope.actor.who, scope.actor.cause),
            started_at: SystemTime::now(),
            clock: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Adds a step that began at `begun` and ended now.
    pub(crate) fn passed(&mut self, name: &str, begun: Instant, note: String) {
        let step = Step {
            name: name.into(),
            at_us: micros(begun.saturating_duration_since(self.clock)),
            took_us: micros(begun.elapsed()),
            note,
        };
        tracing::debug!(operation = %self.kind, step = name, took_us = step.took_us, note = %step.note, "step");
        self.steps.push(step);
    }

    /// What is kept of it.
    pub(crate) fn past(&self, outcome: String) -> Past {
        Past {
            kind: self.kind.to_string(),
            started_at: Some(self.started_at.into()),
            took_us: micros(self.clock.elapsed()),
            outcome,
            actor: self.actor.clone(),
            steps: self.steps.clone(),
        }
    }
}

/// Drops the oldest; execs give way first where they are more than half.
fn trim(operations: &mut Vec<Past>) {
    while operations.len() > TIMELINE_MAX {
        let execs = operations.iter().filter(|past| past.kind == Kinds::Exec.name()).count();
        let oldest = operations.iter().position(|past| past.kind == Kinds::Exec.name());
        operations.remove(oldest.filter(|_| execs > TIMELINE_MAX / 2).unwrap_or(0));
    }
}

/// Identifiers of containers hold no slash, so no two operations meet.
fn operation_id(kind: Kinds, subject: &str, part: &str) -> String {
    if part.is_empty() {
        format!("engine-{}-{subject}", kind.name())
    } else {
        format!("engine-{}-{subject}/{part}", kind.name())
    }
}

/// Whether any operation is open on a container.
pub(crate) async fn is_busy(metadata: &dyn MetadataStore, namespace: &str, subject: &str) -> Result<bool> {
    let operations = OPERATIONS.list(metadata, &OPERATIONS.prefix(namespace)).await?;
    Ok(operations.iter().any(|(_, _, operation)| operation.subject == subject))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Writes and reads operations and timelines.
#[derive(Debug)]
pub(crate) struct Journal {
    metadata: Arc<dyn MetadataStore>,
    boot_id: String,
}

impl Journal {
    pub(crate) fn new(metadata: Arc<dyn MetadataStore>) -> Self {
        Self { metadata, boot_id: crated_core::boot::id().unwrap_or_default() }
    }

    /// Commits the intent with `with`.
    ///
    /// # Errors
    /// [`crated_types::Fault::Conflict`] where the operation is under way or one of `with` does not hold.
    pub(crate) async fn begin(
        &self,
        scope: &Scope,
        kind: Kinds,
        subject: &str,
        arguments: &impl prost::Message,
        with: Vec<Op>,
    ) -> Result<Open> {
        self.begin_part(scope, kind, (subject, ""), arguments, with).await
    }

    /// As [`Journal::begin`], for a part of a container that has operations of its own: an exec.
    pub(crate) async fn begin_part(
        &self,
        scope: &Scope,
        kind: Kinds,
        subject: (&str, &str),
        arguments: &impl prost::Message,
        with: Vec<Op>,
    ) -> Result<Open> {
        let trace = Trace::new(kind.name(), scope);
        self.begin_traced(trace, scope, kind, subject, arguments, with).await.map_err(|(_, error)| error)
    }

    /// As [`Journal::begin`], with steps that came before the intent; where it fails they are given back.
    pub(crate) async fn begin_traced(
        &self,
        mut trace: Trace,
        scope: &Scope,
        kind: Kinds,
        (subject, part): (&str, &str),
        arguments: &impl prost::Message,
        with: Vec<Op>,
    ) -> Result<Open, (Trace, Error)> {
        let id = operation_id(kind, subject, part);
        let operation = Operation {
            id: id.clone(),
            kind: kind.name().into(),
            subject: subject.into(),
            actor: trace.actor.clone(),
            direction: Direction::Forward as i32,
            reason: String::new(),
            arguments: Some(Any { type_url: format!("{ARGUMENTS}{}", kind.name()), value: arguments.encode_to_vec() }),
            boot_id: self.boot_id.clone(),
            started_at: Some(trace.started_at.into()),
        };
        let key = OPERATIONS.key(scope.namespace.as_str(), &id);
        let mut batch = vec![Op::Expect(key.clone(), Revision::ABSENT), OPERATIONS.put(key.clone(), &operation)];
        batch.extend(with);
        let begun = Instant::now();
        let armed = fail::point(format_args!("engine.{}.intent", kind.name()));
        let committed = match armed {
            Ok(()) if kind.outlives_boot() => self.metadata.commit(batch).await,
            Ok(()) => self.metadata.commit_soon(batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = committed {
            return Err((trace, error.at("intent")));
        }
        fail::moment(format_args!("engine.{}.intent.done", kind.name()));
        trace.passed("intent", begun, String::new());
        Ok(Open { scope: scope.clone(), kind, operation, trace, key, found: false })
    }

    /// Whether an operation of this kind is open on a container.
    pub(crate) async fn is_open(&self, namespace: &Namespace, kind: Kinds, subject: &str) -> Result<bool> {
        let key = OPERATIONS.key(namespace.as_str(), &operation_id(kind, subject, ""));
        Ok(self.metadata.get(&key).await?.is_some())
    }

    /// Commits that the operation goes back, before its first step is undone.
    pub(crate) async fn turn_back(&self, open: &mut Open, reason: &Error) -> Result<()> {
        if open.is_back() {
            return Ok(());
        }
        open.operation.direction = Direction::Back as i32;
        open.operation.reason = reason.to_string();
        tracing::warn!(operation = open.kind.name(), container = open.subject(), error = %reason, "operation turns back");
        fail::point(format_args!("engine.{}.back", open.kind.name()))?;
        let turn = vec![OPERATIONS.put(open.key.clone(), &open.operation)];
        let turned = if open.kind.outlives_boot() {
            self.metadata.commit(turn).await
        } else {
            self.metadata.commit_soon(turn).await
        };
        fail::moment(format_args!("engine.{}.back.done", open.kind.name()));
        turned.map(drop)
    }

    /// What the last commit of an operation has beside its result: the intent is forgotten and the timeline goes on.
    pub(crate) async fn closing(&self, open: &Open, outcome: &str) -> Result<Vec<Op>> {
        fail::point(format_args!("engine.{}.close", open.kind.name()))?;
        let outcome = if open.found { format!("reconciled: {outcome}") } else { outcome.into() };
        let mut batch = self.kept(&open.scope, open.subject(), open.trace.past(outcome)).await?;
        batch.push(Op::Delete(open.key.clone()));
        Ok(batch)
    }

    /// Forgets the intent alone.
    pub(crate) fn forgotten(&self, open: &Open) -> Op {
        Op::Delete(open.key.clone())
    }

    /// Forgets the intent and keeps no timeline: the container is gone, or never was.
    pub(crate) fn forgetting(&self, open: &Open) -> Vec<Op> {
        fail::moment(format_args!("engine.{}.forget", open.kind.name()));
        let timeline = TIMELINES.key(open.scope.namespace.as_str(), open.subject());
        vec![Op::Delete(open.key.clone()), Op::Delete(timeline)]
    }

    /// The change that adds an operation to a container's timeline.
    pub(crate) async fn kept(&self, scope: &Scope, subject: &str, past: Past) -> Result<Vec<Op>> {
        let key = TIMELINES.key(scope.namespace.as_str(), subject);
        let mut record = TIMELINES.get(&*self.metadata, &key).await?.map(|(_, record)| record).unwrap_or_default();
        record.operations.push(past);
        trim(&mut record.operations);
        Ok(vec![TIMELINES.put(key, &record)])
    }

    /// Forgets the intents of execs of a container that has ended.
    pub(crate) async fn forget_execs(&self, namespace: &Namespace, subject: &str) -> Result<Vec<Op>> {
        let prefix = OPERATIONS.key(namespace.as_str(), &format!("{}/", operation_id(Kinds::Exec, subject, "")));
        Ok(self.metadata.scan_all(&prefix).await?.into_iter().map(|(key, _)| Op::Delete(key)).collect())
    }

    /// Forgets what else was meant to be done with a container that is gone.
    pub(crate) async fn forget_others(&self, namespace: &Namespace, subject: &str) -> Result<Vec<Op>> {
        let mut batch = self.forget_execs(namespace, subject).await?;
        for kind in [Kinds::Create, Kinds::Start] {
            batch.push(Op::Delete(OPERATIONS.key(namespace.as_str(), &operation_id(kind, subject, ""))));
        }
        Ok(batch)
    }

    /// The boot that the engine runs in.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// The intent of an exec.
    pub(crate) async fn resume_exec(&self, scope: &Scope, subject: &str, exec: &str) -> Result<Option<Open>> {
        let key = OPERATIONS.key(scope.namespace.as_str(), &operation_id(Kinds::Exec, subject, exec));
        let found = OPERATIONS.get(&*self.metadata, &key).await?;
        Ok(found.map(|(_, operation)| Open::resumed(scope.clone(), Kinds::Exec, operation, key)))
    }

    /// The timeline of a container, oldest operation first.
    pub(crate) async fn timeline(&self, namespace: &Namespace, subject: &str) -> Result<TimelineRecord> {
        let key = TIMELINES.key(namespace.as_str(), subject);
        Ok(TIMELINES.get(&*self.metadata, &key).await?.map(|(_, record)| record).unwrap_or_default())
    }

    /// The operation of this kind that is open on a container, if any.
    pub(crate) async fn resume(&self, scope: &Scope, kind: Kinds, subject: &str) -> Result<Option<Open>> {
        let key = OPERATIONS.key(scope.namespace.as_str(), &operation_id(kind, subject, ""));
        let found = OPERATIONS.get(&*self.metadata, &key).await?;
        Ok(found.map(|(_, operation)| Open::resumed(scope.clone(), kind, operation, key)))
    }

    /// The engine's operations that are open, in every namespace, oldest first.
    pub(crate) async fn open(&self, cause: &crated_types::Actor) -> Result<Vec<Open>> {
        let mut found = Vec::new();
        for (key, _, operation) in OPERATIONS.list(&*self.metadata, &OPERATIONS.prefix("")).await? {
            let ours = operation.arguments.as_ref().is_some_and(|any| any.type_url.starts_with(ARGUMENTS));
            let (true, Some(kind)) = (ours, Kinds::from_name(&operation.kind)) else { continue };
            let Some((namespace, _)) = OPERATIONS.parts(&key) else { continue };
            let scope = Scope::new(Namespace::new(namespace)?, cause.clone());
            found.push(Open { found: true, ..Open::resumed(scope, kind, operation, key) });
        }
        found.sort_by_key(|open| open.trace.started_at);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_core::fake::MemoryMetadata;
    use crated_types::{Actor, Fault};

    fn scope() -> Scope {
        Scope::new(Namespace::new("test").unwrap(), Actor::daemon("test"))
    }

    #[tokio::test]
    async fn an_operation_is_open_once_and_forgotten_at_its_end() {
        let store = Arc::new(MemoryMetadata::default());
        let journal = Journal::new(store.clone());
        let arguments = crate::record::StopArguments { signal: 15, timeout: 10 };
        let mut open = journal.begin(&scope(), Kinds::Stop, "c", &arguments, vec![]).await.unwrap();
        let again = journal.begin(&scope(), Kinds::Stop, "c", &arguments, vec![]).await.unwrap_err();
        assert_eq!(again.fault(), Fault::Conflict);
        assert!(journal.is_open(&scope().namespace, Kinds::Stop, "c").await.unwrap());
        let failed = open.step("signal", async { Err::<(), _>(Error::internal("x")) }).await.unwrap_err();
        assert_eq!(failed.step(), Some("signal"));
        journal.turn_back(&mut open, &failed).await.unwrap();
        let seen = journal.open(&Actor::daemon("reconciler")).await.unwrap().pop().unwrap();
        assert!(seen.is_back());
        let ops = journal.closing(&seen, "undone: x").await.unwrap();
        let told = MemoryMetadata::default();
        told.commit(ops).await.unwrap();
        let key = TIMELINES.key("test", "c");
        let (_, record) = TIMELINES.get(&told, &key).await.unwrap().unwrap();
        assert_eq!(record.operations[0].outcome, "reconciled: undone: x", "the reconciler says that it was it");
        assert_eq!(seen.arguments::<crate::record::StopArguments>().unwrap(), arguments);
        store.commit(journal.closing(&open, "done").await.unwrap()).await.unwrap();
        assert!(journal.open(&Actor::daemon("reconciler")).await.unwrap().is_empty());
        let timeline = journal.timeline(&scope().namespace, "c").await.unwrap();
        assert_eq!(
            timeline.operations[0].steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(),
            ["intent", "signal"]
        );
    }

    #[tokio::test]
    async fn a_timeline_keeps_the_last_operations() {
        let store = Arc::new(MemoryMetadata::default());
        let journal = Journal::new(store.clone());
        for number in 0..TIMELINE_MAX + 3 {
            let past = Trace::new("start", &scope()).past(number.to_string());
            store.commit(journal.kept(&scope(), "c", past).await.unwrap()).await.unwrap();
        }
        let timeline = journal.timeline(&scope().namespace, "c").await.unwrap();
        assert_eq!((timeline.operations.len(), timeline.operations[0].outcome.as_str()), (TIMELINE_MAX, "3"));
    }
}
