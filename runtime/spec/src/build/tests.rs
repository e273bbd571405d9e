//! Docker's defaults as a golden text, and what options change of them.

use super::*;
use crate::exec::{ExecOptions, exec_process};
use crate::image::ImageConfig;
use crate::options::{Bind, Propagation, Resources, Security, Tmpfs, UserNamespace};
use proptest::prelude::*;
use serde_json::{Value, json};

fn options() -> Options {
    let image = ImageConfig {
        env: vec!["A=1".into(), "PATH=/bin".into(), "bare".into()],
        cmd: vec!["sh".into()],
        working_dir: "/w".into(),
        ..ImageConfig::default()
    };
    Options { id: "x".into(), hostname: "h".into(), image, ..Options::default() }
}

fn json(options: &Options) -> Value {
    serde_json::to_value(build(options).unwrap()).unwrap()
}

#[test]
fn the_default_is_dockers() {
    let mut spec = json(&options());
    let seccomp = spec["linux"].as_object_mut().unwrap().remove("seccomp").unwrap();
    assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(spec["process"]["capabilities"][set].as_array_mut().unwrap().len(), 14, "{set}");
    }
    spec["process"].as_object_mut().unwrap().remove("capabilities");
    let golden: Value = serde_json::from_str(include_str!("../data/golden.json")).unwrap();
    assert_eq!(spec, golden, "{}", serde_json::to_string_pretty(&spec).unwrap());
}

#[test]
fn a_privileged_container_is_not_confined() {
    let spec = json(&Options { privileged: true, ..options() });
    assert!(spec["linux"].get("seccomp").is_none());
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert_eq!(spec["process"]["capabilities"]["effective"].as_array().unwrap().len(), 41);
    let sys = spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/sys").unwrap();
    assert!(sys["options"].as_array().unwrap().contains(&json!("rw")));
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_owned();
    let security = Security { seccomp: SeccompMode::Profile(profile), ..Security::default() };
    assert!(json(&Options { privileged: true, security, ..options() })["linux"].get("seccomp").is_some());
}

#[test]
fn another_user_starts_without_capabilities_in_force() {
    let user = User { uid: 1000, gid: 7, additional_gids: vec![8, 7], home: Some("/home/u".into()), umask: None };
    let spec = json(&Options { user, ..options() });
    assert_eq!(spec["process"]["capabilities"]["effective"], json!([]));
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert!(spec["process"]["capabilities"].get("inheritable").is_none());
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([7, 8]));
    assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("HOME=/home/u")));
}

