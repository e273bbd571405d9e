//! End-to-end tests: a real daemon, real shims, real containers, real peers.

mod life;
