//! Layers into snapshots, under their chain IDs.
//!
//! ```text
//! stat(chain)? ── there ─▶ next layer
//!   └ prepare(extract key, parent chain) ─▶ apply ─▶ blob verified? diff ID as the configuration says? ─▶ commit(chain)
//!                                             └──────────── any failure ─▶ remove(extract key)
//! ```
//! Each step can be repeated: what is there stays, an extract snapshot that a crash left is removed before its layer is redone.

use crate::fetch::Feed;
use crate::follow::Stoppable;
use crate::labels;
use crate::layer::{self, Applied, ApplyOptions, Compression};
use crate::manifest::{self, ImageConfig, Manifest, OciDescriptor, ingest_prefix};
use crate::progress::Progress;
use crate::service::Inner;
use crated_core::{Resource, ResourceKind, Snapshotter};
use crated_types::filter::Filter;
use crated_types::label::{GC_REF_SNAPSHOT, SNAPSHOT_REF, UNCOMPRESSED};
use crated_types::{Digest, Error, Fault, Kind, Labels, Mount, Result, Scope, SnapshotKey};
use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What tells our extract keys from those of clients, so that we may remove what we left.
const MARK: &str = "-crated";
/// The diff ID of a layer, on its snapshot.
const DIFF_ID: &str = "containerd.io/snapshot/diff-id";

/// Where the unpacker gets one layer.
#[derive(Debug)]
pub(crate) enum Source {
    /// In the content store.
    Stored,
    /// From a download: where to read it, and later that it is whole and verified.
    Coming { feed: oneshot::Receiver<Feed>, verified: oneshot::Receiver<()> },
}

/// The unpacking half of one pull or import.
pub(crate) struct Unpacker<'a> {
    pub(crate) service: &'a Inner,
    pub(crate) scope: &'a Scope,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) progress: Progress,
    pub(crate) stop: CancellationToken,
}

/// One layer's place in its chain.
struct Step<'a> {
    layer: &'a OciDescriptor,
    diff_id: &'a Digest,
    name: SnapshotKey,
    parent: Option<SnapshotKey>,
}

