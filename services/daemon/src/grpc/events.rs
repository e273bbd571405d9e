//! `containerd.services.events.v1.Events`, and the part of it that shims use over ttrpc.

use super::{Answer, actor, answer, convert, filters, missing, scope};
use bytes::Bytes;
use crated_api::any;
use crated_api::containerd::services::events::ttrpc::v1 as ttrpc_wire;
use crated_api::containerd::services::events::v1 as wire;
use crated_api::containerd::services::events::v1::events_server::Events;
use crated_api::containerd::types::Envelope;
use crated_api::status::from_error;
use crated_core::record::Event;
use crated_core::{EventLog, TaskManager};
use crated_types::filter::{Adaptor, Filters};
use crated_types::{Actor, Error};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use tonic::{Request, Response, Status, async_trait};

/// Name of the service that shims send events to.
pub const TTRPC_SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Over the event log.
#[derive(Clone, Debug)]
pub struct EventsAdapter(pub Arc<dyn EventLog>);

/// An event as filters see it; its message is decoded when a filter first asks.
struct Filtered<'a> {
    event: &'a Event,
    decoded: OnceLock<Option<serde_json::Value>>,
}

impl Adaptor for Filtered<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["namespace"] => Some(self.event.namespace.as_str().into()),
            ["topic"] => Some(self.event.topic.as_str().into()),
            ["event", rest @ ..] if !rest.is_empty() => {
                let decoded = self.decoded.get_or_init(|| self.event.event.as_ref().and_then(any::to_json));
                any::field(decoded.as_ref()?, rest).map(Cow::Owned)
            }
            _ => None,
        }
    }
}

/// Whether an event passes.
fn passes(filters: &Filters, event: &Event) -> bool {
    filters.is_all() || filters.matches(&Filtered { event, decoded: OnceLock::new() })
}

#[async_trait]
impl Events for EventsAdapter {
    async fn publish(&self, request: Request<wire::PublishRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let event = request.event.ok_or_else(|| missing("event"))?;
        answer(self.0.publish(&scope, &request.topic, event).await)
    }

    async fn forward(&self, request: Request<wire::ForwardRequest>) -> Answer<()> {
        let actor = actor(&request);
        let envelope = request.into_inner().envelope.ok_or_else(|| missing("envelope"))?;
        answer(self.0.forward(convert::event(envelope, &actor)).await)
    }

    type SubscribeStream = BoxStream<'static, Result<Envelope, Status>>;

    async fn subscribe(&self, request: Request<wire::SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        let filters = filters(&request.get_ref().filters)?;
        let events = self.0.subscribe(None).filter_map(move |logged| {
            let passed = match logged {
                Ok(logged) => passes(&filters, &logged.event).then(|| Ok(convert::envelope(logged.event))),
                Err(error) => Some(Err(from_error(error))),
            };
            std::future::ready(passed)
        });
        Ok(Response::new(events.boxed()))
    }
}

/// Takes events of shims over ttrpc: exits of tasks are noted in the same commit.
#[derive(Clone, Debug)]
pub struct ShimEvents(pub Arc<dyn TaskManager>);

#[crated_ttrpc::async_trait]
impl crated_ttrpc::Service for ShimEvents {
    async fn call(&self, context: crated_ttrpc::Context, method: &str, payload: Bytes) -> crated_types::Result<Bytes> {
        if method != "Forward" {
            return Err(crated_ttrpc::server::unknown_method(method));
        }
        let request: ttrpc_wire::ForwardRequest = crated_ttrpc::server::decode(payload)?;
        let envelope = request.envelope.ok_or_else(|| Error::invalid("envelope", "is required"))?;
        let who = crate::server::unix::credentials(context.peer.uid, context.peer.pid);
        let actor = Actor { cause: concat!("containerd.services.events.ttrpc.v1.Events", "/Forward").into(), who };
        self.0.forward(convert::event(envelope, &actor)).await?;
        Ok(Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_api::containerd::events::{TaskExit, TaskIo};
    use crated_types::filter::Filter;

    #[test]
    fn filters_reach_into_the_event() {
        let exit = TaskExit { container_id: "c1".into(), id: "e".into(), exit_status: 3, ..Default::default() };
        let event = Event {
            namespace: "n".into(),
            topic: "/tasks/exit".into(),
            event: Some(any::pack("containerd.events.TaskExit", &exit)),
            ..Default::default()
        };
        let passed = |filter: &str| passes(&Filter::parse_all(&[filter.to_owned()]).unwrap(), &event);
        assert!(passed("topic==\"/tasks/exit\",event.container_id==c1"));
        assert!(passed("namespace==n") && passed("") && passed("event.id~=^e$"));
        assert!(!passed("event.container_id==c2") && !passed("event.exit_status==3") && !passed("event"));
        let io = TaskIo { stdin: "/i".into(), ..Default::default() };
        let create = crated_api::containerd::events::TaskCreate { io: Some(io), ..Default::default() };
        let event = Event { event: Some(any::pack("containerd.events.TaskCreate", &create)), ..event };
        assert!(passes(&Filter::parse_all(&["event.io.stdin==\"/i\"".to_owned()]).unwrap(), &event));
    }
}
