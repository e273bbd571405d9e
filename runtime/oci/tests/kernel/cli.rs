//! The command line, as containerd's shims and podman call it.

use std::{
    io::Read,
    os::fd::AsFd,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use super::harness::{Bundle, ready};

struct Cli {
    root: tempfile::TempDir,
    bundle: Bundle,
}

impl Cli {
    fn new(bundle: Bundle) -> Cli {
        std::fs::write(bundle.dir.path().join("config.json"), bundle.spec.to_string()).unwrap();
        Cli { root: tempfile::tempdir().unwrap(), bundle }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crated-oci"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(words)
            .current_dir(self.bundle.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn call(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn ok(&self, words: &[&str]) -> String {
        let output = self.call(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn id(&self) -> &str {
        &self.bundle.id
    }

    fn status(&self) -> String {
        let value: Value = serde_json::from_str(&self.ok(&["state", self.id()])).unwrap();
        value["status"].as_str().unwrap().to_owned()
    }

    fn nothing_left(&self) {
        assert_eq!(std::fs::read_dir(self.root.path()).unwrap().count(), 0);
        for hierarchy in ["pids", "memory", "unified"] {
            assert!(!Path::new("/sys/fs/cgroup").join(hierarchy).join("crated").join(self.id()).exists());
        }
    }
}

#[test]
fn run_gives_output_and_status() {
    if !ready() {
        return;
    }
    let cli = Cli::new(Bundle::sh("echo out; echo err >&2; exit 9"));
    let output = cli.call(&["run", "--bundle", cli.bundle.dir.path().to_str().unwrap(), cli.id()]);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()),
        (Some(9), b"out\n".as_slice(), b"err\n".as_slice())
    );
    cli.nothing_left();
}

#[test]
fn a_life_in_commands() {
    if !ready() {
        return;
    }
    let cli = Cli::new(Bundle::sh("echo ready; exec sleep 1000"));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let pid_file = cli.bundle.dir.path().join("pid");
    let mut create = cli.command(&["create", "--pid-file", pid_file.to_str().unwrap(), cli.id()]);
    let status = create.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
    assert!(status.success());
    // The command keeps its copies of the pipe's end.
    drop(create);
    assert_eq!(cli.status(), "created");
    assert!(!cli.call(&["create", cli.id()]).status.success(), "an id is used once");
    cli.ok(&["start", cli.id()]);
    assert!(!cli.call(&["start", cli.id()]).status.success());
    let mut word = [0u8; 6];
    reader.read_exact(&mut word).unwrap();
    assert_eq!((&word, cli.status().as_str()), (b"ready\n", "running"));
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let handle = crated_sys::pidfd::open(pid).unwrap();

    let exec = cli.call(&[
        "exec",
        "--env",
        "X=y",
        "--cwd",
        "/tmp",
        "--user",
        "1000:1001",
        "--cap",
        "CAP_NET_RAW",
        cli.id(),
        "sh",
        "-c",
        "echo $X; pwd; id -u; id -g; grep CapInh /proc/self/status; exit 5",
    ]);
    assert_eq!(
        (exec.status.code(), String::from_utf8(exec.stdout).unwrap().as_str()),
        (Some(5), "y\n/tmp\n1000\n1001\nCapInh:\t0000000000000000\n")
    );
    assert_eq!(cli.call(&["exec", cli.id(), "nonsense"]).status.code(), Some(255));
    for user in ["root", "4294967296", "-1", "1:x"] {
        assert!(!cli.call(&["exec", "--user", user, cli.id(), "true"]).status.success(), "{user}");
    }
    let pids: Vec<i32> = serde_json::from_str(&cli.ok(&["ps", "--format", "json", cli.id()])).unwrap();
    assert_eq!(pids, [pid]);
    assert!(cli.ok(&["ps", cli.id()]).contains("sleep 1000"));
    assert!(cli.ok(&["list"]).contains(cli.id()) && cli.ok(&["list", "-q"]).trim() == cli.id());
    cli.ok(&["pause", cli.id()]);
    assert_eq!(cli.status(), "paused");
    assert!(!cli.call(&["exec", cli.id(), "true"]).status.success());
    cli.ok(&["resume", cli.id()]);
    cli.ok(&["update", "--pids-limit", "33", cli.id()]);
    assert_eq!(cli.ok(&["exec", cli.id(), "cat", "/sys/fs/cgroup/pids/pids.max"]).trim(), "33");
    assert!(!cli.call(&["delete", cli.id()]).status.success(), "it runs");
    cli.ok(&["kill", cli.id(), "KILL"]);
    assert!(crated_sys::poll::readable(handle.as_fd(), Some(std::time::Duration::from_secs(20))).unwrap());
    assert_eq!(cli.status(), "stopped");
    cli.ok(&["delete", cli.id()]);
    cli.ok(&["delete", "--force", cli.id()]);
    assert!(!cli.call(&["state", cli.id()]).status.success());
    cli.nothing_left();
}

#[test]
fn a_created_container_can_be_deleted_unstarted() {
    if !ready() {
        return;
    }
    let cli = Cli::new(Bundle::sh("echo never"));
    let mut create = cli.command(&["create", cli.id()]);
    assert!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    cli.ok(&["delete", cli.id()]);
    cli.nothing_left();
}

#[test]
fn failures_leave_nothing_and_are_logged() {
    if !ready() {
        return;
    }
    let cli = Cli::new(Bundle::new(&["nonsense"]));
    let log = cli.bundle.dir.path().join("log.json");
    let mut create = cli.command(&["--log", log.to_str().unwrap(), "--log-format", "json", "create", cli.id()]);
    assert_eq!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code(), Some(1));
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&log).unwrap()).unwrap();
    assert!(line["level"] == "error" && line["msg"].as_str().unwrap().contains("executable file not found in $PATH"));
    cli.nothing_left();
    for words in [&["create"][..], &["frobnicate"], &["kill", "a/b"], &["--nope", "list"], &["state", "nobody"]] {
        assert!(!cli.call(words).status.success(), "{words:?}");
    }
}

#[test]
fn terminals_go_over_the_console_socket() {
    if !ready() {
        return;
    }
    let cli = Cli::new(Bundle::sh("tty; exec sleep 1000").set("/process/terminal", json!(true)));
    let path = cli.bundle.dir.path().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(!cli.call(&["create", cli.id()]).status.success(), "a console socket is needed");
    let receive = || {
        let (peer, _) = listener.accept().unwrap();
        let (_, mut fds) = crated_sys::socket::receive(peer.as_fd(), &mut [0u8; 64]).unwrap();
        std::fs::File::from(fds.remove(0))
    };
    let mut create = cli.command(&["create", "--console-socket", path.to_str().unwrap(), cli.id()]);
    assert!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let mut master = receive();
    cli.ok(&["start", cli.id()]);
    let mut line = [0u8; 12];
    master.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"/dev/pts/0\r\n");
    let mut exec =
        cli.command(&["exec", "--tty", "--detach", "--console-socket", path.to_str().unwrap(), cli.id(), "tty"]);
    assert!(exec.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    receive().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"/dev/pts/1\r\n");
    cli.ok(&["delete", "--force", cli.id()]);
    cli.nothing_left();
}