impl Unpacker<'_> {
    /// Unpacks every layer that has no snapshot yet; answers the name of the uppermost.
    pub(crate) async fn run(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        mut sources: Vec<Source>,
    ) -> Result<Option<SnapshotKey>> {
        for layer in &manifest.layers {
            Compression::of_media_type(&layer.media_type).map_err(|error| error.on(Kind::Layer, &layer.digest))?;
        }
        let chain = manifest::chain_ids(&config.rootfs.diff_ids);
        let names = chain.iter().map(|id| SnapshotKey::new(id.as_str())).collect::<Result<Vec<_>>>()?;
        self.sweep(&names).await?;
        for (index, layer) in manifest.layers.iter().enumerate() {
            let step = Step {
                layer,
                diff_id: &config.rootfs.diff_ids[index],
                name: names[index].clone(),
                parent: index.checked_sub(1).map(|below| names[below].clone()),
            };
            let source =
                sources.get_mut(index).map_or(Source::Stored, |source| std::mem::replace(source, Source::Stored));
            self.layer(&step, source).await.map_err(|error| error.at("unpack layer"))?;
        }
        let Some(last) = names.last() else { return Ok(None) };
        let key = format!("{GC_REF_SNAPSHOT}{}", self.snapshotter.name());
        let labels = Labels::from([(key, last.to_string())]);
        crated_core::fail::point("image.unpack.label")?;
        labels::add(&*self.service.content, self.scope, &manifest.config.digest, labels).await?;
        Ok(Some(last.clone()))
    }

    /// Removes extract snapshots of this chain that an earlier life of the daemon left.
    async fn sweep(&self, names: &[SnapshotKey]) -> Result<()> {
        let wanted = |chain: &str| names.iter().any(|name| name.as_str() == chain);
        sweep(self.service, self.scope, &*self.snapshotter, wanted).await.map(drop)
    }

    async fn layer(&self, step: &Step<'_>, source: Source) -> Result<()> {
        let id = format!("{}-{}", ingest_prefix(&step.layer.media_type), step.layer.digest);
        let stored = matches!(source, Source::Stored);
        if !self.there(step).await? {
            let key = format!("{}\0{}\0{}", self.scope.namespace, self.snapshotter.name(), step.name);
            let lock = self.service.chains.get(&key);
            let _one = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Error::new(Fault::Cancelled, "nobody waits for it any more")),
                guard = lock.lock() => guard,
            };
            if !self.there(step).await? {
                self.extract(step, source, &id).await?;
                self.progress.bytes(&id, "unpacked", step.layer.size, step.layer.size);
                return Ok(());
            }
        }
        if stored {
            self.progress.bytes(&id, "exists", step.layer.size, step.layer.size);
        }
        Ok(())
    }

    /// Whether the snapshot is there; then the lease holds it.
    async fn there(&self, step: &Step<'_>) -> Result<bool> {
        if let Some(lease) = &self.scope.lease {
            // First held, then looked for: the collector cannot come in between.
            let kind = ResourceKind::Snapshot(self.snapshotter.name().to_owned());
            let resource = Resource { kind, id: step.name.to_string() };
            self.service.leases.add(self.scope, lease, resource).await?;
        }
        match self.snapshotter.stat(self.scope, &step.name).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn extract(&self, step: &Step<'_>, source: Source, id: &str) -> Result<()> {
        let key = SnapshotKey::new(&format!("extract-{}{MARK}{:04x} {}", nanos(), random() & 0xffff, step.name))?;
        let _extracting = self.service.extracting.enter(key.as_str());
        let labels = Labels::from([
            (SNAPSHOT_REF.to_owned(), step.name.to_string()),
            (DIFF_ID.to_owned(), step.diff_id.to_string()),
        ]);
        crated_core::fail::point("image.unpack.prepare")?;
        let mounts = match self.snapshotter.prepare(self.scope, &key, step.parent.as_ref(), labels).await {
            Ok(mounts) => mounts,
            // A client was faster; the name stands for the same content.
            Err(error) if error.is_already_exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        let done = async {
            crated_core::fail::point("image.unpack.apply")?;
            self.fill(step, source, mounts, id).await?;
            crated_core::fail::point("image.unpack.commit")?;
            let labels = Labels::from([(SNAPSHOT_REF.to_owned(), step.name.to_string())]);
            self.snapshotter.commit(self.scope, &step.name, &key, None, labels).await
        };
        match done.await {
            Ok(()) => Ok(()),
            Err(error) => {
                crated_core::fail::moment("image.unpack.undo");
                remove(self.scope, &*self.snapshotter, &key).await;
                if error.is_already_exists() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Makes the files of the layer at `index` again, for its snapshot that has lost them; those below must be whole.
    pub(crate) async fn renew(&self, manifest: &Manifest, config: &ImageConfig, index: usize) -> Result<()> {
        let chain = manifest::chain_ids(&config.rootfs.diff_ids);
        let name = |index: usize| SnapshotKey::new(chain[index].as_str());
        let step = Step {
            layer: &manifest.layers[index],
            diff_id: &config.rootfs.diff_ids[index],
            name: name(index)?,
            parent: index.checked_sub(1).map(name).transpose()?,
        };
        let key = SnapshotKey::new(&format!("extract-{}{MARK}{:04x} {}", nanos(), random() & 0xffff, step.name))?;
        let _extracting = self.service.extracting.enter(key.as_str());
        // without the label of its target: that exists
        let labels = Labels::from([(DIFF_ID.to_owned(), step.diff_id.to_string())]);
        let mounts = self.snapshotter.prepare(self.scope, &key, step.parent.as_ref(), labels).await?;
        let done = async {
            self.fill(&step, Source::Stored, mounts, step.name.as_str()).await?;
            self.snapshotter.renew(self.scope, &step.name, &key).await
        };
        let done = done.await;
        if done.is_err() {
            remove(self.scope, &*self.snapshotter, &key).await;
        }
        done
    }

    /// Applies the layer and makes sure that it is what the configuration says.
    async fn fill(&self, step: &Step<'_>, source: Source, mounts: Vec<Mount>, id: &str) -> Result<()> {
        let early = |_| Error::new(Fault::Cancelled, "the download of this layer ended early");
        let (feed, verified) = match source {
            Source::Stored => (Feed::Stored, None),
            Source::Coming { feed, verified } => (feed.await.map_err(early)?, Some(verified)),
        };
        let applied = match feed {
            Feed::Arriving(follower) => self.apply(step, follower, mounts, None).await,
            Feed::Stored => {
                let file = self.service.content.open(self.scope, &step.layer.digest).await?.file()?;
                self.apply(step, file, mounts, Some(id.to_owned())).await
            }
        };
        // Bytes that are not those of the digest are no fault of the layer: the download says so first.
        if let Some(verified) = verified {
            verified.await.map_err(early)?;
        }
        let applied = applied?;
        let expected = step.diff_id;
        let matches = match expected.algorithm() {
            crated_types::digest::Algorithm::Sha256 => applied.diff_id == *expected,
            crated_types::digest::Algorithm::Sha512 => false,
        };
        if !matches {
            return Err(Error::new(
                Fault::DigestMismatch,
                format!("its uncompressed bytes hash to {}, the configuration says {expected}", applied.diff_id),
            )
            .on(Kind::Layer, &step.layer.digest)
            .remedy_is("the image is broken: tell who pushed it"));
        }
        Ok(())
    }

    async fn apply(
        &self,
        step: &Step<'_>,
        reader: impl Read + Send + 'static,
        mounts: Vec<Mount>,
        id: Option<String>,
    ) -> Result<Applied> {
        let options = ApplyOptions { sync: self.service.options.sync, ..ApplyOptions::default() };
        let reader = Stoppable { reader, stop: self.stop.clone() };
        let reader =
            Counted { reader, read: 0, total: step.layer.size, progress: id.map(|id| (self.progress.clone(), id)) };
        let digest = step.layer.digest.clone();
        crate::blocking(move || layer::apply_to_mounts(reader, &mounts, &options))
            .await
            .map_err(|error| if error.object().is_some() { error } else { error.on(Kind::Layer, digest) })
    }

    /// The diff IDs, on those layers that are in the content store.
    pub(crate) async fn label(&self, manifest: &Manifest, config: &ImageConfig) -> Result<()> {
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let labels = Labels::from([(UNCOMPRESSED.to_owned(), diff_id.to_string())]);
            match labels::add(&*self.service.content, self.scope, &layer.digest, labels).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Removes our extract snapshots of the chains that are `wanted`, unless this process fills them; answers how many.
pub(crate) async fn sweep(
    service: &Inner,
    scope: &Scope,
    snapshotter: &dyn Snapshotter,
    wanted: impl Fn(&str) -> bool,
) -> Result<usize> {
    let filters = Filter::parse_all(&["kind==active".to_owned()])?;
    let mut removed = 0;
    for snapshot in snapshotter.list(scope, &filters).await? {
        let Some((first, chain)) = snapshot.name.split_once(' ') else { continue };
        let ours = first.starts_with("extract-") && first.contains(MARK);
        if !ours || !wanted(chain) || service.extracting.has(&snapshot.name) {
            continue;
        }
        tracing::info!(snapshot = snapshot.name, "removing an extract snapshot that was left behind");
        remove(scope, snapshotter, &SnapshotKey::new(&snapshot.name)?).await;
        removed += 1;
    }
    Ok(removed)
}

async fn remove(scope: &Scope, snapshotter: &dyn Snapshotter, key: &SnapshotKey) {
    match snapshotter.remove(scope, key).await {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(snapshot = %key, %error, "an extract snapshot stays until its lease ends"),
    }
}

/// Tells how much of a stored layer was read.
struct Counted<R> {
    reader: R,
    read: u64,
    total: u64,
    progress: Option<(Progress, String)>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.read += read as u64;
        if let Some((progress, id)) = &self.progress {
            progress.bytes(id, "extracting", self.read, self.total);
        }
        Ok(read)
    }
}

/// Keys of extracts, or leases, that are in use by this process.
#[derive(Debug, Default)]
pub(crate) struct InUse(Arc<Mutex<std::collections::HashSet<String>>>);

impl InUse {
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    pub(crate) fn enter(&self, key: &str) -> InUseGuard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        InUseGuard(self.0.clone(), key.to_owned())
    }
}

pub(crate) struct InUseGuard(Arc<Mutex<std::collections::HashSet<String>>>, String);

impl Drop for InUseGuard {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// One lock a name; a lock that nobody holds is forgotten.
#[derive(Debug, Default)]
pub(crate) struct NamedLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl NamedLocks {
    pub(crate) fn get(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = map.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        map.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

fn nanos() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos())
}

/// Not secret, only different each time.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
