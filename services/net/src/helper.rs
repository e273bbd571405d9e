//! The small process that outlives the daemon: it answers for names, and holds published ports so that nobody takes them.
//!
//! ```text
//!   daemon ── unix socket, a JSON line each way ──▶ crated-netd ── udp, tcp 53 ◀── containers
//!     │  dies and comes back: connects again           │
//!     └─ tells everything anew (`replace`)              └── [::1]:port ──▶ container (the one way that is proxied, TCP and UDP)
//! ```
//!
//! The daemon starts it with its listening socket as standard input. It ends by itself when its daemon's root or its socket's
//! path is gone, and when no daemon is connected and nothing is left to serve.

mod client;
mod datagrams;
mod holder;
mod ports;
mod process;
mod protocol;

pub use client::{Config, Helper};
pub use datagrams::Flows;
pub use holder::HelperPorts;
pub use process::{Arguments, run};
pub use protocol::{Change, Hold, Port, Report, State, Transport};
