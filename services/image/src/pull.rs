//! One pull: resolve, fetch, unpack, name. Every step can be repeated, and a repeated pull takes up what is there.
//!
//! ```text
//! resolve ─▶ index ─▶ manifest ─▶ configuration ─▶ layers, some at a time ──┐
//!                                      └─▶ unpack, layer by layer, as they arrive ─▶ image record ─▶ lease ends
//! ```

use crate::fetch::{Feed, Fetcher};
use crate::inspect;
use crate::lease;
use crate::manifest::{self, Document, ImageConfig, Manifest, OciDescriptor};
use crate::progress::Progress;
use crate::registry::{Access, Credentials};
use crate::service::Inner;
use crate::unpack::{Source, Unpacker};
use crated_core::Mask;
use crated_core::pull::{ProgressSink, Pull};
use crated_core::record::Image;
use crated_types::descriptor::media;
use crated_types::{Descriptor, Error, Fault, Kind, LeaseId, Result, Scope};
use futures::StreamExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Pulls, or joins the same pull that is running.
pub(crate) async fn joined(service: &Arc<Inner>, scope: &Scope, request: Pull, sink: ProgressSink) -> Result<Image> {
    if let Some(name) = &request.snapshotter {
        service.snapshotter(name)?;
    }
    let key = key(scope, &request);
    let (inner, scope) = (service.clone(), scope.clone());
    let id = lease_id(&key)?;
    service
        .joins
        .run(key, sink, &service.options.tracker, service.options.shutdown.child_token(), |progress, stop| async move {
            leased(&inner, &scope, id, request, progress, stop).await
        })
        .await
}

/// What makes two requests the same.
fn key(scope: &Scope, request: &Pull) -> String {
    let credentials = request.credentials.as_ref().map(|c| (&c.username, &c.secret, &c.identity_token));
    format!(
        "{} {} {} {:?} {} {credentials:?}",
        scope.namespace, request.reference, request.platform, request.snapshotter, request.plain_http
    )
}

/// The same pull finds its own lease again, and with it what an interrupted attempt fetched.
fn lease_id(key: &str) -> Result<LeaseId> {
    LeaseId::new(&format!("crated-pull-{}", &manifest::sha256(key.as_bytes()).hex()[..32]))
}

async fn leased(
    service: &Inner,
    scope: &Scope,
    id: LeaseId,
    request: Pull,
    progress: Progress,
    stop: CancellationToken,
) -> Result<Image> {
    if scope.lease.is_some() {
        return run(service, scope, &request, &progress, &stop).await;
    }
    // An earlier attempt that was told to stop may still be ending.
    let lock = service.chains.get(id.as_str());
    let _one = lock.lock().await;
    let _ours = service.leased.enter(id.as_str());
    lease::renew(service, scope, &id).await?;
    let under = scope.with_lease(id.clone());
    let answer = run(service, &under, &request, &progress, &stop).await;
    // What a later attempt can go on with is kept for a day.
    let resumable = matches!(
        answer.as_ref().err().map(Error::fault),
        Some(
            Fault::Unreachable
                | Fault::TimedOut
                | Fault::RateLimited
                | Fault::Cancelled
                | Fault::NotReady
                | Fault::Locked
        )
    );
    let empty = resumable && service.leases.resources(scope, &id).await.is_ok_and(|held| held.is_empty());
    if !resumable || empty {
        lease::end(&*service.leases, scope, &id).await;
    }
    answer
}

