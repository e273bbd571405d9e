//! The methods that are served, and how long each may last.

use prost::Message;
use prost_types::FileDescriptorSet;
use std::collections::HashMap;
use std::sync::Arc;

/// How a call lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one answer, soon: has a deadline, ends whole.
    Unary,
    /// One request, one answer, whenever something happens: no deadline, ended by a stop.
    Wait,
    /// A stream with an end of its own.
    Stream,
    /// A stream that ends only with its client, or by a stop.
    Watch,
}

/// A method of a served service, as an extension of each of its requests.
#[derive(Debug)]
pub struct Method {
    /// Full name of the service.
    pub service: String,
    /// Name of the method.
    pub name: String,
    /// `service/method`, as it stands in events.
    pub full: Arc<str>,
    /// How it lives.
    pub shape: Shape,
}

/// Served methods by path.
#[derive(Clone, Debug, Default)]
pub struct Methods(Arc<HashMap<String, Arc<Method>>>);

/// Streams that have no end of their own.
const WATCHES: [&str; 7] = ["Subscribe", "Watch", "Events", "Logs", "Stats", "AttachStream", "ServerReflectionInfo"];

impl Methods {
    /// The methods of `services` (full names), as our own texts describe them.
    #[must_use]
    pub fn of(services: &[&str]) -> Self {
        let set = FileDescriptorSet::decode(crated_api::DESCRIPTORS).expect("the build wrote a descriptor set");
        let mut methods = HashMap::new();
        for file in &set.file {
            for service in &file.service {
                let full = format!("{}.{}", file.package(), service.name());
                if !services.contains(&full.as_str()) {
                    continue;
                }
                for method in &service.method {
                    let streams = method.client_streaming() || method.server_streaming();
                    let shape = match (streams, method.name()) {
                        (false, name) if name.ends_with("Wait") => Shape::Wait,
                        (false, _) => Shape::Unary,
                        (true, name) if WATCHES.contains(&name) => Shape::Watch,
                        (true, _) => Shape::Stream,
                    };
                    let path = format!("/{full}/{}", method.name());
                    let name = method.name().to_owned();
                    let known = Method { service: full.clone(), name, full: path[1..].into(), shape };
                    methods.insert(path, Arc::new(known));
                }
            }
        }
        Self(Arc::new(methods))
    }

    /// The method of a path; all that are not served share one, so that nobody fills the counters with names.
    #[must_use]
    pub fn get(&self, path: &str) -> Arc<Method> {
        self.0.get(path).cloned().unwrap_or_else(|| {
            let unknown = || "unknown".to_owned();
            Arc::new(Method { service: unknown(), name: unknown(), full: "unknown".into(), shape: Shape::Unary })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_the_texts() {
        let methods = Methods::of(&["containerd.services.tasks.v1.Tasks", "containerd.services.events.v1.Events"]);
        let shape = |path: &str| methods.get(path).shape;
        assert_eq!(shape("/containerd.services.tasks.v1.Tasks/Create"), Shape::Unary);
        assert_eq!(shape("/containerd.services.tasks.v1.Tasks/Wait"), Shape::Wait);
        assert_eq!(shape("/containerd.services.events.v1.Events/Subscribe"), Shape::Watch);
        assert_eq!(methods.get("/containerd.services.content.v1.Content/Write").service, "unknown");
    }
}
