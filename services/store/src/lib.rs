//! What the daemon remembers: metadata (commit log and index), content, snapshot names, containers, images, namespaces,
//! leases, events, and the collector that takes what nothing refers to.
//!
//! ```text
//! let (metadata, report) = Metadata::open(dir, Options::default())?;     // blocking; Arc<Metadata>
//! let requests = Requests::new();                                       // how stores ask for a collection; Clone
//! let content = Content::open(root, metadata.clone(), requests.clone())?; // blocking; Arc<Content>
//! let overlay = Snapshots::open("overlayfs", offload, metadata.clone(), requests.clone()).await?; // Arc<Snapshots>
//! let containers = Containers::new(metadata.clone(), requests.clone()); // each an Arc
//! let images = Images::new(metadata.clone(), requests.clone());
//! let namespaces = Namespaces::new(metadata.clone());
//! let leases = Leases::new(metadata.clone(), requests.clone());
//! let events = Events::new(metadata.clone());
//! let collector = Collector::new(metadata.clone(), content.clone(), vec![overlay.clone()], requests.clone());
//! tracker.spawn(collector.run(token));                                  // serves `requests`; ends when the token is cancelled
//! requests.run_now().await?;                                            // a whole collection, e.g. for a sync delete
//! ```

pub(crate) mod blocking;
pub(crate) mod change;
pub mod check;
pub mod containers;
pub mod content;
pub mod events;
pub(crate) mod fields;
pub mod gc;
pub mod images;
pub(crate) mod keyed;
pub mod leases;
pub mod metadata;
pub mod namespaces;
pub mod snapshots;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use check::Records;
pub use containers::Containers;
pub use content::Content;
pub use events::Events;
pub use gc::{Collected, Collector, Requests};
pub use images::Images;
pub use leases::Leases;
pub use metadata::{Hook, Metadata, Options, Report};
pub use namespaces::Namespaces;
pub use snapshots::Snapshots;
