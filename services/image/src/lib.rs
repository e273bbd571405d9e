//! Images: from registries and archives into the content store, from there as layers into snapshots, and back out.
//!
//! [`registry`] speaks to registries, [`manifest`] reads their documents, [`layer`] applies and makes layers;
//! [`ImageService`] pulls, unpacks, imports and exports with them, [`LayerDiffer`] is the differ of containerd's API. What
//! stores anything does so through the ports of `crated_core`.

mod archive;
mod differ;
mod fetch;
mod follow;
pub mod inspect;
mod join;
mod labels;
pub mod layer;
mod lease;
pub mod manifest;
mod mend;
mod progress;
mod pull;
pub mod registry;
mod service;
mod unpack;

pub use differ::LayerDiffer;
pub use registry::RegistryConfig;
pub use service::{ImageService, Options, Ports};

use crated_types::{Error, Fault, Kind, Result};
use std::io::Read;
use std::path::Path;

/// Runs what may block on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(Error::internal("blocking work").caused_by(error)),
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::os(format!("read {}", path.display()), error);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(
            Error::new(Fault::Malformed, format!("it has more than {limit} bytes")).on(Kind::File, path.display())
        );
    }
    Ok(bytes)
}
