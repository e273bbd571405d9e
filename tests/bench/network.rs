//! Attaching containers to a bridge: ours against Debian's CNI plugins and podman's netavark, alone and eight at once, with
//! others present, with published ports. Everything happens in a network namespace of the bench's own, over records on the disk.

use crate::series::{Contestant, Table, Unit, millis};
use crate::{Bench, installed};
use crated_core::network::{self, NetworkSpec, PoolSpec, Protocol, Publish, Wanted, Wish};
use crated_core::{MetadataStore, Networks};
use crated_net::{Config, Service};
use crated_store::Metadata;
use crated_sys::namespace::{self, Kinds};
use crated_sys::netlink::route::Link;
use crated_tests::{Daemon, Netns, Options, true_archive};
use crated_types::{Actor, ContainerId, Namespace, Scope};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Where Debian has podman's program for networks.
const NETAVARK: &str = "/usr/lib/podman/netavark";
const PARALLEL: usize = 8;
/// Ports of a container among the many.
const PORTS_EACH: u16 = 1000;
const RLIMIT_NOFILE: u32 = 7;

/// Measures on a thread in a network namespace of its own.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    if !installed("nft") {
        return Ok(());
    }
    lives(bench, table);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> anyhow::Result<()> {
            namespace::unshare(Kinds::NETWORK)?;
            crated_sys::net::loopback_up()?;
            let hard = crated_sys::process::limit(0, RLIMIT_NOFILE)?.1;
            crated_sys::process::set_limit(0, RLIMIT_NOFILE, hard, hard)?;
            let rig = Rig::new(bench)?;
            rig.all(bench, table)
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the bench of networks panicked")))
    })
}

/// What the bridge adds to a whole life.
fn lives(bench: &Bench, table: &mut Table) {
    let daemon = Daemon::with(Options { netns: Some(Netns::new()), ..Options::default() });
    daemon.ctl_with(&["load"]).input(true_archive(&bench.program, "true:1")).run().ok();
    let run = |network| drop(daemon.ctl(&["run", "--rm", "--network", network, "true:1", "/bin/true"]).ok());
    let contestants: Vec<Contestant<'_>> = vec![
        ("none", Box::new(|| run("none"))),
        ("bridge", Box::new(|| run("bridge"))),
        ("host", Box::new(|| run("host"))),
    ];
    table.race("network: run --rm true, by its network", bench.effort.rounds, contestants);
    daemon.finish();
}

/// The service and its rivals.
struct Rig {
    runtime: Runtime,
    metadata: Arc<dyn MetadataStore>,
    service: Arc<Service>,
    others: Vec<Other>,
    number: std::sync::atomic::AtomicU64,
}

fn scope() -> anyhow::Result<Scope> {
    Ok(Scope::new(Namespace::new("bench")?, Actor::daemon("bench")))
}

/// A network namespace without a process.
fn netns() -> anyhow::Result<OwnedFd> {
    let made = std::thread::spawn(|| -> crated_sys::Result<OwnedFd> {
        namespace::unshare(Kinds::NETWORK)?;
        namespace::open(Path::new("/proc/thread-self/ns/net"))
    });
    Ok(made.join().map_err(|_| anyhow::anyhow!("a namespace could not be made"))??)
}

