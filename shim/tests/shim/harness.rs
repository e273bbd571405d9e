//! A shim in a temporary folder, a client for it, a stand-in for the daemon's event service, and attach clients.

use crated_api::containerd::services::events::ttrpc::v1::ForwardRequest;
use crated_api::containerd::task::v3 as api;
use crated_api::containerd::types::{Envelope, Mount};
use crated_ttrpc::server::decode;
use crated_ttrpc::{CallOptions, Client, Context, Server, Service, async_trait};
use crated_types::attach::{self, FrameType, HEAD, Hello};
use crated_types::{Error, Result};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-shim-crated-v2");
/// Nothing here should take longer; a test that hangs fails.
pub(crate) const LONG: Duration = Duration::from_secs(30);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An id that no other container on this machine has.
pub(crate) fn unique(what: &str) -> String {
    format!("{what}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Awaits `future`, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("it takes too long")
}

/// A root file system with busybox in it.
pub(crate) fn rootfs(dir: &Path) {
    for folder in ["bin", "proc", "dev", "tmp", "sys", "etc"] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", dir.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "echo", "sleep", "true", "stty", "head", "dd", "kill", "tail", "yes", "seq", "id"] {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(name)).unwrap();
    }
}

/// A spec of a container with namespaces of its own.
pub(crate) fn spec(id: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/bin", "TERM=xterm"],
            "noNewPrivileges": true
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
        ],
        "linux": {
            "cgroupsPath": format!("/crated-shim-test/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]
        }
    })
}

/// Events as a daemon takes them.
pub(crate) struct Daemon {
    seen: mpsc::UnboundedSender<Envelope>,
}

#[async_trait]
impl Service for Daemon {
    async fn call(&self, context: Context, method: &str, payload: bytes::Bytes) -> Result<bytes::Bytes> {
        assert_eq!((method, context.value(crated_ttrpc::NAMESPACE_KEY)), ("Forward", Some("test")));
        let envelope =
            decode::<ForwardRequest>(payload)?.envelope.ok_or_else(|| Error::invalid("envelope", "missing"))?;
        self.seen.send(envelope).map_err(|_| Error::internal("the test is over"))?;
        Ok(bytes::Bytes::new())
    }
}

/// Serves events at a path until it is dropped.
pub(crate) struct Events {
    task: tokio::task::JoinHandle<()>,
    pub(crate) seen: mpsc::UnboundedReceiver<Envelope>,
}

