//! Port: container records. Events `/containers/{create,update,delete}` stand in the same commits.

use async_trait::async_trait;
use crated_types::filter::Filters;
use crated_types::{ContainerId, Result, Scope};
use std::fmt::Debug;

use crate::mask::Mask;
use crate::metadata::Op;
use crate::record::Container;

/// Container records of a namespace (SEMANTICS: containers).
#[async_trait]
pub trait ContainerStore: Send + Sync + Debug {
    /// Reads one.
    async fn get(&self, scope: &Scope, id: &ContainerId) -> Result<Container>;
    /// Those that pass, in order of their ids.
    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Container>>;
    /// Checks and writes a new one, stamps its times; `with` goes into the same commit.
    async fn create(&self, scope: &Scope, container: Container, with: Vec<Op>) -> Result<Container>;
    /// Changes the fields of the mask.
    async fn update(&self, scope: &Scope, container: Container, mask: &Mask) -> Result<Container>;
    /// Removes one; does not look at tasks. `with` goes into the same commit.
    async fn delete(&self, scope: &Scope, id: &ContainerId, with: Vec<Op>) -> Result<()>;
}
