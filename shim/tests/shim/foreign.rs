//! As containerd drives it: `start` and its answers, and Debian's containerd itself.

use crate::harness::{PROGRAM, rootfs, spec, unique};
use crated_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use crated_api::containerd::task::v3 as api;
use crated_api::containerd::types::RuntimeInfo;
use crated_ttrpc::{CallOptions, Client};
use prost::Message;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn bundle(id: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), spec(id, &["true"]).to_string()).unwrap();
    dir
}

fn start(dir: &Path, id: &str, stdin: &[u8], max_version: bool) -> Vec<u8> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["-namespace", "test", "-address"])
        .arg(dir.join("grpc"))
        .args(["-publish-binary", "/bin/true", "-id", id, "start"])
        .current_dir(dir)
        .env("TTRPC_ADDRESS", dir.join("ttrpc"))
        .env_remove("MAX_SHIM_VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if max_version {
        command.env("MAX_SHIM_VERSION", "2");
    }
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn start_answers_in_the_callers_own_way() {
    let id = unique("start");
    let dir = bundle(&id);
    let bare = String::from_utf8(start(dir.path(), &id, b"", false)).unwrap();
    let path = bare.strip_prefix("unix:///run/containerd/s/").expect("an address");
    assert_eq!(path.len(), 64);
    let json: serde_json::Value = serde_json::from_slice(&start(dir.path(), &id, b"", true)).unwrap();
    assert_eq!((json["version"].as_u64(), json["address"].as_str()), (Some(3), Some(bare.as_str())));
    let socket_dir = dir.path().join("s");
    let params = BootstrapParams {
        instance_id: id.clone(),
        namespace: "test".into(),
        socket_dir: Some(socket_dir.display().to_string()),
        ..BootstrapParams::default()
    };
    let answer = start(dir.path(), &id, &params.encode_to_vec(), true);
    let result = BootstrapResult::decode(answer.as_slice()).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    assert!(result.address.starts_with(&format!("unix://{}", socket_dir.display())));

    for address in [&bare, &result.address] {
        let path = address.strip_prefix("unix://").unwrap();
        let client = Client::connect(path).await.unwrap();
        for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
            let request = api::ConnectRequest { id: id.clone() };
            let options = CallOptions::within(Duration::from_secs(10));
            let answer: api::ConnectResponse = client.call(service, "Connect", &request, options).await.unwrap();
            assert_ne!(answer.shim_pid, 0);
        }
        let request = api::ShutdownRequest { id: id.clone(), now: true };
        client.call::<_, ()>("containerd.task.v2.Task", "Shutdown", &request, CallOptions::default()).await.unwrap();
        client.closed().await;
        assert!(!Path::new(path).exists());
    }
}

#[test]
fn info_says_what_it_can_do() {
    let output = Command::new(PROGRAM).arg("-info").stdin(Stdio::null()).output().unwrap();
    let info = RuntimeInfo::decode(output.stdout.as_slice()).unwrap();
    assert_eq!(info.name, "io.containerd.crated.v2");
    let features: serde_json::Value = serde_json::from_slice(&info.features.unwrap().value).unwrap();
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
    assert!(Command::new(PROGRAM).arg("-v").output().unwrap().stdout.starts_with(b"containerd-shim-crated-v2"));
    assert!(!Command::new(PROGRAM).arg("-bogus").output().unwrap().status.success());
}

/// Debian's containerd with folders and sockets of its own.
struct Containerd {
    dir: tempfile::TempDir,
    child: std::process::Child,
}

impl Containerd {
    fn start() -> Option<Self> {
        if !Path::new("/usr/bin/containerd").exists() || !Path::new("/usr/bin/ctr").exists() {
            println!("skip: containerd (not installed)");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("ctrd").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n[grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("c.sock")
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let programs = Path::new(PROGRAM).parent().unwrap().display().to_string();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("/usr/bin/containerd")
            .arg("--config")
            .arg(dir.path().join("config.toml"))
            .env("PATH", format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { dir, child };
        for _ in 0..600 {
            if containerd.ctr(&["version"]).status.success() {
                return Some(containerd);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("containerd does not answer: {}", containerd.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn ctr(&self, args: &[&str]) -> Output {
        let address: PathBuf = self.dir.path().join("c.sock");
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["60", "/usr/bin/ctr", "-a"]).arg(address).args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        assert!(
            output.status.success(),
            "ctr {args:?}: {}{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn debians_containerd_runs_a_container() {
    let Some(containerd) = Containerd::start() else { return };
    let root = containerd.dir.path().join("rootfs");
    rootfs(&root);
    let root = root.display().to_string();
    let runtime = "io.containerd.crated.v2";
    let id = unique("ctr");
    let run = ["run", "--rm", "--runtime", runtime, "--rootfs", &root, &id, "/bin/sh", "-c", "echo hello; exit 0"];
    assert_eq!(containerd.ok(&run), "hello\n");

    let id = unique("ctr");
    containerd.ok(&["run", "-d", "--runtime", runtime, "--rootfs", &root, &id, "/bin/sleep", "1000"]);
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    assert_eq!(containerd.ok(&["task", "exec", "--exec-id", "e1", &id, "/bin/echo", "from exec"]), "from exec\n");
    let failed = containerd.ctr(&["task", "exec", "--exec-id", "e2", &id, "/bin/sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7));
    containerd.ok(&["task", "pause", &id]);
    assert!(containerd.ok(&["task", "ls"]).contains("PAUSED"));
    containerd.ok(&["task", "resume", &id]);
    assert!(!containerd.ok(&["task", "ps", &id]).is_empty());
    assert!(!containerd.ok(&["task", "metrics", &id]).is_empty());
    containerd.ok(&["task", "kill", "--signal", "SIGKILL", &id]);
    for _ in 0..200 {
        if containerd.ok(&["task", "ls"]).contains("STOPPED") {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    containerd.ctr(&["task", "delete", &id]);
    assert!(!containerd.ok(&["task", "ls"]).contains(&id));
    containerd.ok(&["container", "rm", &id]);

    let id = unique("ctr");
    let missing = ["run", "--rm", "--runtime", runtime, "--rootfs", &root, &id, "/no/such"];
    let output = containerd.ctr(&missing);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("OCI runtime create failed"), "{text}");
    let by_path = ["run", "--rm", "--runtime", PROGRAM, "--rootfs", &root, &id, "/bin/echo", "by path"];
    assert_eq!(containerd.ok(&by_path), "by path\n");
}
