//! Real peers from Debian: docker's registry and containerd, each with a folder of its own on loopback.

use crate::{Outcome, Run, eventually, programs};
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// docker-registry on a port of 127.0.0.1.
#[derive(Debug)]
pub struct Registry {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Registry {
    /// Starts one.
    ///
    /// # Panics
    /// Where docker-registry is not installed or does not come up.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.path().join("data").display()
        );
        std::fs::write(&config, text).expect("write the configuration");
        let log = File::create(folder.path().join("log")).expect("a log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("start docker-registry");
        eventually("docker-registry listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { folder, port, child }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts an OCI archive in under `repository:tag` and answers the whole reference.
    ///
    /// # Panics
    /// Where skopeo fails.
    pub fn push(&self, archive: &[u8], name: &str) -> String {
        let path = self.folder.path().join("archive.tar");
        std::fs::write(&path, archive).expect("write the archive");
        let reference = format!("{}/{name}", self.host());
        let source = format!("oci-archive:{}", path.display());
        let target = format!("docker://{reference}");
        Run::new("skopeo", &["copy", "--insecure-policy", "--dest-tls-verify=false", &source, &target]).run().ok();
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Debian's containerd, which finds our shim in its PATH.
#[derive(Debug)]
pub struct Containerd {
    folder: TempDir,
    child: Child,
}

impl Containerd {
    /// Starts one.
    ///
    /// # Panics
    /// Where containerd is not installed or does not come up.
    #[must_use]
    pub fn start() -> Self {
        crated_sys::process::set_subreaper(true).expect("become a subreaper");
        let folder = tempfile::Builder::new().prefix("cd").tempdir_in("/tmp").expect("a temporary folder");
        let path = folder.path();
        let config = path.join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{0}/c.sock\"\n[ttrpc]\naddress = \"{0}/c.sock.ttrpc\"\n",
            path.display()
        );
        std::fs::write(&config, text).expect("write the configuration");
        let log = File::create(path.join("log")).expect("a log");
        let search = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap_or_default());
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .env("PATH", search)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("start containerd");
        let containerd = Self { folder, child };
        eventually("containerd answers", || (containerd.ctr(&["version"]).status == 0).then_some(()));
        containerd
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder().join("c.sock")
    }

    /// Runs ctr against it.
    #[track_caller]
    pub fn ctr(&self, arguments: &[&str]) -> Outcome {
        self.ctr_with(arguments).run()
    }

    /// ctr against it, to be given more.
    #[must_use]
    pub fn ctr_with(&self, arguments: &[&str]) -> Run {
        let socket = self.socket().display().to_string();
        Run::new("ctr", &[&["--address", &socket], arguments].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        crate::leak::kill_all_below(self.folder.path());
    }
}
