//! The graph of records: a node is a record's key, an edge says "keeps alive" (containerd's rules; labels `containerd.io/gc.*`).

use bytes::Bytes;
use crated_core::record::{BLOBS, CONTAINERS, IMAGES, INGESTS, LEASED, SNAPSHOTS};
use crated_types::{Labels, label};

const BREF: &str = "containerd.io/gc.bref.";
const COND_SNAPSHOT: &str = "containerd.io/gc.cond.snapshot.";

/// A record's key.
pub(crate) type Node = Vec<u8>;

/// What a record says about itself and others.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    /// Nodes that it keeps.
    pub keeps: Vec<Node>,
    /// Nodes that keep it.
    pub kept_by: Vec<Node>,
    /// Snapshots that it keeps under a condition, and the condition.
    pub conditional: Vec<(Node, String)>,
}

/// Nodes that a record keeps; a condition counts as met.
pub(crate) fn references(key: &[u8], value: &Bytes) -> Vec<Node> {
    let mut edges = edges(key, value);
    edges.keeps.extend(edges.conditional.into_iter().map(|(node, _)| node));
    edges.keeps
}

/// The edges of a record; one that cannot be read has none.
pub(crate) fn edges(key: &[u8], value: &Bytes) -> Edges {
    let mut edges = Edges::default();
    if let Some((namespace, _)) = BLOBS.parts(key) {
        if let Ok(blob) = BLOBS.decode(key, value) {
            edges.labels(namespace, &blob.labels);
        }
    } else if let Some((namespace, _)) = SNAPSHOTS.parts(key) {
        if let (Ok(snapshot), Some(snapshotter)) = (SNAPSHOTS.decode(key, value), snapshotter(key)) {
            if !snapshot.parent.is_empty() {
                edges.keeps.push(SNAPSHOTS.key2(namespace, snapshotter, &snapshot.parent));
            }
            edges.labels(namespace, &snapshot.labels);
        }
    } else if let Some((namespace, _)) = IMAGES.parts(key) {
        if let Ok(image) = IMAGES.decode(key, value) {
            edges.keeps.extend(image.target.map(|target| BLOBS.key(namespace, &target.digest)));
            edges.labels(namespace, &image.labels);
        }
    } else if let Some((namespace, _)) = CONTAINERS.parts(key) {
        if let Ok(container) = CONTAINERS.decode(key, value) {
            if !container.snapshot_key.is_empty() {
                edges.keeps.push(SNAPSHOTS.key2(namespace, &container.snapshotter, &container.snapshot_key));
            }
            edges.labels(namespace, &container.labels);
        }
    } else if let Some((namespace, _)) = INGESTS.parts(key) {
        let expected = INGESTS.decode(key, value).map(|ingest| ingest.expected);
        edges
            .keeps
            .extend(expected.ok().filter(|digest| !digest.is_empty()).map(|digest| BLOBS.key(namespace, &digest)));
    } else if let Some((namespace, id)) = LEASED.parts(key) {
        edges.keeps.extend(leased(namespace, id).map(|(_, node)| node));
    }
    edges
}

/// The snapshotter of a snapshot's key.
pub(crate) fn snapshotter(key: &[u8]) -> Option<&str> {
    Some(SNAPSHOTS.parts(key)?.1.split_once('\0')?.0)
}

/// Lease and resource of the id of a lease's mark.
pub(crate) fn leased<'k>(namespace: &str, id: &'k str) -> Option<(&'k str, Node)> {
    let (lease, resource) = id.split_once('\0')?;
    let (kind, name) = resource.split_once('\0')?;
    let node = match kind {
        "content" => BLOBS.key(namespace, name),
        "ingests" => INGESTS.key(namespace, name),
        "images" => IMAGES.key(namespace, name),
        _ => SNAPSHOTS.key2(namespace, kind.strip_prefix("snapshots/")?, name),
    };
    Some((lease, node))
}

impl Edges {
    fn labels(&mut self, namespace: &str, labels: &Labels) {
        for (key, value) in labels {
            if let Some(node) = reference(namespace, key, value) {
                self.keeps.push(node);
            } else if let Some(node) = back_reference(namespace, key, value) {
                self.kept_by.push(node);
            } else if let Some((snapshotter, (condition, name))) =
                key.strip_prefix(COND_SNAPSHOT).zip(value.split_once('|'))
            {
                let snapshotter = snapshotter.split('/').next().unwrap_or(snapshotter);
                self.conditional.push((SNAPSHOTS.key2(namespace, snapshotter, name), condition.into()));
            }
        }
    }
}

/// Whether `key` is `name`, `name.x` or `name/x`.
fn is_named(key: &str, name: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
}

