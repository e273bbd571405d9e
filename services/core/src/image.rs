//! Port: image records. Events `/images/{create,update,delete}` stand in the same commits.

use async_trait::async_trait;
use crated_types::filter::Filters;
use crated_types::{Digest, Result, Scope};
use std::fmt::Debug;

use crate::mask::Mask;
use crate::record::Image;

/// Image records of a namespace.
#[async_trait]
pub trait ImageStore: Send + Sync + Debug {
    /// Reads one.
    async fn get(&self, scope: &Scope, name: &str) -> Result<Image>;
    /// Those that pass, in order of their names.
    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Image>>;
    /// Writes a new one; stamps its times unless they are given.
    async fn create(&self, scope: &Scope, image: Image) -> Result<Image>;
    /// Changes the fields of the mask.
    async fn update(&self, scope: &Scope, image: Image, mask: &Mask) -> Result<Image>;
    /// Removes one; with `target`, only where it still names that digest. Asks for a collection; waits for it with `sync`.
    async fn delete(&self, scope: &Scope, name: &str, target: Option<&Digest>, sync: bool) -> Result<()>;

    /// Writes an image whether or not the name exists (pull, load, tag).
    async fn put(&self, scope: &Scope, image: Image) -> Result<Image> {
        match self.create(scope, image.clone()).await {
            Err(error) if error.is_already_exists() => self.update(scope, image, &Mask::All).await,
            answer => answer,
        }
    }
}