impl Events {
    pub(crate) fn listen(path: &Path) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let server =
            Server::new().service("containerd.services.events.ttrpc.v1.Events", Arc::new(Daemon { seen: sender }));
        let task = tokio::spawn(async move { server.serve(listener).await.unwrap() });
        Self { task, seen }
    }

    /// The next event's topic and message.
    pub(crate) async fn next(&mut self) -> (String, Any) {
        let envelope = soon(self.seen.recv()).await.expect("an event");
        assert_eq!(envelope.namespace, "test");
        (envelope.topic, envelope.event.unwrap())
    }

    pub(crate) async fn topics(&mut self, count: usize) -> Vec<String> {
        let mut topics = Vec::new();
        for _ in 0..count {
            topics.push(self.next().await.0);
        }
        topics
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A shim that serves, started as crated's daemon does.
pub(crate) struct Shim {
    pub(crate) dir: TempDir,
    pub(crate) id: String,
    pub(crate) socket: PathBuf,
    pub(crate) child: Child,
    pub(crate) client: Client,
}

impl Shim {
    /// Starts a shim whose container is made of `spec`.
    pub(crate) async fn start(what: &str, change: impl FnOnce(&mut Value), args: &[&str]) -> (Self, Events) {
        static SEALED: LazyLock<OwnedFd> = LazyLock::new(|| crated_sys::program::sealed(Path::new(PROGRAM)).unwrap());
        Self::start_program(&format!("/proc/self/fd/{}", SEALED.as_raw_fd()), what, change, args).await
    }

    /// The same from the program's file, as somebody might who is neither our daemon nor containerd.
    pub(crate) async fn start_program(
        program: &str,
        what: &str,
        change: impl FnOnce(&mut Value),
        args: &[&str],
    ) -> (Self, Events) {
        let dir = tempfile::Builder::new().prefix("shim").tempdir().unwrap();
        let id = unique(what);
        let bundle = dir.path().join("bundle");
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        rootfs(&dir.path().join("image"));
        let mut spec = spec(&id, args);
        change(&mut spec);
        std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let events = Events::listen(&dir.path().join("events"));
        let socket = dir.path().join("s");
        let listener: OwnedFd = std::os::unix::net::UnixListener::bind(&socket).unwrap().into();
        let log = std::fs::File::create(bundle.join("log")).unwrap();
        let child = Command::new(program)
            .args(["-namespace", "test", "-id", &id, "-address", "/none", "-debug", "-bundle"])
            .arg(&bundle)
            .arg("serve")
            .env("CRATED_SOCKET", &socket)
            .env("TTRPC_ADDRESS", dir.path().join("events"))
            .stdin(Stdio::from(listener))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let client = Client::connect(&socket).await.unwrap();
        (Self { dir, id, socket, child, client }, events)
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("out.json")
    }

    pub(crate) async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A> {
        self.client.call("containerd.task.v3.Task", method, request, CallOptions::within(LONG)).await
    }

    pub(crate) fn request(&self, stdout: &str) -> api::CreateTaskRequest {
        let source = self.dir.path().join("image").display().to_string();
        let root =
            Mount { r#type: "bind".into(), source, target: String::new(), options: vec!["rbind".into(), "rw".into()] };
        api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle().display().to_string(),
            rootfs: vec![root],
            stdout: stdout.into(),
            stderr: stdout.into(),
            ..Default::default()
        }
    }

    /// Creates the container with crated's own streams.
    pub(crate) async fn create(&self, query: &str) -> u32 {
        self.create_with(self.request(&format!("crated://{}?{query}", self.log().display()))).await
    }

    pub(crate) async fn create_with(&self, request: api::CreateTaskRequest) -> u32 {
        self.call::<api::CreateTaskResponse>("Create", &request)
            .await
            .unwrap_or_else(|e| panic!("{e}\n{}", self.said()))
            .pid
    }

    pub(crate) async fn run(&self) -> u32 {
        self.try_start("").await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.said()))
    }

    pub(crate) async fn try_start(&self, exec: &str) -> Result<u32> {
        let request = api::StartRequest { id: self.id.clone(), exec_id: exec.into() };
        Ok(self.call::<api::StartResponse>("Start", &request).await?.pid)
    }

    pub(crate) async fn wait(&self, exec: &str) -> u32 {
        let request = api::WaitRequest { id: self.id.clone(), exec_id: exec.into() };
        self.call::<api::WaitResponse>("Wait", &request).await.unwrap().exit_status
    }

    pub(crate) async fn state(&self, exec: &str) -> Result<api::StateResponse> {
        self.call("State", &api::StateRequest { id: self.id.clone(), exec_id: exec.into() }).await
    }

    pub(crate) async fn kill(&self, exec: &str, signal: u32) -> Result<()> {
        let request = api::KillRequest { id: self.id.clone(), exec_id: exec.into(), signal, all: false };
        self.call("Kill", &request).await
    }

    pub(crate) async fn delete(&self, exec: &str) -> Result<api::DeleteResponse> {
        self.call("Delete", &api::DeleteRequest { id: self.id.clone(), exec_id: exec.into() }).await
    }

    pub(crate) async fn exec(&self, exec: &str, args: &[&str], terminal: bool, stdout: &str) -> Result<()> {
        let process = json!({
            "terminal": terminal, "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args, "env": ["PATH=/bin"]
        });
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
        };
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            terminal,
            stdout: stdout.into(),
            stderr: if terminal { String::new() } else { stdout.into() },
            spec: Some(spec),
            ..Default::default()
        };
        self.call("Exec", &request).await
    }

    /// The entries of the log: stream and text.
    pub(crate) fn entries(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let entry = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            (value["stream"].as_str().unwrap().to_owned(), value["log"].as_str().unwrap().to_owned())
        };
        text.lines().map(entry).collect()
    }

    /// The shim's own words.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.bundle().join("log")).unwrap_or_default()
    }

    /// Ends the shim and checks that nothing is left.
    pub(crate) async fn shutdown(mut self) {
        self.call::<()>("Shutdown", &api::ShutdownRequest { id: self.id.clone(), now: false }).await.unwrap();
        soon(self.client.closed()).await;
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
        assert!(!self.socket.exists());
        assert!(!Path::new(&format!("{}{}", self.socket.display(), attach::SOCKET_SUFFIX)).exists());
        self.no_cgroups();
    }

    pub(crate) fn no_cgroups(&self) {
        for hierarchy in ["memory", "pids", "unified", "freezer"] {
            let path = Path::new("/sys/fs/cgroup").join(hierarchy).join("crated-shim-test").join(&self.id);
            assert!(!path.exists(), "{} is left", path.display());
        }
    }

    pub(crate) async fn attach(&self, exec: &str, stdin: bool) -> Attached {
        self.attach_as(Hello {
            exec: exec.into(),
            container: self.id.clone(),
            stdin,
            stdout: true,
            stderr: true,
            scrollback: true,
        })
        .await
    }

    pub(crate) async fn attach_as(&self, hello: Hello) -> Attached {
        let path = format!("{}{}", self.socket.display(), attach::SOCKET_SUFFIX);
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(&attach::frame(FrameType::Hello, &hello.encode())).await.unwrap();
        Attached { stream, output: Vec::new() }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What a failed test left running ends with its cgroup.
        let _ = Command::new(PROGRAM)
            .args(["-namespace", "test", "-id", &self.id, "-bundle"])
            .arg(self.bundle())
            .arg("delete")
            .output();
    }
}

