//! A bundle with busybox, a spec to change, and a way to run it and read what it says.

use std::{
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crated_oci::{Container, CreateRequest, OciError, Rootfs, RuntimeOptions, Stdio};
use crated_sys::{memfd, pidfd, pidfd::ExitStatus};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// The sealed program that runs init.
pub(crate) static PROGRAM: LazyLock<OwnedFd> =
    LazyLock::new(|| crated_sys::program::sealed(Path::new(env!("CARGO_BIN_EXE_crated-oci"))).unwrap());

/// Whether this host can run the tests; says why not.
pub(crate) fn ready() -> bool {
    let missing = if !crated_sys::caps::get().unwrap().effective.contains(21) {
        "no CAP_SYS_ADMIN"
    } else if !Path::new("/bin/busybox").exists() {
        "no /bin/busybox"
    } else {
        return true;
    };
    println!("skip: containers ({missing})");
    false
}

/// A bundle in a temporary folder.
pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) spec: Value,
    pub(crate) id: String,
}

impl Bundle {
    /// A container that runs a shell script.
    pub(crate) fn sh(script: &str) -> Bundle {
        Bundle::new(&["sh", "-c", script])
    }

    pub(crate) fn new(args: &[&str]) -> Bundle {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "id", "ls", "true", "sleep", "mount", "grep", "stat", "tty", "touch", "readlink", "hostname",
            "test", "kill", "echo", "head", "stty", "mkdir", "ulimit", "date", "wc",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
            .unwrap();
        let id = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Bundle { spec: spec(args), dir, id }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Bundle {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap()[name] = value;
        self
    }

    pub(crate) fn push(mut self, pointer: &str, value: Value) -> Bundle {
        self.spec.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    pub(crate) fn parsed(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    pub(crate) fn create(&self, stdio: Stdio) -> Result<Container, OciError> {
        self.create_from(Rootfs::Path(self.root()), stdio)
    }

    pub(crate) fn create_from(&self, rootfs: Rootfs, stdio: Stdio) -> Result<Container, OciError> {
        Container::create(CreateRequest {
            id: &self.id,
            bundle: self.dir.path(),
            spec: &self.parsed(),
            rootfs,
            stdio,
            program: PROGRAM.as_fd(),
            options: RuntimeOptions::default(),
        })
    }

    /// Runs it to its end: status and what it wrote.
    pub(crate) fn run(&self) -> Result<(i32, String), OciError> {
        self.run_from(Rootfs::Path(self.root()))
    }

    pub(crate) fn run_from(&self, rootfs: Rootfs) -> Result<(i32, String), OciError> {
        let output = Output::new();
        let mut container = self.create_from(rootfs, output.stdio())?;
        let started = container.start();
        let status = started.map(|()| pidfd::wait(container.pidfd()).unwrap());
        container.destroy().unwrap();
        Ok((status?.code(), output.text()))
    }
}

/// A file that standard output and error go to.
pub(crate) struct Output(OwnedFd);

impl Output {
    pub(crate) fn new() -> Output {
        Output(memfd::create("output", memfd::Use::Data).unwrap())
    }

    pub(crate) fn stdio(&self) -> Stdio {
        let null = std::fs::File::open("/dev/null").unwrap().into();
        Stdio::Fds { stdin: null, stdout: self.0.try_clone().unwrap(), stderr: self.0.try_clone().unwrap() }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut file =
            std::fs::File::from(crated_sys::fs::reopen(self.0.as_fd(), crated_sys::OFlag::O_RDONLY).unwrap());
        file.read_to_string(&mut text).unwrap();
        text
    }
}

/// Runs a command in a container: status and output.
pub(crate) fn exec(container: &Container, process: &Value) -> Result<(i32, String), OciError> {
    let output = Output::new();
    let process = serde_json::from_value(process.clone()).unwrap();
    let mut exec = container.exec(&process, output.stdio(), PROGRAM.as_fd())?;
    let started = exec.start();
    let status: ExitStatus = pidfd::wait(exec.pidfd()).unwrap();
    started.map(|()| (status.code(), output.text()))
}

pub(crate) fn process(args: &[&str]) -> Value {
    let caps = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/bin:/sbin", "A=b"], "noNewPrivileges": true,
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
    })
}

fn spec(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(args),
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/proc/nonsense"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    })
}
