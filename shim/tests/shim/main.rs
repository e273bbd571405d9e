//! The shim's program over its wire: real processes in a busybox root file system, as root.

mod foreign;
mod harness;
mod life;
mod streams;
