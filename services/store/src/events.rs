//! The event log as publishers and subscribers see it, over the log of the metadata.

use async_trait::async_trait;
use crated_core::record::Event;
use crated_core::{Cursor, EventLog, LoggedEvent, MetadataStore, Op, time};
use crated_types::name::is_identifier;
use crated_types::{Error, Namespace, Result, Scope};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost_types::Any;
use std::collections::VecDeque;
use std::sync::Arc;

/// Events that a subscriber reads at once.
const PAGE: usize = 256;

/// Publishes and follows events.
#[derive(Debug)]
pub struct Events {
    metadata: Arc<dyn MetadataStore>,
}

impl Events {
    /// Events in the log of `metadata`.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>) -> Arc<Self> {
        Arc::new(Self { metadata })
    }
}

/// Longest topic, in bytes.
const TOPIC_MAX: usize = 1024;

/// `/` and identifiers joined by `/`.
fn check_topic(topic: &str) -> Result<()> {
    if topic.len() > TOPIC_MAX {
        let why = format_args!("must have at most {TOPIC_MAX} bytes (it has {})", topic.len());
        return Err(Error::invalid("envelope.topic", why));
    }
    let Some(rest) = topic.strip_prefix('/') else {
        return Err(Error::invalid("envelope.topic", format_args!("{topic:?} must start with /")));
    };
    match rest.split('/').find(|part| !is_identifier(part)) {
        None => Ok(()),
        Some(part) => Err(Error::invalid("envelope.topic", format_args!("{topic:?}: {part:?} is not an identifier"))),
    }
}

#[async_trait]
impl EventLog for Events {
    async fn publish(&self, scope: &Scope, topic: &str, event: Any) -> Result<()> {
        check_topic(topic)?;
        let event = Event {
            namespace: scope.namespace.to_string(),
            topic: topic.into(),
            timestamp: Some(time::now()),
            event: Some(event),
            actor: scope.actor.who.to_string(),
            cause: scope.actor.cause.to_string(),
        };
        self.metadata.commit(vec![Op::event(&event)]).await.map(|_| ())
    }

    async fn forward(&self, event: Event) -> Result<()> {
        Namespace::new(&event.namespace)?;
        check_topic(&event.topic)?;
        match &event.timestamp {
            // Go's zero time is the year 1
            Some(at) if at.seconds > -62_135_596_800 => {}
            _ => return Err(Error::invalid("envelope.timestamp", "must be set on a forwarded event")),
        }
        self.metadata.commit(vec![Op::event(&event)]).await.map(|_| ())
    }

    fn subscribe(&self, after: Option<Cursor>) -> BoxStream<'static, Result<LoggedEvent>> {
        // the watch first: what is committed from here on wakes us
        let wake = self.metadata.watch();
        let cursor = after.unwrap_or(Cursor { revision: self.metadata.revision(), index: u32::MAX });
        let follower =
            Follower { metadata: Arc::clone(&self.metadata), wake, cursor, page: VecDeque::new(), over: false };
        futures::stream::unfold(follower, Follower::step).boxed()
    }
}

/// A subscriber's place in the log.
struct Follower {
    metadata: Arc<dyn MetadataStore>,
    wake: BoxStream<'static, crated_core::Revision>,
    cursor: Cursor,
    page: VecDeque<LoggedEvent>,
    over: bool,
}

impl Follower {
    async fn step(mut self) -> Option<(Result<LoggedEvent>, Self)> {
        loop {
            if let Some(event) = self.page.pop_front() {
                self.cursor = event.cursor;
                return Some((Ok(event), self));
            }
            if self.over {
                return None;
            }
            match self.metadata.events(self.cursor, PAGE).await {
                Ok(page) if page.is_empty() => {
                    self.wake.next().await?;
                }
                Ok(page) => self.page.extend(page),
                Err(error) => {
                    self.over = true;
                    return Some((Err(error), self));
                }
            }
        }
    }
}
