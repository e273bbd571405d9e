//! Records of the ports and messages of containerd, both ways.

use crated_api::containerd::services as wire;
use crated_api::containerd::types::{Descriptor, Envelope};
use crated_api::convert::timestamp;
use crated_core::content::IngestStatus;
use crated_core::lease::{Resource, ResourceKind};
use crated_core::record;
use crated_types::Result;

/// A container as the wire has it.
#[must_use]
pub fn container(record: record::Container) -> wire::containers::v1::Container {
    wire::containers::v1::Container {
        id: record.id,
        labels: record.labels,
        image: record.image,
        runtime: Some(wire::containers::v1::container::Runtime {
            name: record.runtime_name,
            options: record.runtime_options,
        }),
        spec: record.spec,
        snapshotter: record.snapshotter,
        snapshot_key: record.snapshot_key,
        created_at: record.created_at,
        updated_at: record.updated_at,
        extensions: record.extensions,
        sandbox: record.sandbox,
    }
}

/// A container of a request.
#[must_use]
pub fn container_record(message: wire::containers::v1::Container) -> record::Container {
    let runtime = message.runtime.unwrap_or_default();
    record::Container {
        id: message.id,
        labels: message.labels,
        image: message.image,
        runtime_name: runtime.name,
        runtime_options: runtime.options,
        spec: message.spec,
        snapshotter: message.snapshotter,
        snapshot_key: message.snapshot_key,
        created_at: message.created_at,
        updated_at: message.updated_at,
        extensions: message.extensions,
        sandbox: message.sandbox,
    }
}

/// An image as the wire has it.
#[must_use]
pub fn image(record: record::Image) -> wire::images::v1::Image {
    wire::images::v1::Image {
        name: record.name,
        labels: record.labels,
        target: record.target.map(|target| Descriptor {
            media_type: target.media_type,
            digest: target.digest,
            size: target.size,
            annotations: target.annotations,
        }),
        created_at: record.created_at,
        updated_at: record.updated_at,
    }
}

/// An image of a request; its times are those of `epoch`, else the store's.
#[must_use]
pub fn image_record(message: wire::images::v1::Image, epoch: Option<prost_types::Timestamp>) -> record::Image {
    record::Image {
        name: message.name,
        labels: message.labels,
        target: message.target.map(|target| record::Target {
            media_type: target.media_type,
            digest: target.digest,
            size: target.size,
            annotations: target.annotations,
        }),
        created_at: epoch,
        updated_at: epoch,
    }
}

/// A blob as the wire has it.
#[must_use]
pub fn blob(record: record::Blob) -> wire::content::v1::Info {
    wire::content::v1::Info {
        digest: record.digest,
        size: record.size,
        created_at: record.created_at,
        updated_at: record.updated_at,
        labels: record.labels,
    }
}

/// The state of an ingest as the wire has it.
#[must_use]
pub fn status(status: IngestStatus) -> wire::content::v1::Status {
    wire::content::v1::Status {
        started_at: Some(timestamp(status.started_at)),
        updated_at: Some(timestamp(status.updated_at)),
        r#ref: status.reference.to_string(),
        offset: signed(status.offset),
        total: signed(status.total),
        expected: status.expected.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}

/// A snapshot as the wire has it.
#[must_use]
pub fn snapshot(record: record::Snapshot) -> wire::snapshots::v1::Info {
    wire::snapshots::v1::Info {
        name: record.name,
        parent: record.parent,
        kind: record.kind,
        created_at: record.created_at,
        updated_at: record.updated_at,
        labels: record.labels,
    }
}

/// A lease as the wire has it.
#[must_use]
pub fn lease(record: record::Lease) -> wire::leases::v1::Lease {
    wire::leases::v1::Lease { id: record.id, created_at: record.created_at, labels: record.labels }
}

/// What a lease holds, as the wire has it.
#[must_use]
pub fn resource(resource: &Resource) -> wire::leases::v1::Resource {
    wire::leases::v1::Resource { id: resource.id.clone(), r#type: resource.kind.to_string() }
}

/// A resource of a request.
///
/// # Errors
/// An unknown type, a malformed digest.
pub fn resource_of(message: Option<wire::leases::v1::Resource>) -> Result<Resource> {
    let message = message.unwrap_or_default();
    let kind: ResourceKind = message.r#type.parse()?;
    if kind == ResourceKind::Content {
        let _: crated_types::Digest = message.id.parse()?;
    }
    Ok(Resource { kind, id: message.id })
}

/// An event as the wire has it.
#[must_use]
pub fn envelope(event: record::Event) -> Envelope {
    Envelope { timestamp: event.timestamp, namespace: event.namespace, topic: event.topic, event: event.event }
}

/// An event that a peer forwards.
#[must_use]
pub fn event(envelope: Envelope, actor: &crated_types::Actor) -> record::Event {
    record::Event {
        namespace: envelope.namespace,
        topic: envelope.topic,
        timestamp: envelope.timestamp,
        event: envelope.event,
        actor: actor.who.to_string(),
        cause: actor.cause.to_string(),
    }
}

/// A count as the wire has it.
#[must_use]
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
