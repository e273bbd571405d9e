//! The plan against the spec: one whole plan as a file, and what must hold for any spec.

use oci_spec::runtime::Spec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn base() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/work", "terminal": true},
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "inside",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
            {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro", "rprivate"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "network", "path": "/run/netns/x"}, {"type": "ipc"}],
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "gid": 7}],
            "sysctl": {"kernel.msgmax": "1"},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "rootfsPropagation": "rslave",
        },
    })
}

fn facts() -> Facts {
    Facts { id: "one".into(), ..Facts::default() }
}

fn plan(value: &Value) -> crate::Result<Plan> {
    compile(&serde_json::from_value::<Spec>(value.clone()).unwrap(), &facts())
}

#[test]
fn the_plan_of_a_usual_spec_is_as_written_down() {
    let plan = plan(&base()).unwrap();
    let text = format!("{:#?}\n", (plan.namespaces, &plan.inputs, &plan.steps));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(golden == text, "the plan changed: look at it, then write it down with UPDATE_GOLDEN=1");
}

#[test]
fn ambient_capabilities_that_cannot_be_granted_are_left_out() {
    let mut spec = base();
    let (kill, both) = (json!(["CAP_KILL"]), json!(["CAP_KILL", "CAP_CHOWN"]));
    spec["process"]["capabilities"] = json!({"permitted": both, "inheritable": kill, "ambient": both});
    let sets = plan(&spec).unwrap().process.capabilities;
    assert_eq!(sets.ambient, sets.inheritable);
    spec["process"]["capabilities"] = json!({"permitted": both, "ambient": both}); // as `runc spec` writes it
    assert_eq!(plan(&spec).unwrap().process.capabilities.ambient, 0);
}

#[test]
fn refusals_name_their_field() {
    let cases = [
        ("/process/args", json!([]), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/env", json!(["A=\u{0}"]), "process.env"),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]), "process.rlimits"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/apparmorProfile", json!("docker-default"), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!("x"), "process.selinuxLabel"),
        ("/process/capabilities", json!({"effective": ["CAP_KILL"]}), "process.capabilities.effective"),
        ("/linux/intelRdt", json!({}), "linux.intelRdt"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces"),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "linux.namespaces"),
        ("/linux/namespaces", json!([{"type": "mount"}]), "hostname"),
        ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), "linux.sysctl.vm.swappiness"),
        ("/linux/maskedPaths", json!(["relative"]), "linux.maskedPaths"),
        ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
        ("/linux/mountLabel", json!("x"), "linux.mountLabel"),
        ("/mounts/0/destination", json!("/proc/self"), "mounts[0].destination"),
        ("/mounts/0/destination", json!("/"), "mounts[0].destination"),
        ("/mounts/1/type", json!(""), "mounts[1].type"),
        ("/mounts/3/options", json!(["remount"]), "mounts[3].options"),
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
    ];
    for (pointer, value, want) in cases {
        let mut spec = base();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match name.parse::<usize>() {
            Ok(index) => spec.pointer_mut(parent).unwrap()[index] = value,
            Err(_) => spec.pointer_mut(parent).unwrap()[name] = value,
        }
        match plan(&spec) {
            Err(crate::OciError::Spec { field, .. } | crate::OciError::Unsupported { field, .. }) => {
                assert_eq!(field, want)
            }
            other => panic!("{pointer}: {other:?}"),
        }
    }
}

#[test]
fn a_user_namespace_binds_devices_instead_of_making_them() {
    let mut spec = base();
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    assert!(plan(&spec).is_err(), "maps are needed");
    for name in ["uidMappings", "gidMappings"] {
        spec["linux"][name] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
    let plan = plan(&spec).unwrap();
    let devices: Vec<_> =
        plan.steps.iter().filter_map(|s| if let Step::Device(d) = s { Some(d) } else { None }).collect();
    assert!(devices.len() == 7 && devices.iter().all(|d| d.input.is_some()));
    assert_eq!(Maps::outside(&plan.maps.uids, 7), Some(100_007));
    assert_eq!(Maps::outside(&plan.maps.uids, 65536), None);
}

fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "ro",
        "rw",
        "rbind",
        "bind",
        "nosuid",
        "rslave",
        "private",
        "rro",
        "idmap",
        "mode=755",
        "size=1m",
        "tmpcopyup",
        "noatime",
        "newinstance",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[a-z=,]{0,12}"]
}

fn mount() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["tmpfs", "bind", "proc", "sysfs", "mqueue", "cgroup", "none", "ext4"]);
    ("(/[a-z.]{1,5}){1,4}", kind, prop::collection::vec(word(), 0..5))
        .prop_map(|(destination, kind, options)| json!({"destination": destination, "type": kind, "source": "/src", "options": options}))
}

proptest! {
    #[test]
    fn order_holds_for_any_spec(mounts in prop::collection::vec(mount(), 0..12), hooks in any::<bool>(), user in any::<bool>()) {
        let mut spec = base();
        spec["mounts"] = json!(mounts);
        if hooks {
            spec["hooks"] = json!({"createContainer": [{"path": "/x"}]});
        }
        if user {
            spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user", "path": "/proc/1/ns/user"}));
        }
        let Ok(plan) = plan(&spec) else { return Ok(()) };
        let at = |f: &dyn Fn(&Step) -> bool| plan.steps.iter().position(f);
        let root = at(&|s| matches!(s, Step::Root)).unwrap();
        let pivot = at(&|s| matches!(s, Step::Pivot { .. })).unwrap();
        for (index, step) in plan.steps.iter().enumerate() {
            match step {
                Step::Join { .. } | Step::Unshare(_) | Step::Loopback | Step::TimeOffsets(_) | Step::Keyring(_) | Step::Hostname(_) | Step::Domainname(_) => prop_assert!(index < root),
                Step::Mount(_) | Step::Device(_) | Step::Symlink { .. } | Step::Console { .. } | Step::Hooks(_) => prop_assert!(root < index && index < pivot),
                Step::Sysctl { .. } | Step::ReadonlyRoot | Step::ReadonlyPath(_) | Step::MaskPath(_) | Step::RootPropagation { .. } | Step::Directory { .. } => prop_assert!(pivot < index),
                Step::Root | Step::Pivot { .. } => {}
            }
            let input = match step {
                Step::Join { input, .. } => Some(*input),
                Step::Mount(MountStep { what: MountWhat::Tree { input, .. }, .. }) => Some(*input),
                Step::Device(d) => d.input,
                _ => None,
            };
            prop_assert!(input.is_none_or(|i| (i as usize) < plan.inputs.len()));
        }
        let asked = mounts.len();
        let made = plan.steps.iter().filter(|s| matches!(s, Step::Mount(_))).count();
        prop_assert_eq!(asked, made, "no mount is dropped");
        let work = Work { steps: plan.steps, process: plan.process, ..Work::default() };
        let bytes = postcard::to_stdvec(&work).unwrap();
        prop_assert_eq!(postcard::from_bytes::<Work>(&bytes).unwrap(), work);
    }

    #[test]
    fn the_last_of_ro_and_rw_counts(words in prop::collection::vec(word(), 0..10)) {
        let options = MountOptions::parse(words.iter().map(String::as_str));
        let last = words.iter().rev().find(|w| *w == "ro" || *w == "rw");
        prop_assert_eq!(options.set & 1 == 1, last.is_some_and(|w| w == "ro"));
        prop_assert_eq!(options.set & options.clear & 1, 0);
    }
}
