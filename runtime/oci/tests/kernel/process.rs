//! Who the program is: capabilities, users, limits, terminal, seccomp, descriptors, signals.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
};

use crated_oci::{OciError, Stdio};
use crated_sys::{pidfd, pty};
use serde_json::json;

use super::harness::{Bundle, Output, PROGRAM, exec, process, ready};

fn field(text: &str, name: &str) -> String {
    text.lines().find_map(|l| l.strip_prefix(&format!("{name}:"))).unwrap_or("").trim().to_owned()
}

#[test]
fn capabilities_are_those_of_the_spec_and_none_is_inheritable() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("cat /proc/self/status; exec sleep 1000 > /dev/null 2>&1 < /dev/null");
    let output = Output::new();
    let mut container = bundle.create(output.stdio()).unwrap();
    container.start().unwrap();
    let (_, inside) = exec(&container, &process(&["cat", "/proc/self/status"])).unwrap();
    let mut user = process(&["cat", "/proc/self/status"]);
    user["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 7});
    let (_, other) = exec(&container, &user).unwrap();
    container.destroy().unwrap();
    // CHOWN 0, KILL 5, NET_BIND_SERVICE 10.
    for text in [output.text(), inside] {
        let caps: Vec<_> = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().map(|n| field(&text, n)).collect();
        assert_eq!(
            caps,
            ["0000000000000000", "0000000000000421", "0000000000000421", "0000000000000421", "0000000000000000"]
        );
        assert_eq!(
            (field(&text, "NoNewPrivs"), field(&text, "SigBlk"), field(&text, "SigIgn")),
            ("1".into(), "0000000000000000".into(), "0000000000000000".into())
        );
    }
    assert_eq!(field(&other, "CapEff"), "0000000000000000");
    assert_eq!(
        (field(&other, "Uid"), field(&other, "Gid")),
        ("1000\t1000\t1000\t1000".into(), "1001\t1001\t1001\t1001".into())
    );
    assert_eq!((field(&other, "Groups"), field(&other, "Umask")), ("5 6".into(), "0007".into()));
}

#[test]
fn ambient_capabilities_reach_ordinary_users() {
    if !ready() {
        return;
    }
    let caps = json!(["CAP_KILL"]);
    let bundle =
        Bundle::new(&["cat", "/proc/self/status"]).set("/process/user", json!({"uid": 1000, "gid": 1000})).set(
            "/process/capabilities",
            json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps}),
        );
    assert_eq!(field(&bundle.run().unwrap().1, "CapEff"), "0000000000000020");
}

#[test]
fn no_descriptor_leaks_in() {
    if !ready() {
        return;
    }
    // One that is not CLOEXEC, as a careless library would leave it.
    let careless = File::open("/etc/passwd").unwrap();
    crated_sys::process::set_close_on_exec(careless.as_fd(), false).unwrap();
    let bundle = Bundle::sh("ls /proc/self/fd; exec sleep 1000 < /dev/null > /dev/null 2>&1");
    let output = Output::new();
    let mut container = bundle.create(output.stdio()).unwrap();
    container.start().unwrap();
    let (_, text) = exec(&container, &process(&["ls", "/proc/self/fd"])).unwrap();
    // ls itself has the directory open as 3.
    assert_eq!(text, "0\n1\n2\n3\n");
    container.destroy().unwrap();
    assert_eq!(output.text(), "0\n1\n2\n3\n");
    drop(careless);
}

#[test]
fn a_terminal_is_the_containers_own() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh(
        "tty; stty size; test -t 0 && test -c /dev/console && echo yes; read x; echo got $x; exec sleep 1000",
    );
    let mut container = bundle.create(Stdio::Terminal { size: Some((93, 31)) }).unwrap();
    let master = container.take_console().unwrap();
    assert!(container.take_console().is_none());
    container.start().unwrap();
    let mut terminal = File::from(master);
    let read_until = |terminal: &mut File, end: &str| {
        let mut text = String::new();
        let mut buffer = [0u8; 256];
        while !text.contains(end) {
            assert!(
                crated_sys::poll::readable(terminal.as_fd(), Some(std::time::Duration::from_secs(20))).unwrap(),
                "{text}"
            );
            let n = terminal.read(&mut buffer).unwrap();
            text += &String::from_utf8_lossy(&buffer[..n]);
        }
        text
    };
    let text = read_until(&mut terminal, "yes");
    assert!(text.contains("/dev/pts/0\r\n31 93\r\n"), "{text:?}");
    terminal.write_all(b"word\n").unwrap();
    read_until(&mut terminal, "got word");
    let wanted = serde_json::from_value(process(&["sh", "-c", "tty; stty size; exit 4"])).unwrap();
    let mut exec = container.exec(&wanted, Stdio::Terminal { size: Some((10, 20)) }, PROGRAM.as_fd()).unwrap();
    let mut second = File::from(exec.take_console().unwrap());
    pty::set_size(second.as_fd(), 44, 55).unwrap();
    exec.start().unwrap();
    let text = read_until(&mut second, "55 44");
    assert!(text.contains("/dev/pts/1"), "{text:?}");
    assert_eq!(pidfd::wait(exec.pidfd()).unwrap().code(), 4);
    container.destroy().unwrap();
}

#[test]
fn limits_and_scores_are_set() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("ulimit -n; ulimit -c; cat /proc/self/oom_score_adj")
        .set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 78}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        )
        .set("/process/oomScoreAdj", json!(321));
    assert_eq!(bundle.run().unwrap().1, "77\n0\n321\n");
}

