//! End-to-end tests: a real daemon, real shims, real containers, real peers.

mod crash;
mod ctr;
mod images;
mod life;
mod reflect;
