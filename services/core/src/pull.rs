//! Port: images in and out: pull from a registry, unpack into snapshots, import and export archives, read a configuration.
//!
//! `services/image` implements it; `services/engine` calls it. Progress goes into a bounded channel of the messages that
//! clients read: it is advice, so an implementation uses `try_send`, never waits for a reader, and a reader that went away
//! does not stop the work.

use async_trait::async_trait;
use bytes::Bytes;
use crated_api::crated::engine::v1::{Credentials, Progress};
use crated_types::{Descriptor, Digest, Platform, Reference, Result, Scope, SnapshotKey};
use futures::stream::BoxStream;
use std::fmt::Debug;

use crate::record::Image;

/// Where progress goes; see the page.
pub type ProgressSink = tokio::sync::mpsc::Sender<Progress>;

/// What to pull.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Where it is; a tag or a digest is set.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// Credentials for this call; none: those of the configuration.
    pub credentials: Option<Credentials>,
    /// Speak http without TLS.
    pub plain_http: bool,
    /// Unpack into this snapshotter; none: only content and the image's record.
    pub snapshotter: Option<String>,
}

/// What an archive is imported as.
#[derive(Clone, Debug)]
pub struct Import {
    /// For which platform; others of an index are kept where the archive has them.
    pub platform: Platform,
    /// Unpack into this snapshotter.
    pub snapshotter: Option<String>,
}

/// What to export.
#[derive(Clone, Debug)]
pub struct Export {
    /// Names of image records.
    pub names: Vec<String>,
    /// Only this platform; none: all that the content store has.
    pub platform: Option<Platform>,
}

/// An image, resolved for one platform.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageView {
    /// The platform's manifest.
    pub manifest: Descriptor,
    /// Its configuration; the digest is the image's id.
    pub config: Descriptor,
    /// The bytes of the configuration.
    pub config_bytes: Bytes,
    /// The platform that was found.
    pub platform: Platform,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// Name of the snapshot that holds all layers; none for an image without layers.
    pub chain_id: Option<SnapshotKey>,
    /// Layers as the manifest names them.
    pub layers: Vec<Descriptor>,
    /// Bytes of manifest, configuration and compressed layers.
    pub size: u64,
}

/// Images in and out.
#[async_trait]
pub trait ImagePuller: Send + Sync + Debug {
    /// Pulls, writes the image's record under the normalised reference, unpacks where asked; answers the record.
    async fn pull(&self, scope: &Scope, request: Pull, progress: ProgressSink) -> Result<Image>;
    /// Makes the snapshots of an image; those that are there stay. Answers the name of the uppermost.
    async fn unpack(
        &self,
        scope: &Scope,
        image: &Image,
        platform: &Platform,
        snapshotter: &str,
        progress: ProgressSink,
    ) -> Result<Option<SnapshotKey>>;
    /// Reads an OCI or docker archive and writes the records of its images.
    async fn import(
        &self,
        scope: &Scope,
        archive: BoxStream<'static, Result<Bytes>>,
        request: Import,
        progress: ProgressSink,
    ) -> Result<Vec<Image>>;
    /// Writes an archive that docker and OCI tools read.
    async fn export(&self, scope: &Scope, request: Export) -> Result<BoxStream<'static, Result<Bytes>>>;
    /// Finds the manifest and configuration of a platform; reads no layer.
    ///
    /// # Errors
    /// [`crated_types::Fault::NoPlatform`] where the image has no variant for it, [`crated_types::Fault::NotFound`] where
    /// content is missing.
    async fn view(&self, scope: &Scope, image: &Image, platform: &Platform) -> Result<ImageView>;
}
