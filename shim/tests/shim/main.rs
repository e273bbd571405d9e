//! The shim's program over its wire: real processes in a busybox root file system, as root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod foreign;
mod harness;
mod life;
mod streams;
