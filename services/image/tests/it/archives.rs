//! Archives: what is saved is loaded, in every form that other tools write, and damage is told.

use super::images::{self, Built, Layer, gzip, tar};
use super::pulls::{Rig, request};
use super::registry_fixture::Registry;
use bytes::Bytes;
use crated_core::pull::{Export, ImagePuller, Import};
use crated_core::record::Image;
use crated_image::manifest::sha256;
use crated_types::descriptor::media;
use crated_types::{Fault, Platform, Result};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;

pub(crate) async fn import(rig: &Rig, bytes: Vec<u8>) -> Result<Vec<Image>> {
    let chunks: Vec<Result<Bytes>> = bytes.chunks(10_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let (sink, _progress) = mpsc::channel(16);
    let wanted = Import { platform: Platform::host(), snapshotter: Some("folders".into()) };
    rig.service.import(&rig.scope, futures::stream::iter(chunks).boxed(), wanted, sink).await
}

pub(crate) async fn export(rig: &Rig, name: &str, platform: Option<Platform>) -> Result<Vec<u8>> {
    let mut stream = rig.service.export(&rig.scope, Export { names: vec![name.into()], platform }).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// The files of docker's old format.
fn docker(image: &Built) -> Vec<(String, Vec<u8>)> {
    let list = json!([{
        "Config": "cfg.json",
        "RepoTags": ["bb:1", "quay.io/a/b:2"],
        "Layers": (0..image.layers.len()).map(|at| format!("{at}/layer.tar")).collect::<Vec<_>>(),
    }]);
    let mut files = vec![
        ("cfg.json".to_owned(), image.config.clone()),
        ("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap()),
    ];
    files.extend(image.layers.iter().enumerate().map(|(at, layer)| (format!("{at}/layer.tar"), layer.bytes.clone())));
    files
}

fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    tar(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}

/// The files of an OCI layout.
fn layout(image: &Built, annotations: serde_json::Value) -> Vec<(String, Vec<u8>)> {
    let mut entry = image.entry();
    entry["annotations"] = annotations;
    let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [entry] });
    let mut files = vec![
        ("./oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("./index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
    ];
    let blobs = [&image.config, &image.manifest].into_iter().chain(image.layers.iter().map(|layer| &layer.bytes));
    files.extend(blobs.map(|bytes| (format!("./blobs/sha256/{}", sha256(bytes).hex()), bytes.clone())));
    files
}

fn names(images: &[Image]) -> Vec<&str> {
    images.iter().map(|image| image.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_loaded() {
    let registry = Registry::start().await;
    let image = images::three();
    let other = Built::of(vec![Layer::plain(&[("x", b"s390")])], Platform::parse("linux/s390x").unwrap());
    registry.put_image(&image, None);
    registry.put_image(&other, None);
    registry.put_document(media::OCI_INDEX, &images::index(&[&other, &image]), Some("1"));
    let rig = Rig::new();
    let name = registry.name("x:1");
    rig.pull(request(&name)).await.unwrap();
    for platform in [None, Some(Platform::host())] {
        let bytes = export(&rig, &name, platform.clone()).await.unwrap();
        let there = Rig::new();
        let loaded = import(&there, bytes.clone()).await.unwrap();
        assert_eq!(names(&loaded), [name.as_str()]);
        assert_eq!(there.text(&image, "a").as_deref(), Some("third"));
        assert_eq!(there.text(&image, "gone"), None);
        there.is_clean();
        assert_eq!(export(&rig, &name, platform.clone()).await.unwrap(), bytes, "the same image, the same bytes");
        assert_eq!(export(&there, &name, platform).await.unwrap().len(), bytes.len());
        // Again into the same store, compressed.
        import(&there, gzip(&bytes)).await.unwrap();
        import(&there, zstd::encode_all(&bytes[..], 1).unwrap()).await.unwrap();
        there.is_clean();
    }
    let error = export(&rig, &name, Some(Platform::parse("linux/s390x").unwrap())).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound, "{error}");
    assert_eq!(export(&rig, "nope", None).await.unwrap_err().fault(), Fault::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_old_format_is_loaded() {
    let image = images::three();
    let rig = Rig::new();
    let loaded = import(&rig, pack(&docker(&image))).await.unwrap();
    assert_eq!(names(&loaded), ["docker.io/library/bb:1", "quay.io/a/b:2"]);
    assert_eq!(rig.text(&image, "a").as_deref(), Some("third"));
    rig.is_clean();

    // A layer that is a link to another one, as docker writes shared layers.
    let twice = Built::new(vec![image.layers[2].clone(), image.layers[2].clone()]);
    let mut files = docker(&twice);
    files.retain(|(name, _)| name != "1/layer.tar");
    let mut builder = ::tar::Builder::new(pack(&files)[..].to_vec());
    builder.get_mut().truncate(pack(&files).len() - 1024);
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "1/layer.tar", "../0/layer.tar").unwrap();
    let rig = Rig::new();
    import(&rig, builder.into_inner().unwrap()).await.unwrap();
    assert_eq!(rig.folders.names().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_name_their_images_in_many_ways() {
    let image = images::three();
    let of = |annotations| pack(&layout(&image, annotations));
    let rig = Rig::new();
    let name = "io.containerd.image.name";
    let tag = "org.opencontainers.image.ref.name";
    let loaded = import(&rig, of(json!({ name: "docker.io/library/x:1", tag: "1" }))).await.unwrap();
    assert_eq!(names(&loaded), ["docker.io/library/x:1"]);
    let loaded = import(&rig, of(json!({ tag: "y:2" }))).await.unwrap();
    assert_eq!(names(&loaded), ["docker.io/library/y:2"]);
    let loaded = import(&rig, of(json!({ tag: "stable" }))).await.unwrap();
    assert!(loaded[0].name.starts_with("docker.io/library/import-20") && loaded[0].name.ends_with(":stable"));
    let loaded = import(&rig, of(json!({}))).await.unwrap();
    assert!(loaded[0].name.ends_with(image.digest().as_str()), "{}", loaded[0].name);
    let mut files = layout(&image, json!({}));
    let list = json!([{ "Config": format!("blobs/sha256/{}", sha256(&image.config).hex()), "RepoTags": ["z:3"], "Layers": [] }]);
    files.push(("manifest.json".into(), serde_json::to_vec(&list).unwrap()));
    assert_eq!(names(&import(&rig, pack(&files)).await.unwrap()), ["docker.io/library/z:3"]);
    rig.is_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_archive_leaves_nothing() {
    let image = images::three();
    let good = layout(&image, json!({ "org.opencontainers.image.ref.name": "y:2" }));
    let whole = pack(&good);
    let layer = good.iter().position(|(_, bytes)| *bytes == image.layers[0].bytes).unwrap();
    let mut wrong = good.clone();
    wrong[layer].1[500] ^= 1;
    let mut lacking = good.clone();
    lacking.remove(layer);
    let mut escape = good.clone();
    escape[layer].0 = "./blobs/sha256/../../../../etc/x".into();
    let cases: Vec<(Vec<u8>, Fault, &str)> = vec![
        (Vec::new(), Fault::Malformed, "no image"),
        (b"hello".to_vec(), Fault::Malformed, "archive"),
        (vec![b'x'; 5000], Fault::Malformed, "no tar"),
        (whole[..whole.len() / 2].to_vec(), Fault::Malformed, "middle"),
        (gzip(&whole)[..3000].to_vec(), Fault::Malformed, "archive"),
        (pack(&wrong), Fault::DigestMismatch, ""),
        (pack(&lacking), Fault::Malformed, "is missing"),
        (tar(&[("rootfs/etc/passwd", b"x")]), Fault::Malformed, "no image"),
        (tar(&[("index.json", b"{\"manifests\":3}")]), Fault::Malformed, "index.json"),
        (tar(&[("manifest.json", b"[{\"Config\":\"../../etc/shadow\"}]")]), Fault::Malformed, "not in it"),
    ];
    for (bytes, fault, part) in cases {
        let rig = Rig::new();
        let error = import(&rig, bytes).await.unwrap_err();
        assert_eq!(error.fault(), fault, "{error:?} (wanted {part:?})");
        assert!(error.to_string().contains(part), "{error:?} lacks {part:?}");
        assert!(rig.images.0.lock().unwrap().is_empty());
        rig.is_clean();
    }
    let rig = Rig::new();
    let broken = futures::stream::iter([
        Ok(Bytes::copy_from_slice(&whole[..20_000])),
        Err(crated_types::Error::new(Fault::Cancelled, "gone")),
    ]);
    let (sink, _progress) = mpsc::channel(16);
    let wanted = Import { platform: Platform::host(), snapshotter: None };
    let error = rig.service.import(&rig.scope, broken.boxed(), wanted, sink).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Cancelled, "{error:?}");
    rig.is_clean();
}
