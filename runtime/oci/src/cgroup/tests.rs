//! On the real kernel, as root; every cgroup made here is removed.

use super::*;
use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A cgroup that is removed at the end, and the processes put into it.
struct Scratch {
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Scratch {
    fn new(resources: Option<&LinuxResources>) -> Option<Self> {
        match Cgroup::create(&scratch_path(), resources) {
            Ok(cgroup) => Some(Self { cgroup, children: Vec::new() }),
            Err(Error::NoCgroups) => {
                eprintln!("skip: no cgroup filesystem");
                None
            }
            Err(error) if error.errno().is_some_and(|errno| matches!(errno, 1 | 13 | 30)) => {
                eprintln!("skip: cgroups are not writable ({error})");
                None
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn spawn(&mut self, script: &str) -> i32 {
        // It waits until it is in the cgroup: what it starts before would stay outside.
        let script = format!("read x; {script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let pid = child.id() as i32;
        self.children.push(child);
        self.cgroup.add(pid).unwrap();
        drop(self.children.last_mut().unwrap().stdin.take());
        pid
    }

    fn file(&self, controller: &str, v1: &str, v2: &str) -> String {
        match self.cgroup.v1.iter().find(|dir| dir.has(controller)) {
            Some(dir) => file::read(&dir.path, v1).unwrap().trim().into(),
            None => file::read(&self.cgroup.unified.as_ref().unwrap().dir, v2).unwrap().trim().into(),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.cgroup.kill_all(9);
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.cgroup.remove().unwrap();
        assert!(self.cgroup.folders().all(|dir| !dir.exists()));
        for dir in self.cgroup.folders() {
            let _ = std::fs::remove_dir(dir.parent().unwrap());
        }
    }
}

fn scratch_path() -> CgroupPath {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // A parent for each: tests of one process run side by side, and it goes with the last child.
    CgroupPath::new(Some(Path::new(&format!("/crated-test-{}-{number}/c", std::process::id()))), "").unwrap()
}

fn missing(error: &Error) -> bool {
    let missing = matches!(error, Error::Missing { .. });
    if missing {
        eprintln!("skip: {error}");
    }
    missing
}

#[test]
fn limits_are_what_was_asked() {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(64 << 20)).set_swap(Some(96 << 20));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(512)).set_quota(Some(50_000)).set_period(Some(100_000));
    let mut pids = LinuxPids::default();
    pids.set_limit(17);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_pids(Some(pids));
    let Some(scratch) = Scratch::new(Some(&resources)) else { return };
    assert_eq!(scratch.file("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(scratch.file("pids", "pids.max", "pids.max"), "17");
    let unified = scratch.cgroup.is_unified();
    let quota = scratch.file("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota, if unified { "50000 100000" } else { "50000" });
    // Raised and lowered again: both orders of memory and swap.
    for (limit, swap) in [(200, 300), (32, 32), (100, -1)] {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit << 20)).set_swap(Some(if swap < 0 { swap } else { swap << 20 }));
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(memory));
        scratch.cgroup.set(&resources).unwrap();
        assert_eq!(scratch.file("memory", "memory.limit_in_bytes", "memory.max"), (limit << 20).to_string());
    }
}

#[test]
fn processes_are_listed_frozen_counted_and_killed() {
    let Some(mut scratch) = Scratch::new(None) else { return };
    let pid = scratch.spawn("sleep 1000 & echo; wait");
    let mut line = [0_u8; 1];
    io::Read::read_exact(scratch.children[0].stdout.as_mut().unwrap(), &mut line).unwrap();
    let pids = scratch.cgroup.pids().unwrap();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
    scratch.cgroup.freeze().unwrap();
    assert!(scratch.cgroup.is_frozen().unwrap());
    scratch.cgroup.thaw().unwrap();
    assert!(!scratch.cgroup.is_frozen().unwrap());
    match scratch.cgroup.stats().unwrap() {
        Metrics::V1(all) => assert!(all.pids.0 == 2 && all.memory.usage.usage > 0 && all.cpu.total > 0, "{all:?}"),
        Metrics::V2(all) => assert!(all.pids.0 == 2 && all.memory.usage > 0, "{all:?}"),
    }
    let again = Cgroup::open(scratch.cgroup.path()).unwrap();
    assert_eq!(again.pids().unwrap(), pids);
    assert!(matches!(Cgroup::create(again.path(), None), Err(Error::NotEmpty { .. })));
    again.kill_all(9).unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(scratch.children[0].wait().unwrap().signal(), Some(9));
}

#[test]
fn another_signal_reaches_all() {
    let Some(mut scratch) = Scratch::new(None) else { return };
    scratch.spawn("trap 'exit 7' TERM; echo; while :; do sleep 0.01; done");
    let mut line = [0_u8; 1];
    io::Read::read_exact(scratch.children[0].stdout.as_mut().unwrap(), &mut line).unwrap();
    scratch.cgroup.kill_all(15).unwrap();
    assert_eq!(scratch.children[0].wait().unwrap().code(), Some(7));
}

#[test]
fn a_child_places_itself_by_the_files() {
    let Some(mut scratch) = Scratch::new(None) else { return };
    let files = scratch.cgroup.join_files().unwrap();
    if files.is_empty() {
        eprintln!("skip: cgroup v2 places by clone3");
        return;
    }
    // A shell has one thread, and `0` is the writer.
    let mut script = String::from("set -e; ");
    for dir in &scratch.cgroup.v1 {
        script.push_str(&format!("echo 0 > {}/tasks; ", dir.path.display()));
    }
    script.push_str("cat /proc/self/cgroup");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    let wanted = scratch.cgroup.path().absolute();
    assert_eq!(text.lines().filter(|line| line.ends_with(&wanted)).count(), files.len(), "{text}");
    scratch.children.clear();
}

#[test]
fn lack_of_memory_is_seen() {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(16 << 20)).set_swap(Some(16 << 20));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    let Some(mut scratch) = Scratch::new(Some(&resources)) else { return };
    let watch = match scratch.cgroup.oom() {
        Ok(watch) => watch,
        Err(error) if missing(&error) => return,
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(watch.kills().unwrap(), 0);
    scratch.spawn("y=$(head -c 100000000 /dev/zero | tr '\\0' a); : $y");
    scratch.children[0].wait().unwrap();
    assert!(crated_sys::poll::readable(watch.as_fd(), Some(PATIENCE)).unwrap());
    assert!(watch.kills().unwrap() >= 1);
}

fn rule(allow: bool, text: Option<(char, i64, i64)>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some(access.into()));
    if let Some((kind, major, minor)) = text {
        let kind = if kind == 'b' { "b" } else { "c" };
        rule.set_typ(kind.parse().ok()).set_major(Some(major)).set_minor(Some(minor));
    }
    rule
}

#[test]
fn devices_outside_of_the_list_are_refused() {
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![rule(false, None, "rwm")]));
    let mut scratch = match Scratch::new(Some(&resources)) {
        Some(scratch) => scratch,
        None => return,
    };
    // /dev/kmsg is 1:11, /dev/null 1:3.
    scratch.spawn("true < /dev/null && ! true < /dev/kmsg");
    assert_eq!(scratch.children[0].wait().unwrap().code(), Some(0));
    resources.set_devices(Some(vec![rule(false, None, "rwm"), rule(true, Some(('c', 1, 11)), "r")]));
    scratch.cgroup.set(&resources).unwrap();
    scratch.spawn("true < /dev/kmsg");
    assert_eq!(scratch.children[1].wait().unwrap().code(), Some(0));
}

#[test]
fn v2_guards_devices_by_a_program() {
    let Some(mut scratch) = Scratch::new(None) else { return };
    let Some(fd) = scratch.cgroup.dir_fd() else {
        eprintln!("skip: no cgroup v2 hierarchy");
        return;
    };
    let closed = devices::State::from_rules(&[rule(false, None, "rwm")]).unwrap();
    let open = devices::State::from_rules(&[rule(true, None, "rwm")]).unwrap();
    for (state, status) in [(closed, 1), (open, 0)] {
        match v2::guard_devices(fd, &state) {
            Err(error)
                if error.errno() == Some(1)
                    || error.os().is_some_and(|os| os.kind() == io::ErrorKind::PermissionDenied) =>
            {
                eprintln!("skip: bpf is not permitted");
                return;
            }
            done => done.unwrap(),
        }
        assert_eq!(crated_sys::cgroup::device_programs(fd).unwrap().len(), 1);
        let mut command = Command::new("sh");
        command.args(["-c", "read x; true < /dev/null && true < /dev/kmsg"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        scratch.cgroup.add(child.id() as i32).unwrap();
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code().map(|code| code.min(1)), Some(status));
    }
    scratch.children.clear();
}

#[test]
fn a_limit_without_its_controller_names_it() {
    let Some(scratch) = Scratch::new(None) else { return };
    let mut resources = LinuxResources::default();
    let limits: std::collections::HashMap<String, String> = [("memory.high".to_owned(), "1".to_owned())].into();
    resources.set_unified(Some(limits));
    if !scratch.cgroup.is_unified() {
        assert!(matches!(scratch.cgroup.set(&resources), Err(Error::Unsupported { .. })));
    }
    let error = v1::find(&[], "cpuset", "resources.cpu").unwrap_err();
    assert_eq!(crated_types::Error::from(error).fault(), crated_types::Fault::Unsupported);
}

#[test]
fn removing_twice_and_with_children_is_no_error() {
    let Some(scratch) = Scratch::new(None) else { return };
    for dir in scratch.cgroup.folders() {
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
    }
    scratch.cgroup.remove().unwrap();
    scratch.cgroup.remove().unwrap();
    assert!(Cgroup::open(scratch.cgroup.path()).is_err_and(|error| error.is_not_found()));
    assert!(scratch.cgroup.pids().unwrap().is_empty());
    scratch.cgroup.kill_all(9).unwrap();
}

#[test]
fn a_refused_limit_leaves_nothing() {
    let path = scratch_path();
    let mut cpu = LinuxCpu::default();
    cpu.set_cpus(Some("9999".into()));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu));
    match Cgroup::create(&path, Some(&resources)) {
        Err(Error::Write { value, .. }) => assert_eq!(value, "9999"),
        Err(error) => eprintln!("skip: {error}"),
        Ok(_) => panic!("CPU 9999 exists"),
    }
    assert!(Cgroup::open(&path).is_err());
    if let Ok(host) = Host::get() {
        for mount in host.v1.iter().map(|hierarchy| &hierarchy.mount).chain(&host.unified) {
            let _ = std::fs::remove_dir(path.below(mount).parent().unwrap());
        }
    }
}
