//! Archives: OCI layouts and docker's save files as tar streams, in ([`import`]) and out ([`export`]).

mod docker;
mod export;
mod import;
mod pipe;
mod tar;

pub(crate) use export::export;
pub(crate) use import::import;

/// The index of an OCI layout.
const INDEX: &str = "index.json";
/// The mark of an OCI layout.
const LAYOUT: &str = "oci-layout";
/// docker's list of images.
const DOCKER: &str = "manifest.json";
/// An image's whole name, on its descriptor in an index.
const ANNOTATION_NAME: &str = "io.containerd.image.name";
/// An image's tag, sometimes its name, on its descriptor in an index (image-spec, annotations.md).
const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";

/// Where a layout keeps a blob.
fn blob_path(digest: &crated_types::Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
