//! What a crash, a flush, a reboot or another daemon does, and that nothing is left or lost.

use super::host::*;
use crated_core::network::{Running, Wanted};
use crated_core::{MetadataStore, Networks};
use crated_net::{Config, Service};
use crated_store::{Metadata, Options};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

#[test]
fn a_flushed_ruleset_is_there_again_with_its_ports() {
    in_host(|host| async move {
        let service = host.service().await;
        let web =
            start(&host, &service, wish("web", on(&["bridge"]), &["8080:80", "127.0.0.1:9090:80"])).await.unwrap();
        for _ in 0..3 {
            nft(&["flush", "ruleset"]);
            tokio::task::block_in_place(|| wait_until("the table", || nft(&["list", "tables"]).contains("crated_")));
            assert!(host.outside_gets("192.0.2.1:8080").is_some());
            assert!(host.outside_never("192.0.2.1:9090"));
        }
        assert_eq!(service.check().await.unwrap(), []);
        drop(web);
    });
}

#[test]
fn what_is_missing_is_told_and_a_restart_mends_it() {
    in_host(|host| async move {
        let service = host.service().await;
        let web = start(&host, &service, wish("web", on(&["bridge"]), &["8080:80"])).await.unwrap();
        let lost = start(&host, &service, wish("lost", on(&["bridge"]), &[])).await.unwrap();
        assert_eq!(service.check().await.unwrap(), []);
        service.close();
        let mut route = crated_sys::netlink::route::Route::open().unwrap();
        use crated_sys::netlink::route::remove_link;
        route.send(vec![remove_link(&lost.attachment.endpoints[0].host_link), remove_link("crated0")]).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        nft(&["flush", "map", "inet", "crated_0123456789ab", "pub4"]);
        nft(&["add", "table", "ip", "strict"]);
        nft(&["add", "chain", "ip", "strict", "f", "{ type filter hook forward priority 5; policy drop; }"]);
        let found: Vec<_> = service
            .check()
            .await
            .unwrap()
            .into_iter()
            .map(|found| format!("{}: {}", found.subject, found.what))
            .collect();
        for word in ["crated0: the bridge", "lost its link", "1 elements of pub4", "ip_forward", "ip strict f"] {
            assert!(found.iter().any(|line| line.contains(word)), "{word}: {found:?}");
        }
        nft(&["delete", "table", "ip", "strict"]);
        drop(service);
        let again = host.service_of("0123456789abcdef", vec![web.running(), lost.running()]).await;
        assert!(host.outside_gets("192.0.2.1:8080").is_some());
        serve(&host.outside, "outside", 7000);
        assert!(lost.ask("192.0.2.2:7000").is_some() && web.ask(&format!("{}:80", lost.address(0))).is_some());
        assert_eq!(again.check().await.unwrap(), []);
        // After a reboot nothing runs, and nothing is held.
        drop(again);
        let rebooted = host.service_of("0123456789abcdef", vec![]).await;
        assert!(host.metadata.keys().iter().all(|key| !key.starts_with("address/")), "{:?}", host.metadata.keys());
        assert!(!links().iter().any(|name| name.starts_with("veth")), "{:?}", links());
        let wanted = rebooted.attachment(&scope(), &id("web")).await.unwrap().unwrap();
        assert!(wanted.endpoints.len() == 1 && wanted.endpoints[0].address.is_empty());
    });
}

#[test]
fn two_daemons_side_by_side_leave_one_another_alone() {
    in_host(|host| async move {
        let other = Host { outside: host.outside.clone(), metadata: Arc::default() };
        let (one, two) =
            (host.service_of("aaaaaaaaaaaaaaaa", vec![]).await, other.service_of("bbbbbbbbbbbbbbbb", vec![]).await);
        let web = start(&host, &one, wish("web", on(&["bridge"]), &["8080:80"])).await.unwrap();
        let web2 = start(&other, &two, wish("web", on(&["bridge"]), &["8081:80"])).await.unwrap();
        assert_eq!(
            (web.address(0).to_string().as_str(), web2.address(0).to_string().as_str()),
            ("172.17.0.2", "172.18.0.2")
        );
        assert!(links().contains(&"crated0".to_owned()) && links().contains(&"crated1".to_owned()));
        let taken = start(&other, &two, wish("thief", on(&["bridge"]), &["8080:80"])).await.err().unwrap();
        assert!(taken.to_string().contains("8080/tcp is taken"), "{taken}");
        assert!(host.outside_gets("192.0.2.1:8080").is_some() && host.outside_gets("192.0.2.1:8081").is_some());
        assert!(web.never("172.18.0.2:80") && web2.never("172.17.0.2:80"));
        // One goes for good, with everything of its own.
        drop(one);
        let one = host.service_of("aaaaaaaaaaaaaaaa", vec![]).await;
        assert!(other.outside_gets("192.0.2.1:8081").is_some());
        assert_eq!(two.check().await.unwrap(), []);
        drop((one, web2));
    });
}

