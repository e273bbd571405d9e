//! cratectl's library: a client of crated over its unix socket, and the attach protocol's client side.

pub mod attach;
pub mod client;
pub mod failure;

pub use client::Client;
pub use failure::Failure;
