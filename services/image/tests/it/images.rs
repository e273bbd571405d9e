//! Images made in memory.

use crated_image::manifest::{chain_ids, sha256};
use crated_types::descriptor::media;
use crated_types::{Digest, Platform};
use serde_json::{Value, json};
use std::io::Write;

/// A layer: its tar, and how it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: Digest,
}

/// A tar of files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1);
        if name.starts_with("..") {
            // `set_path` refuses what a hostile maker would write.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        } else {
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Layer {
    pub(crate) fn plain(files: &[(&str, &[u8])]) -> Self {
        let bytes = tar(files);
        Self { media_type: media::OCI_LAYER, diff_id: sha256(&bytes), bytes }
    }

    pub(crate) fn gzip(files: &[(&str, &[u8])]) -> Self {
        let plain = tar(files);
        Self { media_type: media::OCI_LAYER_GZIP, diff_id: sha256(&plain), bytes: gzip(&plain) }
    }

    pub(crate) fn zstd(files: &[(&str, &[u8])]) -> Self {
        let plain = tar(files);
        Self {
            media_type: media::OCI_LAYER_ZSTD,
            diff_id: sha256(&plain),
            bytes: zstd::encode_all(&plain[..], 1).unwrap(),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        sha256(&self.bytes)
    }
}

/// An image of one platform.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) platform: Platform,
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(bytes).as_str(), "size": bytes.len() })
}

impl Built {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        Self::of(layers, Platform::host())
    }

    pub(crate) fn of(layers: Vec<Layer>, platform: Platform) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "os": platform.os, "architecture": platform.architecture, "variant": platform.variant,
            "config": { "Cmd": ["/bin/x"], "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Self::with_config(layers, platform, config)
    }

    pub(crate) fn with_config(layers: Vec<Layer>, platform: Platform, config: Value) -> Self {
        let config = serde_json::to_vec(&config).unwrap();
        let list: Vec<Value> = layers.iter().map(|layer| descriptor(layer.media_type, &layer.bytes)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": descriptor(media::OCI_CONFIG, &config), "layers": list,
        });
        Self { layers, config, manifest: serde_json::to_vec(&manifest).unwrap(), platform }
    }

    pub(crate) fn digest(&self) -> Digest {
        sha256(&self.manifest)
    }

    pub(crate) fn chain(&self) -> Vec<Digest> {
        chain_ids(&self.layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>())
    }

    pub(crate) fn entry(&self) -> Value {
        let mut entry = descriptor(media::OCI_MANIFEST, &self.manifest);
        entry["platform"] = json!({
            "os": self.platform.os, "architecture": self.platform.architecture, "variant": self.platform.variant,
        });
        entry
    }
}

pub(crate) fn index(images: &[&Built]) -> Vec<u8> {
    let entries: Vec<Value> = images.iter().map(|image| image.entry()).collect();
    serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries })).unwrap()
}

/// Three layers in three compressions; the last one deletes a file of the first.
pub(crate) fn three() -> Built {
    let big: Vec<u8> = (0..600_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Built::new(vec![
        Layer::gzip(&[("a", b"first"), ("gone", b"x"), ("big", &big)]),
        Layer::zstd(&[("b/c", b"second")]),
        Layer::plain(&[("a", b"third"), (".wh.gone", b"")]),
    ])
}
