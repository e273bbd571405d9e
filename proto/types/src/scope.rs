//! Who asks: a parameter of every namespaced call, never ambient.

use crate::name::{LeaseId, Namespace};
use std::sync::Arc;

/// Where a change comes from; it stands in events and operation records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The method or the part of the daemon, e.g. `containerd.services.images.v1.Images/Create` or `reconciler`.
    pub cause: Arc<str>,
    /// The peer: `uid=0 pid=123`, or `crated` for ourselves.
    pub who: Arc<str>,
}

impl Actor {
    /// The daemon itself, acting for `cause`.
    #[must_use]
    pub fn daemon(cause: &str) -> Self {
        Self { cause: cause.into(), who: "crated".into() }
    }
}

/// The tenant, the lease that keeps what the call makes, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The tenant.
    pub namespace: Namespace,
    /// The lease that becomes the owner of what is written.
    pub lease: Option<LeaseId>,
    /// Who asks.
    pub actor: Actor,
}

impl Scope {
    /// A scope without a lease.
    #[must_use]
    pub fn new(namespace: Namespace, actor: Actor) -> Self {
        Self { namespace, lease: None, actor }
    }

    /// The same scope under `lease`.
    #[must_use]
    pub fn with_lease(&self, lease: LeaseId) -> Self {
        Self { lease: Some(lease), ..self.clone() }
    }
}