/// Points at which the process is killed, in the order of a container's life.
const POINTS: [&str; 16] = [
    "net.reserve.ports",
    "net.bridge",
    "net.bridge.made",
    "net.attach.veth",
    "net.attach.veth.done",
    "net.attach.inside",
    "net.attach.routes",
    "net.ports",
    "net.attach.done",
    "net.connect.written",
    "net.publish.written",
    "net.disconnect.unplugged",
    "net.detach.ports",
    "net.ports.remove",
    "net.detach.links",
    "net.remove.committed",
];

fn real(folder: &Path) -> (Arc<dyn MetadataStore>, Arc<Service>) {
    let (metadata, _) = Metadata::open(&folder.join("metadata"), Options::default()).unwrap();
    let metadata: Arc<dyn MetadataStore> = metadata;
    let config = Config { id: "cccccccccccccccc".into(), ..Config::default() };
    (metadata.clone(), Service::new(metadata, config, TaskTracker::new()))
}

/// The life of a container, to be killed in: started by the test below in the host's namespace.
#[test]
#[ignore = "a part of the test that kills it"]
fn a_life() {
    let folder = PathBuf::from(std::env::var("NET_FOLDER").unwrap());
    let netns = Arc::new(crated_sys::namespace::open(Path::new(&std::env::var("NET_CONTAINER").unwrap())).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (metadata, service) = real(&folder);
        service.reconcile(vec![]).await.unwrap();
        service.create(&scope(), spec("red", "10.8.1.0/24")).await.unwrap();
        service.create(&scope(), spec("blue", "10.8.2.0/24")).await.unwrap();
        let step = async |change: crated_types::Result<crated_core::network::Change>| {
            let mut change = change.unwrap();
            metadata.commit(change.take()).await.unwrap();
            change.kept();
        };
        let web = id("web");
        step(service.configure(&scope(), wish("web", on(&["red"]), &["8080:80"])).await).await;
        step(service.reserve(&scope(), &web).await).await;
        service.attach(&scope(), &web, handle(&netns)).await.unwrap();
        let blue = Wanted { network: "blue".into(), ..Wanted::default() };
        service.connect(&scope(), &web, blue, Some(handle(&netns))).await.unwrap();
        service.publish(&scope(), &web, vec![publish("8081:80")], vec![]).await.unwrap();
        service.disconnect(&scope(), &web, "blue", Some(handle(&netns))).await.unwrap();
        step(service.detach(&scope(), &web).await).await;
        service.remove(&scope(), "red").await.unwrap();
    });
}

#[test]
fn killed_at_any_step_it_goes_on_or_leaves_nothing() {
    in_host(|host| async move {
        for point in POINTS {
            let folder = tempfile::tempdir().unwrap();
            let container = Arc::new(netns());
            serve(&container, "web", 80);
            let this = std::process::id();
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "mending::a_life", "--ignored", "--nocapture", "--test-threads=1"])
                .env("CRATED_FAILPOINTS", format!("{point}=kill"))
                .env("NET_FOLDER", folder.path())
                .env("NET_CONTAINER", format!("/proc/{this}/fd/{}", container.as_raw_fd()))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&status.stderr).into_owned();
            assert!(!status.status.success() && !text.contains("panicked"), "{point}: {text}");
            let (metadata, service) = real(folder.path());
            let running = || Running { namespace: scope().namespace, container: id("web"), netns: handle(&container) };
            service.reconcile(vec![running()]).await.unwrap();
            let attachment = service.attachment(&scope(), &id("web")).await.unwrap();
            let reserved = attachment.is_some_and(|attachment| attachment.phase != 0);
            if reserved {
                assert!(host.outside_gets("192.0.2.1:8080").is_some(), "{point}");
                assert_eq!(service.check().await.unwrap(), [], "{point}");
            }
            drop(service);
            let config = Config { id: "cccccccccccccccc".into(), ..Config::default() };
            let service = Service::new(metadata.clone(), config, TaskTracker::new());
            service.reconcile(vec![]).await.unwrap();
            assert!(host.outside_never("192.0.2.1:8080"), "{point}");
            assert!(metadata.scan_all(b"address/").await.unwrap().is_empty(), "{point}");
            assert!(!links().iter().any(|name| name.starts_with("veth")), "{point}: {:?}", links());
            for name in ["red", "blue"] {
                match service.remove(&scope(), name).await {
                    Err(error) if error.is_not_found() => {}
                    removed => drop(removed.unwrap()),
                }
            }
            assert_eq!(links().iter().filter(|name| name.starts_with("br-")).count(), 0, "{point}: {:?}", links());
        }
    });
}
