//! The messages and services that crated speaks, generated from our own texts below `protos/`.
//!
//! Module paths follow the packages: [`containerd::services::containers::v1`], [`crated::engine::v1`] …

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::*;

/// The encoded `google.protobuf.FileDescriptorSet` of everything above, for server reflection and the wire tests.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