#[test]
fn descriptors_are_preserved_on_request() {
    if !ready() {
        return;
    }
    let cli = Cli::new(Bundle::sh("ls /proc/self/fd | wc -l; cat <&3"));
    let given = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(given.path(), "given\n").unwrap();
    let call = |flags: &str| {
        let script = format!(
            "exec 3<{} ; exec {} --root {} run {flags} {}",
            given.path().display(),
            env!("CARGO_BIN_EXE_crated-oci"),
            cli.root.path().display(),
            cli.id()
        );
        let output = Command::new("/bin/sh")
            .args(["-c", &script])
            .current_dir(cli.bundle.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(call("--preserve-fds 1"), "5\ngiven\n");
    assert_eq!(call(""), "4\n");
}

#[test]
fn spec_and_features_are_json() {
    if !ready() {
        return;
    }
    let cli = Cli::new(Bundle::new(&["true"]));
    std::fs::remove_file(cli.bundle.dir.path().join("config.json")).unwrap();
    cli.ok(&["spec"]);
    let spec = crated_oci::load_spec(cli.bundle.dir.path()).unwrap();
    crated_oci::spec::validate(&spec, false).unwrap();
    let features: Value = serde_json::from_str(&cli.ok(&["features"])).unwrap();
    assert!(features["linux"]["namespaces"].as_array().unwrap().len() == 8);
    assert!(cli.ok(&["--version"]).contains("spec: 1."));
}

#[test]
fn an_init_whose_runtime_is_killed_ends_too() {
    if !ready() {
        return;
    }
    let state = tempfile::NamedTempFile::new().unwrap();
    let hook = format!("cat > {}; kill -9 $PPID", state.path().display());
    let cli = Cli::new(
        Bundle::sh("echo never")
            .set("/hooks", json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]})),
    );
    let output = cli.call(&["run", cli.id()]);
    assert!(output.status.code().is_none() && output.stdout.is_empty());
    let state: Value = serde_json::from_str(&std::fs::read_to_string(state.path()).unwrap()).unwrap();
    if let Ok(init) = crated_sys::pidfd::open(state["pid"].as_i64().unwrap() as i32) {
        assert!(crated_sys::poll::readable(init.as_fd(), Some(std::time::Duration::from_secs(20))).unwrap());
    }
    cli.ok(&["delete", "--force", cli.id()]);
    cli.nothing_left();
}