impl Rig {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (metadata, _) = Metadata::open(&bench.folder.path().join("network"), crated_store::Options::default())?;
        let metadata: Arc<dyn MetadataStore> = metadata;
        let config = Config { id: "benchbenchbe".into(), ..Config::default() };
        let service = Service::new(Arc::clone(&metadata), config, tokio_util::task::TaskTracker::new());
        runtime.block_on(service.reconcile(Vec::new()))?;
        let pool = PoolSpec { subnet: "10.77.0.0/16".parse()?, gateway: None, range: None, reserved: BTreeMap::new() };
        let spec = NetworkSpec { name: "bench".into(), pools: vec![pool], ..NetworkSpec::default() };
        runtime.block_on(async { service.create(&scope()?, spec).await.map_err(anyhow::Error::from) })?;
        let others = [Plugins::find(bench.folder.path()).map(Other::Plugins), Netavark::find()?.map(Other::Netavark)];
        let others = others.into_iter().flatten().collect();
        Ok(Self { runtime, metadata, service, others, number: std::sync::atomic::AtomicU64::new(0) })
    }

    fn all(&self, bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
        let rounds = bench.effort.rounds;
        let others = if bench.effort.rounds < 50 { 100 } else { 500 };
        self.race("network: attach + detach, alone", rounds, table)?;
        self.crowd(&format!("network: attach + detach, {PARALLEL} at once"), rounds, table)?;
        let held = (0..others).map(|_| self.attach(&[])).collect::<anyhow::Result<Vec<_>>>()?;
        self.race(&format!("network: attach + detach, {others} others"), rounds, table)?;
        self.crowd(&format!("network: attach + detach, {PARALLEL} at once, {others} others"), rounds, table)?;
        self.tear_down(held, table)?;
        self.ports(rounds, table)
    }

    /// Attaches a container in a fresh namespace; answers with the time of the attachment, from its reservation on.
    fn attach(&self, ports: &[Publish]) -> anyhow::Result<(ContainerId, OwnedFd, f64)> {
        let number = self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = ContainerId::new(&format!("b{number}"))?;
        let fd = netns()?;
        let handle = network::Netns { fd: fd.try_clone()?, path: String::new() };
        let wanted = Wanted { network: "bench".into(), ..Wanted::default() };
        let wish = Wish {
            container: id.clone(),
            name: String::new(),
            hostname: String::new(),
            endpoints: vec![wanted],
            ports: ports.to_vec(),
        };
        self.runtime.block_on(async {
            let scope = scope()?;
            let mut change = self.service.configure(&scope, wish).await?;
            self.metadata.commit(change.take()).await?;
            change.kept();
            let begun = Instant::now();
            let mut change = self.service.reserve(&scope, &id).await?;
            self.metadata.commit(change.take()).await?;
            change.kept();
            self.service.attach(&scope, &id, handle).await?;
            Ok((id, fd, millis(begun.elapsed())))
        })
    }

    /// Detaches it; answers with the time.
    fn detach(&self, id: &ContainerId, fd: OwnedFd) -> anyhow::Result<f64> {
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut change = self.service.forget(&scope()?, id).await?;
            self.metadata.commit(change.take()).await?;
            change.kept();
            drop(fd);
            Ok(millis(begun.elapsed()))
        })
    }

    fn cycle(&self, ports: &[Publish]) -> anyhow::Result<f64> {
        let (id, fd, attached) = self.attach(ports)?;
        Ok(attached + self.detach(&id, fd)?)
    }

    fn race(&self, case: &str, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
        let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); self.others.len()]);
        for _ in 0..rounds {
            ours.push(self.cycle(&[])?);
            for (other, times) in self.others.iter().zip(&mut theirs) {
                times.push(other.cycle(self.next())?);
            }
        }
        table.add(case, "crated", Unit::Time, ours);
        for (other, times) in self.others.iter().zip(theirs) {
            table.add(case, other.name(), Unit::Time, times);
        }
        Ok(())
    }

    fn next(&self) -> u64 {
        self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Several threads at once: ours first, and then each of the others.
    fn crowd(&self, case: &str, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
        let each = rounds.div_ceil(PARALLEL);
        let run = |act: &(dyn Fn() -> anyhow::Result<f64> + Sync)| -> anyhow::Result<Vec<f64>> {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..PARALLEL)
                    .map(|_| scope.spawn(|| (0..each).map(|_| act()).collect::<anyhow::Result<Vec<_>>>()))
                    .collect();
                let mut all = Vec::new();
                for thread in threads {
                    all.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread of the bench panicked"))??);
                }
                Ok(all)
            })
        };
        table.add(case, "crated", Unit::Time, run(&|| self.cycle(&[]))?);
        for other in &self.others {
            table.add(case, other.name(), Unit::Time, run(&|| other.cycle(self.next()))?);
        }
        Ok(())
    }

    /// Ends many at once: until the last of their links is gone.
    fn tear_down(&self, held: Vec<(ContainerId, OwnedFd, f64)>, table: &mut Table) -> anyhow::Result<()> {
        let count = held.len();
        let begun = Instant::now();
        for (id, fd, _) in held {
            self.detach(&id, fd)?;
        }
        let told = millis(begun.elapsed());
        let mut links = crated_sys::netlink::route::Route::open()?;
        let ours = |link: &Link| link.name.starts_with("veth") && link.alias.starts_with("crated ");
        while links.links()?.iter().any(ours) {
            anyhow::ensure!(begun.elapsed().as_secs() < 120, "links of {count} containers did not go");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let case = format!("network: {count} torn down");
        table.add(&case, "until the last link is gone", Unit::Time, vec![millis(begun.elapsed())]);
        table.add(&case, "until the callers are answered", Unit::Time, vec![told]);
        Ok(())
    }

    /// What a published port costs among none and among many.
    fn ports(&self, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
        let many: u16 = if rounds < 50 { 1 } else { 5 };
        let port = |number: u16| Publish {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_ip: None,
            host_ports: (number, number),
        };
        let case = "network: attach + detach with a published port";
        let measured = || (0..rounds).map(|_| self.cycle(&[port(9999)])).collect::<anyhow::Result<Vec<_>>>();
        let mut without = measured()?;
        let mut held = Vec::new();
        for batch in 0..many {
            let first = 10_000 + batch * PORTS_EACH;
            let ports: Vec<_> = (first..first + PORTS_EACH).map(port).collect();
            held.push(self.attach(&ports)?);
        }
        let with = measured()?;
        for (id, fd, _) in held {
            self.detach(&id, fd)?;
        }
        // Once more without, so that a machine that grows slower or faster says so in both.
        without.extend(measured()?);
        table.add(case, "no others", Unit::Time, without);
        table.add(case, &format!("{} others", u32::from(many) * u32::from(PORTS_EACH)), Unit::Time, with);
        let ports: Vec<_> = (20_000..20_500).map(port).collect();
        let times = (0..rounds.min(20)).map(|_| self.cycle(&ports)).collect::<anyhow::Result<Vec<_>>>()?;
        table.add("network: attach + detach with 500 published ports", "crated", Unit::Time, times);
        Ok(())
    }
}

