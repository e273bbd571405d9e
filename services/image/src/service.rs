//! The image service: `crated_core::pull::ImagePuller` over the ports of the store.

use crate::inspect;
use crate::join::Joins;
use crate::progress::Progress;
use crate::registry::{Registry, RegistryConfig};
use crate::unpack::{InUse, NamedLocks, Unpacker};
use crate::{archive, lease, pull};
use async_trait::async_trait;
use bytes::Bytes;
use crated_core::pull::{Export, ImagePuller, ImageView, Import, ProgressSink, Pull};
use crated_core::record::Image;
use crated_core::{ContentStore, ImageStore, LeaseStore, Snapshotter};
use crated_types::{Descriptor, Error, Kind, Platform, Result, Scope, SnapshotKey};
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the service stands on.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Blobs.
    pub content: Arc<dyn ContentStore>,
    /// Image records.
    pub images: Arc<dyn ImageStore>,
    /// Leases.
    pub leases: Arc<dyn LeaseStore>,
    /// Snapshotters by name.
    pub snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
}

/// How the service works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How registries are reached.
    pub registry: RegistryConfig,
    /// Sync a layer's file system before its snapshot is committed: a power cut then leaves no half snapshot.
    pub sync: bool,
    /// Who owns pulls, so that a shutdown waits for them.
    pub tracker: TaskTracker,
    /// Stops every pull.
    pub shutdown: CancellationToken,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            registry: RegistryConfig::default(),
            sync: true,
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        }
    }
}

/// Pulls, unpacks, imports, exports.
#[derive(Clone, Debug)]
pub struct ImageService(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) content: Arc<dyn ContentStore>,
    pub(crate) images: Arc<dyn ImageStore>,
    pub(crate) leases: Arc<dyn LeaseStore>,
    pub(crate) snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
    pub(crate) registry: Registry,
    pub(crate) options: Options,
    pub(crate) joins: Joins,
    pub(crate) chains: NamedLocks,
    pub(crate) extracting: InUse,
    /// Leases of this process.
    pub(crate) leased: InUse,
}

impl ImageService {
    /// A service; nothing is read or opened before the first call.
    #[must_use]
    pub fn new(ports: Ports, options: Options) -> Self {
        Self(Arc::new(Inner {
            content: ports.content,
            images: ports.images,
            leases: ports.leases,
            snapshotters: ports.snapshotters,
            registry: Registry::new(options.registry.clone()),
            options,
            joins: Joins::default(),
            chains: NamedLocks::default(),
            extracting: InUse::default(),
            leased: InUse::default(),
        }))
    }

    /// After a crash: removes what unpacks of an earlier life left half done in the scope's namespace, lets go of what its
    /// imports, unpacks and ended pulls held, and answers how many of all those there were. What a pull was downloading stays
    /// for a day, for the next attempt. Can be called at any time.
    ///
    /// # Errors
    /// The snapshotter's, and those of leases.
    pub async fn recover(&self, scope: &Scope) -> Result<usize> {
        let mut removed = 0;
        for snapshotter in self.0.snapshotters.values() {
            removed += crate::unpack::sweep(&self.0, scope, &**snapshotter, |_| true).await?;
        }
        Ok(removed + lease::recover(&self.0, scope).await?)
    }

    /// The registry client, for callers that only look.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }
}

impl Inner {
    pub(crate) fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        self.snapshotters.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.snapshotters.keys().map(String::as_str).collect();
            Error::invalid("snapshotter", format_args!("{name:?} is not one of {}", known.join(", ")))
        })
    }

    /// Unpacks the image at `target` out of the content store.
    pub(crate) async fn unpack_stored(
        &self,
        scope: &Scope,
        target: &Descriptor,
        platform: &Platform,
        snapshotter: Arc<dyn Snapshotter>,
        progress: &Progress,
        what: &str,
    ) -> Result<Option<SnapshotKey>> {
        let resolved = inspect::image_config(&*self.content, scope, target, platform, what).await?;
        let stop = self.options.shutdown.child_token();
        let unpacker = Unpacker { service: self, scope, snapshotter, progress: progress.clone(), stop };
        let uppermost = unpacker.run(&resolved.manifest, &resolved.config, Vec::new()).await?;
        unpacker.label(&resolved.manifest, &resolved.config).await?;
        Ok(uppermost)
    }
}

/// The descriptor of an image's record.
pub(crate) fn target(image: &Image) -> Result<Descriptor> {
    let target =
        image.target.as_ref().ok_or_else(|| Error::precondition(Kind::Image, &image.name, "it names no content"))?;
    target.try_into()
}

#[async_trait]
impl ImagePuller for ImageService {
    async fn pull(&self, scope: &Scope, request: Pull, progress: ProgressSink) -> Result<Image> {
        pull::joined(&self.0, scope, request, progress).await
    }

    async fn unpack(
        &self,
        scope: &Scope,
        image: &Image,
        platform: &Platform,
        snapshotter: &str,
        progress: ProgressSink,
    ) -> Result<Option<SnapshotKey>> {
        let snapshotter = self.0.snapshotter(snapshotter)?;
        let target = target(image)?;
        let (service, name, platform) = (self.0.clone(), image.name.clone(), platform.clone());
        let progress = Progress::new(progress);
        lease::with(self.0.clone(), scope, "unpack", move |scope| async move {
            service.unpack_stored(&scope, &target, &platform, snapshotter, &progress, &name).await
        })
        .await
    }

    async fn import(
        &self,
        scope: &Scope,
        archive: BoxStream<'static, Result<Bytes>>,
        request: Import,
        progress: ProgressSink,
    ) -> Result<Vec<Image>> {
        let service = self.0.clone();
        let progress = Progress::new(progress);
        lease::with(self.0.clone(), scope, "import", move |scope| async move {
            archive::import(&service, &scope, archive, request, &progress).await
        })
        .await
    }

    async fn export(&self, scope: &Scope, request: Export) -> Result<BoxStream<'static, Result<Bytes>>> {
        archive::export(&self.0, scope, request).await
    }

    async fn view(&self, scope: &Scope, image: &Image, platform: &Platform) -> Result<ImageView> {
        inspect::view(&*self.0.content, scope, &target(image)?, platform, &image.name).await
    }
}
