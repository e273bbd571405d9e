//! Changes while the container runs.

use super::host::*;
use crated_core::Networks;
use crated_core::network::Wanted;
use crated_types::Fault;

#[test]
fn networks_come_and_go_while_the_container_runs() {
    in_host(|host| async move {
        let service = host.service().await;
        service.create(&scope(), spec("red", "10.8.1.0/24")).await.unwrap();
        service.create(&scope(), spec("alpha", "10.8.2.0/24")).await.unwrap();
        let peer = start(&host, &service, wish("peer", on(&["alpha"]), &[])).await.unwrap();
        let mut web = start(&host, &service, wish("web", on(&["red"]), &["8080:80"])).await.unwrap();
        serve(&host.outside, "outside", 7000);
        assert!(peer.never("10.8.2.3:80"));
        let wanted = Wanted { network: "alpha".into(), aliases: vec!["www".into()], ..Wanted::default() };
        let endpoint = service.connect(&scope(), &id("web"), wanted.clone(), Some(web.handle())).await.unwrap();
        assert_eq!((endpoint.interface.as_str(), endpoint.address.as_str()), ("eth1", "10.8.2.3/24"));
        assert!(peer.ask("10.8.2.3:80").is_some() && web.ask("10.8.2.2:80").is_some());
        let again = service.connect(&scope(), &id("web"), wanted, Some(web.handle())).await.unwrap_err();
        assert_eq!(again.fault(), Fault::AlreadyExists);
        // The default route and the published port follow the networks: alpha comes first now.
        let routes =
            || inside(&web.netns, || crated_sys::netlink::route::Route::open().unwrap().routes(false).unwrap());
        let gateway = || {
            routes().into_iter().find(|route| route.length == 0).and_then(|route| route.gateway).map(|g| g.to_string())
        };
        assert_eq!(gateway().as_deref(), Some("10.8.2.1"));
        assert!(host.outside_gets("192.0.2.1:8080").is_some());
        service.disconnect(&scope(), &id("web"), "red", Some(web.handle())).await.unwrap();
        assert!(host.outside_gets("192.0.2.1:8080").is_some() && web.ask("192.0.2.2:7000").is_some());
        let names: Vec<_> = inside(&web.netns, links);
        assert_eq!(names, ["lo", "eth1"]);
        let absent = service.disconnect(&scope(), &id("web"), "red", Some(web.handle())).await.unwrap_err();
        assert!(absent.is_not_found());
        service.disconnect(&scope(), &id("web"), "alpha", Some(web.handle())).await.unwrap();
        assert!(host.outside_never("192.0.2.1:8080"));
        service.connect(&scope(), &id("web"), on(&["red"])[0].clone(), Some(web.handle())).await.unwrap();
        assert!(host.outside_gets("192.0.2.1:8080").is_some());
        // A network that is wanted while the container is stopped waits for its next start.
        stop(&host, &service, "web", false).await;
        service.connect(&scope(), &id("web"), on(&["alpha"])[0].clone(), None).await.unwrap();
        web.netns = std::sync::Arc::new(netns());
        web.attachment = up(&host, &service, "web", &web.netns).await.unwrap();
        assert_eq!(web.attachment.endpoints.len(), 2);
        assert!(peer.ask(&format!("{}:80", web.address(1))).is_some());
        service.disconnect(&scope(), &id("web"), "alpha", None).await.unwrap(); // as of one whose namespace has gone
        drop(web);
    });
}

#[test]
fn ports_are_published_and_taken_back_while_the_container_runs() {
    in_host(|host| async move {
        let service = host.service().await;
        let web = start(&host, &service, wish("web", on(&["bridge"]), &["8080:80"])).await.unwrap();
        let other = start(&host, &service, wish("other", on(&["bridge"]), &["8082:80"])).await.unwrap();
        let publish_all = |add: &[&str], remove: &[&str]| {
            let (add, remove) = (add.iter().map(|t| publish(t)).collect(), remove.iter().map(|t| publish(t)).collect());
            let service = service.clone();
            async move { service.publish(&scope(), &id("web"), add, remove).await }
        };
        let all = publish_all(&["8081:80", "0:80"], &[]).await.unwrap();
        let chosen = all[2].host_port;
        assert!((32768..=60999).contains(&chosen), "{all:?}");
        for port in [8080, 8081, chosen] {
            assert!(host.outside_gets(&format!("192.0.2.1:{port}")).is_some(), "{port}");
        }
        publish_all(&[], &["8080:80"]).await.unwrap();
        assert!(host.outside_never("192.0.2.1:8080") && host.outside_gets("192.0.2.1:8081").is_some());
        let taken = publish_all(&["8083:80", "8082:80"], &["8081:80"]).await.unwrap_err();
        assert_eq!(taken.fault(), Fault::InUse);
        assert!(host.outside_gets("192.0.2.1:8081").is_some() && host.outside_never("192.0.2.1:8083"));
        std::net::TcpListener::bind("0.0.0.0:8083").unwrap(); // nothing of the failed change is held
        assert!(publish_all(&[], &["9999:80"]).await.unwrap_err().is_not_found());
        // A port moves to another container: datagrams of a client who goes on sending follow at once.
        publish_all(&["5353:80/udp"], &[]).await.unwrap();
        let (first, second) = tokio::task::block_in_place(|| {
            inside(&host.outside, || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:4444").unwrap();
                socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
                let ask = |whom: &str| {
                    let mut buffer = [0; 64];
                    for _ in 0..100 {
                        socket.send_to(b"?", "192.0.2.1:5353").unwrap();
                        if let Ok((got, _)) = socket.recv_from(&mut buffer)
                            && String::from_utf8_lossy(&buffer[..got]).starts_with(whom)
                        {
                            return true;
                        }
                    }
                    false
                };
                let first = ask("web");
                (first, socket)
            })
        });
        assert!(first);
        publish_all(&[], &["5353:80/udp"]).await.unwrap();
        service.publish(&scope(), &id("other"), vec![publish("5353:80/udp")], vec![]).await.unwrap();
        let mut answer = String::new();
        for _ in 0..100 {
            let mut buffer = [0; 64];
            second.send_to(b"?", "192.0.2.1:5353").unwrap();
            if let Ok((got, _)) = second.recv_from(&mut buffer) {
                answer = String::from_utf8_lossy(&buffer[..got]).into_owned();
                if answer.starts_with("other") {
                    break;
                }
            }
        }
        assert!(answer.starts_with("other "), "{answer}");
        stop(&host, &service, "web", true).await;
        assert!(host.outside_never("192.0.2.1:8081"));
        std::net::TcpListener::bind("0.0.0.0:8081").unwrap();
        drop((web, other));
    });
}

#[test]
fn a_link_goes_even_where_its_namespace_stays() {
    in_host(|host| async move {
        let service = host.service().await;
        let web = start(&host, &service, wish("web", on(&["bridge"]), &["8080:80"])).await.unwrap();
        let link = web.attachment.endpoints[0].host_link.clone();
        assert!(links().contains(&link));
        stop(&host, &service, "web", true).await;
        // `web.netns` is held, as by a container that joined it.
        tokio::task::block_in_place(|| wait_until("the link's end", || !links().contains(&link)));
        assert_eq!(inside(&web.netns, links), ["lo"]);
    });
}