/// An attach client.
pub(crate) struct Attached {
    pub(crate) stream: UnixStream,
    /// All output so far.
    pub(crate) output: Vec<u8>,
}

impl Attached {
    pub(crate) async fn send(&mut self, kind: FrameType, payload: &[u8]) {
        self.stream.write_all(&attach::frame(kind, payload)).await.unwrap();
    }

    pub(crate) async fn frame(&mut self) -> Option<(FrameType, Vec<u8>)> {
        let mut bytes = [0; HEAD];
        soon(self.stream.read_exact(&mut bytes)).await.ok()?;
        let (kind, length) = attach::head(bytes).unwrap();
        let mut payload = vec![0; length];
        soon(self.stream.read_exact(&mut payload)).await.unwrap();
        if matches!(kind, FrameType::Stdout | FrameType::Stderr) {
            self.output.extend(&payload);
        }
        Some((kind, payload))
    }

    /// Reads until the output holds `text`.
    pub(crate) async fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.output).contains(text) {
            let frame = self.frame().await;
            let shown = String::from_utf8_lossy(&self.output).into_owned();
            assert!(frame.is_some_and(|frame| frame.0 != FrameType::Exit), "no {text:?} in {shown:?}");
        }
    }

    /// Reads to the end; answers the exit status.
    pub(crate) async fn exit(&mut self) -> u32 {
        loop {
            match self.frame().await.expect("an exit frame") {
                (FrameType::Exit, status) => {
                    assert!(self.frame().await.is_none());
                    return u32::from_be_bytes(status.try_into().unwrap());
                }
                (FrameType::Error, text) => panic!("{}", String::from_utf8_lossy(&text)),
                _ => {}
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}
