//! The registry client: resolve, read, resume, authenticate, and every way in which a registry fails.

use super::images::{self, Built};
use super::registry_fixture::{Auth, Registry, basic};
use crated_image::RegistryConfig;
use crated_image::manifest::{OciDescriptor, sha256};
use crated_image::registry::{Access, Credentials, Registry as Client, Repository};
use crated_types::descriptor::media;
use crated_types::{Descriptor, Fault, Reference, Result};
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Quick to give up and asking nobody else.
pub(crate) fn config() -> RegistryConfig {
    RegistryConfig {
        hosts_dir: "".into(),
        docker_config: "".into(),
        retries: 3,
        retry_wait_milliseconds: 1,
        max_retry_wait_seconds: 2,
        ..RegistryConfig::default()
    }
}

async fn open(registry: &Registry, config: RegistryConfig, access: Access) -> Repository {
    let reference = Reference::parse(&registry.name("x:1")).unwrap();
    Client::new(config).repository(&reference, access).await.unwrap()
}

async fn plain(registry: &Registry) -> Repository {
    open(registry, config(), Access::default()).await
}

fn of(bytes: &[u8]) -> OciDescriptor {
    let descriptor = Descriptor {
        media_type: media::OCI_LAYER.into(),
        digest: sha256(bytes),
        size: bytes.len() as u64,
        annotations: BTreeMap::new(),
    };
    (&descriptor).into()
}

async fn read(repository: &Repository, bytes: &[u8], from: u64) -> Result<Vec<u8>> {
    let mut reader = repository.blob(&of(bytes), from).await?;
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn a_tag_is_resolved_and_its_parts_are_read() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    for no_head in [false, true] {
        registry.with(|state| state.no_head = no_head);
        let repository = plain(&registry).await;
        let target = repository.resolve().await.unwrap();
        assert_eq!((target.media_type.as_str(), &target.digest), (media::OCI_MANIFEST, &image.digest()));
        assert_eq!(repository.document(&target).await.unwrap(), image.manifest);
    }
    let layer = &image.layers[0].bytes;
    let repository = plain(&registry).await;
    assert_eq!(read(&repository, layer, 0).await.unwrap(), *layer);
    assert_eq!(read(&repository, layer, 1000).await.unwrap(), layer[1000..]);
    assert!(read(&repository, layer, layer.len() as u64).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cut_blob_is_resumed_where_it_was_cut() {
    let registry = Registry::start().await;
    let bytes = noise(900_000);
    registry.put_blob(&bytes);
    for no_ranges in [false, true] {
        registry.with(|state| {
            state.cuts = VecDeque::from([300_000, 16_384, 0, 400_000]);
            state.no_ranges = no_ranges;
            state.seen.clear();
        });
        assert_eq!(read(&plain(&registry).await, &bytes, 0).await.unwrap(), bytes, "ranges are ignored: {no_ranges}");
        let ranges = registry.with(|state| state.seen.iter().filter(|seen| seen.range.is_some()).count());
        assert_eq!(ranges, 4);
    }
}

#[tokio::test]
async fn a_blob_that_is_cut_for_ever_is_an_error() {
    let registry = Registry::start().await;
    let bytes = noise(50_000);
    registry.put_blob(&bytes);
    registry.with(|state| state.cuts = std::iter::repeat_n(0, 100).collect());
    let error = read(&plain(&registry).await, &bytes, 0).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unreachable, "{error}");
    assert!(error.to_string().contains(&registry.address.to_string()), "{error}");
    assert!(error.remedy().is_some());
}

#[tokio::test]
async fn a_registry_that_asks_for_patience_gets_it_up_to_a_limit() {
    let registry = Registry::start().await;
    registry.put_image(&images::three(), Some("1"));
    let before = |list: &[(u16, Option<&'static str>)]| {
        registry.with(|state| state.before = [("/manifests/", list.iter().copied().collect())].into());
    };
    before(&[(429, Some("0")), (503, None), (500, None)]);
    plain(&registry).await.resolve().await.unwrap();
    before(&[(429, Some("3600"))]);
    let error = plain(&registry).await.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::RateLimited, "{error}");
    assert!(error.remedy().unwrap().contains("mirror"));
    before(&[(503, None); 50]);
    let error = plain(&registry).await.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unreachable, "{error}");
    before(&[(418, None)]);
    assert_eq!(plain(&registry).await.resolve().await.unwrap_err().fault(), Fault::BadRegistry);
    before(&[]);
    let other = Reference::parse(&registry.name("x:2")).unwrap();
    let error = Client::new(config()).repository(&other, Access::default()).await.unwrap().resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound, "{error}");
    assert_eq!(error.step(), Some("resolve"));
}