/// Who else attaches containers.
enum Other {
    Plugins(Plugins),
    Netavark(Netavark),
}

impl Other {
    fn name(&self) -> &'static str {
        match self {
            Self::Plugins(_) => "CNI bridge, host-local, portmap",
            Self::Netavark(_) => "podman's netavark",
        }
    }

    fn cycle(&self, number: u64) -> anyhow::Result<f64> {
        match self {
            Self::Plugins(plugins) => plugins.cycle(number),
            Self::Netavark(netavark) => netavark.cycle(number),
        }
    }
}

/// podman's netavark, called as podman calls it; podman itself chooses the addresses.
struct Netavark {
    /// Somebody who stays: it makes and removes its bridge with the first and the last.
    _first: OwnedFd,
}

impl Netavark {
    fn find() -> anyhow::Result<Option<Self>> {
        if !Path::new(NETAVARK).is_file() || !installed("iptables") {
            eprintln!("skip: netavark (netavark or iptables is not installed)");
            return Ok(None);
        }
        let first = netns()?;
        netavark("setup", &first, 0)?;
        Ok(Some(Self { _first: first }))
    }

    fn cycle(&self, number: u64) -> anyhow::Result<f64> {
        let fd = netns()?;
        let begun = Instant::now();
        netavark("setup", &fd, number + 1)?;
        netavark("teardown", &fd, number + 1)?;
        Ok(millis(begun.elapsed()))
    }
}

fn netavark(verb: &str, fd: &OwnedFd, number: u64) -> anyhow::Result<()> {
    let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let id = format!("{number:064x}");
    // As 10.89.0.2 and upwards, round and round.
    let (high, low) = (number / 200 % 250, number % 200 + 2);
    let config = json!({
        "container_id": id, "container_name": format!("c{number}"),
        "networks": {"bench": {"static_ips": [format!("10.89.{high}.{low}")], "interface_name": "eth0"}},
        "network_info": {"bench": {
            "name": "bench", "id": "b".repeat(64), "driver": "bridge", "network_interface": "podman9",
            "subnets": [{"subnet": "10.89.0.0/16", "gateway": "10.89.255.254"}],
            "ipv6_enabled": false, "internal": false, "dns_enabled": false, "ipam_options": {"driver": "host-local"},
        }},
    });
    let mut child = Command::new(NETAVARK)
        .args([verb, &path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "netavark {verb}: {said}");
    Ok(())
}

/// Debian's plugins, called as a runtime calls them.
struct Plugins {
    bridge: String,
    portmap: String,
}

impl Plugins {
    fn find(folder: &Path) -> Option<Self> {
        let there = ["bridge", "host-local", "portmap"].iter().all(|name| Path::new(PLUGINS).join(name).is_file());
        if !there || !installed("iptables") {
            eprintln!("skip: CNI plugins (containernetworking-plugins or iptables is not installed)");
            return None;
        }
        let bridge = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": folder.join("cni"), "ranges": [[{"subnet": "10.88.0.0/16"}]],
                     "routes": [{"dst": "0.0.0.0/0"}]},
        });
        let portmap =
            json!({"cniVersion": "1.0.0", "name": "bench", "type": "portmap", "capabilities": {"portMappings": true}});
        Some(Self { bridge: bridge.to_string(), portmap: portmap.to_string() })
    }

    fn cycle(&self, number: u64) -> anyhow::Result<f64> {
        let fd = netns()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let id = format!("cni{number}");
        let begun = Instant::now();
        let result = call("bridge", "ADD", &id, &path, &self.bridge)?;
        let with = with_result(&self.portmap, &result)?;
        call("portmap", "ADD", &id, &path, &with)?;
        call("portmap", "DEL", &id, &path, &with)?;
        call("bridge", "DEL", &id, &path, &self.bridge)?;
        Ok(millis(begun.elapsed()))
    }
}

fn with_result(config: &str, result: &str) -> anyhow::Result<String> {
    let mut config: Value = serde_json::from_str(config)?;
    config["prevResult"] = serde_json::from_str(result)?;
    Ok(config.to_string())
}

fn call(plugin: &str, command: &str, id: &str, netns: &str, config: &str) -> anyhow::Result<String> {
    let mut child = Command::new(Path::new(PLUGINS).join(plugin))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(output.status.success(), "{plugin} {command}: {text} {}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
