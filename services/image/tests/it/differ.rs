//! The differ's port: descriptors, labels and errors as containerd's clients know them.

use super::images::{gzip, tar};
use super::pulls::Rig;
use crated_core::{Apply, Compare, ContentStore, Differ, Expected, Ingest};
use crated_image::LayerDiffer;
use crated_image::manifest::sha256;
use crated_types::descriptor::media;
use crated_types::{Code, Descriptor, Digest, Fault, IngestRef, Labels, Mount};
use std::collections::BTreeMap;
use std::path::Path;

fn bind(path: &Path) -> Vec<Mount> {
    std::fs::create_dir_all(path).unwrap();
    vec![Mount {
        fstype: "bind".into(),
        source: path.to_str().unwrap().into(),
        target: String::new(),
        options: vec!["rbind".into(), "rw".into()],
    }]
}

async fn put(rig: &Rig, bytes: &[u8]) -> Digest {
    let digest = sha256(bytes);
    let reference = IngestRef::new(digest.as_str()).unwrap();
    rig.content.write_all(&rig.scope, &reference, bytes.to_vec().into(), &digest, Labels::new()).await.unwrap();
    digest
}

fn layer(media_type: &str, digest: Digest, size: usize) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest, size: size as u64, annotations: BTreeMap::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_applied_and_its_tar_described() {
    let rig = Rig::new();
    let differ = LayerDiffer::new(rig.content.clone());
    let plain = tar(&[("a", b"one")]);
    let bytes = gzip(&plain);
    let digest = put(&rig, &bytes).await;
    let root = rig.dir.path().join("root");
    let apply = |media_type: &str, digest: &Digest| Apply {
        layer: layer(media_type, digest.clone(), bytes.len()),
        mounts: bind(&root),
        sync: true,
    };
    // docker's type without a suffix may be compressed all the same.
    for media_type in
        [media::OCI_LAYER_GZIP, media::DOCKER_LAYER_GZIP, media::DOCKER_LAYER, media::DOCKER_LAYER_FOREIGN_GZIP]
    {
        let answer = differ.apply(&rig.scope, apply(media_type, &digest)).await.unwrap();
        assert_eq!(answer, layer(media::OCI_LAYER, sha256(&plain), plain.len()));
    }
    assert_eq!(std::fs::read(root.join("a")).unwrap(), b"one");
    let error = differ.apply(&rig.scope, apply("text/plain", &digest)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unknown);
    assert!(error.to_string().contains("no processor for media-type"), "{error}");
    let error = differ.apply(&rig.scope, apply(media::OCI_LAYER, &sha256(b"absent"))).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_becomes_a_blob() {
    let rig = Rig::new();
    let differ = LayerDiffer::new(rig.content.clone());
    let (lower, upper) = (bind(&rig.dir.path().join("lower")), bind(&rig.dir.path().join("upper")));
    std::fs::write(Path::new(&lower[0].source).join("gone"), b"x").unwrap();
    std::fs::write(Path::new(&upper[0].source).join("new"), b"y").unwrap();
    let compare = |media_type: &str| Compare {
        lower: lower.clone(),
        upper: upper.clone(),
        media_type: media_type.into(),
        reference: "my-diff".into(),
        labels: Labels::from([("k".into(), "v".into())]),
        source_date_epoch: None,
    };
    // Bytes that an earlier attempt left under the reference.
    let reference = IngestRef::new("my-diff").unwrap();
    let mut old: Box<dyn Ingest> = rig.content.ingest(&rig.scope, &reference, Expected::default()).await.unwrap();
    old.write(bytes::Bytes::from_static(b"old")).await.unwrap();
    drop(old);
    let answer = differ.compare(&rig.scope, compare("")).await.unwrap();
    assert_eq!(answer.media_type, media::OCI_LAYER_GZIP);
    let blob = rig.content.info(&rig.scope, &answer.digest).await.unwrap();
    assert_eq!(blob.labels["k"], "v");
    let tar = differ.compare(&rig.scope, compare(media::OCI_LAYER)).await.unwrap();
    assert_eq!(blob.labels["containerd.io/uncompressed"], tar.digest.as_str());
    assert!(
        !rig.content.info(&rig.scope, &tar.digest).await.unwrap().labels.contains_key("containerd.io/uncompressed")
    );
    // The same again is success, and the layer does what it says.
    assert_eq!(differ.compare(&rig.scope, compare("")).await.unwrap(), answer);
    let zstd = differ.compare(&rig.scope, compare(media::OCI_LAYER_ZSTD)).await.unwrap();
    differ.apply(&rig.scope, Apply { layer: zstd, mounts: lower.clone(), sync: false }).await.unwrap();
    assert!(!Path::new(&lower[0].source).join("gone").exists());
    assert_eq!(std::fs::read(Path::new(&lower[0].source).join("new")).unwrap(), b"y");
    let error = differ.compare(&rig.scope, compare("text/plain")).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unsupported);
}
