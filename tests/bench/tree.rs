//! An image of many files: made of numbers that look random, so that it neither compresses away nor is the same twice.

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;

/// Its name.
pub(crate) const NAME: &str = "docker.io/library/many:1";
/// Bytes of a file, on average.
const FILE: u64 = 16 << 10;
/// Layers.
const LAYERS: u64 = 3;

/// Files in an image of `size` bytes.
pub(crate) fn files(size: u64) -> u64 {
    size / FILE / LAYERS * LAYERS
}

/// Writes an OCI archive with files of `size` bytes together.
pub(crate) fn archive(path: &Path, size: u64) -> Result<()> {
    let mut out = tar::Builder::new(std::fs::File::create(path)?);
    let (mut layers, mut diffs) = (Vec::new(), Vec::new());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for layer in 0..LAYERS {
        let tar = layer_tar(layer, files(size) / LAYERS, &mut random)?;
        diffs.push(digest(&tar));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar)?;
        layers.push(blob(&mut out, "application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish()?)?);
    }
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({"architecture": arch, "os": "linux", "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": diffs}});
    let config = blob(&mut out, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let mut manifest = blob(&mut out, kind, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    entry(&mut out, "index.json", index.to_string().as_bytes())?;
    entry(&mut out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    out.finish()?;
    Ok(())
}

fn layer_tar(layer: u64, count: u64, random: &mut u64) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut bytes = Vec::new();
    for file in 0..count {
        bytes.clear();
        let length = FILE / 2 + next(random) % FILE;
        while (bytes.len() as u64) < length {
            // Half random, half a constant: compresses as programs do.
            bytes.extend_from_slice(&next(random).to_le_bytes());
            bytes.extend_from_slice(b"constant");
        }
        entry(&mut tar, &format!("srv/{layer}/{}/{file}", file / 100), &bytes)?;
    }
    Ok(tar.into_inner()?)
}

/// xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn blob(out: &mut tar::Builder<impl Write>, kind: &str, bytes: &[u8]) -> Result<serde_json::Value> {
    let digest = digest(bytes);
    entry(out, &format!("blobs/{}", digest.replace(':', "/")), bytes)?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
}

fn entry(out: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    out.append_data(&mut header, path, bytes)?;
    Ok(())
}
