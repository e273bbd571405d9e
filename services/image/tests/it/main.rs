//! The image service against an in-process registry that misbehaves on demand, a real one, and stores in temporary folders.

mod archives;
mod client;
mod fakes;
mod images;
mod pulls;
mod real;
mod registry_fixture;
mod snapshots;
