//! End-to-end tests: a real daemon, real shims, real containers, real peers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod api;
mod check;
mod crash;
mod ctr;
mod faults;
mod full;
mod hostile;
mod images;
mod life;
mod network;
mod reboot;
mod reflect;
mod scale;
