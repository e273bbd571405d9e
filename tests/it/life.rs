//! A container's life through cratectl: what a person does all day.

use crated_tests::{Daemon, eventually};
use serde_json::Value;

fn ready() -> Daemon {
    let daemon = Daemon::start();
    daemon.load_busybox();
    daemon
}

#[test]
fn a_container_says_hello_and_is_gone() {
    let daemon = ready();
    assert_eq!(daemon.ctl(&["run", "--rm", "bb:1", "echo", "hello"]).ok(), "hello\n");
    assert_eq!(daemon.ctl(&["ps", "-aq"]).ok(), "");
    daemon.finish();
}

#[test]
fn exit_statuses_are_dockers() {
    let daemon = ready();
    daemon.ctl(&["run", "--rm", "bb:1", "sh", "-c", "exit 7"]).fails(7, "");
    daemon.ctl(&["run", "--rm", "bb:1", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).fails(137, "");
    daemon.ctl(&["run", "--rm", "bb:1", "no-such-program"]).fails(127, "no-such-program");
    daemon.ctl(&["run", "--rm", "bb:1", "/etc/passwd"]).fails(126, "/etc/passwd");
    daemon.ctl(&["run", "--rm", "--pull", "never", "absent:1"]).fails(125, "absent");
    daemon.ctl(&["run", "--frobnicate", "bb:1"]).fails(2, "--frobnicate");
    assert_eq!(daemon.ctl(&["ps", "-aq"]).ok(), "", "failed runs leave nothing");
    daemon.finish();
}

#[test]
fn output_goes_to_its_own_stream_and_input_arrives() {
    let daemon = ready();
    let outcome = daemon.ctl(&["run", "--rm", "bb:1", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    let said = daemon.ctl_with(&["run", "--rm", "-i", "bb:1", "sort"]).input("b\na\n").run().ok();
    assert_eq!(said, "a\nb\n");
    let big = "0123456789abcdef".repeat(64 << 10);
    let said = daemon.ctl_with(&["run", "--rm", "-i", "bb:1", "sha256sum"]).input(big.clone()).run().ok();
    assert!(said.starts_with(&sha256(big.as_bytes())), "{said}");
    daemon.finish();
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_detached_container_is_seen_entered_logged_stopped_started_removed() {
    let daemon = ready();
    let script = "trap 'echo bye; exit 3' TERM; echo started; while :; do sleep 0.1; done";
    let id = daemon.ctl(&["run", "-d", "--name", "web", "-e", "A=1", "bb:1", "sh", "-c", script]).word();
    assert_eq!(id.len(), 64);
    let listed = daemon.ctl(&["ps", "--format", "{{.Names}} {{.State}} {{.Image}}"]).word();
    assert_eq!(listed, "web running bb:1");
    eventually("the log", || (daemon.ctl(&["logs", "web"]).ok() == "started\n").then_some(()));
    assert_eq!(daemon.ctl(&["exec", "web", "sh", "-c", "echo $A; exit 0"]).ok(), "1\n");
    daemon.ctl(&["exec", "web", "sh", "-c", "exit 9"]).fails(9, "");
    daemon.ctl(&["exec", "web", "absent"]).fails(127, "absent");
    let top = daemon.ctl(&["top", "web"]).ok();
    assert!(top.contains("PID") && top.contains("sleep"), "{top}");
    daemon.ctl(&["stop", "web"]).ok();
    assert_eq!(daemon.ctl(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "web"]).word(), "exited 3");
    assert_eq!(daemon.ctl(&["logs", "--tail", "1", "web"]).ok(), "bye\n");
    daemon.ctl(&["exec", "web", "true"]).fails(125, "not running");
    daemon.ctl(&["start", "web"]).ok();
    daemon.ctl(&["rm", "web"]).fails(1, "running");
    daemon.ctl(&["rm", "-f", "web"]).ok();
    daemon.ctl(&["inspect", "web"]).fails(1, "web");
    daemon.finish();
}

#[test]
fn names_are_unique_and_free_again() {
    let daemon = ready();
    daemon.ctl(&["create", "--name", "one", "bb:1", "true"]).ok();
    let said = daemon.ctl(&["create", "--name", "one", "bb:1", "true"]).fails(1, "one");
    assert!(said.contains("in use") || said.contains("already"), "{said}");
    daemon.ctl(&["rename", "one", "two"]).ok();
    daemon.ctl(&["create", "--name", "one", "bb:1", "true"]).ok();
    daemon.ctl(&["create", "--name=-bad-", "bb:1"]).fails(1, "-bad-");
    let id = daemon.id("two");
    assert_eq!(daemon.ctl(&["inspect", "--format", "{{.Name}}", &id[..12]]).word(), "/two");
    daemon.finish();
}

#[test]
fn inspect_has_dockers_shape() {
    let daemon = ready();
    daemon.ctl(&["run", "-d", "--name", "c1", "--memory", "64m", "--label", "a.b=c", "bb:1", "sleep", "100"]).ok();
    let found: Value = serde_json::from_str(&daemon.ctl(&["inspect", "c1"]).ok()).unwrap();
    let container = &found[0];
    assert_eq!(container["State"]["Running"], true);
    assert_eq!(container["State"]["OOMKilled"], false);
    assert_eq!(container["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(container["Config"]["Labels"]["a.b"], "c");
    assert!(container["State"]["Pid"].as_i64().unwrap() > 0);
    assert!(container["State"]["StartedAt"].as_str().unwrap().starts_with("20"));
    daemon.finish();
}

#[test]
fn a_container_has_namespaces_of_its_own() {
    let daemon = ready();
    daemon.ctl(&["run", "-d", "--name", "c1", "--hostname", "box", "bb:1", "sleep", "100"]).ok();
    let pid = daemon.container_pid("c1");
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup"] {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(link("self"), link(&pid.to_string()), "{kind}");
    }
    assert_eq!(daemon.ctl(&["exec", "c1", "hostname"]).ok(), "box\n");
    assert_eq!(daemon.ctl(&["exec", "c1", "sh", "-c", "ls /sys/class/net"]).word(), "lo");
    let status = daemon.ctl(&["exec", "c1", "cat", "/proc/1/status"]).ok();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("CapInh").ends_with("0000000000000000"));
    assert!(line("CapBnd").ends_with("00000000a80425fb"), "{}", line("CapBnd"));
    assert!(line("Seccomp:").ends_with('2'));
    daemon.ctl(&["exec", "c1", "sh", "-c", "echo x > /proc/sys/kernel/core_pattern"]).fails(1, "");
    daemon.ctl(&["exec", "c1", "sh", "-c", "echo x > /sys/fs/cgroup/x"]).fails(1, "");
    daemon.finish();
}

#[test]
fn options_of_run_do_what_they_say() {
    let daemon = ready();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "from the host\n").unwrap();
    let volume = format!("{}:/data", host.path().display());
    let run =
        |flags: &[&str], command: &[&str]| daemon.ctl(&[&["run", "--rm"], flags, &["bb:1"], command].concat()).ok();
    assert_eq!(run(&["-v", &volume], &["cat", "/data/file"]), "from the host\n");
    run(&["-v", &volume], &["sh", "-c", "echo back > /data/new"]);
    assert_eq!(std::fs::read_to_string(host.path().join("new")).unwrap(), "back\n");
    daemon.ctl(&["run", "--rm", "-v", &format!("{volume}:ro"), "bb:1", "touch", "/data/x"]).fails(1, "Read-only");
    daemon.ctl(&["run", "--rm", "--read-only", "bb:1", "touch", "/x"]).fails(1, "Read-only");
    assert_eq!(run(&["--read-only", "--tmpfs", "/x"], &["sh", "-c", "touch /x/y && echo ok"]), "ok\n");
    assert_eq!(run(&["-w", "/new/dir"], &["pwd"]), "/new/dir\n");
    assert_eq!(run(&["-u", "nobody"], &["id", "-u"]), "65534\n");
    assert_eq!(run(&["-u", "1000:1001", "--group-add", "7"], &["id"]).trim(), "uid=1000 gid=1001 groups=7,1001");
    assert_eq!(run(&["--entrypoint", "echo"], &["a", "b"]), "a b\n");
    assert_eq!(run(&["--ulimit", "nofile=100:200"], &["sh", "-c", "ulimit -n; ulimit -Hn"]), "100\n200\n");
    assert_eq!(run(&["--sysctl", "net.ipv4.ip_forward=1"], &["cat", "/proc/sys/net/ipv4/ip_forward"]), "1\n");
    assert_eq!(
        run(&["--cap-drop", "ALL"], &["sh", "-c", "grep CapEff /proc/self/status"]).trim(),
        "CapEff:\t0000000000000000"
    );
    assert_eq!(
        run(&["--security-opt", "seccomp=unconfined"], &["sh", "-c", "grep Seccomp: /proc/self/status"]).trim(),
        "Seccomp:\t0"
    );
    assert_eq!(
        run(&["--security-opt", "no-new-privileges"], &["sh", "-c", "grep NoNewPrivs /proc/self/status"]).trim(),
        "NoNewPrivs:\t1"
    );
    assert_eq!(run(&["--pids-limit", "50", "--cpu-shares", "512"], &["echo", "limited"]), "limited\n");
    assert_eq!(
        run(
            &["--privileged"],
            &[
                "sh",
                "-c",
                "mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs none /mnt && echo mounted"
            ]
        ),
        "mounted\n"
    );
    let env = run(&["-e", "X=y z", "-e", "EMPTY="], &["sh", "-c", "echo \"$X|$EMPTY|$HOME|$PATH\""]);
    assert_eq!(env, "y z||/root|/bin\n");
    daemon.finish();
}

#[test]
fn limits_reach_the_cgroup() {
    let daemon = ready();
    let flags = ["--memory", "32m", "--cpus", "0.5", "--pids-limit", "20"];
    daemon.ctl(&[&["run", "-d", "--name", "c1"], &flags[..], &["bb:1", "sleep", "100"]].concat()).ok();
    let id = daemon.id("c1");
    let read = |controller: &str, file: &str| {
        let base = std::path::PathBuf::from("/sys/fs/cgroup").join(controller);
        find(&base, &id).map(|path| std::fs::read_to_string(path.join(file)).unwrap().trim().to_owned())
    };
    match read("memory", "memory.limit_in_bytes") {
        Some(limit) => {
            assert_eq!(limit, (32 << 20).to_string());
            assert_eq!(read("cpu", "cpu.cfs_quota_us").unwrap(), "50000");
            assert_eq!(read("pids", "pids.max").unwrap(), "20");
        }
        None => {
            assert_eq!(read("", "memory.max").unwrap(), (32 << 20).to_string());
            assert_eq!(read("", "cpu.max").unwrap(), "50000 100000");
            assert_eq!(read("", "pids.max").unwrap(), "20");
        }
    }
    let stats = daemon.ctl(&["stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "c1"]).ok();
    assert!(stats.starts_with("c1 ") && stats.contains("32"), "{stats}");
    daemon.finish();
}

fn find(base: &std::path::Path, id: &str) -> Option<std::path::PathBuf> {
    let mut open = vec![base.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(id) {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    None
}

#[test]
fn a_container_over_its_memory_is_killed_and_says_so() {
    let daemon = ready();
    let hog = "x=a; while :; do x=$x$x; done";
    let outcome =
        daemon.ctl(&["run", "--name", "hog", "--memory", "16m", "--memory-swap", "16m", "bb:1", "sh", "-c", hog]);
    assert_eq!(outcome.status, 137, "{outcome:?}");
    let said = eventually("the exit is recorded", || {
        let said = daemon.ctl(&["inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "hog"]).word();
        said.ends_with("137").then_some(said)
    });
    assert_eq!(said, "true 137");
    daemon.finish();
}

#[test]
fn files_are_copied_both_ways() {
    let daemon = ready();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sleep", "100"]).ok();
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).display().to_string();
    std::fs::create_dir_all(host.path().join("dir/sub")).unwrap();
    std::fs::write(host.path().join("dir/sub/file"), "hello").unwrap();
    daemon.ctl(&["cp", &path("dir"), "c1:/tmp"]).ok();
    assert_eq!(daemon.ctl(&["exec", "c1", "cat", "/tmp/dir/sub/file"]).ok(), "hello");
    daemon.ctl(&["cp", "c1:/etc/passwd", &path("passwd")]).ok();
    assert!(std::fs::read_to_string(host.path().join("passwd")).unwrap().starts_with("root:"));
    daemon.ctl(&["exec", "c1", "ln", "-s", "/../../../../etc", "/tmp/out"]).ok();
    daemon.ctl(&["cp", &path("passwd"), "c1:/tmp/out/copied"]).ok();
    assert!(!std::path::Path::new("/etc/copied").exists(), "a link in the container leads into the container");
    assert!(daemon.ctl(&["exec", "c1", "ls", "/etc"]).ok().contains("copied"));
    daemon.ctl(&["stop", "-t", "0", "c1"]).ok();
    daemon.ctl(&["cp", "c1:/tmp/dir", &path("back")]).ok();
    assert_eq!(std::fs::read_to_string(host.path().join("back/sub/file")).unwrap(), "hello");
    daemon.ctl(&["cp", "c1:/absent", &path("x")]).fails(1, "absent");
    daemon.finish();
}

#[test]
fn a_paused_container_stands_still() {
    let daemon = ready();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sh", "-c", "while :; do echo x; sleep 0.01; done"]).ok();
    daemon.ctl(&["pause", "c1"]).ok();
    assert_eq!(daemon.ctl(&["inspect", "--format", "{{.State.Status}}", "c1"]).word(), "paused");
    let before = daemon.ctl(&["logs", "c1"]).ok().len();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(daemon.ctl(&["logs", "c1"]).ok().len(), before);
    daemon.ctl(&["unpause", "c1"]).ok();
    eventually("it goes on", || (daemon.ctl(&["logs", "c1"]).ok().len() > before).then_some(()));
    daemon.finish();
}

#[test]
fn waiters_and_followers_end_with_the_container() {
    let daemon = ready();
    daemon.ctl(&["run", "-d", "--name", "c1", "bb:1", "sh", "-c", "sleep 0.5; echo end; exit 4"]).ok();
    assert_eq!(daemon.ctl(&["logs", "-f", "c1"]).ok(), "end\n");
    assert_eq!(daemon.ctl(&["wait", "c1"]).word(), "4");
    daemon.finish();
}

#[test]
fn a_terminal_is_a_terminal() {
    let daemon = ready();
    daemon.ctl(&["run", "-d", "-t", "--name", "c1", "bb:1", "sh", "-c", "tty; sleep 100"]).ok();
    eventually("the terminal's name", || daemon.ctl(&["logs", "c1"]).ok().contains("/dev/pts/0").then_some(()));
    let said = daemon.ctl(&["exec", "-t", "c1", "sh", "-c", "test -t 1 && echo yes"]).ok();
    assert_eq!(said, "yes\r\n");
    daemon.finish();
}

#[test]
fn restart_policies_restart() {
    let daemon = ready();
    daemon
        .ctl(&["run", "-d", "--name", "c1", "--restart", "on-failure:2", "bb:1", "sh", "-c", "echo try; exit 1"])
        .ok();
    eventually("two restarts", || {
        let said = daemon.ctl(&["inspect", "--format", "{{.RestartCount}} {{.State.Status}}", "c1"]).word();
        (said == "2 exited" && daemon.ctl(&["logs", "c1"]).ok() == "try\n".repeat(3)).then_some(())
    });
    daemon.finish();
}

#[test]
fn a_timeline_shows_the_steps() {
    let daemon = ready();
    daemon.ctl(&["run", "--name", "c1", "bb:1", "true"]).ok();
    let said = daemon.ctl(&["timeline", "c1"]).ok();
    assert!(said.contains("create") && said.contains("start") && said.contains("µs"), "{said}");
    daemon.finish();
}

#[test]
fn an_init_reaps_and_forwards() {
    let daemon = ready();
    let script = "trap 'exit 6' TERM; (sleep 0.1 &) ; while :; do sleep 0.1; done";
    daemon.ctl(&["run", "-d", "--init", "--name", "c1", "bb:1", "sh", "-c", script]).ok();
    assert!(daemon.ctl(&["exec", "c1", "cat", "/proc/1/cmdline"]).ok().contains("init"));
    eventually("the orphan is reaped", || (!daemon.ctl(&["exec", "c1", "ps"]).ok().contains("[sleep]")).then_some(()));
    daemon.ctl(&["stop", "c1"]).ok();
    assert_eq!(daemon.ctl(&["inspect", "--format", "{{.State.ExitCode}}", "c1"]).word(), "6");
    daemon.finish();
}
