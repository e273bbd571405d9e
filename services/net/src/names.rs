//! Names: who is called what on which network, and a resolver that answers for it.
//!
//! ```text
//!   container ──udp/tcp 53──▶ gateway address of its network ──▶ server ──▶ zone: ours? ── yes ─▶ answer
//!                                                                             │ no
//!                                                                             └─▶ forward ─▶ the host's resolvers
//! ```
//!
//! It runs in the small process of `helper`, which outlives the daemon, so no query is lost while the daemon restarts.

mod forward;
mod server;
pub(crate) mod teller;
mod upstream;
mod wire;
mod zone;

pub use server::{Counters, Listening, Server};
pub use teller::Teller;
pub use upstream::host_servers;
pub use zone::{Endpoint, Network, Subnet, Zone};