#[tokio::test]
async fn tokens_are_fetched_once_and_credentials_are_used() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    registry.with(|state| state.auth = Auth::Token(None));
    let repository = plain(&registry).await;
    let target = repository.resolve().await.unwrap();
    repository.document(&target).await.unwrap();
    read(&repository, &image.layers[1].bytes, 0).await.unwrap();
    assert_eq!(registry.with(|state| state.tokens), 1);

    registry.with(|state| state.auth = Auth::Token(Some(("joe", "pw"))));
    let error = plain(&registry).await.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unauthenticated, "{error}");
    assert!(error.remedy().unwrap().contains("config.json"));
    let given = |password: &str| Access {
        credentials: Some(Credentials::Basic { username: "joe".into(), password: password.into() }),
        ..Access::default()
    };
    open(&registry, config(), given("pw")).await.resolve().await.unwrap();
    let error = open(&registry, config(), given("wrong")).await.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unauthenticated);
    assert!(error.to_string().contains("refuses the credentials"), "{error}");
    assert!(!format!("{error:?}").contains("wrong"));

    registry.with(|state| state.auth = Auth::Basic("joe", "pw"));
    open(&registry, config(), given("pw")).await.resolve().await.unwrap();
    assert_eq!(plain(&registry).await.resolve().await.unwrap_err().fault(), Fault::Unauthenticated);

    registry.with(|state| state.auth = Auth::Refresh("refresh"));
    let access = Access { credentials: Some(Credentials::Identity("refresh".into())), ..Access::default() };
    open(&registry, config(), access).await.resolve().await.unwrap();

    registry.with(|state| state.auth = Auth::Nobody);
    assert_eq!(plain(&registry).await.resolve().await.unwrap_err().fault(), Fault::Unauthenticated);
}

#[tokio::test]
async fn dockers_config_is_read() {
    let registry = Registry::start().await;
    registry.put_image(&images::three(), Some("1"));
    registry.with(|state| state.auth = Auth::Basic("joe", "pw"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let auth = basic("joe", "pw");
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"{}"}}}}}}"#, registry.address, &auth["Basic ".len()..]);
    std::fs::write(file.path(), text).unwrap();
    let config = RegistryConfig { docker_config: file.path().into(), ..config() };
    open(&registry, config, Access::default()).await.resolve().await.unwrap();
}

#[tokio::test]
async fn credentials_are_not_taken_to_another_host() {
    let (registry, other) = (Registry::start().await, Registry::start().await);
    let bytes = noise(10_000);
    registry.with(|state| {
        state.auth = Auth::Basic("joe", "pw");
        state.redirect = Some(format!("http://localhost:{}", other.address.port()));
    });
    other.put_blob(&bytes);
    let access = Access {
        credentials: Some(Credentials::Basic { username: "joe".into(), password: "pw".into() }),
        headers: vec![("x-secret".into(), "1".into())],
        ..Access::default()
    };
    let repository = open(&registry, config(), access).await;
    assert_eq!(read(&repository, &bytes, 0).await.unwrap(), bytes);
    let seen = other.with(|state| state.seen.clone());
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].authorization, None);
    registry.with(|state| state.redirect = Some(format!("http://{}", registry.address)));
    let error = read(&repository, &bytes, 0).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
}

