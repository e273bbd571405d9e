//! Networks of containers: records, and one reconciler that makes the kernel agree with them.
//!
//! | module | what it is |
//! |---|---|
//! | [`Service`] | the port [`crated_core::Networks`]: `networks` (create, remove), `life` (configure to forget), `change` (of a running container), `mend` (reconcile, check) |
//! | `options`, `pools`, `address`, `published` | what networks may be, and who gets which address; no I/O |
//! | `ports` | the host's sockets that hold published ports |
//! | `kernel` | links, rules and settings: blocking, by netlink and `nft` |
//! | `names` | the resolver and the process that keeps answering while the daemon is away |
//! | `helper` | the process of the resolver, which holds published ports, too |
//! | `cni` | networks of plugins |

mod address;
mod change;
mod check;
pub mod cni;
pub mod helper;
mod kernel;
mod life;
mod mend;
pub mod names;
mod networks;
mod options;
pub mod pools;
mod port;
pub mod ports;
mod published;
mod service;

pub use options::Settings;
pub use service::{Config, Service};

use crated_types::{Error, Result};
use std::io::Read as _;

/// Random bytes of the kernel.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::os("read /dev/urandom", error))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The part of an identifier that people are shown.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// What people call a container: its name, where it has one, and its short identifier.
fn called(name: &str, id: &str) -> String {
    if name.is_empty() || name == id { format!("{:?}", short(id)) } else { format!("{name:?} ({})", short(id)) }
}

/// A new identifier of a network or an endpoint: 64 hexadecimal digits.
fn random_id() -> Result<String> {
    Ok(hex(&random::<32>()?))
}

/// Runs what blocks on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(gone) => Err(Error::internal("blocking work on networks did not end by itself").caused_by(gone)),
    }
}
