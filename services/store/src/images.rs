//! Image records: names for content. Each is a root of the collector, unless it has expired.

use async_trait::async_trait;
use crated_api::containerd::services::images::v1 as events;
use crated_core::mask::set_label;
use crated_core::record::{Event, IMAGES, Image};
use crated_core::{ImageStore, Mask, MetadataStore, Op, Resource, ResourceKind, time};
use crated_types::filter::Filters;
use crated_types::{Digest, Error, Kind, Result, Scope, label};
use std::sync::Arc;

use crate::change::{Frame, change};
use crate::fields::Fields;
use crate::gc::Requests;

/// Longest name, in bytes; the same as that of other free-text keys.
const NAME_MAX: usize = crated_types::name::KEY_MAX;

/// The image records of the daemon.
#[derive(Debug)]
pub struct Images {
    metadata: Arc<dyn MetadataStore>,
    requests: Requests,
}

impl Images {
    /// Images in `metadata`; deletions ask `requests` for a collection.
    #[must_use]
    pub fn new(metadata: Arc<dyn MetadataStore>, requests: Requests) -> Arc<Self> {
        Arc::new(Self { metadata, requests })
    }
}

fn missing(scope: &Scope, name: &str) -> Error {
    Error::not_found(Kind::Image, name).in_namespace(&scope.namespace)
}

fn resource(name: &str) -> Resource {
    Resource { kind: ResourceKind::Image, id: name.into() }
}

/// An image that can expire joins the caller's lease, which then keeps it.
fn frame(image: &Image) -> Frame {
    let joins = if image.labels.contains_key(label::GC_EXPIRE) { vec![resource(&image.name)] } else { Vec::new() };
    Frame { joins, makes_namespace: true, ..Frame::default() }
}

#[async_trait]
impl ImageStore for Images {
    async fn get(&self, scope: &Scope, name: &str) -> Result<Image> {
        check_name(name)?;
        let found = IMAGES.get(&*self.metadata, &IMAGES.key(scope.namespace.as_str(), name)).await?;
        found.map(|(_, image)| image).ok_or_else(|| missing(scope, name))
    }

    async fn list(&self, scope: &Scope, filters: &Filters) -> Result<Vec<Image>> {
        if let Some(name) = filters.required("name") {
            let found = IMAGES.get(&*self.metadata, &IMAGES.key(scope.namespace.as_str(), name)).await?;
            return Ok(found
                .map(|(_, image)| image)
                .filter(|image| filters.matches(&Fields(image)))
                .into_iter()
                .collect());
        }
        let all = IMAGES.list(&*self.metadata, &IMAGES.prefix(scope.namespace.as_str())).await?;
        Ok(all.into_iter().map(|(_, _, image)| image).filter(|image| filters.matches(&Fields(image))).collect())
    }

    async fn create(&self, scope: &Scope, mut image: Image) -> Result<Image> {
        image.labels = label::stored(std::mem::take(&mut image.labels));
        check(&image)?;
        let now = time::now();
        image.created_at.get_or_insert(now);
        image.updated_at.get_or_insert(now);
        let event = events::ImageCreate { name: image.name.clone(), labels: image.labels.clone() };
        let name = "containerd.services.images.v1.ImageCreate";
        let event = Op::event(&Event::new(scope, "/images/create", name, &event));
        let key = IMAGES.key(scope.namespace.as_str(), &image.name);
        change(&*self.metadata, scope, &frame(&image), (IMAGES, key.clone()), |found| {
            if found.is_some() {
                return Err(Error::already_exists(Kind::Image, &image.name).in_namespace(&scope.namespace));
            }
            Ok((vec![IMAGES.put(key.clone(), &image), event.clone()], image.clone()))
        })
        .await
    }

    async fn update(&self, scope: &Scope, image: Image, mask: &Mask) -> Result<Image> {
        check_name(&image.name)?;
        let key = IMAGES.key(scope.namespace.as_str(), &image.name);
        let answer = change(&*self.metadata, scope, &frame(&image), (IMAGES, key.clone()), |found| {
            let mut stored = found.ok_or_else(|| missing(scope, &image.name))?;
            apply(&mut stored, &image, mask)?;
            check(&stored)?;
            stored.updated_at = Some(time::now());
            let event = events::ImageUpdate { name: stored.name.clone(), labels: stored.labels.clone() };
            let name = "containerd.services.images.v1.ImageUpdate";
            let event = Event::new(scope, "/images/update", name, &event);
            Ok((vec![IMAGES.put(key.clone(), &stored), Op::event(&event)], stored))
        })
        .await?;
        self.requests.mutated();
        Ok(answer)
    }

    async fn delete(&self, scope: &Scope, name: &str, target: Option<&Digest>, sync: bool) -> Result<()> {
        check_name(name)?;
        let key = IMAGES.key(scope.namespace.as_str(), name);
        let frame = Frame::leaving(resource(name));
        change(&*self.metadata, scope, &frame, (IMAGES, key.clone()), |found| {
            let stored = found.ok_or_else(|| missing(scope, name))?;
            if let Some(wanted) = target {
                let names = stored.target.as_ref().map(|target| target.digest.as_str());
                if names != Some(wanted.as_str()) {
                    return Err(missing(scope, name).caused_by(format!("it does not name {wanted}")));
                }
            }
            Ok((vec![Op::Delete(key.clone()), deleted(scope, name)], ()))
        })
        .await?;
        if sync {
            return self.requests.run_now().await;
        }
        self.requests.request();
        Ok(())
    }
}

/// The event of an image that is gone.
pub(crate) fn deleted(scope: &Scope, name: &str) -> Op {
    let event = events::ImageDelete { name: name.into() };
    Op::event(&Event::new(scope, "/images/delete", "containerd.services.images.v1.ImageDelete", &event))
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        let why = format!("must have 1 to {NAME_MAX} bytes and no NUL (it has {} bytes)", name.len());
        return Err(Error::invalid("image.name", why));
    }
    Ok(())
}

/// Checks a record as it is about to be stored.
fn check(image: &Image) -> Result<()> {
    check_name(&image.name)?;
    label::check(&image.labels)?;
    let target = image.target.as_ref().ok_or_else(|| Error::invalid("image.target", "must be set"))?;
    if target.media_type.is_empty() {
        return Err(Error::invalid("image.target.media_type", "must be set"));
    }
    target.digest.parse::<Digest>()?;
    if target.size <= 0 {
        return Err(Error::invalid("image.target.size", "must be greater than zero"));
    }
    Ok(())
}

fn apply(stored: &mut Image, request: &Image, mask: &Mask) -> Result<()> {
    let Mask::Paths(paths) = mask else {
        stored.labels = label::stored(request.labels.clone());
        stored.target = request.target.clone();
        return Ok(());
    };
    for path in paths {
        let annotations = request.target.as_ref().map(|target| target.annotations.clone()).unwrap_or_default();
        match path.as_str() {
            "labels" => stored.labels = label::stored(request.labels.clone()),
            "target" => stored.target = request.target.clone(),
            "annotations" => stored.target.get_or_insert_default().annotations = annotations,
            _ => {
                if let Some(key) = path.strip_prefix("labels.") {
                    set_label(&mut stored.labels, &request.labels, key);
                } else if let Some(key) = path.strip_prefix("annotations.") {
                    set_label(&mut stored.target.get_or_insert_default().annotations, &annotations, key);
                } else {
                    return Err(Mask::immutable("image", &stored.name, path));
                }
            }
        }
    }
    Ok(())
}
