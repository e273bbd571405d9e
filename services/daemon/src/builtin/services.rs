//! The gRPC services.

use super::{
    CHECKER, CONTAINERS, CONTENT, DIFFER, ENGINE, EVENTS, GRPC, IMAGES, LEASES, NAMESPACES, SERVICE, SNAPSHOTTER,
    Shared, TASKS, blocking,
};
use crate::grpc::containers::ContainersAdapter;
use crate::grpc::content::ContentAdapter;
use crate::grpc::diff::DiffAdapter;
use crate::grpc::engine::EngineAdapter;
use crate::grpc::events::EventsAdapter;
use crate::grpc::health::HealthAdapter;
use crate::grpc::images::ImagesAdapter;
use crate::grpc::introspection::{IntrospectionAdapter, uuid};
use crate::grpc::leases::LeasesAdapter;
use crate::grpc::namespaces::NamespacesAdapter;
use crate::grpc::serve;
use crate::grpc::snapshots::SnapshotsAdapter;
use crate::grpc::tasks::TasksAdapter;
use crate::grpc::version::VersionAdapter;
use crate::registry::Registry;
use crated_api::containerd::services as wire;
use crated_api::crated::engine::v1::engine_server::EngineServer;
use crated_api::grpc::health::v1::health_server::HealthServer;
use crated_core::TaskManager;
use std::sync::Arc;

pub(super) fn register(registry: &mut Registry, shared: &Shared) {
    the_daemon(registry, shared);
    records(registry);
    work(registry);
}

/// Who the daemon is and what it has.
fn the_daemon(registry: &mut Registry, shared: &Shared) {
    use wire::introspection::v1::introspection_server::IntrospectionServer;
    use wire::version::v1::version_server::VersionServer;
    registry.add(GRPC, "version", &[], |cx| {
        Box::pin(async move { Ok(serve!(VersionServer<_>, VersionAdapter, cx.settings().limits)) })
    });
    let stop = shared.life.stop.clone();
    registry.add(GRPC, "healthcheck", &[], |cx| {
        Box::pin(async move { Ok(serve!(HealthServer<_>, HealthAdapter::new(stop), cx.settings().limits)) })
    });
    let reports = shared.reports.clone();
    registry.add(GRPC, "introspection", &[TASKS.name()], |cx| {
        Box::pin(async move {
            let folder = super::installation(cx.settings());
            let uuid = blocking(move || uuid(&folder)).await?;
            let runtime = cx.settings().engine.runtime.clone();
            let tasks = cx.all(TASKS)?.into_values().next().map(|tasks| tasks as Arc<dyn TaskManager>);
            let adapter = IntrospectionAdapter { reports, uuid, runtime, tasks };
            Ok(serve!(IntrospectionServer<_>, adapter, cx.settings().limits))
        })
    });
}

/// Records, blobs, snapshots and events.
fn records(registry: &mut Registry) {
    use wire::containers::v1::containers_server::ContainersServer;
    use wire::content::v1::content_server::ContentServer;
    use wire::events::v1::events_server::EventsServer;
    use wire::images::v1::images_server::ImagesServer;
    use wire::leases::v1::leases_server::LeasesServer;
    use wire::namespaces::v1::namespaces_server::NamespacesServer;
    use wire::snapshots::v1::snapshots_server::SnapshotsServer;
    registry.add(GRPC, "namespaces", &[SERVICE], |cx| {
        Box::pin(async move {
            Ok(serve!(NamespacesServer<_>, NamespacesAdapter(cx.one(NAMESPACES)?), cx.settings().limits))
        })
    });
    registry.add(GRPC, "containers", &[SERVICE], |cx| {
        Box::pin(async move {
            Ok(serve!(ContainersServer<_>, ContainersAdapter(cx.one(CONTAINERS)?), cx.settings().limits))
        })
    });
    registry.add(GRPC, "images", &[SERVICE], |cx| {
        Box::pin(async move { Ok(serve!(ImagesServer<_>, ImagesAdapter(cx.one(IMAGES)?), cx.settings().limits)) })
    });
    registry.add(GRPC, "content", &[CONTENT.name()], |cx| {
        Box::pin(async move { Ok(serve!(ContentServer<_>, ContentAdapter(cx.one(CONTENT)?), cx.settings().limits)) })
    });
    registry.add(GRPC, "leases", &[LEASES.name()], |cx| {
        Box::pin(async move { Ok(serve!(LeasesServer<_>, LeasesAdapter(cx.one(LEASES)?), cx.settings().limits)) })
    });
    registry.add(GRPC, "events", &[EVENTS.name()], |cx| {
        Box::pin(async move { Ok(serve!(EventsServer<_>, EventsAdapter(cx.one(EVENTS)?), cx.settings().limits)) })
    });
    registry.add(GRPC, "snapshots", &[SNAPSHOTTER.name()], |cx| {
        Box::pin(async move {
            Ok(serve!(
                SnapshotsServer<_>,
                SnapshotsAdapter(super::as_ports(cx.all(SNAPSHOTTER)?)),
                cx.settings().limits
            ))
        })
    });
}

/// Layers, tasks and whole operations.
fn work(registry: &mut Registry) {
    use wire::diff::v1::diff_server::DiffServer;
    use wire::tasks::v1::tasks_server::TasksServer;
    registry.add(GRPC, "diff", &[DIFFER.name()], |cx| {
        Box::pin(async move { Ok(serve!(DiffServer<_>, DiffAdapter(cx.one(DIFFER)?), cx.settings().limits)) })
    });
    registry.add(GRPC, "tasks", &[SERVICE, TASKS.name()], |cx| {
        Box::pin(async move {
            let runtime = cx.settings().engine.runtime.clone();
            let adapter = TasksAdapter { containers: cx.one(CONTAINERS)?, tasks: cx.one(TASKS)?, runtime };
            Ok(serve!(TasksServer<_>, adapter, cx.settings().limits))
        })
    });
    registry.add(GRPC, "engine", &[ENGINE.name(), CHECKER.name()], |cx| {
        Box::pin(async move {
            let adapter = EngineAdapter(cx.one(ENGINE)?, cx.one(CHECKER)?);
            Ok(serve!(EngineServer<_>, adapter, cx.settings().limits))
        })
    });
}
