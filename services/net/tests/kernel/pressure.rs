//! Many at once: nothing is left behind, and no address is given twice.

use super::host::*;
use crated_core::{MetadataStore, Networks};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

const WORKERS: usize = 8;
const CYCLES: usize = 500;

#[test]
fn five_hundred_come_and_go_by_eight_and_nothing_is_left() {
    in_host(|host| async move {
        let service = host.service().await;
        service.create(&scope(), spec("red", "10.8.0.0/22")).await.unwrap();
        let before = links();
        let held: Arc<Mutex<HashSet<String>>> = Arc::default();
        let host = Arc::new(host);
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let (host, service, held) = (host.clone(), service.clone(), held.clone());
            workers.spawn(async move {
                for cycle in 0..CYCLES / WORKERS {
                    let name = format!("c{worker}-{cycle}");
                    configure(&host, &service, wish(&name, on(&["red"]), &["0:80", "0:80/udp"])).await.unwrap();
                    let mut change = service.reserve(&scope(), &id(&name)).await.unwrap();
                    host.metadata.commit(change.take()).await.unwrap();
                    change.kept();
                    let netns = tokio::task::spawn_blocking(netns).await.unwrap();
                    let attachment = service.attach(&scope(), &id(&name), handle(&netns)).await.unwrap();
                    let address = attachment.endpoints[0].address.clone();
                    assert!(held.lock().unwrap().insert(address.clone()), "{address} is given twice");
                    drop(netns);
                    held.lock().unwrap().remove(&address);
                    stop(&host, &service, &name, true).await;
                }
            });
        }
        while let Some(done) = workers.join_next().await {
            done.unwrap();
        }
        let after = || links().into_iter().filter(|name| !before.contains(name) && !name.starts_with("br-")).count();
        tokio::task::block_in_place(|| wait_until("the end of all links", || after() == 0));
        let records = host.metadata.keys();
        let left: Vec<_> = records.iter().filter(|key| !key.starts_with("network")).collect();
        assert!(left.is_empty(), "{left:?}");
        for map in ["pub4", "pub4addr", "pub6"] {
            assert!(!nft(&["list", "map", "inet", "crated_0123456789ab", map]).contains("elements"), "{map}");
        }
        service.remove(&scope(), "red").await.unwrap();
        assert_eq!(links(), before);
        assert!(!nft(&["list", "tables"]).contains("crated_"));
    });
}
