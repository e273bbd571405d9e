//! Port: the event log as publishers and subscribers see it.

use async_trait::async_trait;
use crated_types::{Result, Scope};
use futures::stream::BoxStream;
use prost_types::Any;
use std::fmt::Debug;

use crate::metadata::{Cursor, LoggedEvent};
use crate::record::Event;

/// Publishes and follows events. They are durable: a subscriber with a cursor misses none.
#[async_trait]
pub trait EventLog: Send + Sync + Debug {
    /// Stamps an event with namespace, actor and now, and logs it.
    async fn publish(&self, scope: &Scope, topic: &str, event: Any) -> Result<()>;
    /// Logs an event as it is, after checking topic, namespace and time.
    async fn forward(&self, event: Event) -> Result<()>;
    /// Events behind `after`, or from now on: first those that are logged, then live, in order, without end. The stream
    /// reads the log in pages, so a slow subscriber costs no memory; where it falls behind what is kept it ends with
    /// [`crated_types::Fault::OutOfRange`].
    fn subscribe(&self, after: Option<Cursor>) -> BoxStream<'static, Result<LoggedEvent>>;
}
