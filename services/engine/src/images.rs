//! Images: what is there, what uses it, and the ways in and out, which the image service walks.

use bytes::Bytes;
use crated_api::crated::engine::v1::{
    Chunk, ImageSummary, ListImagesRequest, ListImagesResponse, LoadRequest, Progress, PullRequest, RemoveImageRequest,
    RemoveImageResponse, SaveRequest, TagImageRequest,
};
use crated_core::record::Image;
use crated_core::{Export, ImageView, Import, Pull};
use crated_types::filter::{Filter, Filters};
use crated_types::{Error, Fault, Kind, Reference, Result, Scope, SnapshotKey};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::{Engine, Stream};
use crate::names::short;
use crate::record::LIVES;
use crate::run::progress_to;

/// Shortest beginning of an image's id that is looked for.
const ID_MIN: usize = 4;
/// Most layers whose size is added up.
const LAYERS_MAX: usize = 512;

/// A container that was made from an image.
#[derive(Clone, Debug)]
struct User {
    id: String,
    /// Digest of the configuration, where the engine made the container.
    config: String,
    /// Name of the image's record.
    image: String,
    active: bool,
}

impl Engine {
    /// Pulls an image. Answers progress, then the image.
    ///
    /// # Cancel safety
    /// Dropped, the pull goes on.
    pub async fn pull(self: &Arc<Self>, scope: &Scope, request: PullRequest) -> Result<Stream<Progress>> {
        let reference = Reference::parse(&request.reference)?;
        let platform = self.platform_of(&request.platform)?;
        let snapshotter = self.snapshotter(&request.snapshotter)?.name().to_owned();
        let pull = Pull {
            reference,
            platform,
            credentials: request.credentials,
            plain_http: request.plain_http,
            snapshotter: (!request.no_unpack).then_some(snapshotter),
        };
        Ok(self.answering(scope, move |engine, scope, answers| async move {
            let (sink, pump) = progress_to(&engine, answers.clone(), |progress| progress);
            let pulled = engine.deps.puller.pull(&scope, pull, sink).await;
            let _ = pump.await; // progress comes before the image
            let last = engine.last_progress(&scope, &pulled?).await?;
            let _ = answers.send(Ok(last)).await; // nobody listens any more
            Ok(())
        }))
    }

    /// Reads an archive of images. Answers progress, then each image.
    ///
    /// # Cancel safety
    /// Dropped, the archive ends there, and the import with it.
    pub async fn load(self: &Arc<Self>, scope: &Scope, mut requests: Stream<LoadRequest>) -> Result<Stream<Progress>> {
        let Some(first) = requests.next().await else {
            return Err(Error::invalid("data", "the archive is empty"));
        };
        let first = first?;
        let snapshotter = self.snapshotter(&first.snapshotter)?.name().to_owned();
        let import = Import {
            platform: self.platform_of(&first.platform)?,
            snapshotter: (!first.no_unpack).then_some(snapshotter),
        };
        let rest = requests.map_ok(|request| request.data);
        let archive: Stream<Bytes> = futures::stream::iter([Ok(first.data)]).chain(rest).boxed();
        Ok(self.answering(scope, move |engine, scope, answers| async move {
            let (sink, pump) = progress_to(&engine, answers.clone(), |progress| progress);
            let images = engine.deps.puller.import(&scope, archive, import, sink).await;
            let _ = pump.await; // progress comes before the images
            for image in images? {
                let last = engine.last_progress(&scope, &image).await?;
                let _ = answers.send(Ok(last)).await; // nobody listens any more
            }
            Ok(())
        }))
    }

    /// Writes an archive of images.
    pub async fn save(self: &Arc<Self>, scope: &Scope, request: SaveRequest) -> Result<Stream<Chunk>> {
        if request.references.is_empty() {
            return Err(Error::invalid("references", "is empty: name an image"));
        }
        let mut names = Vec::new();
        for reference in &request.references {
            names.push(self.find_image(scope, reference).await?.name);
        }
        let platform = if request.all_platforms { None } else { Some(self.platform_of(&request.platform)?) };
        let archive = self.deps.puller.export(scope, Export { names, platform }).await?;
        Ok(archive.map_ok(|data| Chunk { data }).boxed())
    }

    async fn last_progress(&self, scope: &Scope, image: &Image) -> Result<Progress> {
        let users = self.users(scope).await?;
        let summary = self.summary(scope, vec![image.clone()], &users).await;
        Ok(Progress { action: "done".into(), message: image.name.clone(), image: Some(summary), ..Progress::default() })
    }

