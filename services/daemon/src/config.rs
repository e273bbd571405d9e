//! The configuration: structs with their defaults and words in the code, read from one TOML file, corrected by flags.
//!
//! An unknown key is refused with the file, the line and the nearest key that exists ([`load`]). `crated config default`
//! and `docs/config.md` are printed from the same words ([`docs`]).

pub mod docs;
pub mod hint;
pub mod load;

use crated_image::RegistryConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use load::ConfigError;

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_FILE: &str = "/etc/crated/config.toml";

/// A key of a section, for the printed configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it means, one sentence or more.
    pub words: &'static str,
}

/// A struct of the configuration: its fields carry words and defaults once, here.
macro_rules! section {
    ($(#[doc = $page:literal])+ pub struct $type:ident {
        $($(#[doc = $doc:literal])+ pub $field:ident: $kind:ty = $default:expr,)+
    }) => {
        $(#[doc = $page])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $type { $($(#[doc = $doc])+ pub $field: $kind,)+ }

        impl Default for $type {
            fn default() -> Self { Self { $($field: $default,)+ } }
        }

        impl $type {
            /// The words of the section.
            pub const PAGE: &'static str = concat!($($page, "\n"),+);
            /// The keys of the section in order.
            pub const KEYS: &'static [Key] =
                &[$(Key { name: stringify!($field), words: concat!($($doc, "\n"),+) },)+];
        }
    };
}

section! {
    /// The whole file.
    pub struct Config {
        /// Folder of what must survive a reboot: metadata, content, snapshots.
        pub root: PathBuf = "/var/lib/crated".into(),
        /// Folder of what need not: sockets, bundles.
        pub state: PathBuf = "/run/crated".into(),
        /// Where clients connect.
        pub listeners: Listeners = Listeners::default(),
        /// Bounds of what clients may use.
        pub limits: Limits = Limits::default(),
        /// Counters for Prometheus.
        pub metrics: Metrics = Metrics::default(),
        /// What is written to standard error.
        pub log: Log = Log::default(),
        /// What containers get unless they ask for something else.
        pub engine: Engine = Engine::default(),
        /// Networks of containers.
        pub network: Network = Network::default(),
        /// How registries are reached.
        pub registry: RegistryConfig = RegistryConfig::default(),
        /// Settings of plugins: `[plugins."<type>".<id>]`; `crated config check` knows their types, ids and keys.
        pub plugins: Plugins = Plugins::new(),
    }
}

/// Tables of plugins by type and id.
pub type Plugins = BTreeMap<String, BTreeMap<String, toml::Table>>;

section! {
    /// The main socket and any number of further ones. Beside the main socket stands the ttrpc one (`<address>.ttrpc`),
    /// over which shims report events.
    pub struct Listeners {
        /// Path of the main socket; empty: `crated.sock` in `state`.
        pub address: PathBuf = PathBuf::new(),
        /// Permission bits of the main socket, in octal.
        pub mode: Mode = Mode(0o660),
        /// Owner of the main socket; none: whoever runs crated.
        pub uid: Option<u32> = None,
        /// Group of the main socket; none: that of whoever runs crated.
        pub gid: Option<u32> = None,
        /// Further unix sockets: `[[listeners.unix]]`.
        pub unix: Vec<UnixListener> = Vec::new(),
        /// TCP sockets with mutual TLS: `[[listeners.tcp]]`. Who holds a certificate of `client_ca` is as mighty as root here.
        pub tcp: Vec<TcpListener> = Vec::new(),
    }
}

section! {
    /// A unix socket.
    pub struct UnixListener {
        /// Its path.
        pub path: PathBuf = PathBuf::new(),
        /// Permission bits, in octal.
        pub mode: Mode = Mode(0o660),
        /// Owner; none: whoever runs crated.
        pub uid: Option<u32> = None,
        /// Group; none: that of whoever runs crated.
        pub gid: Option<u32> = None,
    }
}

section! {
    /// A TCP socket with mutual TLS.
    pub struct TcpListener {
        /// IP address and port.
        pub address: String = String::new(),
        /// PEM file with the server's certificate chain.
        pub certificate: PathBuf = PathBuf::new(),
        /// PEM file with the server's private key.
        pub key: PathBuf = PathBuf::new(),
        /// PEM file with the authorities whose clients are let in.
        pub client_ca: PathBuf = PathBuf::new(),
    }
}

section! {
    /// Bounds of what clients may use.
    pub struct Limits {
        /// Largest gRPC message, both ways, in bytes. containerd's clients count on 16777216.
        pub message_bytes: u64 = crated_api::MESSAGE_MAX as u64,
        /// Bytes of requests under way, of all clients together; a message more is answered with ResourceExhausted.
        pub request_bytes: u64 = 256 << 20,
        /// Calls that work at a time; one more is answered with ResourceExhausted.
        pub concurrent_requests: u64 = 1024,
        /// Streams and waits that are open at a time (they cost little while nothing happens).
        pub concurrent_streams: u64 = 16_384,
        /// Connections at a time; further ones wait to be accepted.
        pub connections: u64 = 1024,
        /// Seconds after which a call is answered with DeadlineExceeded, streams and waits excepted. Its work goes on to its
        /// end. A caller's own deadline counts where it is shorter.
        pub request_deadline_seconds: u64 = 1800,
        /// Seconds that calls in flight get to end at a shutdown.
        pub drain_seconds: u64 = 10,
        /// Threads for blocking work (disk, mounts).
        pub blocking_threads: u64 = 64,
    }
}

section! {
    /// Counters for Prometheus.
    pub struct Metrics {
        /// IP address and port of `http://…/metrics`; empty: off.
        pub address: String = String::new(),
    }
}

section! {
    /// What is written to standard error.
    pub struct Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, or directives as `info,crated_store=debug`.
        pub level: String = "info".into(),
        /// `text` for people, `json` for machines.
        pub format: LogFormat = LogFormat::Text,
    }
}

section! {
    /// What containers get unless they ask for something else.
    pub struct Engine {
        /// Snapshotter of images and containers.
        pub snapshotter: String = "overlayfs".into(),
        /// Runtime of containers.
        pub runtime: String = "io.containerd.crated.v2".into(),
        /// The shim's program; empty: `containerd-shim-crated-v2` beside crated's own program, then in PATH.
        pub shim: PathBuf = PathBuf::new(),
        /// The static program that `--init` puts into containers; empty: the first of crated-init beside crated's own program,
        /// docker-init and tini-static that exists.
        pub init: PathBuf = PathBuf::new(),
    }
}

section! {
    /// Networks of containers.
    pub struct Network {
        /// Network of a container that asks for none: `bridge`, `none`, `host`, or the name of a network.
        pub default: String = "bridge".into(),
        /// Link of the default bridge, at most 13 bytes.
        pub bridge: String = "crated0".into(),
        /// Ranges that subnets of networks are chosen from, each as `"10.200.0.0/16 24"` (a range, and the length of its
        /// subnets); none: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in subnets of /20.
        pub pools: Vec<String> = Vec::new(),
        /// Largest packet of a network that says nothing, in bytes; 0: as the host's default route.
        pub mtu: u32 = 0,
        /// File with the host's resolvers: containers get them, and our resolver asks them.
        pub resolv_conf: PathBuf = crated_core::resolv::HOST.into(),
        /// Address that `host-gateway` stands for in `--add-host`; none: the gateway of the container's first network.
        pub host_gateway: Option<IpAddr> = None,
        /// The program that answers for names and outlives the daemon; empty: `crated-netd` beside crated's own program, then
        /// in PATH.
        pub helper: PathBuf = PathBuf::new(),
        /// Folder of CNI lists.
        pub cni_config_dir: PathBuf = "/etc/cni/net.d".into(),
        /// Folders of CNI plugins, in order.
        pub cni_plugin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        /// Seconds that a CNI plugin may take.
        pub cni_deadline_seconds: u64 = 60,
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Permission bits, written as octal text (`"0660"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(serde::de::Error::custom(format_args!("{text:?} is not a mode: octal digits as in \"0660\""))),
        }
    }
}

impl Config {
    /// Path of the main socket.
    #[must_use]
    pub fn address(&self) -> PathBuf {
        if self.listeners.address.as_os_str().is_empty() {
            self.state.join("crated.sock")
        } else {
            self.listeners.address.clone()
        }
    }

    /// Path of the ttrpc socket.
    #[must_use]
    pub fn ttrpc_address(&self) -> PathBuf {
        let mut path = self.address().into_os_string();
        path.push(".ttrpc");
        path.into()
    }

    /// The table of a plugin.
    #[must_use]
    pub fn plugin(&self, slot: &str, id: &str) -> Option<&toml::Table> {
        self.plugins.get(slot)?.get(id)
    }
}

impl Limits {
    /// Longest time of a unary call.
    #[must_use]
    pub const fn request_deadline(&self) -> Duration {
        Duration::from_secs(self.request_deadline_seconds)
    }

    /// Time of a shutdown.
    #[must_use]
    pub const fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// Whether a path may be joined to the daemon's folders as it is.
#[must_use]
pub fn is_absolute(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| !matches!(part, std::path::Component::ParentDir))
}
