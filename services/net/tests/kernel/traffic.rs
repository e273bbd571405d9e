//! Real packets on every way that docs/packets.md draws, and those that must not pass.

use super::host::*;
use crated_core::Networks;
use crated_core::network::{NetworkSpec, Wanted};
use std::collections::BTreeMap;

#[test]
fn the_default_bridge_leads_out_and_published_ports_lead_in() {
    in_host(|host| async move {
        let service = host.service().await;
        let web =
            start(&host, &service, wish("web", on(&["bridge"]), &["8080:80", "127.0.0.1:9090:80", "5353:80/udp"]))
                .await
                .unwrap();
        let peer = start(&host, &service, wish("peer", on(&["bridge"]), &[])).await.unwrap();
        assert_eq!(
            (web.address(0).to_string().as_str(), web.attachment.endpoints[0].gateway.as_str()),
            ("172.17.0.2", "172.17.0.1")
        );
        // Out, with the host's address.
        serve(&host.outside, "outside", 7000);
        assert_eq!(web.ask("192.0.2.2:7000").as_deref(), Some("outside 192.0.2.1"));
        // In: the client's own address is kept.
        assert_eq!(host.outside_gets("192.0.2.1:8080").as_deref(), Some("web 192.0.2.2"));
        let udp = inside(&host.outside, || ask_udp("192.0.2.1:5353", PATIENCE));
        assert_eq!(udp.as_deref(), Some("web 192.0.2.2"));
        // From the host itself: own address, loopback, the bridge's address.
        for to in ["192.0.2.1:8080", "127.0.0.1:8080", "172.17.0.1:8080", "127.0.0.1:9090"] {
            assert!(ask(to, PATIENCE).is_some_and(|text| text.starts_with("web ")), "{to}");
        }
        // Hairpin, and a neighbour by the host's address; direct on the same bridge.
        assert!(web.ask("192.0.2.1:8080").is_some() && peer.ask("192.0.2.1:8080").is_some());
        assert_eq!(peer.ask("172.17.0.2:80").as_deref(), Some("web 172.17.0.3"));
        // Not: a loopback port from outside or from a neighbour, also by a route to 127/8; unpublished ports by a direct route.
        assert!(host.outside_never("192.0.2.1:9090") && peer.never("172.17.0.1:9090"));
        inside(&host.outside, || {
            run("ip", &["route", "add", "172.17.0.0/16", "via", HOST]);
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            run("ip", &["route", "del", "table", "local", "127.0.0.0/8", "dev", "lo"]);
            run("ip", &["route", "del", "table", "local", "127.0.0.1", "dev", "lo"]);
            run("ip", &["route", "add", "127.0.0.0/8", "via", HOST]);
        });
        assert!(host.outside_never("172.17.0.2:80"), "direct route");
        assert!(host.outside_never("127.0.0.1:9090"), "127/8 by a route");
        drop((web, peer));
    });
}

