//! Values of the container field, with no I/O and no async: what crosses process boundaries and what every floor speaks of.
//!
//! A value is parsed once, at the edge; inside the program its type is the proof that it is well formed.

pub mod attach;
pub mod cidr;
pub mod descriptor;
pub mod digest;
pub mod error;
pub mod filter;
pub mod label;
pub mod mount;
pub mod name;
pub mod platform;
pub mod reference;
pub mod scope;

pub use cidr::Cidr;
pub use descriptor::Descriptor;
pub use digest::Digest;
pub use error::{Code, Error, Fault, Kind, Result};
pub use label::Labels;
pub use mount::Mount;
pub use name::{ContainerId, ExecId, IngestRef, LeaseId, Namespace, SnapshotKey};
pub use platform::Platform;
pub use reference::Reference;
pub use scope::{Actor, Scope};