    /// Images that pass containerd's filters, one for each target, newest first.
    pub async fn list_images(
        self: &Arc<Self>,
        scope: &Scope,
        request: ListImagesRequest,
    ) -> Result<ListImagesResponse> {
        let filters = Filter::parse_all(&request.filters)?;
        let mut targets: BTreeMap<String, Vec<Image>> = BTreeMap::new();
        for image in self.deps.images.list(scope, &filters).await? {
            let digest = image.target.as_ref().map(|target| target.digest.clone()).unwrap_or_default();
            targets.entry(digest).or_default().push(image);
        }
        let users = self.users(scope).await?;
        let mut images = Vec::new();
        for same in targets.into_values() {
            images.push(self.summary(scope, same, &users).await);
        }
        let age = |image: &ImageSummary| image.created_at.map_or((0, 0), |time| (time.seconds, time.nanos));
        images.sort_by(|one, two| age(two).cmp(&age(one)).then_with(|| one.names.cmp(&two.names)));
        Ok(ListImagesResponse { images })
    }

    /// Gives an image a further name; a name that exists then means this image.
    pub async fn tag_image(self: &Arc<Self>, scope: &Scope, request: TagImageRequest) -> Result<()> {
        let source = self.find_image(scope, &request.source).await?;
        let target = Reference::parse(&request.target)?;
        if target.digest().is_some() {
            return Err(
                Error::invalid("target", "a name with a digest cannot be given").remedy_is("leave out @sha256:…")
            );
        }
        let image = Image { name: target.to_string(), created_at: None, updated_at: None, ..source };
        self.deps.images.put(scope, image).await.map(drop)
    }