fn run(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn inside_there_is_what_the_record_says_and_no_router_is_listened_to() {
    in_host(|host| async move {
        let service = host.service().await;
        let mut wanted = on(&["bridge"]);
        wanted[0].address = Some("172.17.9.9".parse().unwrap());
        wanted[0].mac = Some([0x02, 1, 2, 3, 4, 5]);
        let one = start(&host, &service, wish("one", wanted, &[])).await.unwrap();
        let (addresses, ra, v6, mtu) = inside(&one.netns, || {
            let mut route = crated_sys::netlink::route::Route::open().unwrap();
            let link = route.link("eth0").unwrap().unwrap();
            assert_eq!(link.mac, [0x02, 1, 2, 3, 4, 5]);
            let all = route.addresses().unwrap();
            let mine: Vec<_> =
                all.iter().filter(|address| address.link == link.index).map(|a| a.address.to_string()).collect();
            let read = |key: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{key}")).unwrap();
            (mine, read("eth0/accept_ra"), read("eth0/disable_ipv6"), link.mtu)
        });
        assert_eq!(addresses, ["172.17.9.9"]);
        assert_eq!((ra.trim(), v6.trim(), mtu), ("0", "1", 1450)); // the MTU of the host's default route
        let host_side = crated_sys::netlink::route::Route::open()
            .unwrap()
            .link(&one.attachment.endpoints[0].host_link)
            .unwrap()
            .unwrap();
        assert_eq!(host_side.alias, "crated 0123456789ab test/one");
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(forwarding.trim(), "1");
    });
}

#[test]
fn networks_are_isolated_and_internal_ones_lead_nowhere() {
    in_host(|host| async move {
        let service = host.service().await;
        service.create(&scope(), spec("red", "10.8.1.0/24")).await.unwrap();
        service.create(&scope(), spec("blue", "10.8.2.0/24")).await.unwrap();
        service.create(&scope(), NetworkSpec { internal: true, ..spec("vault", "10.8.3.0/24") }).await.unwrap();
        let quiet = BTreeMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())]);
        service.create(&scope(), NetworkSpec { options: quiet, ..spec("quiet", "10.8.4.0/24") }).await.unwrap();
        let red = start(&host, &service, wish("red1", on(&["red"]), &["8081:80"])).await.unwrap();
        let blue = start(&host, &service, wish("blue1", on(&["blue"]), &[])).await.unwrap();
        let both = start(&host, &service, wish("both", on(&["red", "blue"]), &[])).await.unwrap();
        let vault = start(&host, &service, wish("vault1", on(&["vault"]), &[])).await.unwrap();
        let vault2 = start(&host, &service, wish("vault2", on(&["vault"]), &[])).await.unwrap();
        let quiet1 = start(&host, &service, wish("quiet1", on(&["quiet"]), &["8084:80"])).await.unwrap();
        let quiet2 = start(&host, &service, wish("quiet2", on(&["quiet"]), &[])).await.unwrap();
        assert!(blue.never("10.8.1.2:80") && red.never("10.8.2.2:80"), "isolation both ways");
        assert!(both.ask("10.8.1.2:80").is_some() && both.ask("10.8.2.2:80").is_some());
        assert!(blue.ask("192.0.2.1:8081").is_some(), "a published port of another network by the host's address");
        assert!(vault2.ask("10.8.3.2:80").is_some(), "an internal network within");
        serve(&host.outside, "outside", 7000);
        assert!(vault.never("192.0.2.2:7000") && vault.never("10.8.1.2:80") && red.never("10.8.3.2:80"));
        // Also where someone inside makes himself a route.
        inside(&vault.netns, || run("ip", &["route", "add", "default", "via", "10.8.3.1"]));
        assert!(vault.never("192.0.2.2:7000") && vault.never("10.8.1.2:80"));
        let refused = service.configure(&scope(), wish("v3", on(&["vault"]), &["1:1"])).await.unwrap_err();
        assert!(refused.to_string().contains("not internal"), "{refused}");
        assert!(quiet2.never("10.8.4.2:80"), "enable_icc=false");
        assert!(quiet1.ask("192.0.2.2:7000").is_some() && host.outside_gets("192.0.2.1:8084").is_some());
    });
}

