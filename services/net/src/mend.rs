//! The reconciler: records are what is wanted, and the kernel is made to agree; records of what does not run go.
//!
//! It runs at the start of the daemon, and a part of it whenever somebody takes our table away.

use crated_core::network::record::{ADDRESSES, ATTACHMENTS};
use crated_core::network::{Attachment, Mended, Netns, Phase, Running};
use crated_core::{Op, fail};
use crated_sys::poll;
use crated_types::Result;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::address::Holder;
use crate::kernel::{Kernel, NetworkRules, Plug};
use crate::published::mappings;
use crate::service::{Attached, Memory, Service, holder_of};

/// Time that a namespace gets to die with its links.
const DYING: Duration = Duration::from_millis(1000);
/// Time between two attempts to make a lost table again.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts to make it again.
const RETRIES: usize = 30;
/// How often the watcher looks whether it is still needed.
const LOOK: Duration = Duration::from_secs(2);

impl Service {
    pub(crate) async fn mend(&self, running: Vec<Running>) -> Result<Mended> {
        let mut mended = Mended::default();
        let mut alive: HashMap<Holder, Netns> = running
            .into_iter()
            .map(|one| ((one.namespace.to_string(), one.container.to_string()), one.netns))
            .collect();
        let mut networks = BTreeMap::new();
        let mut ports = BTreeMap::new();
        let mut live: Vec<(Attachment, Vec<Plug>, Netns)> = Vec::new();
        let mut kept: HashSet<Vec<u8>> = HashSet::new();
        for (key, _, attachment) in ATTACHMENTS.list(&*self.metadata, &ATTACHMENTS.prefix("")).await? {
            if attachment.phase == Phase::Configured as i32 {
                continue;
            }
            let who = holder_of(&attachment);
            let netns = alive.remove(&who).filter(|_| attachment.boot_id == self.boot_id);
            let plugs = self.plugs(&attachment).await;
            let (Some(netns), Ok(plugs)) = (netns, plugs) else {
                let (mut ops, left) = Self::freeing(&attachment);
                ops.push(ATTACHMENTS.put(key, &left));
                self.metadata.commit(ops).await?;
                mended.released += 1;
                tracing::info!(
                    container = attachment.container,
                    "attachment of a container that does not run is taken back"
                );
                continue;
            };
            for plug in &plugs {
                let texts = crate::service::addresses(&plug.endpoint);
                kept.extend(texts.iter().map(|address| ADDRESSES.key(&plug.network.id, &address.to_string())));
                if plug.network.driver == "bridge" {
                    networks.insert(plug.network.id.clone(), NetworkRules::of(&plug.network, &plug.settings));
                }
                self.load(&plug.network).await?;
                self.memory.lock().users.entry(plug.network.id.clone()).or_default().insert(who.clone());
            }
            let mut held = attachment.ports.clone();
            if let Err(error) = self.ports.hold(&who, &mut held) {
                tracing::error!(container = attachment.container, %error, "a published port cannot be held any more");
            }
            ports.insert(who, mappings(&plugs, &attachment.ports));
            live.push((attachment, plugs, netns));
        }
        self.free_strays(&kept).await?;
        fail::point("net.reconcile.records")?;
        self.kernel.tables.recall(networks, ports);
        mended.links = self.remove_strays(&live).await?;
        let kernel = Arc::clone(&self.kernel);
        crate::blocking(move || kernel.tables.restore()).await?;
        for (attachment, plugs, netns) in live {
            mended.restored += usize::from(self.replug(&attachment, plugs, netns).await?);
        }
        self.watch();
        self.memory.changed();
        Ok(mended)
    }

    /// Frees addresses that no attachment has.
    async fn free_strays(&self, kept: &HashSet<Vec<u8>>) -> Result<()> {
        let all = self.metadata.scan_all(&ADDRESSES.prefix("")).await?;
        let ops: Vec<_> =
            all.into_iter().filter(|(key, _)| !kept.contains(key)).map(|(key, _)| Op::Delete(key)).collect();
        if ops.is_empty() {
            return Ok(());
        }
        tracing::info!(count = ops.len(), "addresses that nobody has are free again");
        self.memory.lock().subnets.clear();
        self.metadata.commit(ops).await.map(drop)
    }

