//! The ttrpc wire: what containerd's daemon and shims speak over unix sockets, on tokio and prost.
//!
//! A frame is ten bytes of head (length, stream, type, flags; big endian) and at most 4 MiB of message ([`frame`]).
//! [`Client`] has any number of calls in flight over one connection; [`Server`] answers many connections, each with bounded
//! concurrency. Both work in a multi-thread runtime (the daemon) and in a current-thread one (the shim).
//!
//! ```text
//! client                              server
//!   Request{service, method, …} ──▶     Service::call ──▶ Response{status | payload}
//!   Request (flag 2 or 1), Data … ──▶   Service::stream ──▶ Data …, Response or Data(closed, no data)
//! ```

pub mod client;
pub mod frame;
pub mod server;
pub mod status;
pub mod stream;

mod connection;

pub use async_trait::async_trait;
pub use client::{CallOptions, Client};
pub use server::{Context, Server, Service};
pub use stream::{ClientStream, ServerStream};

/// Metadata key that carries the namespace.
pub const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";
