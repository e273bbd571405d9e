//! The registry client's configuration, a part of the daemon's.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How registries are reached. Every field has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Folder of `<host>/hosts.toml` in containerd's `certs.d` layout; a missing folder is an empty one.
    pub hosts_dir: PathBuf,
    /// docker's `config.json` with credentials; a missing file holds none. Empty: no file is read.
    pub docker_config: PathBuf,
    /// Hosts (with port) that are spoken to without TLS, besides loopback.
    pub plain_http: Vec<String>,
    /// Hosts (with port) whose certificate is not verified.
    pub skip_verify: Vec<String>,
    /// Proxy for http, `http://[user:password@]host[:port]`; empty: that of the environment.
    pub http_proxy: String,
    /// Proxy for https; empty: that of the environment.
    pub https_proxy: String,
    /// Hosts, domains and networks that are reached without a proxy; empty: those of the environment.
    pub no_proxy: Vec<String>,
    /// Read `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, where the keys above are empty.
    pub proxy_from_environment: bool,
    /// Layers of one image that are downloaded at a time.
    pub max_concurrent_downloads: usize,
    /// Seconds until a connection must stand.
    pub connect_timeout_seconds: u64,
    /// Seconds until an answer's head must have come.
    pub response_timeout_seconds: u64,
    /// Seconds without a byte after which a body counts as cut.
    pub idle_timeout_seconds: u64,
    /// Repetitions after a 429, a 5xx, a refused or a cut connection, until the operation fails.
    pub retries: u32,
    /// First wait before a repetition, in milliseconds; it doubles each time.
    pub retry_wait_milliseconds: u64,
    /// Longest wait before a repetition, in seconds; a registry that asks for more fails the operation.
    pub max_retry_wait_seconds: u64,
    /// The `User-Agent`.
    pub user_agent: String,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts_dir: "/etc/crated/certs.d".into(),
            docker_config: "/root/.docker/config.json".into(),
            plain_http: Vec::new(),
            skip_verify: Vec::new(),
            http_proxy: String::new(),
            https_proxy: String::new(),
            no_proxy: Vec::new(),
            proxy_from_environment: true,
            max_concurrent_downloads: 3,
            connect_timeout_seconds: 15,
            response_timeout_seconds: 60,
            idle_timeout_seconds: 60,
            retries: 5,
            retry_wait_milliseconds: 500,
            max_retry_wait_seconds: 60,
            user_agent: concat!("crated/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

impl RegistryConfig {
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_seconds.max(1))
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        Duration::from_secs(self.response_timeout_seconds.max(1))
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds.max(1))
    }
}
