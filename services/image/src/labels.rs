//! The labels that clients and the collector rely on: references to children, sources, diff IDs.

use crate::manifest::{Document, OciDescriptor};
use crated_core::{ContentStore, Mask};
use crated_types::descriptor::media;
use crated_types::label::{DISTRIBUTION_SOURCE, GC_REF_CONTENT, LABEL_MAX};
use crated_types::{Digest, Labels, Reference, Result, Scope};
use std::collections::BTreeMap;

/// `gc.ref.content.*` of a document: `config`, `l.<n>`, `m.<n>`, or a bare number for what is none of these.
pub(crate) fn children(document: &Document) -> Labels {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut labels = Labels::new();
    for child in document.children() {
        let part = part(&child, document);
        let count = counts.entry(part).or_default();
        let key = if part == "config" && *count == 0 {
            format!("{GC_REF_CONTENT}.config")
        } else {
            format!("{GC_REF_CONTENT}.{part}{count}")
        };
        *count += 1;
        labels.insert(key, child.digest.to_string());
    }
    labels
}

fn part(child: &OciDescriptor, document: &Document) -> &'static str {
    let kind = child.media_type.as_str();
    if media::is_index(kind) || media::is_manifest(kind) {
        "m."
    } else if media::is_config(kind) {
        "config"
    } else if media::is_layer(kind) {
        "l."
    } else {
        match document {
            // An artifact's own types still are a configuration and layers.
            Document::Manifest(manifest) if manifest.config.digest == child.digest => "config",
            _ => "",
        }
    }
}

/// `containerd.io/distribution.source.<host>` with the repository of `reference` added to what `old` has.
pub(crate) fn source(reference: &Reference, old: &Labels) -> (String, String) {
    let key = format!("{DISTRIBUTION_SOURCE}{}", reference.domain());
    let mut paths: Vec<&str> = old.get(&key).map(|value| value.split(',').collect()).unwrap_or_default();
    paths.retain(|path| !path.is_empty());
    if !paths.contains(&reference.path()) {
        paths.push(reference.path());
        paths.sort_unstable();
    }
    let mut value = paths.join(",");
    if key.len() + value.len() > LABEL_MAX {
        value = reference.path().to_owned();
    }
    (key, value)
}

/// Adds `labels` to a blob where it does not have them.
pub(crate) async fn add(content: &dyn ContentStore, scope: &Scope, digest: &Digest, labels: Labels) -> Result<()> {
    let blob = content.info(scope, digest).await?;
    let news: Labels = labels.into_iter().filter(|(key, value)| blob.labels.get(key) != Some(value)).collect();
    if news.is_empty() {
        return Ok(());
    }
    let mask = Mask::Paths(news.keys().map(|key| format!("labels.{key}")).collect());
    content.update(scope, digest, &news, &mask).await.map(drop)
}

/// Adds the source of a blob that was there already.
pub(crate) async fn add_source(
    content: &dyn ContentStore,
    scope: &Scope,
    digest: &Digest,
    reference: &Reference,
) -> Result<()> {
    let blob = content.info(scope, digest).await?;
    let (key, value) = source(reference, &blob.labels);
    if blob.labels.get(&key) == Some(&value) {
        return Ok(());
    }
    let mask = Mask::Paths(vec![format!("labels.{key}")]);
    content.update(scope, digest, &Labels::from([(key, value)]), &mask).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    #[test]
    fn children_are_named_as_clients_name_them() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let entry =
            |kind: &str, letter: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":1}}"#, digest(letter));
        let text = format!(
            r#"{{"config":{},"layers":[{},{}]}}"#,
            entry(media::OCI_CONFIG, "a"),
            entry(media::OCI_LAYER, "b"),
            entry(media::DOCKER_LAYER_GZIP, "c"),
        );
        let labels = children(&manifest::parse(media::OCI_MANIFEST, text.as_bytes()).unwrap());
        let expected = [("config", "a"), ("l.0", "b"), ("l.1", "c")];
        for (key, letter) in expected {
            assert_eq!(labels[&format!("containerd.io/gc.ref.content.{key}")], digest(letter));
        }
        assert_eq!(labels.len(), 3);
        let text =
            format!(r#"{{"manifests":[{},{}]}}"#, entry(media::OCI_MANIFEST, "a"), entry(media::OCI_MANIFEST, "b"));
        let labels = children(&manifest::parse(media::OCI_INDEX, text.as_bytes()).unwrap());
        assert_eq!(labels["containerd.io/gc.ref.content.m.1"], digest("b"));
    }

    #[test]
    fn sources_are_a_sorted_list() {
        let reference = Reference::parse("quay.io/b/c").unwrap();
        let (key, value) = source(&reference, &Labels::new());
        assert_eq!((key.as_str(), value.as_str()), ("containerd.io/distribution.source.quay.io", "b/c"));
        let (_, value) = source(&reference, &Labels::from([(key.clone(), "a/a,z/z".into())]));
        assert_eq!(value, "a/a,b/c,z/z");
        let (_, value) = source(&reference, &Labels::from([(key, "x".repeat(4090))]));
        assert_eq!(value, "b/c");
    }
}