#[test]
fn a_filter_holds_with_and_without_new_privileges() {
    if !ready() {
        return;
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    });
    for (privileges, uid) in [(true, 0), (false, 0), (false, 1000)] {
        let bundle = Bundle::sh("mkdir /tmp/x; echo $?; grep -E 'Seccomp:|CapEff' /proc/self/status")
            .set("/linux/seccomp", profile.clone())
            .set("/process/noNewPrivileges", json!(privileges))
            .set("/process/user", json!({"uid": uid, "gid": 0}));
        let (_, text) = bundle.run().unwrap();
        assert!(text.contains("Permission denied\n1\n") && text.contains("Seccomp:\t2"), "{text}");
        // CAP_SYS_ADMIN, needed for loading, is gone.
        let caps = if uid == 0 { "0000000000000421" } else { "0000000000000000" };
        assert!(text.contains(caps), "{text}");
    }
}

#[test]
fn the_working_directory_is_made_or_refused() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("pwd").set("/process/cwd", json!("/deep/er"));
    assert_eq!(bundle.run().unwrap().1, "/deep/er\n");
    for path in ["/proc/self/fd/0", "/proc/self/fd/3", "/proc/self/fd/7/..", "/proc/1/cwd/../../../.."] {
        let bundle = Bundle::sh("ls /").set("/process/cwd", json!(path));
        match bundle.run() {
            Err(OciError::Init { .. }) => {}
            other => assert!(other.is_ok_and(|(_, t)| t.contains("bin") && !t.contains("boot")), "{path}"),
        }
    }
}

#[test]
fn ordinary_users_own_their_streams() {
    if !ready() {
        return;
    }
    let (read, write) = std::io::pipe().unwrap();
    let bundle = Bundle::sh("echo reopened > /dev/stdout").set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let null = || File::open("/dev/null").unwrap().into();
    let stdio = Stdio::Fds { stdin: null(), stdout: write.into(), stderr: null() };
    let mut container = bundle.create(stdio).unwrap();
    container.start().unwrap();
    pidfd::wait(container.pidfd()).unwrap();
    container.destroy().unwrap();
    let mut text = String::new();
    File::from(std::os::fd::OwnedFd::from(read)).read_to_string(&mut text).unwrap();
    assert_eq!(text, "reopened\n");
}

#[test]
fn hooks_run_in_their_places() {
    if !ready() {
        return;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().display().to_string();
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} $(cat | tr -d ' ' | grep -o '\"status\":\"[a-z]*\"\\|\"pid\":[1-9]' | tr -d '\\n') >> {path}")]}]);
    let bundle = Bundle::sh("cat /hooked").set("/hooks", json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "createContainer": hook("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null; hostname > /hooked"]}],
        "poststart": hook("poststart"), "poststop": hook("poststop"),
    }));
    assert_eq!(bundle.run().unwrap().1, "inside\n");
    let text = std::fs::read_to_string(log.path()).unwrap();
    let names: Vec<_> = text.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["prestart", "createRuntime", "createContainer", "poststart", "poststop"], "{text}");
    assert!(
        text.contains("poststop \"status\":\"stopped\"\n")
            && text.contains("createContainer \"status\":\"creating\"\"pid\":"),
        "{text}"
    );
    for (list, script) in [
        ("createRuntime", "echo broken >&2; exit 3"),
        ("createContainer", "echo broken >&2; exit 3"),
        ("poststart", "echo broken >&2; exit 3"),
    ] {
        let failing = Bundle::sh("exec sleep 1000")
            .set("/hooks", json!({list: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}));
        let error = failing.run().unwrap_err();
        assert!(matches!(&error, OciError::Hook { reason, .. } if reason.contains("broken")), "{list}: {error}");
    }
    let late = Bundle::sh("true")
        .set("/hooks", json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}));
    assert!(matches!(late.run().unwrap_err(), OciError::Hook { reason, .. } if reason.contains("within 1 s")));
}

#[test]
fn pause_and_signals_reach_all() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("sleep 1000 & sleep 1000 & wait");
    let output = Output::new();
    let mut container = bundle.create(output.stdio()).unwrap();
    container.start().unwrap();
    while container.pids().unwrap().len() < 3 {
        std::thread::yield_now();
    }
    container.pause().unwrap();
    assert!(matches!(exec(&container, &process(&["true"])), Err(OciError::State { .. })));
    container.resume().unwrap();
    // The shell, as process 1, has no default action for SIGTERM; its children have, and so its `wait` ends.
    container.kill(15, true).unwrap();
    pidfd::wait(container.pidfd()).unwrap();
    container.destroy().unwrap();
}

#[test]
fn notifications_reach_their_listener() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("listener");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "listenerPath": path, "listenerMetadata": "meta",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
    let bundle = Bundle::sh("mkdir /tmp/x; echo $?").set("/linux/seccomp", profile);
    assert!(bundle.run().is_err(), "nobody listens");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let output = Output::new();
    let mut container = bundle.create(output.stdio()).unwrap();
    container.start().unwrap();
    let (peer, _) = listener.accept().unwrap();
    let mut buffer = [0u8; 4096];
    let (n, mut fds) = crated_sys::socket::receive(peer.as_fd(), &mut buffer).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&buffer[..n]).unwrap();
    assert_eq!(
        (&state["metadata"], &state["pid"], &state["state"]["id"]),
        (&json!("meta"), &json!(container.pid()), &json!(container.id()))
    );
    // The descriptor is readable when a call waits for a verdict; without its holder the call answers ENOSYS.
    let notify = fds.remove(0);
    assert!(crated_sys::poll::readable(notify.as_fd(), Some(std::time::Duration::from_secs(20))).unwrap());
    drop(notify);
    assert_eq!(pidfd::wait(container.pidfd()).unwrap().code(), 0);
    container.destroy().unwrap();
    assert!(output.text().contains("Function not implemented\n1\n"), "{}", output.text());
}
