//! Values of [`crated_types`] and messages, both ways.

mod descriptor;
mod mount;
mod time;

pub use time::{system, timestamp};
