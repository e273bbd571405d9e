//! The port of names: what containers are called on their networks, for a resolver that outlives the daemon.

use async_trait::async_trait;
use crated_types::Result;
use std::fmt::Debug;
use std::net::IpAddr;

use crate::network::Attachment;

/// A container that is attached, with what it is called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named {
    /// Its endpoints, with addresses.
    pub attachment: Attachment,
    /// Its name now: it may have been renamed since it was attached.
    pub name: String,
    /// Resolvers that it asked for instead of the host's.
    pub servers: Vec<IpAddr>,
}

/// Tells a resolver who is called what.
#[async_trait]
pub trait Names: Send + Sync + Debug {
    /// A container came, or changed its name or its networks. Answers once questions are answered so.
    ///
    /// # Errors
    /// Where the resolver cannot be reached or started, and the container is on a network with names.
    async fn tell(&self, container: &Named) -> Result<()>;

    /// A container of this namespace has gone.
    ///
    /// # Errors
    /// Where the resolver cannot be reached; it is told later.
    async fn forget(&self, namespace: &str, container: &str) -> Result<()>;

    /// At the daemon's start: these are all.
    ///
    /// # Errors
    /// Where the resolver cannot be started although it is needed.
    async fn adopt(&self, all: Vec<Named>) -> Result<()>;

    /// What the resolver does, as a JSON object, and what it could not do; none where none runs.
    ///
    /// # Errors
    /// Where it does not answer.
    async fn report(&self) -> Result<Option<(String, Vec<String>)>>;
}