    /// Takes a name off an image; the last name takes the image with it, unless containers are made from it.
    ///
    /// # Errors
    /// [`Fault::InUse`] where a container is made from it (`force` helps where none of them runs), or where an id has several names
    /// and `force` is not given.
    pub async fn remove_image(
        self: &Arc<Self>,
        scope: &Scope,
        request: RemoveImageRequest,
    ) -> Result<RemoveImageResponse> {
        let image = self.find_image(scope, &request.reference).await?;
        let digest = image.target.as_ref().map(|target| target.digest.clone()).unwrap_or_default();
        let names = self.names_of(scope, &digest).await?;
        let by_name = is_name_of(&image, &request.reference);
        let removed = if by_name { vec![image.name.clone()] } else { names.clone() };
        if removed.len() > 1 && !request.force {
            return Err(Error::new(Fault::InUse, format!("it has {} names: {}", names.len(), names.join(", ")))
                .on(Kind::Image, &request.reference)
                .remedy_is("remove the names one by one, or use force"));
        }
        let id =
            self.deps.puller.view(scope, &image, &self.platform).await.ok().map(|view| view.config.digest.to_string());
        let last = removed.len() == names.len();
        if last {
            self.check_unused(scope, &request, &names, id.as_deref()).await?;
        }
        let mut answer = RemoveImageResponse::default();
        for (index, name) in removed.iter().enumerate() {
            // Only the last wait is worth it: one collection finds everything.
            let sync = last && !request.no_prune && index + 1 == removed.len();
            match self.deps.images.delete(scope, name, None, sync).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => answer.untagged.push(name.clone()),
            }
        }
        if last {
            answer.deleted.push(id.unwrap_or(digest));
        }
        Ok(answer)
    }

    async fn check_unused(
        &self,
        scope: &Scope,
        request: &RemoveImageRequest,
        names: &[String],
        id: Option<&str>,
    ) -> Result<()> {
        let users: Vec<User> = self
            .users(scope)
            .await?
            .into_iter()
            .filter(|user| names.contains(&user.image) || id.is_some_and(|id| user.config == id))
            .collect();
        let active = users.iter().find(|user| user.active);
        let refused = match (active, users.first(), request.force) {
            (Some(user), _, _) => (user, "is running; stop and remove it before"),
            (None, Some(user), false) => (user, "is made from it; remove it before, or use force"),
            (None, _, _) => return Ok(()),
        };
        Err(Error::new(Fault::InUse, format!("container {} {}", short(&refused.0.id), refused.1))
            .on(Kind::Image, &request.reference))
    }

    async fn users(&self, scope: &Scope) -> Result<Vec<User>> {
        let mut lives = BTreeMap::new();
        for (key, _, life) in LIVES.list(&*self.deps.metadata, &LIVES.prefix(scope.namespace.as_str())).await? {
            if let Some((_, id)) = LIVES.parts(&key) {
                lives.insert(id.to_owned(), life);
            }
        }
        let mut users = Vec::new();
        for container in self.deps.containers.list(scope, &Filters::default()).await? {
            let life = lives.get(&container.id);
            users.push(User {
                config: life.map(|life| life.image.clone()).unwrap_or_default(),
                active: life.is_some_and(|life| life.has_task() || life.restarting),
                id: container.id,
                image: container.image,
            });
        }
        Ok(users)
    }

    /// What people see of images with one target. An image whose content is missing is shown with what its record says.
    async fn summary(&self, scope: &Scope, images: Vec<Image>, users: &[User]) -> ImageSummary {
        let Some(first) = images.first().cloned() else { return ImageSummary::default() };
        let names: Vec<String> = images.into_iter().map(|image| image.name).collect();
        let target = first.target.clone().unwrap_or_default();
        let view = self.deps.puller.view(scope, &first, &self.platform).await.ok();
        let id = view.as_ref().map(|view| view.config.digest.to_string()).unwrap_or_default();
        let containers =
            users.iter().filter(|user| names.contains(&user.image) || (!id.is_empty() && user.config == id)).count();
        let unpacked = match &view {
            Some(view) => self.unpacked_size(scope, view).await,
            None => 0,
        };
        ImageSummary {
            created_at: view.as_ref().and_then(built_at).or(first.created_at),
            size: view.as_ref().map_or(target.size, |view| i64::try_from(view.size).unwrap_or(i64::MAX)),
            platform: view.as_ref().map(|view| view.platform.to_string()).unwrap_or_default(),
            id,
            names,
            digest: target.digest,
            labels: first.labels,
            containers: i64::try_from(containers).unwrap_or(i64::MAX),
            unpacked_size: i64::try_from(unpacked).unwrap_or(i64::MAX),
        }
    }

    /// Bytes of an image's snapshots in the default snapshotter; 0 where it is not unpacked there.
    async fn unpacked_size(&self, scope: &Scope, view: &ImageView) -> u64 {
        let Ok(snapshotter) = self.snapshotter("") else { return 0 };
        let mut total = 0_u64;
        let mut next = view.chain_id.clone();
        for _ in 0..LAYERS_MAX {
            let Some(key) = next else { break };
            let Ok(snapshot) = snapshotter.stat(scope, &key).await else { return 0 };
            total = total.saturating_add(u64::try_from(snapshot.size).unwrap_or(0));
            next = SnapshotKey::new(&snapshot.parent).ok();
        }
        total
    }

    /// Every name of a target.
    pub(crate) async fn names_of(&self, scope: &Scope, digest: &str) -> Result<Vec<String>> {
        let filter = Filter::parse_all(&[format!("target.digest==\"{digest}\"")])?;
        let images = self.deps.images.list(scope, &filter).await?;
        let same = |image: &Image| image.target.as_ref().is_some_and(|target| target.digest == digest);
        Ok(images.into_iter().filter(same).map(|image| image.name).collect())
    }

    /// The image that `text` means: a record's name, a reference as docker writes it, or the beginning of an id or digest.
    pub(crate) async fn find_image(&self, scope: &Scope, text: &str) -> Result<Image> {
        if text.is_empty() {
            return Err(Error::invalid("image", "is empty: give a name or an id"));
        }
        let reference = Reference::parse(text).ok();
        let mut names = vec![text.to_owned()];
        names.extend(reference.as_ref().map(ToString::to_string));
        for name in names {
            match self.deps.images.get(scope, &name).await {
                Err(error) if error.is_not_found() || error.fault() == Fault::Invalid => {}
                answer => return answer,
            }
        }
        let pinned = reference.as_ref().and_then(|reference| Some((reference.name(), reference.digest()?.to_string())));
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = digits.len() >= ID_MIN && digits.len() <= 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if pinned.is_none() && !is_id {
            return Err(no_image(scope, text));
        }
        let mut found: Option<(String, Image)> = None;
        for image in self.deps.images.list(scope, &Filters::default()).await? {
            let target = image.target.as_ref().map(|target| target.digest.clone()).unwrap_or_default();
            let matching = match &pinned {
                Some((name, digest)) => {
                    *digest == target && Reference::parse(&image.name).is_ok_and(|reference| reference.name() == *name)
                }
                None => self.has_id(scope, &image, &target, digits).await,
            };
            if !matching {
                continue;
            }
            match &found {
                Some((other, _)) if *other != target => {
                    return Err(Error::invalid("image", format_args!("{text:?} begins several ids"))
                        .remedy_is("give more digits"));
                }
                Some(_) => {}
                None => found = Some((target, image)),
            }
        }
        found.map(|(_, image)| image).ok_or_else(|| no_image(scope, text))
    }

    async fn has_id(&self, scope: &Scope, image: &Image, target: &str, digits: &str) -> bool {
        let begins = |digest: &str| digest.strip_prefix("sha256:").is_some_and(|hex| hex.starts_with(digits));
        if begins(target) {
            return true;
        }
        self.deps.puller.view(scope, image, &self.platform).await.is_ok_and(|view| begins(view.config.digest.as_str()))
    }
}

fn no_image(scope: &Scope, text: &str) -> Error {
    Error::not_found(Kind::Image, text)
        .in_namespace(&scope.namespace)
        .remedy_is(format!("pull it: `cratectl pull {text}`, or list what is there: `cratectl images`"))
}

fn is_name_of(image: &Image, text: &str) -> bool {
    image.name == text || Reference::parse(text).is_ok_and(|reference| reference.to_string() == image.name)
}

/// When the image was built, as its configuration says.
fn built_at(view: &ImageView) -> Option<prost_types::Timestamp> {
    let settings = crated_spec::Image::parse(&view.config_bytes).ok()?;
    let time: jiff::Timestamp = settings.created.parse().ok()?;
    Some(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}
