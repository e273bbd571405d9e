//! Images made of numbers, and what their snapshots must show.

use crated_image::layer::{ApplyOptions, ApplyTarget, apply};
use crated_image::manifest::{chain_ids, sha256};
use crated_types::{Digest, Platform};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tar::{EntryType, Header};

use crate::dice::{Dice, bytes};

/// What stands at a path: kind, mode, and bytes, target or device.
pub(crate) type Tree = BTreeMap<String, String>;

/// An image.
pub(crate) struct Made {
    /// The name that an import gives it.
    pub name: String,
    /// An OCI archive of it.
    pub archive: Vec<u8>,
    /// Its layers as tars, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// Names of its snapshots, lowest first.
    pub chain: Vec<String>,
    /// Its blobs.
    pub blobs: Vec<Digest>,
}

/// A layer as it grows.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn add(&mut self, name: &str, kind: EntryType, mode: u32, body: &[u8], link: &str) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(body.len() as u64);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        if link.is_empty() {
            self.0.append_data(&mut header, name, body).unwrap();
        } else {
            self.0.append_link(&mut header, name, link).unwrap();
        }
    }

    fn folder(&mut self, name: &str, mode: u32) {
        self.add(name, EntryType::Directory, mode, b"", "");
    }

    fn file(&mut self, name: &str, body: &[u8]) {
        self.add(name, EntryType::Regular, 0o644, body, "");
    }
}

/// A layer in which all that a layer may hold stands, above those below it.
fn layer(seed: u64, place: usize) -> Vec<u8> {
    let mut layer = Layer(tar::Builder::new(Vec::new()));
    let mut dice = Dice::new(seed);
    let folder = format!("d{place}");
    layer.folder(&format!("{folder}/"), 0o755);
    for number in 0..6 {
        let length = [0, 1, 700, 4096, 20_000, 70_000][dice.below(6)];
        layer.file(&format!("{folder}/f{number}"), &bytes(seed * 10 + number, length));
    }
    layer.add(&format!("{folder}/link"), EntryType::Symlink, 0o777, b"", "f0");
    layer.add(&format!("{folder}/hard"), EntryType::Link, 0o644, b"", &format!("{folder}/f1"));
    match place {
        0 => {
            for name in ["gone/a", "gone/b/c", "hidden/old", "etc/conf"] {
                layer.file(name, name.as_bytes());
            }
            layer.folder("shut/", 0o700);
            layer.add("null", EntryType::Char, 0o666, b"", "");
            layer.add("pipe", EntryType::Fifo, 0o640, b"", "");
        }
        1 => {
            layer.file(".wh.gone", b"");
            layer.file("hidden/.wh..wh..opq", b"");
            layer.file("hidden/new", b"new");
            layer.file("d0/f1", b"changed");
            layer.add("set", EntryType::Regular, 0o4755, b"setuid", "");
        }
        _ => {
            layer.file("d0/.wh.f2", b"");
            layer.folder("shut/", 0o711);
            layer.file("etc/conf", format!("{seed}").as_bytes());
            layer.file("zeros", &[0; 50_000]);
        }
    }
    layer.0.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(bytes).as_str(), "size": bytes.len() })
}

/// The image of a number: four share the lowest layer, two the one above.
pub(crate) fn made(number: u64) -> Made {
    let layers =
        vec![layer(number / 4 + 1000, 0), layer(number / 4 * 10 + number % 2 + 2000, 1), layer(number + 3000, 2)];
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| sha256(layer)).collect();
    let packed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let platform = Platform::host();
    let config = json!({
        "os": platform.os, "architecture": platform.architecture, "variant": platform.variant, "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids.iter().map(Digest::as_str).collect::<Vec<_>>() },
    });
    let config = serde_json::to_vec(&config).unwrap();
    let list: Vec<Value> =
        packed.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": list,
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let name = format!("docker.io/library/i{number}:1");
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": name });
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] });
    let mut archive = Layer(tar::Builder::new(Vec::new()));
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    archive.file("index.json", &serde_json::to_vec(&index).unwrap());
    let blobs: Vec<&Vec<u8>> = packed.iter().chain([&config, &manifest]).collect();
    for blob in &blobs {
        archive.file(&format!("blobs/sha256/{}", sha256(blob).hex()), blob);
    }
    let blobs = blobs.iter().map(|blob| sha256(blob)).collect();
    let chain = chain_ids(&diff_ids).iter().map(ToString::to_string).collect();
    Made { name, archive: archive.0.into_inner().unwrap(), layers, chain, blobs }
}

/// What the snapshots of all images show, by name: their layers, applied one above the other.
pub(crate) fn trees(images: u64) -> BTreeMap<String, Tree> {
    let mut trees = BTreeMap::new();
    for image in (0..images).map(made) {
        let root = crate::replay::folder();
        let target = ApplyTarget::direct(root.path());
        // a snapshot's root is made so
        std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for (layer, name) in image.layers.iter().zip(&image.chain) {
            apply(&layer[..], &target, &ApplyOptions::default()).unwrap();
            trees.entry(name.clone()).or_insert_with(|| tree(root.path()));
        }
    }
    trees
}

/// Everything below a folder.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    walk(root, "", &mut found);
    found
}

fn walk(root: &Path, path: &str, found: &mut Tree) {
    let full = if path.is_empty() { root.join(".") } else { root.join(path) };
    let stat = std::fs::symlink_metadata(&full).unwrap();
    let kind = stat.file_type();
    let what = if kind.is_file() {
        let body = std::fs::read(&full).unwrap();
        format!("file of {} bytes, {:08x}", body.len(), crc32fast::hash(&body))
    } else if kind.is_symlink() {
        format!("link to {}", std::fs::read_link(&full).unwrap().display())
    } else if kind.is_dir() {
        "folder".into()
    } else {
        format!("special {}", stat.rdev())
    };
    found.insert(path.into(), format!("{:o} {what}", stat.mode()));
    if kind.is_dir() {
        for entry in std::fs::read_dir(&full).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            walk(root, &if path.is_empty() { name } else { format!("{path}/{name}") }, found);
        }
    }
}