#[tokio::test]
async fn mirrors_come_first_and_the_registry_stands_behind_them() {
    let (registry, mirror) = (Registry::start().await, Registry::start().await);
    let image = images::three();
    registry.put_image(&image, Some("1"));
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(registry.address.to_string());
    std::fs::create_dir(&folder).unwrap();
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.address);
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
    let config = RegistryConfig { hosts_dir: dir.path().into(), ..config() };

    let repository = open(&registry, config.clone(), Access::default()).await;
    let target = repository.resolve().await.unwrap();
    assert_eq!(mirror.count("HEAD", "/manifests/1"), 1);
    assert_eq!(registry.count("HEAD", "/manifests/1"), 1);
    assert!(mirror.with(|state| state.seen[0].query.starts_with("ns=127.0.0.1")));

    mirror.put_image(&image, Some("1"));
    mirror.put_document(media::OCI_MANIFEST, b"{}", Some(image.digest().as_str())); // lies: another document
    assert_eq!(repository.document(&target).await.unwrap(), image.manifest);
    let layer = &image.layers[0].bytes;
    mirror.with(|state| state.cuts = std::iter::repeat_n(300_000, 10).collect());
    assert_eq!(read(&repository, layer, 0).await.unwrap(), *layer);
    assert!(mirror.count("GET", "/blobs/") > 0 && registry.count("GET", "/blobs/") > 0);
}

#[tokio::test]
async fn lies_are_found_out() {
    let registry = Registry::start().await;
    let image = images::three();
    registry.put_image(&image, Some("1"));
    // Other bytes under the digest that was asked for.
    let digest = image.digest();
    registry.put_document(media::OCI_MANIFEST, b"{\"x\":1}", Some(digest.as_str()));
    let pinned = Reference::parse(&registry.name(&format!("x@{digest}"))).unwrap();
    let repository = Client::new(config()).repository(&pinned, Access::default()).await.unwrap();
    assert_eq!(repository.resolve().await.unwrap_err().fault(), Fault::DigestMismatch);
    let target = plain(&registry).await.resolve().await.unwrap();
    let error = repository.document(&target).await.unwrap_err();
    assert!(matches!(error.fault(), Fault::DigestMismatch | Fault::SizeMismatch), "{error}");

    registry.put_document("text/html", b"<html>", Some("1"));
    let error = plain(&registry).await.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::BadRegistry, "{error}");
    registry.put_document("text/html", &noise(9 << 20), Some("1"));
    let error = plain(&registry).await.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::BadRegistry, "{error}");

    let bytes = noise(1000);
    registry.with(|state| state.blobs.insert(sha256(&bytes), noise(2000).into()));
    assert_eq!(read(&plain(&registry).await, &bytes, 0).await.unwrap_err().fault(), Fault::SizeMismatch);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_told_with_its_name() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let reference = Reference::parse(&format!("{address}/x")).unwrap();
    let repository = Client::new(config()).repository(&reference, Access::default()).await.unwrap();
    let error = repository.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unreachable);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(error.remedy().unwrap().contains("reachable"));
    let reference = Reference::parse("no-such-host.invalid/x").unwrap();
    let repository = Client::new(config()).repository(&reference, Access::default()).await.unwrap();
    let error = repository.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unreachable);
    assert!(error.remedy().unwrap().contains("DNS"), "{error:?} {:?}", error.remedy());
}

#[tokio::test]
async fn plain_http_on_a_tls_name_is_explained() {
    let registry = Registry::start().await;
    let name = format!("localhost.:{}/x", registry.address.port()); // not loopback by name: TLS
    if let Ok(reference) = Reference::parse(&name) {
        let _ =
            Client::new(config()).repository(&reference, Access::default()).await.unwrap().resolve().await.unwrap_err();
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(registry.address.to_string());
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), format!("server = \"https://{}\"\n", registry.address)).unwrap();
    let config = RegistryConfig { hosts_dir: dir.path().into(), ..config() };
    let error = open(&registry, config, Access::default()).await.resolve().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unreachable);
    assert!(error.remedy().unwrap().contains("plain http"), "{error:?} {:?}", error.remedy());
}

#[tokio::test]
async fn an_ambiguous_document_is_no_image() {
    let registry = Registry::start().await;
    let image: Built = images::three();
    let mut both: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    both["manifests"] = serde_json::json!([image.entry()]);
    registry.put_document("", &serde_json::to_vec(&both).unwrap(), Some("1"));
    let error = plain(&registry).await.resolve().await.unwrap_err();
    assert!(error.to_string().contains("at once"), "{error}");
}
