//! placeholder for the collector page
pub(crate) mod graph;
pub(crate) mod requests;
pub(crate) mod touched;
pub use requests::Requests;
