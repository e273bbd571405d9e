//! Events for people: the log from a cursor on, filtered, each decoded to JSON where its type is known.

mod json;

use crated_api::crated::engine::v1::{Event as Told, EventsRequest};
use crated_core::{Cursor, LoggedEvent};
use crated_types::filter::{Adaptor, Filter, Filters};
use crated_types::{Namespace, Result, Scope};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

use crate::engine::{Engine, Stream};

/// Events read at once from the log.
const PAGE: usize = 256;

impl Engine {
    /// Events behind `since` (or from now on), of this namespace unless all are asked for. The filters' fields are `topic`,
    /// `namespace`, and `event.<field>`.
    ///
    /// # Errors
    /// [`crated_types::Fault::OutOfRange`] where events behind `since` are no longer kept.
    ///
    /// # Cancel safety
    /// Dropped, it ends; its last cursor goes on.
    pub async fn events(self: &Arc<Self>, scope: &Scope, request: EventsRequest) -> Result<Stream<Told>> {
        let filters = Filter::parse_all(&request.filters)?;
        let namespace = (!request.all_namespaces).then(|| scope.namespace.clone());
        let since: Option<Cursor> = if request.since.is_empty() { None } else { Some(request.since.parse()?) };
        let logged = if request.no_follow { self.logged(since) } else { self.live(since) };
        let told = logged.try_filter_map(move |logged| {
            let told = tell(logged, namespace.as_ref(), &filters);
            async move { Ok(told) }
        });
        Ok(told.boxed())
    }

    fn live(&self, since: Option<Cursor>) -> Stream<LoggedEvent> {
        let closing = self.closing.clone();
        self.deps.events.subscribe(since).take_until(closing.cancelled_owned()).boxed()
    }

    /// What is in the log now, page by page.
    fn logged(&self, since: Option<Cursor>) -> Stream<LoggedEvent> {
        let metadata = Arc::clone(&self.deps.metadata);
        let newest = metadata.revision();
        let after = since.unwrap_or(Cursor { revision: newest, index: u32::MAX });
        let pages = futures::stream::try_unfold(Some(after), move |after| {
            let metadata = Arc::clone(&metadata);
            async move {
                let Some(after) = after else { return Ok(None) };
                let mut page = metadata.events(after, PAGE).await?;
                let full = page.len() == PAGE;
                page.retain(|logged| logged.cursor.revision <= newest);
                let next = page.last().map(|logged| logged.cursor).filter(|_| full);
                Ok::<_, crated_types::Error>(Some((futures::stream::iter(page.into_iter().map(Ok)), next)))
            }
        });
        pages.try_flatten().boxed()
    }
}

fn tell(logged: LoggedEvent, namespace: Option<&Namespace>, filters: &Filters) -> Option<Told> {
    let LoggedEvent { cursor, event } = logged;
    if namespace.is_some_and(|namespace| namespace.as_str() != event.namespace) {
        return None;
    }
    let decoded = event.event.as_ref().and_then(json::decode);
    let fields = Fields { topic: &event.topic, namespace: &event.namespace, event: decoded.as_ref() };
    if !filters.matches(&fields) {
        return None;
    }
    Some(Told {
        cursor: cursor.to_string(),
        json: decoded.map(|value| value.to_string()).unwrap_or_default(),
        namespace: event.namespace,
        topic: event.topic,
        time: event.timestamp,
        event: event.event,
        actor: event.actor,
        cause: event.cause,
    })
}

struct Fields<'a> {
    topic: &'a str,
    namespace: &'a str,
    event: Option<&'a Value>,
}

impl Adaptor for Fields<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["topic"] => Some(self.topic.into()),
            ["namespace"] => Some(self.namespace.into()),
            ["event", rest @ ..] if !rest.is_empty() => {
                let mut value = self.event?;
                for (depth, name) in rest.iter().enumerate() {
                    // A label's key may hold dots: what is left of the path is tried as one key.
                    let whole = rest[depth..].join(".");
                    if let Some(found) = value.get(&whole) {
                        value = found;
                        break;
                    }
                    value = value.get(name)?;
                }
                match value {
                    Value::String(text) => Some(text.as_str().into()),
                    Value::Null | Value::Array(_) | Value::Object(_) => None,
                    other => Some(other.to_string().into()),
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_api::containerd::events::{ContainerCreate, TaskExit};
    use crated_core::record::Event;
    use crated_types::Actor;

    fn logged(topic: &str, name: &str, message: &impl prost::Message) -> LoggedEvent {
        let scope = Scope::new(Namespace::new("default").unwrap(), Actor::daemon("test"));
        LoggedEvent { cursor: Cursor::default(), event: Event::new(&scope, topic, name, message) }
    }

    fn passes(logged: &LoggedEvent, filter: &str) -> bool {
        tell(logged.clone(), None, &Filter::parse_all(&[filter.to_owned()]).unwrap()).is_some()
    }

    #[test]
    fn filters_reach_into_the_event() {
        let exit = TaskExit { container_id: "web".into(), id: "web".into(), pid: 7, exit_status: 3, exited_at: None };
        let event = logged("/tasks/exit", "containerd.events.TaskExit", &exit);
        for filter in [
            r#"topic=="/tasks/exit""#,
            "event.container_id==web",
            "event.exit_status==3",
            "namespace==default,event.pid==7",
        ] {
            assert!(passes(&event, filter), "{filter}");
        }
        for filter in ["event.container_id==db", "event.nothing", "event"] {
            assert!(!passes(&event, filter), "{filter}");
        }
        let other = Namespace::new("other").unwrap();
        assert!(tell(event, Some(&other), &Filters::default()).is_none());
    }

    #[test]
    fn unknown_types_are_told_without_json() {
        let event = logged("/x", "some.unknown.Type", &ContainerCreate::default());
        assert_eq!(tell(event, None, &Filters::default()).unwrap().json, "");
    }
}
