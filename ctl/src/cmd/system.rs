//! The daemon itself: version, info, plugins, namespaces.

use crate::cmd::for_each;
use crate::cmd::prelude::*;
use crate::output;
use clap::{Args, Subcommand};
use crated_api::containerd::services as containerd;

/// Show versions.
#[derive(Debug, Args)]
pub(crate) struct Version {}

impl Version {
    pub(crate) async fn act(&self, client: Option<Client>) -> Result<u8> {
        println!("Client:\n  Version: {}", env!("CARGO_PKG_VERSION"));
        let Some(client) = client else {
            println!("Server: not reachable");
            return Ok(1);
        };
        let server = client.version().version(()).await?.into_inner();
        println!("Server:\n  Version: {}\n  Revision: {}", server.version, server.revision);
        Ok(0)
    }
}

/// Show state and host.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Go template instead of lines
    #[arg(short, long)]
    format: Option<String>,
}

impl Info {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let info = client.engine().info(()).await?.into_inner();
        let memory = u64::try_from(info.memory).unwrap_or(0);
        let fields: Vec<(&str, serde_json::Value)> = vec![
            ("ServerVersion", info.version.into()),
            ("ID", info.id.into()),
            ("Name", info.name.into()),
            ("Containers", info.containers.into()),
            ("ContainersRunning", info.running.into()),
            ("ContainersPaused", info.paused.into()),
            ("ContainersStopped", info.stopped.into()),
            ("Images", info.images.into()),
            ("Driver", info.snapshotter.into()),
            ("Snapshotters", info.snapshotters.into()),
            ("DefaultRuntime", info.runtime.into()),
            ("CgroupDriver", info.cgroup_driver.into()),
            ("CgroupVersion", info.cgroup_version.into()),
            ("KernelVersion", info.kernel.into()),
            ("OperatingSystem", info.operating_system.into()),
            ("Architecture", info.architecture.into()),
            ("NCPU", info.cpus.into()),
            ("MemTotal", memory.into()),
            ("RootDir", info.root.into()),
            ("StateDir", info.state.into()),
            ("Started", output::rfc3339(info.started_at.as_ref()).into()),
            ("Warnings", info.warnings.into()),
        ];
        if let Some(format) = &self.format {
            let data =
                serde_json::Value::Object(fields.into_iter().map(|(name, value)| (name.into(), value)).collect());
            println!("{}", crate::format::Template::parse(format)?.render(&data)?);
            return Ok(0);
        }
        for (name, value) in fields {
            let shown = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Array(items) => {
                    items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(", ")
                }
                other if name == "MemTotal" => output::memory(other.as_u64().unwrap_or(0)),
                other => other.to_string(),
            };
            println!("{name}: {shown}");
        }
        Ok(0)
    }
}

/// The store of the daemon.
#[derive(Debug, Args)]
pub(crate) struct System {
    #[command(subcommand)]
    verb: SystemVerb,
}

#[derive(Debug, Subcommand)]
enum SystemVerb {
    /// Compare what is stored with what is recorded, in every namespace, and mend it
    Check(crate::cmd::check::Check),
}

impl System {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        match self.verb {
            SystemVerb::Check(check) => check.act(client).await,
        }
    }
}

/// List plugins.
#[derive(Debug, Args)]
pub(crate) struct Plugins {
    /// Also what each exports and why it does not run
    #[arg(short, long)]
    detailed: bool,
}

impl Plugins {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let request = containerd::introspection::v1::PluginsRequest::default();
        let plugins = client.introspection().plugins(request).await?.into_inner().plugins;
        let mut rows = Vec::new();
        for plugin in plugins {
            let why = plugin.init_err.map(|status| status.message).unwrap_or_default();
            let status = match why.as_str() {
                "" => "ok",
                skipped if skipped.contains("skip plugin") => "skip",
                _ => "error",
            };
            let platforms: Vec<String> =
                plugin.platforms.iter().map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
            let mut row = vec![plugin.r#type, plugin.id, platforms.join(","), status.into()];
            if self.detailed {
                let exports: Vec<String> = plugin.exports.iter().map(|(key, value)| format!("{key}={value}")).collect();
                row.push(exports.into_iter().chain((!why.is_empty()).then_some(why)).collect::<Vec<_>>().join(" "));
            }
            rows.push(row);
        }
        let titles: &[&str] = if self.detailed {
            &["TYPE", "ID", "PLATFORMS", "STATUS", "DETAILS"]
        } else {
            &["TYPE", "ID", "PLATFORMS", "STATUS"]
        };
        println!("{}", output::table(titles, rows));
        Ok(0)
    }
}

/// List, make and remove namespaces.
#[derive(Debug, Args)]
pub(crate) struct Namespaces {
    #[command(subcommand)]
    verb: Option<NamespaceVerb>,
}

#[derive(Debug, Subcommand)]
enum NamespaceVerb {
    /// List them
    Ls,
    /// Make one, with labels NAME=value
    Create { name: String, labels: Vec<String> },
    /// Remove empty ones
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Namespaces {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        use containerd::namespaces::v1 as wire;
        match self.verb.unwrap_or(NamespaceVerb::Ls) {
            NamespaceVerb::Ls => {
                let answer = client.namespaces().list(wire::ListNamespacesRequest::default()).await?.into_inner();
                let rows = answer.namespaces.into_iter().map(|namespace| {
                    let labels: Vec<String> =
                        namespace.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    vec![namespace.name, labels.join(",")]
                });
                println!("{}", output::table(&["NAME", "LABELS"], rows.collect()));
                Ok(0)
            }
            NamespaceVerb::Create { name, labels } => {
                let labels = labels
                    .iter()
                    .map(|label| {
                        let (key, value) =
                            label.split_once('=').with_context(|| format!("label {label:?} is not NAME=value"))?;
                        Ok((key.to_owned(), value.to_owned()))
                    })
                    .collect::<Result<_>>()?;
                let namespace = Some(wire::Namespace { name, labels });
                client.namespaces().create(wire::CreateNamespaceRequest { namespace }).await?;
                Ok(0)
            }
            NamespaceVerb::Rm { names } => {
                for_each(&names, |name| async move {
                    client.namespaces().delete(wire::DeleteNamespaceRequest { name: name.clone() }).await?;
                    Ok(name)
                })
                .await
            }
        }
    }
}
