//! A connection to the daemon, with namespace and typed services.

use crate::failure::Failure;
use crated_api::containerd::services as containerd;
use crated_api::crated::engine::v1::engine_client::EngineClient;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Messages may have this many bytes, both ways, as with containerd.
const MESSAGE_MAX: usize = 16 << 20;

/// A channel whose calls carry a namespace.
pub type Scoped = InterceptedService<Channel, Namespaced>;

/// Puts the namespace into each call.
#[derive(Clone, Debug)]
pub struct Namespaced {
    namespace: MetadataValue<Ascii>,
}

impl Interceptor for Namespaced {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        Ok(request)
    }
}

/// A connected client; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    scope: Namespaced,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $($client:ident)::+;)+) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $($client)::+<Scoped> {
            $($client)::+::with_interceptor(self.channel.clone(), self.scope.clone())
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX)
        })+
    };
}

impl Client {
    /// Connects to the socket at `address` (a path, or `unix://path`).
    ///
    /// # Errors
    /// Where nobody listens, with what to do about it.
    pub async fn connect(address: &str, namespace: &str) -> Result<Self, Failure> {
        let path = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
        let namespace = namespace.parse().map_err(|_| {
            Failure::usage(format!("namespace {namespace:?} has characters that no namespace may have"))
        })?;
        let target = path.clone();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let path = target.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .map_err(|error| unreachable(&path, &error))?;
        Ok(Self { channel, scope: Namespaced { namespace } })
    }

    services! {
        /// Whole operations for people.
        engine: EngineClient;
        /// Which version the daemon is.
        version: containerd::version::v1::version_client::VersionClient;
        /// Plugins and the server's identity.
        introspection: containerd::introspection::v1::introspection_client::IntrospectionClient;
        /// Namespaces.
        namespaces: containerd::namespaces::v1::namespaces_client::NamespacesClient;
        /// Blobs.
        content: containerd::content::v1::content_client::ContentClient;
        /// Container records.
        containers: containerd::containers::v1::containers_client::ContainersClient;
        /// Image records.
        images: containerd::images::v1::images_client::ImagesClient;
        /// Snapshots.
        snapshots: containerd::snapshots::v1::snapshots_client::SnapshotsClient;
        /// Leases.
        leases: containerd::leases::v1::leases_client::LeasesClient;
        /// Layers.
        diff: containerd::diff::v1::diff_client::DiffClient;
        /// Tasks.
        tasks: containerd::tasks::v1::tasks_client::TasksClient;
        /// Events.
        events: containerd::events::v1::events_client::EventsClient;
    }
}

fn unreachable(path: &Path, error: &tonic::transport::Error) -> Failure {
    let mut cause = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        cause = inner.to_string();
        source = inner.source();
    }
    let mut failure = Failure::new(format!("cannot reach crated at {}: {cause}", path.display()));
    failure.remedy = Some("start the daemon (crated), or name its socket with --address or CRATED_ADDRESS".into());
    failure
}
