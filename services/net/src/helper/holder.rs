//! Published ports held by the helper, so that nobody takes them while the daemon is away.

use super::client::Helper;
use super::protocol::{Change, Hold, Port};
use crate::names::teller::{host_addresses, host_port, owner};
use crate::ports::Holder;
use crated_core::network::Published;
use crated_types::{Error, Fault, Result};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports that are chosen where none is asked for: the upper part of what the kernel gives to clients.
const CHOSEN: std::ops::Range<u32> = 32_768..61_000;
/// Most ports that are tried one after another.
const TRIES: u32 = 28_232;

/// Holds ports by the helper.
#[derive(Debug)]
pub struct HelperPorts {
    helper: Helper,
    next: AtomicU32,
}

impl HelperPorts {
    /// Over the daemon's helper.
    #[must_use]
    pub fn new(helper: Helper) -> Self {
        Self { helper, next: AtomicU32::new(CHOSEN.start) }
    }

    /// The call of a trait that does not wait: the helper answers within some ten microseconds.
    fn ask<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
    }

    async fn hold_one(&self, owner: &str, port: &mut Published) -> Result<Vec<Port>> {
        let candidates: Box<dyn Iterator<Item = u32> + Send> = match (port.host_port, port.first, port.last) {
            (0, 0, _) => Box::new((0..TRIES).map(|_| {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                CHOSEN.start + number % (CHOSEN.end - CHOSEN.start)
            })),
            (0, first, last) => Box::new(first..=last.max(first)),
            (held, ..) => Box::new(std::iter::once(held)),
        };
        let mut taken = None;
        for number in candidates {
            let places: Vec<Port> = host_addresses(&port.host_ip)
                .into_iter()
                .filter_map(|address| host_port(&port.protocol, address, number))
                .collect();
            if places.is_empty() {
                return Err(Error::invalid(
                    "publish",
                    format_args!("{}:{number}/{} is no port", port.host_ip, port.protocol),
                ));
            }
            let holds =
                places.iter().map(|place| Hold { port: *place, owner: owner.to_owned(), splice: None }).collect();
            match self.helper.change(Change { holds, ..Change::default() }).await {
                Ok(()) => {
                    port.host_port = number;
                    return Ok(places);
                }
                Err(error) if error.fault() == Fault::InUse => taken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(taken.unwrap_or_else(|| Error::new(Fault::Exhausted, "no port of the host is free")))
    }

    async fn hold_all(&self, owner: &str, ports: &mut [Published]) -> Result<()> {
        let mut fresh = Vec::new();
        for port in ports {
            let held = port.host_port != 0;
            match self.hold_one(owner, port).await {
                Ok(_) if held => {}
                Ok(places) => fresh.extend(places),
                Err(error) => {
                    self.helper.change(Change { release: fresh, ..Change::default() }).await?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Holder for HelperPorts {
    fn hold(&self, (namespace, container): &(String, String), ports: &mut [Published]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.ask(self.hold_all(&owner(namespace, container), ports))
    }

    fn release(&self, _owner: &(String, String), ports: &[Published]) {
        let release: Vec<Port> = ports
            .iter()
            .flat_map(|port| host_addresses(&port.host_ip).into_iter().map(move |address| (port, address)))
            .filter_map(|(port, address)| host_port(&port.protocol, address, port.host_port))
            .collect();
        if release.is_empty() {
            return;
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return; // the daemon ends: its successor says what is to be held
        }
        if let Err(error) = self.ask(self.helper.change(Change { release, ..Change::default() })) {
            tracing::warn!(%error, "published ports were not let go");
        }
    }
}
