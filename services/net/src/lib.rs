//! Networks of containers: records, and one reconciler that makes the kernel agree with them.
//!
//! | module | what it is |
//! |---|---|
//! | the service, `pool`, `address`, `ports`, `link`, `nft`, `mend` | the port [`crated_core::Networks`] over netlink and nftables |
//! | `names` | the resolver and the process that keeps answering while the daemon is away |
//! | `files` | `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` |
//! | `cni` | networks of plugins |