#[test]
fn ipv6_networks_lead_out_and_in() {
    in_host(|host| async move {
        let service = host.service().await;
        std::fs::write("/proc/sys/net/ipv6/conf/up0/accept_ra", "1").unwrap();
        service.create(&scope(), spec("six", "fd00:8::/64")).await.unwrap();
        let made = service
            .create(&scope(), NetworkSpec { name: "auto".into(), ipv6: true, ..NetworkSpec::default() })
            .await
            .unwrap();
        assert!(made.pools.len() == 2 && made.pools[1].subnet.starts_with("fd"), "{made:?}");
        let web =
            start(&host, &service, wish("web", on(&["six"]), &["8086:80", "[2001:db8:1::1]:8087:80"])).await.unwrap();
        let other = start(&host, &service, wish("other", on(&["six"]), &[])).await.unwrap();
        assert_eq!(web.address6(0).to_string(), "fd00:8::2");
        serve(&host.outside, "outside", 7000);
        assert_eq!(web.ask("[2001:db8:1::2]:7000").as_deref(), Some("outside 2001:db8:1::1"));
        assert_eq!(host.outside_gets("[2001:db8:1::1]:8086").as_deref(), Some("web 2001:db8:1::2"));
        assert_eq!(host.outside_gets("192.0.2.1:8086").as_deref(), Some("web 192.0.2.2"));
        assert!(host.outside_gets("[2001:db8:1::1]:8087").is_some());
        assert!(other.ask("[fd00:8::2]:80").is_some() && other.ask("[2001:db8:1::1]:8086").is_some());
        assert!(ask("[2001:db8:1::1]:8086", PATIENCE).is_some());
        inside(&host.outside, || run("ip", &["-6", "route", "add", "fd00:8::/64", "via", HOST6]));
        assert!(host.outside_never("[fd00:8::2]:80"), "direct route");
        // The link that lives on router advertisements goes on to do so, and containers take none.
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/up0/accept_ra").unwrap().trim(), "2");
        let ra = inside(&web.netns, || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").unwrap());
        assert_eq!(ra.trim(), "0");
    });
}

#[test]
fn macvlan_and_ipvlan_live_in_the_parents_network() {
    in_host(|host| async move {
        let service = host.service().await;
        for (driver, subnet, gateway) in
            [("macvlan", "192.0.2.0/24", OUTSIDE), ("ipvlan", "198.51.100.0/24", "198.51.100.1")]
        {
            let mut wanted = spec(driver, subnet);
            wanted.driver = driver.into();
            wanted.options = BTreeMap::from([("parent".to_owned(), "up0".to_owned())]);
            wanted.pools[0].gateway = Some(gateway.parse().unwrap());
            wanted.pools[0].range = Some(format!("{}128/25", subnet.trim_end_matches("0/24")).parse().unwrap());
            service.create(&scope(), wanted).await.unwrap();
        }
        serve(&host.outside, "outside", 7000);
        let mac = start(&host, &service, wish("mac", on(&["macvlan"]), &[])).await.unwrap();
        assert_eq!(mac.ask("192.0.2.2:7000").as_deref(), Some("outside 192.0.2.128"));
        assert_eq!(host.outside_gets("192.0.2.128:80").as_deref(), Some("mac 192.0.2.2"));
        stop(&host, &service, "mac", true).await;
        drop(mac);
        inside(&host.outside, || run("ip", &["addr", "add", "198.51.100.1/24", "dev", "eth0"]));
        match start(&host, &service, wish("ip", on(&["ipvlan"]), &[])).await {
            Ok(ip) => assert_eq!(ip.ask("198.51.100.1:7000").as_deref(), Some("outside 198.51.100.128")),
            Err(error) if error.fault() == crated_types::Fault::Unsupported => {
                println!("skip: ipvlan (not in this kernel)")
            }
            Err(error) => panic!("{error}"),
        }
        let lost = NetworkSpec {
            driver: "macvlan".into(),
            options: BTreeMap::from([("parent".to_owned(), "nowhere0".to_owned())]),
            ..spec("lost", "10.99.0.0/24")
        };
        service.create(&scope(), lost).await.unwrap();
        let error = start(&host, &service, wish("lost1", on(&["lost"]), &[])).await.err().unwrap();
        assert!(error.to_string().contains("nowhere0 is not there"), "{error}");
    });
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    in_host(|host| async move {
        let service = host.service().await;
        service.create(&scope(), spec("red", "10.8.1.0/29")).await.unwrap();
        let word = |error: crated_types::Error| error.to_string();
        let twice = service.create(&scope(), spec("red", "10.8.9.0/24")).await.unwrap_err();
        assert!(word(twice).contains("already exists"));
        let overlap = service.create(&scope(), spec("blue", "10.8.0.0/16")).await.unwrap_err();
        assert!(word(overlap.duplicate()).contains("10.8.1.0/29") && word(overlap).contains("\"red\""));
        let route = service.create(&scope(), spec("lan", "192.0.2.0/25")).await.unwrap_err();
        assert!(word(route).contains("route of the host over up0"));
        let one = start(&host, &service, wish("one", on(&["red"]), &["8080:80"])).await.unwrap();
        let in_use = service.remove(&scope(), "red").await.unwrap_err();
        assert!(word(in_use).contains("used by \"one\""));
        let same = Wanted { network: "red".into(), address: Some("10.8.1.2".parse().unwrap()), ..Wanted::default() };
        let taken = start(&host, &service, wish("two", vec![same], &[])).await.err().unwrap();
        assert!(word(taken).contains("10.8.1.2 belongs to container \"one\""));
        let port = start(&host, &service, wish("three", on(&["red"]), &["8080:80"])).await.err().unwrap();
        assert!(word(port).contains("host port 8080/tcp is taken"));
        let process = std::net::TcpListener::bind("127.0.0.1:8085").unwrap();
        assert!(start(&host, &service, wish("four", on(&["red"]), &["8085:80"])).await.is_err());
        drop(process);
        for (count, wanted) in [(4, true), (9, false)] {
            // .2 is one's, .3 to .6 are free; what failed above has given its address back.
            let mut last = None;
            for index in 0..count {
                last = Some(
                    start(&host, &service, wish(&format!("f{count}-{index}"), on(&["red"]), &[])).await.map(|_| ()),
                );
            }
            assert_eq!(last.unwrap().is_ok(), wanted, "{count}");
        }
        let unknown = service.configure(&scope(), wish("x", on(&["green"]), &[])).await.unwrap_err();
        assert!(unknown.is_not_found());
        for subnet in ["10.8.1.9", "fd00::1"] {
            let mut odd = Wanted { network: "red".into(), ..Wanted::default() };
            match subnet.parse().unwrap() {
                std::net::IpAddr::V4(four) => odd.address = Some(four),
                std::net::IpAddr::V6(six) => odd.address6 = Some(six),
            }
            assert!(service.configure(&scope(), wish("x", vec![odd], &[])).await.is_err(), "{subnet}");
        }
        for alias in ["a b", "a\nb", "", "-a"] {
            let odd = Wanted { network: "red".into(), aliases: vec![alias.into()], ..Wanted::default() };
            assert!(service.configure(&scope(), wish("x", vec![odd], &[])).await.is_err(), "{alias:?}");
        }
        drop(one);
    });
}
