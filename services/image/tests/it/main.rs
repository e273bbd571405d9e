//! The image service against an in-process registry that misbehaves on demand, a real one, and stores in temporary folders.

// The lint's exception for tests covers test functions, not what they call.
#![allow(clippy::unwrap_used)]

mod archives;
mod client;
mod differ;
mod fakes;
mod images;
mod proxy;
mod pulls;
mod real;
mod registry_fixture;
mod snapshots;
mod tls;
