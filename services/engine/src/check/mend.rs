//! What a check does about damage: fetched again, unpacked again, put right, or moved aside.

use crated_core::check::{DamagedSnapshot, Kept, Reading, Referrer, Verdict};
use crated_core::record::{BLOBS, Image};
use crated_core::{Op, SnapshotKind};
use crated_types::filter::Filters;
use crated_types::{Error, Fault, Result};
use std::sync::Arc;

use super::{Done, Run};

/// What a person can do about an error.
pub(super) fn remedy(error: &Error) -> String {
    error.remedy().unwrap_or("see the daemon's log").to_owned()
}

impl Run {
    /// Damaged bytes go into the quarantine, then good ones are fetched.
    pub(super) async fn mend_blob(&self, blob: &Kept, used_by: &[String]) -> Done {
        let aside = match self.deps().content.quarantine(&blob.digest).await {
            Ok(aside) => aside,
            Err(error) => return Done::Left(format!("not moved aside: {error}"), remedy(&error)),
        };
        match self.fetch_again(blob).await {
            Ok(source) => Done::Mended(format!("fetched again from {source}")),
            Err(error) => {
                let moved = aside.map(|path| format!("moved to {}; ", path.display())).unwrap_or_default();
                let image = used_by.iter().find_map(|user| user.strip_prefix("image "));
                let again = image.map(|name| format!("pull or load {name} again"));
                Done::Left(format!("{moved}not fetched again: {error}"), again.unwrap_or_else(|| remedy(&error)))
            }
        }
    }

    /// Asks the sources that the labels of any namespace name.
    async fn fetch_again(&self, blob: &Kept) -> Result<String> {
        let mut answer = Err(Error::new(Fault::NotFound, "no namespace has it any more"));
        for namespace in self.namespaces().await? {
            let key = BLOBS.key(namespace.as_str(), blob.digest.as_str());
            let Some((_, record)) = BLOBS.get(&*self.deps().metadata, &key).await? else { continue };
            let kept = Kept { namespace: namespace.clone(), labels: record.labels, ..blob.clone() };
            answer = self.deps().mender.refetch(&self.scope(&namespace), &kept).await;
            if answer.is_ok() {
                break;
            }
        }
        let source = answer?;
        let whole: Reading = Arc::new(|_| true);
        if self.deps().content.verify(blob, whole).await? != Verdict::Whole {
            return Err(Error::new(
                Fault::Corrupt,
                format!("what came from {source} did not arrive whole on the disk"),
            )
            .remedy_is("check the disk and its file system"));
        }
        self.deps().content.release(&blob.digest).await?;
        Ok(source)
    }

    /// A layer's files are made again from an image that has it; a container's own files are lost.
    pub(super) async fn mend_snapshot(
        &self,
        damaged: &DamagedSnapshot,
        users: &[Referrer],
        used_by: &[String],
    ) -> Done {
        let container = used_by.iter().find(|user| user.starts_with("container "));
        if damaged.kind != Some(SnapshotKind::Committed) {
            let remedy = match container {
                Some(container) => format!("its files are lost: remove {container} and make it anew"),
                None => "its files are lost: remove the snapshot".to_owned(),
            };
            return Done::Left(String::new(), remedy);
        }
        match self.unpack_again(damaged, users).await {
            Ok(Some(image)) => {
                let restart =
                    container.map_or(String::new(), |_| "; containers that run see it after a restart".into());
                Done::Mended(format!("unpacked again from {image}{restart}"))
            }
            Ok(None) => Done::Left(
                "no image here has this layer".to_owned(),
                "pull or load the image that it came from, then run the check again".to_owned(),
            ),
            Err(error) => Done::Left(format!("not unpacked again: {error}"), remedy(&error)),
        }
    }

    async fn unpack_again(&self, damaged: &DamagedSnapshot, users: &[Referrer]) -> Result<Option<String>> {
        let scope = self.scope(&damaged.namespace);
        let is_user = |image: &Image| users.contains(&Referrer::Image(image.name.clone()));
        let mut images = self.deps().images.list(&scope, &Filters::default()).await?;
        images.sort_by_key(|image| !is_user(image));
        let mut failure = None;
        for image in images {
            match self.deps().mender.unpack_again(&scope, &image, &damaged.snapshotter, &damaged.name).await {
                Ok(true) => return Ok(Some(image.name)),
                Ok(false) => {}
                Err(error) if is_user(&image) => failure = Some(error),
                Err(error) => tracing::debug!(image = image.name, %error, "an image is no source of a layer"),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// One commit that holds only where nothing has changed since.
    pub(super) async fn mend_record(&self, repair: Vec<Op>) -> Done {
        match self.deps().metadata.commit(repair).await {
            Ok(_) => Done::Mended("put right".into()),
            Err(error) if error.fault() == Fault::Conflict => Done::Mended("changed meanwhile".into()),
            Err(error) => Done::Left(format!("not put right: {error}"), remedy(&error)),
        }
    }
}
