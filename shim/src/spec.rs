//! The little that the shim itself reads from a bundle's `config.json`; the rest is crated_oci's.

use crated_types::{Error, Fault, Result};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest `config.json`, in bytes.
const SPEC_MAX: u64 = 16 << 20;

#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn text(bundle: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let path = bundle.join("config.json");
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(&path)?.take(SPEC_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> = read().map_err(|error| Error::os(format!("read {}", path.display()), error))?;
    if bytes.len() as u64 > SPEC_MAX {
        return Err(Error::new(Fault::Malformed, format!("{} is larger than {SPEC_MAX} bytes", path.display())));
    }
    Ok(bytes)
}

/// The whole spec.
pub(crate) fn load(bundle: &Path) -> Result<Spec> {
    serde_json::from_slice(&text(bundle)?)
        .map_err(|error| Error::new(Fault::Malformed, format!("{}/config.json", bundle.display())).caused_by(error))
}

/// The group whose shim a container shares: an annotation, or the container alone.
pub(crate) fn group(bundle: &Path, id: &str) -> Result<String> {
    let spec: Annotated = serde_json::from_slice(&text(bundle)?)
        .map_err(|error| Error::new(Fault::Malformed, format!("{}/config.json", bundle.display())).caused_by(error))?;
    let named = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
    Ok(named.iter().find_map(|key| spec.annotations.get(*key)).map_or(id, String::as_str).to_owned())
}

/// Whether the container's processes die with its init: it has a pid namespace of its own.
pub(crate) fn has_own_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|all| all.iter().any(|ns| ns.typ() == LinuxNamespaceType::Pid && ns.path().is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_an_annotation_or_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let group_of = |json: &str| {
            std::fs::write(dir.path().join("config.json"), json).unwrap();
            group(dir.path(), "me").unwrap()
        };
        assert_eq!(group_of("{}"), "me");
        assert_eq!(group_of(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"},"x":[1]}"#), "pod");
        let both = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#;
        assert_eq!(group_of(both), "g");
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(group(dir.path(), "me").is_err());
    }
}
