//! People who explore: a client without generated code lists every service and calls some.

use crated_tests::{Daemon, Run};
use std::path::Path;

#[test]
fn a_client_with_reflection_lists_all_services_and_calls_some() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon.ctl(&["create", "--name", "seen", "bb:1", "true"]).ok();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".ci/python/bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/explore.py");
    let socket = daemon.socket().display().to_string();
    let said = Run::new(python, &[&script.display().to_string(), &socket]).run().ok();
    for service in [
        "containerd.services.containers.v1.Containers",
        "containerd.services.content.v1.Content",
        "containerd.services.diff.v1.Diff",
        "containerd.services.events.v1.Events",
        "containerd.services.images.v1.Images",
        "containerd.services.introspection.v1.Introspection",
        "containerd.services.leases.v1.Leases",
        "containerd.services.namespaces.v1.Namespaces",
        "containerd.services.snapshots.v1.Snapshots",
        "containerd.services.tasks.v1.Tasks",
        "containerd.services.version.v1.Version",
        "crated.engine.v1.Engine",
        "grpc.health.v1.Health",
    ] {
        assert!(said.contains(&format!("service {service} ")), "{service} is not listed:\n{said}");
    }
    for absent in ["transfer", "streaming", "sandbox", "mounts"] {
        assert!(
            !said.contains(&format!("containerd.services.{absent}")),
            "{absent} is listed, and not served:\n{said}"
        );
    }
    assert!(said.contains("health 1"), "{said}");
    assert!(said.contains("images docker.io/library/bb:1"), "{said}");
    assert!(said.contains("containers seen"), "{said}");
    assert!(said.contains("refused FAILED_PRECONDITION namespace is required"), "{said}");
    daemon.finish();
}