    /// Removes links with our mark that no record names.
    async fn remove_strays(&self, live: &[(Attachment, Vec<Plug>, Netns)]) -> Result<usize> {
        let mut known: HashSet<String> = self.all().await?.into_iter().map(|network| network.link).collect();
        known.extend(live.iter().flat_map(|(_, plugs, _)| plugs.iter().map(|plug| plug.endpoint.host_link.clone())));
        let kernel = Arc::clone(&self.kernel);
        crate::blocking(move || {
            let strays: Vec<_> = kernel.ours()?.into_iter().filter(|link| !known.contains(&link.name)).collect();
            kernel.remove(&strays)
        })
        .await
    }

    /// Puts into the kernel what is missing of an attachment.
    async fn replug(&self, attachment: &Attachment, plugs: Vec<Plug>, netns: Netns) -> Result<bool> {
        let who = holder_of(attachment);
        let (kernel, of, container) = (Arc::clone(&self.kernel), who.clone(), attachment.container.clone());
        let held = crate::life::keeps_namespace(&plugs).then(|| netns.fd.try_clone());
        let held = held.transpose().map_err(|error| crated_types::Error::os("duplicate a descriptor", error))?;
        let fd = netns.fd;
        let done = crate::blocking(move || {
            let inode = crated_sys::namespace::inode(fd.as_fd());
            let inode = inode.map_err(|error| crated_types::Error::os("look at a network namespace", error.into()))?;
            plugs.iter().try_for_each(|plug| kernel.open_network(plug))?;
            let links = kernel.links()?;
            Ok((inode, kernel.mend(&of, &plugs, &links, fd.as_fd())?))
        })
        .await;
        match done {
            Ok((inode, mended)) => {
                self.memory.lock().attached.insert(who, Attached { path: netns.path, inode, netns: held });
                Ok(mended)
            }
            Err(error) => {
                // One container that cannot be mended does not keep the others from their networks.
                tracing::error!(container, %error, "a container's networks could not be mended");
                Ok(false)
            }
        }
    }

    /// Follows the kernel until the service is closed.
    fn watch(&self) {
        let (kernel, stop) = (Arc::downgrade(&self.kernel), self.stop.clone());
        let guard = move || {
            if let Err(error) = guard_table(&kernel, &stop) {
                tracing::warn!(%error, "nobody watches over the nftables table: after a flush, restart crated");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("nft-watch".into()).spawn(guard) {
            tracing::warn!(%error, "nobody watches over the nftables table: after a flush, restart crated");
        }
        let (kernel, memory, stop) = (Arc::clone(&self.kernel), Arc::clone(&self.memory), self.stop.clone());
        self.tracker.spawn(async move {
            stop.run_until_cancelled(bury(kernel, memory)).await;
        });
    }
}

/// Makes our table again whenever somebody removes it (`nft flush ruleset`, a firewall's reload). Ends with the service.
fn guard_table(kernel: &Weak<Kernel>, stop: &CancellationToken) -> crated_sys::Result<()> {
    let mut watch = crated_sys::netlink::nft::Watch::open()?;
    while let (Some(kernel), false) = (kernel.upgrade(), stop.is_cancelled()) {
        if !poll::readable(watch.as_fd(), Some(LOOK))? {
            continue;
        }
        if watch.removed(kernel.tables.name())? {
            restore(&kernel, stop);
        }
    }
    Ok(())
}

fn restore(kernel: &Kernel, stop: &CancellationToken) {
    for _ in 0..RETRIES {
        match kernel.tables.restore_lost() {
            Ok(true) => return tracing::warn!("somebody removed the nftables table: it is there again"),
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, "the nftables table cannot be made again yet"),
        }
        if stop.is_cancelled() {
            return;
        }
        std::thread::sleep(RETRY);
    }
    tracing::error!("the nftables table is gone and cannot be made again");
}

/// Removes the links that outlived their containers: a namespace that somebody else still uses does not die.
async fn bury(kernel: Arc<Kernel>, memory: Arc<Memory>) {
    loop {
        memory.wake.notified().await;
        tokio::time::sleep(DYING).await;
        let names = std::mem::take(&mut *memory.dying.lock().unwrap_or_else(PoisonError::into_inner));
        let names: HashSet<String> = names.into_iter().collect();
        let kernel = Arc::clone(&kernel);
        let removed = crate::blocking(move || {
            let left: Vec<_> = kernel.ours()?.into_iter().filter(|link| names.contains(&link.name)).collect();
            if left.is_empty() { Ok(0) } else { kernel.remove(&left) }
        })
        .await;
        match removed {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "links outlived their containers and were removed"),
            Err(error) => tracing::warn!(%error, "links of containers that ended could not be removed"),
        }
    }
}
