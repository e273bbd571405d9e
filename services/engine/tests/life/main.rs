//! Lives of containers over ports without a kernel: names, failures at every step, exits told twice, restarts, removals.

#![allow(clippy::unwrap_used)]

mod crash;
mod fakes;
mod host;
mod lives;
