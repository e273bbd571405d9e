//! Order, skips, duplicates, rings and configuration of plugins.

use super::*;

trait Snapshots: Send + Sync {
    fn name(&self) -> &'static str;
}
struct Named(&'static str);
impl Snapshots for Named {
    fn name(&self) -> &'static str {
        self.0
    }
}
struct Count(usize);

const SNAPSHOTTER: Slot<dyn Snapshots> = Slot::new("snapshotter.v1");
const METADATA: Slot<Count> = Slot::new("metadata.v1");

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    extra: usize,
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add(METADATA, "log", &["snapshotter.v1"], |cx| {
        Box::pin(async move {
            let settings: Settings = cx.config()?;
            Ok(Arc::new(Count(cx.all(SNAPSHOTTER)?.len() + settings.extra)))
        })
    });
    registry.add(SNAPSHOTTER, "overlay", &[], |cx| {
        Box::pin(async {
            cx.capability("rebase");
            cx.export("root", "/r");
            Ok(Arc::new(Named("overlay")) as Arc<dyn Snapshots>)
        })
    });
    registry
        .add(SNAPSHOTTER, "btrfs", &[], |_| Box::pin(async { Err(InitError::Skip("not a btrfs file system".into())) }));
    registry
}

fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

#[tokio::test]
async fn needs_start_first_and_skips_are_told() {
    let started = registry().start(&config("[plugins.\"metadata.v1\".log]\nextra = 4")).await.unwrap();
    assert_eq!(started.all(METADATA)["log"].0, 5);
    assert_eq!(started.all(SNAPSHOTTER)["overlay"].name(), "overlay");
    let reports = started.reports();
    assert_eq!(reports.last().unwrap().id.to_string(), "metadata.v1/log");
    let skipped = reports.iter().find(|report| report.id.id == "btrfs").unwrap();
    assert_eq!(skipped.skipped.as_deref(), Some("not a btrfs file system"));
    let overlay = reports.iter().find(|report| report.id.id == "overlay").unwrap();
    assert_eq!((overlay.capabilities.as_slice(), overlay.exports["root"].as_str()), (&["rebase".to_owned()][..], "/r"));
}

#[tokio::test]
async fn an_unknown_key_or_plugin_stops_the_start() {
    let error = registry().start(&config("[plugins.\"metadata.v1\".log]\nxtra = 4")).await.unwrap_err();
    assert!(matches!(&error, StartError::Config { id, .. } if id.id == "log"), "{error}");
    let error = registry().start(&config("[plugins.\"snapshotter.v1\".overlya]")).await.unwrap_err();
    assert!(error.to_string().contains("did you mean \"overlay\"?"), "{error}");
    let error = registry().start(&config("[plugins.\"snapshoter.v1\".overlay]")).await.unwrap_err();
    assert!(error.to_string().contains("did you mean \"snapshotter.v1\"?"), "{error}");
}

#[tokio::test]
async fn a_ring_is_an_error_that_names_it() {
    let mut registry = registry();
    const A: Slot<Count> = Slot::new("a.v1");
    const B: Slot<Count> = Slot::new("b.v1");
    registry.add(A, "a", &["b.v1"], |_| Box::pin(async { Ok(Arc::new(Count(0))) }));
    registry.add(B, "b", &["a.v1"], |_| Box::pin(async { Ok(Arc::new(Count(0))) }));
    let error = registry.start(&Config::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "plugins need one another in a ring: a.v1/a -> b.v1/b -> a.v1/a");
}

#[tokio::test]
async fn a_duplicate_is_an_error() {
    let mut registry = registry();
    registry
        .add(SNAPSHOTTER, "overlay", &[], |_| Box::pin(async { Ok(Arc::new(Named("again")) as Arc<dyn Snapshots>) }));
    assert!(matches!(registry.start(&Config::default()).await, Err(StartError::Duplicate(id)) if id.id == "overlay"));
}

#[tokio::test]
async fn an_undeclared_need_is_an_error() {
    let mut registry = registry();
    const A: Slot<Count> = Slot::new("a.v1");
    registry.add(A, "a", &[], |cx| Box::pin(async { cx.one(METADATA) }));
    let error = registry.start(&Config::default()).await.unwrap_err();
    assert!(error.to_string().contains("undeclared need metadata.v1"), "{error}");
}
