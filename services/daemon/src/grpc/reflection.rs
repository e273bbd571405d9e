//! Server reflection, v1 and v1alpha: exactly the services that are served, with every type behind them.

use super::Adapter;
use crated_types::{Error, Result};
use std::sync::Arc;
use tonic_reflection::server::Builder;

/// Both versions.
pub const SERVICES: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Adapters that describe `services` and themselves.
///
/// # Errors
/// Where the descriptors cannot be read: a broken build.
pub fn adapters(services: &[&str]) -> Result<[Arc<Adapter>; 2]> {
    let builder = || {
        let empty = Builder::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(crated_api::DESCRIPTORS);
        services.iter().chain(&SERVICES).fold(empty, |builder, service| builder.with_service_name(*service))
    };
    let broken = |error| Error::internal("reflection").caused_by(error);
    Ok([Adapter::of(builder().build_v1().map_err(broken)?), Adapter::of(builder().build_v1alpha().map_err(broken)?)])
}
