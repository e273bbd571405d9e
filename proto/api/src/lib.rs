//! The messages and services that crated speaks, generated from our own texts below `protos/`.
//!
//! Module paths follow the packages: [`containerd::services::containers::v1`], [`crated::engine::v1`] …

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use generated::*;

pub mod any;
pub mod convert;
pub mod status;

/// The encoded `google.protobuf.FileDescriptorSet` of everything above, for server reflection and the wire tests.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest gRPC message, both ways, in bytes (containerd's clients assume it).
pub const MESSAGE_MAX: usize = 16 << 20;
/// Metadata key that carries the namespace.
pub const NAMESPACE_KEY: &str = "containerd-namespace";
/// Metadata key that carries the lease.
pub const LEASE_KEY: &str = "containerd-lease";
