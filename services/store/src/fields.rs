//! The fields by which lists are filtered (SEMANTICS: filter grammar, table of objects).

use crated_core::SnapshotKind;
use crated_core::content::IngestStatus;
use crated_core::record::{Blob, Container, Image, Lease, Snapshot};
use crated_types::filter::{Adaptor, map_field};
use std::borrow::Cow;

/// A record that filters can look at.
pub(crate) struct Fields<'a, R>(pub &'a R);

impl Adaptor for Fields<'_, Container> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => present(&self.0.id),
            ["runtime", "name"] => present(&self.0.runtime_name),
            ["image"] => present(&self.0.image),
            ["labels", rest @ ..] => map_field(&self.0.labels, rest),
            _ => None,
        }
    }
}

impl Adaptor for Fields<'_, Image> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let target = self.0.target.as_ref();
        match path {
            ["name"] => present(&self.0.name),
            ["target", "digest"] => present(&target?.digest),
            ["target", "mediatype"] => present(&target?.media_type),
            ["labels", rest @ ..] => map_field(&self.0.labels, rest),
            ["annotations", rest @ ..] => map_field(&target?.annotations, rest),
            _ => None,
        }
    }
}

impl Adaptor for Fields<'_, Blob> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["digest"] => present(&self.0.digest),
            ["labels", rest @ ..] => map_field(&self.0.labels, rest),
            _ => None,
        }
    }
}

impl Adaptor for Fields<'_, IngestStatus> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["ref"] => Some(self.0.reference.as_str().into()),
            _ => None,
        }
    }
}

impl Adaptor for Fields<'_, Lease> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => present(&self.0.id),
            ["labels", rest @ ..] => map_field(&self.0.labels, rest),
            _ => None,
        }
    }
}

impl Adaptor for Fields<'_, Snapshot> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => present(&self.0.name),
            ["parent"] => Some(self.0.parent.as_str().into()),
            ["kind"] => Some(
                match SnapshotKind::from_i32(self.0.kind)? {
                    SnapshotKind::View => "view",
                    SnapshotKind::Active => "active",
                    SnapshotKind::Committed => "committed",
                }
                .into(),
            ),
            ["labels", rest @ ..] => map_field(&self.0.labels, rest),
            _ => None,
        }
    }
}

/// A plain field; containerd says of an empty one that it is not present.
fn present(value: &str) -> Option<Cow<'_, str>> {
    (!value.is_empty()).then(|| value.into())
}