fn reference(namespace: &str, key: &str, value: &str) -> Option<Node> {
    if is_named(key, label::GC_REF_CONTENT) {
        return Some(BLOBS.key(namespace, value));
    }
    if is_named(key, label::GC_REF_IMAGE) {
        return Some(IMAGES.key(namespace, value));
    }
    let snapshotter = key.strip_prefix(label::GC_REF_SNAPSHOT)?.split('/').next()?;
    Some(SNAPSHOTS.key2(namespace, snapshotter, value))
}

fn back_reference(namespace: &str, key: &str, value: &str) -> Option<Node> {
    let kind = key.strip_prefix(BREF)?;
    if is_named(kind, "container") {
        return Some(CONTAINERS.key(namespace, value));
    }
    if is_named(kind, "content") {
        return Some(BLOBS.key(namespace, value));
    }
    if is_named(kind, "image") {
        return Some(IMAGES.key(namespace, value));
    }
    let snapshotter = kind.strip_prefix("snapshot.")?.split('/').next()?;
    Some(SNAPSHOTS.key2(namespace, snapshotter, value))
}

/// Whether a condition holds for the labels of the snapshot that it is about. `usedat<24h`: the snapshot's
/// `containerd.io/gc.cond.value-usedat` is less than 24 hours ago. What cannot be read holds: keeping is the safe side.
pub(crate) fn holds(condition: &str, labels: &Labels, now: jiff::Timestamp) -> bool {
    let Some((field, span)) = condition.split_once('<') else { return true };
    let Some(value) = labels.get(&format!("containerd.io/gc.cond.value-{}", field.trim())) else { return false };
    match (value.parse::<jiff::Timestamp>(), span.trim().parse::<jiff::SignedDuration>()) {
        (Ok(at), Ok(span)) => now.duration_since(at) < span,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_core::record::{Blob, Snapshot};
    use prost::Message;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn labels_become_edges() {
        let blob = Blob {
            labels: labels(&[
                ("containerd.io/gc.ref.content", "d0"),
                ("containerd.io/gc.ref.content.l.1", "d1"),
                ("containerd.io/gc.ref.content/x", "d2"),
                ("containerd.io/gc.ref.contentious", "no"),
                ("containerd.io/gc.ref.snapshot.overlayfs", "s0"),
                ("containerd.io/gc.ref.snapshot.overlayfs/x", "s1"),
                ("containerd.io/gc.ref.image.y", "i0"),
                ("containerd.io/gc.bref.container", "c0"),
                ("containerd.io/gc.bref.snapshot.native", "s2"),
                ("containerd.io/gc.cond.snapshot.overlayfs", "usedat<24h|s3"),
                ("other", "x"),
            ]),
            ..Blob::default()
        };
        let found = edges(b"blob/ns/sha256:a", &blob.encode_to_vec().into());
        let text =
            |nodes: &[Node]| nodes.iter().map(|node| String::from_utf8_lossy(node).into_owned()).collect::<Vec<_>>();
        let mut keeps = text(&found.keeps);
        keeps.sort();
        assert_eq!(
            keeps,
            [
                "blob/ns/d0",
                "blob/ns/d1",
                "blob/ns/d2",
                "image/ns/i0",
                "snapshot/ns/overlayfs\0s0",
                "snapshot/ns/overlayfs\0s1"
            ]
        );
        assert_eq!(text(&found.kept_by), ["container/ns/c0", "snapshot/ns/native\0s2"]);
        assert_eq!(found.conditional.len(), 1);
    }

    #[test]
    fn a_child_keeps_its_parent_in_the_same_snapshotter() {
        let snapshot = Snapshot { name: "b".into(), parent: "a/1".into(), ..Snapshot::default() };
        let found = references(b"snapshot/ns/native\0b", &snapshot.encode_to_vec().into());
        assert_eq!(found, [b"snapshot/ns/native\0a/1".to_vec()]);
        assert_eq!(
            references(b"leased/ns/l/1\0snapshots/native\0b", &Bytes::new()),
            [b"snapshot/ns/native\0b".to_vec()]
        );
        assert_eq!(references(b"leased/ns/l\0content\0sha256:x", &Bytes::new()), [b"blob/ns/sha256:x".to_vec()]);
    }

    #[test]
    fn conditions_look_at_the_time() {
        let now: jiff::Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let at = |time: &str| labels(&[("containerd.io/gc.cond.value-usedat", time)]);
        assert!(holds("usedat<24h", &at("2026-01-01T12:00:00Z"), now));
        assert!(!holds("usedat<24h", &at("2025-12-31T12:00:00Z"), now));
        assert!(!holds("usedat<24h", &Labels::new(), now));
        assert!(holds("usedat<24h", &at("nonsense"), now));
    }
}