#[test]
fn mounts_replace_dockers_own_and_come_parents_first() {
    let bind = |target: &str| Bind { source: "/h".into(), target: target.into(), readonly: true, ..Bind::default() };
    let tmpfs = Tmpfs { target: "/a/b/c".into(), options: vec!["exec".into(), "size=1m".into()] };
    let wanted = Options { binds: vec![bind("/dev/shm"), bind("/a")], tmpfs: vec![tmpfs], ..options() };
    let spec = json(&wanted);
    let targets: Vec<&str> =
        spec["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(
        targets,
        ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/a", "/dev/shm", "/a/b/c"]
    );
    assert_eq!(spec["mounts"][6]["options"], json!(["rbind", "ro", "rprivate"]));
    assert_eq!(spec["mounts"][8]["options"], json!(["nosuid", "nodev", "exec", "size=1m"]));
    assert!(build(&Options { binds: vec![bind("/a"), bind("/a/")], ..options() }).is_err());
    let shared = Bind { propagation: Propagation::RShared, ..bind("/a") };
    assert_eq!(json(&Options { binds: vec![shared], ..options() })["linux"]["rootfsPropagation"], "shared");
    let masked = json(&Options { binds: vec![bind("/proc/kcore")], ..options() });
    assert!(!masked["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
}

#[test]
fn namespaces_follow_the_modes() {
    let types = |options: &Options| -> Vec<String> {
        let spec = json(options);
        let list = spec["linux"]["namespaces"].as_array().unwrap();
        list.iter().map(|namespace| namespace["type"].as_str().unwrap().to_owned()).collect()
    };
    let host = Options {
        network: NetworkMode::Host,
        pid: NamespaceMode::Host,
        ipc: NamespaceMode::Host,
        uts: NamespaceMode::Host,
        cgroup: NamespaceMode::Host,
        ..options()
    };
    assert_eq!(types(&host), ["mount"]);
    let spec = json(&host);
    assert!(spec.get("hostname").is_none() && spec["linux"].get("sysctl").is_none());
    let joined = Options { network: NetworkMode::Path("/run/netns/x".into()), ..options() };
    assert_eq!(json(&joined)["linux"]["namespaces"][1]["path"], "/run/netns/x");
    let map = IdMapping { container: 0, host: 100_000, size: 65_536 };
    let userns = UserNamespace { path: None, uid_mappings: vec![map], gid_mappings: vec![map] };
    let own = Options { userns: Some(userns), time_offsets: Some(Default::default()), ..options() };
    assert!(types(&own).ends_with(&["user".into(), "time".into()]));
    assert_eq!(json(&own)["linux"]["uidMappings"][0]["hostID"], 100_000);
    assert!(build(&Options { userns: Some(UserNamespace::default()), ..options() }).is_err());
}

#[test]
fn sysctls_of_the_host_are_refused() {
    let with = |key: &str, value: &str, network| {
        build(&Options { sysctls: [(key.to_owned(), value.to_owned())].into(), network, ..options() })
    };
    assert!(with("net.core.somaxconn", "1", NetworkMode::None).is_ok());
    assert!(with("net/core/somaxconn", "1", NetworkMode::None).is_ok());
    assert!(with("kernel.shmmax", "1", NetworkMode::None).is_ok());
    for (key, value) in [
        ("kernel.core_pattern", "|/x"),
        ("net..x", "1"),
        ("net.x/../../kernel/core_pattern", "1"),
        ("net.x", "a\nb"),
        ("vm.swappiness", "1"),
        ("", "1"),
    ] {
        assert!(with(key, value, NetworkMode::None).is_err(), "{key:?}");
    }
    assert!(with("net.core.somaxconn", "1", NetworkMode::Host).is_err());
}

#[test]
fn an_init_goes_before_the_command() {
    let spec = json(&Options {
        init: Some("/sbin/docker-init".into()),
        terminal: true,
        console_size: Some((80, 24)),
        ..options()
    });
    assert_eq!(spec["process"]["args"], json!(["/sbin/docker-init", "--", "sh"]));
    assert_eq!(spec["process"]["consoleSize"], json!({"width": 80, "height": 24}));
    assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
}

#[test]
fn senseless_options_are_refused_by_name() {
    let refused = |options: Options, part: &str| {
        let error = build(&options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(Options { id: String::new(), ..options() }, "id");
    refused(Options { cwd: Some("rel".into()), ..options() }, "workdir");
    refused(Options { hostname: "a b".into(), ..options() }, "hostname");
    refused(Options { oom_score_adj: Some(2000), ..options() }, "oom-score-adj");
    refused(Options { cap_add: vec!["what".into()], ..options() }, "capability");
    refused(Options { image: ImageConfig::default(), ..options() }, "no command");
    let resources = Resources { memory: Some(1), ..Resources::default() };
    refused(Options { resources, ..options() }, "memory");
}

#[test]
fn an_exec_keeps_what_it_does_not_change() {
    let spec = build(&Options { env: vec!["HOME=/c".into()], ..options() }).unwrap();
    let plain = exec_process(&spec, &ExecOptions { args: vec!["id".into()], ..ExecOptions::default() }).unwrap();
    let base = spec.process().as_ref().unwrap();
    assert_eq!(plain.capabilities(), base.capabilities());
    assert_eq!((plain.env(), plain.cwd(), plain.user()), (base.env(), base.cwd(), base.user()));
    let user = User { uid: 5, gid: 5, home: Some("/u".into()), ..User::default() };
    let asked = ExecOptions {
        args: vec!["id".into()],
        env: vec!["A=2".into(), "B".into()],
        user: Some(user),
        cwd: Some("/x/.".into()),
        terminal: true,
        ..ExecOptions::default()
    };
    let process = exec_process(&spec, &asked).unwrap();
    let env = process.env().clone().unwrap();
    assert!(["A=2", "HOME=/u", "TERM=xterm"].iter().all(|entry| env.iter().any(|held| held == entry)), "{env:?}");
    assert!(process.capabilities().as_ref().unwrap().effective().as_ref().unwrap().is_empty());
    assert_eq!(process.cwd(), Path::new("/x"));
    let root =
        exec_process(&spec, &ExecOptions { privileged: true, user: Some(User::default()), ..asked.clone() }).unwrap();
    assert_eq!(root.capabilities().as_ref().unwrap().effective().as_ref().unwrap().len(), 41);
    assert!(exec_process(&spec, &ExecOptions { args: vec![], ..asked }).is_err());
}

proptest! {
    #[test]
    fn inheritable_and_ambient_sets_are_empty(
        uid in 0_u32..3, privileged: bool, add in prop::collection::vec("(ALL|SYS_ADMIN|KILL)", 0..3),
        drop in prop::collection::vec("(ALL|CHOWN|KILL)", 0..3),
    ) {
        let user = User { uid, ..User::default() };
        let spec = build(&Options { user, privileged, cap_add: add, cap_drop: drop, ..options() }).unwrap();
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        prop_assert!(sets.inheritable().is_none() && sets.ambient().is_none());
        prop_assert_eq!(sets.permitted(), sets.effective());
        let (bounding, effective) = (sets.bounding().clone().unwrap(), sets.effective().clone().unwrap());
        prop_assert!(effective.is_subset(&bounding) && (uid == 0 || effective.is_empty()));
    }

    #[test]
    fn a_spec_survives_its_json(privileged: bool, terminal: bool, readonly_rootfs: bool, memory in prop::option::of(8_i64 << 20..1 << 40)) {
        let resources = Resources { memory, ..Resources::default() };
        let spec = build(&Options { privileged, terminal, readonly_rootfs, resources, ..options() }).unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    }
}
