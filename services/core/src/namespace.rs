//! Port: namespaces and their labels. Events `/namespaces/{create,update,delete}` stand in the same commits.

use async_trait::async_trait;
use crated_types::{Actor, Labels, Namespace, Result};
use std::fmt::Debug;

use crate::mask::Mask;

/// Namespaces. None needs to be created: the first write of an object makes it.
#[async_trait]
pub trait NamespaceStore: Send + Sync + Debug {
    /// Labels of a namespace; none for one that does not exist.
    async fn get(&self, name: &Namespace) -> Result<Labels>;
    /// Every namespace that was created or holds an object, in order.
    async fn list(&self) -> Result<Vec<(Namespace, Labels)>>;
    /// Makes one with labels.
    async fn create(&self, actor: &Actor, name: &Namespace, labels: Labels) -> Result<()>;
    /// Changes labels; also makes the namespace.
    async fn update(&self, actor: &Actor, name: &Namespace, labels: Labels, mask: &Mask) -> Result<Labels>;
    /// Removes an empty one.
    async fn delete(&self, actor: &Actor, name: &Namespace) -> Result<()>;
}
