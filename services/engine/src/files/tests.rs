//! The texts for each mode, and that files change in place and only while they are ours.

use super::*;
use crated_core::network::Endpoint;
use std::os::unix::fs::MetadataExt;

const ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn endpoint(network: &str, address: &str, gateway: &str) -> Endpoint {
    Endpoint {
        network_name: network.into(),
        driver: "bridge".into(),
        address: address.into(),
        gateway: gateway.into(),
        ..Endpoint::default()
    }
}

fn around(folder: &Path, host: &str, endpoints: Vec<Endpoint>) -> Surroundings {
    let resolv_conf = folder.join("host-resolv.conf");
    fs::write(&resolv_conf, host).unwrap();
    Surroundings {
        attachment: Some(Attachment { endpoints, ..Attachment::default() }),
        host_gateway: Some([172, 17, 0, 1].into()),
        resolv_conf,
        ..Surroundings::default()
    }
}

fn config(network: &str) -> ContainerConfig {
    ContainerConfig { network: network.into(), ..ContainerConfig::default() }
}

#[test]
fn hosts_are_as_docker_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("none");
    config.hostname = "web".into();
    config.domainname = "example.org".into();
    config.extra_hosts = ["db:10.0.0.5", "six:[fd00::1]", "seven=fd00::2", "me:host-gateway"].map(String::from).into();
    let alone = texts(ID, &config, &Surroundings::default()).unwrap();
    assert_eq!(alone.hostname, "web\n");
    let has = |text: &str, line: &str| text.lines().any(|found| found == line);
    for line in
        ["127.0.0.1\tlocalhost", "127.0.1.1\tweb.example.org web", "10.0.0.5\tdb", "fd00::1\tsix", "fd00::2\tseven"]
    {
        assert!(has(&alone.hosts, line), "{line} in {}", alone.hosts);
    }
    assert!(!alone.hosts.contains("\tme"), "no way to the host");
    config.network = "own".into();
    let mut second = endpoint("own", "172.18.0.2/16", "172.18.0.1");
    second.address6 = "fd00::2/64".into();
    let endpoints = vec![endpoint("bridge", "172.17.0.2/16", "172.17.0.1"), second];
    let attached = texts(ID, &config, &around(folder.path(), "", endpoints)).unwrap().hosts;
    for line in [
        "172.17.0.2\tweb.example.org web",
        "172.18.0.2\tweb.example.org web",
        "fd00::2\tweb.example.org web",
        "172.17.0.1\tme",
    ] {
        assert!(has(&attached, line), "{line} in {attached}");
    }
    assert!(!attached.contains("127.0.1.1"));
    assert_eq!(texts(ID, &self::config("none"), &Surroundings::default()).unwrap().hostname, "aaaaaaaaaaaa\n");
}

#[test]
fn resolvers_are_those_that_the_container_reaches() {
    let folder = tempfile::tempdir().unwrap();
    let host = "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch lan\noptions edns0\n";
    let default = || vec![endpoint("bridge", "172.17.0.2/16", "172.17.0.1")];
    let own = || vec![endpoint("own", "172.18.0.2/16", "172.18.0.1")];
    let resolv = |config: &ContainerConfig, host: &str, endpoints| {
        texts(ID, config, &around(folder.path(), host, endpoints)).unwrap().resolv
    };
    let bridge = config("bridge");
    assert_eq!(resolv(&bridge, host, default()), "nameserver 10.0.0.1\nsearch lan\noptions edns0\n");
    let local = "nameserver 127.0.0.53\n";
    assert_eq!(resolv(&bridge, local, default()), "nameserver 172.17.0.1\n", "ours, where the host's is its own");
    assert_eq!(resolv(&config("own"), host, own()), "nameserver 172.18.0.1\nsearch lan\noptions edns0 ndots:0\n");
    let mut asked = config("own");
    (asked.dns, asked.dns_search) = (vec!["9.9.9.9".into()], vec!["a.b".into()]);
    asked.dns_options = vec!["ndots:3".into()];
    assert_eq!(
        resolv(&asked, host, own()),
        "nameserver 172.18.0.1\nsearch a.b\noptions edns0 ndots:3\n",
        "ours forwards to what was asked for"
    );
    asked.network = "bridge".into();
    assert_eq!(resolv(&asked, host, default()), "nameserver 9.9.9.9\nsearch a.b\noptions edns0 ndots:3\n");
    asked.dns_search = vec![".".into()];
    assert_eq!(resolv(&asked, host, default()), "nameserver 9.9.9.9\noptions edns0 ndots:3\n");
    assert_eq!(resolv(&config("host"), host, vec![]), host, "as it is");
    assert_eq!(resolv(&config("none"), host, vec![]), "");
    let mut plugin = around(folder.path(), host, vec![]);
    plugin.plugin_dns = Some(Resolv { servers: vec!["10.9.0.1".into()], ..Resolv::default() });
    assert_eq!(
        texts(ID, &config("cni:x"), &plugin).unwrap().resolv,
        "nameserver 10.9.0.1\nsearch lan\noptions edns0\n"
    );
}

#[test]
fn files_change_in_place_and_what_a_person_changed_stays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("c");
    let with = |word: &str| Texts {
        hostname: format!("h{word}\n"),
        hosts: format!("{word}\n"),
        resolv: format!("{word}{word}\n"),
    };
    write(&folder, &with("one")).unwrap();
    let inode = |name: &str| fs::metadata(folder.join(name)).unwrap().ino();
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let before = ["hostname", "hosts", "resolv.conf"].map(inode);
    update(&folder, &with("a-longer-word")).unwrap();
    update(&folder, &with("two")).unwrap();
    assert_eq!(before, ["hostname", "hosts", "resolv.conf"].map(inode));
    assert_eq!(
        (text("hostname"), text("hosts"), text("resolv.conf")),
        ("htwo\n".into(), "two\n".into(), "twotwo\n".into())
    );
    assert_eq!(fs::metadata(folder.join("hosts")).unwrap().mode() & 0o777, 0o644);
    fs::write(folder.join("hosts"), "two\n10.0.0.1 mine\n").unwrap();
    update(&folder, &with("three")).unwrap();
    assert_eq!((text("hosts"), text("resolv.conf")), ("two\n10.0.0.1 mine\n".into(), "threethree\n".into()));
    // A daemon that died while it wrote.
    fs::write(folder.join("resolv.conf"), "thr").unwrap();
    fs::write(mark(&folder, "resolv.conf"), BUSY).unwrap();
    update(&folder, &with("four")).unwrap();
    assert_eq!(text("resolv.conf"), "fourfour\n");
    fs::remove_file(folder.join("hostname")).unwrap();
    update(&folder, &with("five")).unwrap();
    assert!(!folder.join("hostname").exists(), "who removed it does not want it");
}

#[test]
fn lines_cannot_be_smuggled_in() {
    for entry in ["", "a", "a:", ":1.2.3.4", "a b:1.2.3.4", "a\nb:1.2.3.4", "a:1.2.3.4\n5.6.7.8 c", "a#:1.2.3.4"] {
        assert!(extra_host(entry).is_err(), "{entry:?}");
    }
}