async fn run(
    service: &Inner,
    scope: &Scope,
    request: &Pull,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Image> {
    let reference = &request.reference;
    let access = Access {
        credentials: request.credentials.as_ref().and_then(credentials),
        plain_http: request.plain_http,
        ..Access::default()
    };
    progress.line("resolving", reference.to_string());
    let fetcher = Fetcher {
        content: service.content.clone(),
        repository: service.registry.repository(reference, access).await?,
        scope: scope.clone(),
        progress: progress.clone(),
        stop: stop.clone(),
    };
    crated_core::fail::point("image.pull.resolve")?;
    let target = match known(service, scope, request).await? {
        Some(target) => target,
        None => fetcher.stopping(fetcher.repository.resolve()).await?,
    };
    crated_core::fail::point("image.pull.choose")?;
    let manifest = choose(&fetcher, &target, request).await?;
    crated_core::fail::point("image.pull.fetch")?;
    fetch(service, &fetcher, &manifest, request).await?;
    crated_core::fail::point("image.pull.name")?;
    name(service, scope, request, &target).await
}

/// A reference by digest whose content is here needs no registry.
async fn known(service: &Inner, scope: &Scope, request: &Pull) -> Result<Option<Descriptor>> {
    let Some(digest) = request.reference.digest() else { return Ok(None) };
    match service.content.read_all(scope, digest, crate::registry::DOCUMENT_MAX).await {
        Ok(bytes) => Ok(manifest::detect("", &bytes).ok().map(|media_type| Descriptor {
            media_type,
            digest: digest.clone(),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        })),
        Err(error) if error.is_not_found() || matches!(error.fault(), Fault::Malformed | Fault::Corrupt) => Ok(None),
        Err(error) => Err(error),
    }
}

fn credentials(given: &crated_api::crated::engine::v1::Credentials) -> Option<Credentials> {
    if !given.identity_token.is_empty() {
        return Some(Credentials::Identity(given.identity_token.clone()));
    }
    (!given.username.is_empty())
        .then(|| Credentials::Basic { username: given.username.clone(), password: given.secret.clone() })
}

/// Follows indexes down to the manifest for the platform.
async fn choose(fetcher: &Fetcher, target: &Descriptor, request: &Pull) -> Result<Manifest> {
    let mut at = target.clone();
    for _ in 0..inspect::DEPTH_MAX {
        match fetcher.document(&at).await? {
            Document::Manifest(manifest) => return Ok(*manifest),
            Document::Index(index) => {
                let list = inspect::candidates(&index, &request.platform);
                let Some(first) = list.first() else {
                    return Err(inspect::no_platform(&index, &request.platform, &request.reference.to_string()));
                };
                at = first.into();
            }
        }
    }
    let what = format!("indexes are nested more than {} deep", inspect::DEPTH_MAX);
    Err(Error::new(Fault::Malformed, what).on(Kind::Image, &request.reference))
}

/// Fetches configuration and layers, and unpacks where asked.
async fn fetch(service: &Inner, fetcher: &Fetcher, manifest: &Manifest, request: &Pull) -> Result<()> {
    let bytes = fetcher.small(&manifest.config).await?;
    let is_image = media::is_config(&manifest.config.media_type);
    if request.snapshotter.is_some() && !is_image {
        let kind = &manifest.config.media_type;
        return Err(Error::new(
            Fault::Unsupported,
            format!("it is no container image (its configuration is {kind:?})"),
        )
        .on(Kind::Image, &request.reference)
        .remedy_is("pull it without unpacking"));
    }
    let config = if is_image {
        ImageConfig::parse(&bytes).map_err(|error| error.on(Kind::Content, &manifest.config.digest))?
    } else {
        ImageConfig::default()
    };
    inspect::check_layers(manifest, &config).map_err(|error| error.on(Kind::Image, &request.reference))?;
    if is_image && !request.platform.matches(&config.platform()) {
        let text = format!("the image is for {}, asked for was {}", config.platform(), request.platform);
        fetcher.progress.line("warning", text);
    }
    // Either half stops the other when it fails.
    let stop = fetcher.stop.child_token();
    let fetcher = Fetcher { stop: stop.clone(), ..fetcher.clone() };
    let mut feeds = Vec::new();
    let mut sources = Vec::new();
    for _ in &manifest.layers {
        let (feed_end, feed) = oneshot::channel();
        let (verified_end, verified) = oneshot::channel();
        feeds.push((feed_end, verified_end));
        sources.push(Source::Coming { feed, verified });
    }
    let fetching = layers(&fetcher, &manifest.layers, feeds, service.options.registry.max_concurrent_downloads);
    let Some(name) = &request.snapshotter else {
        drop(sources);
        return fetching.await;
    };
    let unpacker = Unpacker {
        service,
        scope: &fetcher.scope,
        snapshotter: service.snapshotter(name)?,
        progress: fetcher.progress.clone(),
        stop: stop.clone(),
    };
    let unpacking = async {
        let answer = unpacker.run(manifest, &config, sources).await;
        if answer.is_err() {
            stop.cancel();
        }
        answer.map(drop)
    };
    match tokio::join!(fetching, unpacking) {
        (Ok(()), Ok(())) => unpacker.label(manifest, &config).await,
        (Ok(()), Err(unpacked)) => Err(unpacked),
        // Whoever was only told to stop does not know why.
        (Err(fetched), Err(unpacked)) if fetched.fault() == Fault::Cancelled => Err(unpacked),
        (Err(fetched), _) => Err(fetched),
    }
}

/// Downloads layers, lowest first, `at_once` at a time; the first failure stops the others.
async fn layers(
    fetcher: &Fetcher,
    layers: &[OciDescriptor],
    feeds: Vec<(oneshot::Sender<Feed>, oneshot::Sender<()>)>,
    at_once: usize,
) -> Result<()> {
    for layer in layers {
        let id = format!("{}-{}", manifest::ingest_prefix(&layer.media_type), layer.digest);
        fetcher.progress.bytes(&id, "waiting", 0, layer.size);
    }
    // Boxed by a plain loop: as closures of a stream these futures could not be sent to another thread.
    let mut list: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
    for (layer, (feed, verified)) in layers.iter().zip(feeds) {
        list.push(Box::pin(async move {
            fetcher.blob(layer, Some(feed)).await?;
            let _ = verified.send(()); // who does not unpack does not listen
            Ok(())
        }));
    }
    let mut downloads = futures::stream::iter(list).buffered(at_once.max(1));
    let mut failure: Option<Error> = None;
    while let Some(answer) = downloads.next().await {
        if let Err(error) = answer {
            fetcher.stop.cancel();
            if failure.as_ref().is_none_or(|first| first.fault() == Fault::Cancelled) {
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Writes the image's record; labels that somebody gave the name stay.
async fn name(service: &Inner, scope: &Scope, request: &Pull, target: &Descriptor) -> Result<Image> {
    let image = Image { name: request.reference.to_string(), target: Some(target.into()), ..Image::default() };
    record(service, scope, image).await
}

/// Creates the record or moves its target.
pub(crate) async fn record(service: &Inner, scope: &Scope, image: Image) -> Result<Image> {
    match service.images.create(scope, image.clone()).await {
        Err(error) if error.is_already_exists() => {
            service.images.update(scope, image, &Mask::Paths(vec!["target".into()])).await
        }
        answer => answer,
    }
}
