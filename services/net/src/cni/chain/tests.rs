//! Chains of Debian's plugins in a network namespace of the test's own, and of scripts where plugins are to fail or to speak 1.1.

use super::*;
use crated_core::{Capabilities, PortMapping};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::Duration;

/// A namespace of a container: it lasts as long as its one process.
struct Container(Child);

impl Container {
    fn new() -> Self {
        Self(
            Command::new("unshare")
                .args(["-n", "sh", "-c", "echo; exec sleep 1000"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap(),
        )
        .ready()
    }

    fn ready(mut self) -> Self {
        let mut byte = [0];
        std::io::Read::read_exact(self.0.stdout.as_mut().unwrap(), &mut byte).unwrap();
        self
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// What `ip` says inside.
    fn ip(&self, arguments: &[&str]) -> String {
        let netns = format!("--net={}", self.netns());
        let output = Command::new("nsenter").arg(netns).arg("ip").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a test on a thread whose host is a fresh network namespace: what it spawns is there, too.
fn in_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(|| {
        crated_sys::namespace::unshare(crated_sys::namespace::Kinds::NETWORK).expect("root makes namespaces");
        crated_sys::net::loopback_up().unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    })
    .join()
    .unwrap();
}

struct Rig {
    folder: tempfile::TempDir,
    driver: Driver,
}

impl Rig {
    fn new(plugins: Option<&str>, lists: &[(&str, Value)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("net.d")).unwrap();
        std::fs::create_dir(at("bin")).unwrap();
        for (name, list) in lists {
            let text = list.to_string().replace("@", &folder.path().display().to_string());
            std::fs::write(at("net.d").join(name), text).unwrap();
        }
        let config = Config {
            config_dir: at("net.d"),
            plugin_dirs: vec![plugins.map_or_else(|| at("bin"), PathBuf::from)],
            cache_dir: at("results"),
            deadline: Duration::from_secs(120),
        };
        Self { driver: Driver::new(config), folder }
    }

    /// Scripts that write down what they were asked, and fail where a file tells them to.
    fn scripts(&self, names: &[&str]) {
        const SCRIPT: &str = r#"#!/bin/sh
here=${0%/*} me=${0##*/} input=$(cat)
[ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'; exit; }
echo "$CNI_COMMAND $me $CNI_CONTAINERID $CNI_IFNAME $input" >>"$here/log"
[ -e "$here/fail-$CNI_COMMAND-$me" ] && { echo '{"code":999,"msg":"told to fail"}'; exit 1; }
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2/24"}],"by":"'$me'"}'
exit 0
"#;
        for name in names {
            let program = self.folder.path().join("bin").join(name);
            std::fs::write(&program, SCRIPT).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn told_to_fail(&self, what: &str, fail: bool) {
        let file = self.folder.path().join("bin").join(format!("fail-{what}"));
        if fail { std::fs::write(file, "").unwrap() } else { std::fs::remove_file(file).unwrap() }
    }

    /// Verb, plugin and input of the calls since the last look.
    fn calls(&self) -> Vec<(String, Value)> {
        let file = self.folder.path().join("bin/log");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        text.lines()
            .map(|line| {
                let (head, input) = line.split_at(line.find('{').unwrap());
                let words: Vec<&str> = head.split_whitespace().take(2).collect();
                (words.join(" "), serde_json::from_str(input).unwrap())
            })
            .collect()
    }
}

fn names(calls: &[(String, Value)]) -> Vec<&str> {
    calls.iter().map(|(name, _)| name.as_str()).collect()
}

fn bridge(version: &str) -> (&'static str, Value) {
    let ipam =
        json!({"type": "host-local", "subnet": "10.55.0.0/24", "dataDir": "@/ipam", "routes": [{"dst": "0.0.0.0/0"}]});
    (
        "10-real.conflist",
        json!({"cniVersion": version, "name": "real", "plugins": [
            {"type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipam": ipam},
            {"type": "tuning", "capabilities": {"mac": true}},
        ]}),
    )
}

fn attachment(network: &str, container: &str, netns: String) -> CniAttachment {
    CniAttachment {
        container: container.into(),
        netns,
        network: network.into(),
        interface: "eth0".into(),
        args: [("IgnoreUnknown".to_owned(), "1".to_owned())].into(),
        capabilities: Capabilities::default(),
    }
}

const DEBIAN: &str = "/usr/lib/cni";

#[test]
fn debians_bridge_attaches_checks_and_lets_go_in_every_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        in_host(move || async move {
            let rig = Rig::new(Some(DEBIAN), &[bridge(version)]);
            let container = Container::new();
            let mut wish = attachment("real", "c1", container.netns());
            wish.capabilities.mac = "02:11:22:33:44:55".into();
            let result = rig.driver.add(&wish).await.unwrap();
            assert_eq!(result.addresses[0].address, "10.55.0.2/24");
            assert_eq!(result.addresses[0].gateway, "10.55.0.1");
            let link = container.ip(&["addr", "show", "eth0"]);
            assert!(link.contains("10.55.0.2/24") && link.contains("02:11:22:33:44:55"), "{link}");
            assert_eq!(rig.driver.add(&wish).await.unwrap_err().fault(), Fault::AlreadyExists);
            rig.driver.check(&wish).await.unwrap();
            container.ip(&["addr", "flush", "dev", "eth0"]);
            let lost = rig.driver.check(&wish).await;
            assert_eq!(lost.is_err(), version != "0.3.1", "{version}: {lost:?}");
            rig.driver.del(&wish).await.unwrap();
            rig.driver.del(&wish).await.unwrap();
            assert!(container.ip(&["link", "show", "eth0"]).contains("does not exist"));
            assert!(!rig.folder.path().join("ipam/real/10.55.0.2").exists());
            assert!(rig.driver.remembered("c1").await.unwrap().is_empty());
        });
    }
}

#[test]
fn a_container_that_is_gone_and_a_list_that_is_gone_hinder_no_del() {
    in_host(|| async {
        let rig = Rig::new(Some(DEBIAN), &[bridge("1.0.0")]);
        let container = Container::new();
        let wish = attachment("real", "c1", container.netns());
        rig.driver.add(&wish).await.unwrap();
        assert_eq!(rig.driver.remembered("c1").await.unwrap()[0].1.addresses[0].address, "10.55.0.2/24");
        drop(container);
        std::fs::remove_file(rig.folder.path().join("net.d/10-real.conflist")).unwrap();
        let error = rig.driver.add(&attachment("real", "c2", "/proc/self/ns/net".into())).await.unwrap_err();
        assert!(error.is_not_found() && error.remedy().is_some_and(|remedy| remedy.contains("none")), "{error}");
        assert_eq!(rig.driver.gc(&[]).await.unwrap(), 1);
        assert!(!rig.folder.path().join("ipam/real/10.55.0.2").exists());
        rig.driver.del(&wish).await.unwrap();
    });
}

#[test]
fn a_version_that_a_plugin_does_not_speak_is_refused_before_anything_is_done() {
    in_host(|| async {
        let rig = Rig::new(Some(DEBIAN), &[bridge("1.1.0")]);
        let error = rig.driver.add(&attachment("real", "c1", "/proc/self/ns/net".into())).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Unsupported);
        assert!(error.to_string().contains("1.1.0") && error.to_string().contains("1.0.0"), "{error}");
        assert!(rig.driver.remembered("c1").await.unwrap().is_empty());
        assert_eq!(rig.driver.networks().await.unwrap()[0].plugins, ["bridge", "tuning"]);
        assert_eq!(rig.driver.status("real").await.unwrap_err().fault(), Fault::Unsupported);
    });
}

fn scripted(version: &str) -> (&'static str, Value) {
    (
        "x.conflist",
        json!({"cniVersion": version, "name": "x", "plugins": [
            {"type": "one", "own": 1},
            {"type": "two", "capabilities": {"portMappings": true, "mac": false}},
            {"type": "three"},
        ]}),
    )
}

#[test]
fn plugins_are_called_in_order_with_what_is_theirs() {
    in_host(|| async {
        let rig = Rig::new(None, &[scripted("1.1.0")]);
        rig.scripts(&["one", "two", "three"]);
        let mut wish = attachment("x", "c1", "/proc/self/ns/net".into());
        wish.capabilities.mac = "02:00:00:00:00:01".into();
        let port = PortMapping { host_port: 80, container_port: 8080, protocol: "tcp".into(), host_ip: None };
        wish.capabilities.ports.push(port);
        rig.driver.status("x").await.unwrap();
        assert_eq!(names(&rig.calls()), ["STATUS one", "STATUS two", "STATUS three"]);
        rig.driver.add(&wish).await.unwrap();
        let calls = rig.calls();
        assert_eq!(names(&calls), ["ADD one", "ADD two", "ADD three"]);
        assert_eq!((&calls[0].1["own"], calls[0].1.get("prevResult")), (&json!(1), None));
        assert_eq!((&calls[1].1["prevResult"]["by"], &calls[2].1["prevResult"]["by"]), (&json!("one"), &json!("two")));
        assert_eq!(
            calls[1].1["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]})
        );
        assert!(
            calls[0].1.get("runtimeConfig").is_none()
                && calls[2].1["name"] == "x"
                && calls[2].1["cniVersion"] == "1.1.0"
        );
        rig.driver.check(&wish).await.unwrap();
        let calls = rig.calls();
        assert_eq!(names(&calls), ["CHECK one", "CHECK two", "CHECK three"]);
        assert_eq!(calls[0].1["prevResult"]["by"], "three");
        rig.driver.gc(&[("c1".into(), "eth0".into())]).await.unwrap();
        let calls = rig.calls();
        assert_eq!(names(&calls), ["GC one", "GC two", "GC three"]);
        assert_eq!(calls[0].1["cni.dev/valid-attachments"], json!([{"containerID": "c1", "ifname": "eth0"}]));
        // The list of today is another, what was added is undone as it was done.
        std::fs::write(
            rig.folder.path().join("net.d/x.conflist"),
            scripted("1.0.0").1.to_string().replace("\"own\":1", "\"own\":2"),
        )
        .unwrap();
        rig.driver.del(&wish).await.unwrap();
        let calls = rig.calls();
        assert_eq!(names(&calls), ["DEL three", "DEL two", "DEL one"]);
        assert_eq!((&calls[2].1["own"], &calls[2].1["prevResult"]["by"]), (&json!(1), &json!("three")));
    });
}

#[test]
fn a_failed_add_is_undone_and_a_failed_del_goes_to_its_end_and_may_be_repeated() {
    in_host(|| async {
        let rig = Rig::new(None, &[scripted("0.4.0")]);
        rig.scripts(&["one", "two", "three"]);
        let wish = attachment("x", "c1", "/proc/self/ns/net".into());
        rig.told_to_fail("ADD-two", true);
        let error = rig.driver.add(&wish).await.unwrap_err();
        assert!(error.to_string().contains("told to fail") && error.to_string().contains("two"), "{error}");
        assert_eq!(names(&rig.calls()), ["ADD one", "ADD two", "DEL three", "DEL two", "DEL one"]);
        assert!(rig.driver.remembered("c1").await.unwrap().is_empty());
        rig.told_to_fail("ADD-two", false);
        rig.driver.add(&wish).await.unwrap();
        rig.calls();
        rig.told_to_fail("DEL-three", true);
        assert!(rig.driver.del(&wish).await.is_err());
        assert_eq!(names(&rig.calls()), ["DEL three", "DEL two", "DEL one"], "to its end");
        assert_eq!(rig.driver.remembered("c1").await.unwrap().len(), 1);
        assert!(rig.driver.gc(&[]).await.is_err());
        rig.told_to_fail("DEL-three", false);
        assert_eq!(rig.driver.gc(&[]).await.unwrap(), 1);
    });
}

#[test]
fn an_add_that_was_cut_short_is_undone_by_the_next() {
    in_host(|| async {
        let rig = Rig::new(None, &[scripted("1.0.0")]);
        rig.scripts(&["one", "two", "three"]);
        let wish = attachment("x", "c1", "/proc/self/ns/net".into());
        let entry = Entry { attachment: wish.clone(), list: rig.driver.list("x").unwrap(), result: None };
        rig.driver.cache.put(&entry).unwrap();
        rig.driver.add(&wish).await.unwrap();
        let calls = rig.calls();
        assert_eq!(names(&calls), ["DEL three", "DEL two", "DEL one", "ADD one", "ADD two", "ADD three"]);
    });
}

#[test]
fn what_would_leave_its_place_is_refused() {
    in_host(|| async {
        let rig = Rig::new(None, &[scripted("1.0.0")]);
        let good = attachment("x", "c1", String::new());
        for bad in [
            CniAttachment { container: "../x".into(), ..good.clone() },
            CniAttachment { network: "a/b".into(), ..good.clone() },
            CniAttachment { interface: "averylonglinkname".into(), ..good.clone() },
            CniAttachment { interface: "..".into(), ..good.clone() },
            CniAttachment { args: [("A".to_owned(), "b;C=d".to_owned())].into(), ..good.clone() },
        ] {
            assert_eq!(rig.driver.add(&bad).await.unwrap_err().fault(), Fault::Invalid, "{bad:?}");
        }
        assert_eq!(rig.driver.add(&good).await.unwrap_err().fault(), Fault::NotFound, "no plugin");
    });
}
