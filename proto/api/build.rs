//! Compiles every text below `protos/` with protox (no protoc), keeps the descriptor set, and generates messages and services.

use std::error::Error;
use std::path::{Path, PathBuf};

fn texts(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            texts(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let root = Path::new("protos");
    let mut files = Vec::new();
    texts(root, &mut files)?;
    files.sort();
    let set = protox::compile(&files, [root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&set))?;
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        .bytes(".containerd.services.content.v1")
        .bytes(".crated.engine.v1")
        .extern_path(".google.protobuf.Any", "::prost_types::Any")
        .include_file("packages.rs")
        .compile_fds(set)?;
    Ok(())
}
