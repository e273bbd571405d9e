//! End-to-end tests: a real daemon, real shims, real containers, real peers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod crash;
mod ctr;
mod faults;
mod images;
mod life;
mod reflect;
