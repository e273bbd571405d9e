//! Networks on the real kernel: a "host" made of network namespaces, with a client outside and containers that are namespaces
//! alone. Nothing of the machine's own links, rules and settings is touched. Needs root and `nft`.

#![allow(clippy::unwrap_used)]

mod host;
mod live;
mod mending;
mod pressure;
mod sctp;
mod traffic;
