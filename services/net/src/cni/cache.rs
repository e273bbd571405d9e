//! What was added: a file for each attachment, written before the first plugin is called, removed after the last has let go.
//! DEL needs it: the list may be changed or gone by then.

use super::list::List;
use crated_core::{Bandwidth, Capabilities, CniAttachment, CniDns, PortMapping};
use crated_types::{Error, Fault, Result};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An attachment, with what is needed to undo it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) attachment: CniAttachment,
    pub(super) list: List,
    /// What the last plugin answered; none while the ADD has not ended.
    pub(super) result: Option<Value>,
}

/// `runtimeConfig` by capability, for the plugins that declare them (CONVENTIONS.md).
pub(super) fn runtime_config(capabilities: &Capabilities) -> Map<String, Value> {
    let mut all = Map::new();
    if !capabilities.ports.is_empty() {
        let ports = capabilities.ports.iter().map(|port| {
            let mut written = json!({
                "hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol,
            });
            if let Some(ip) = port.host_ip {
                written["hostIP"] = ip.to_string().into();
            }
            written
        });
        all.insert("portMappings".into(), ports.collect());
    }
    if let Some(limits) = capabilities.bandwidth {
        all.insert(
            "bandwidth".into(),
            json!({
                "ingressRate": limits.ingress_rate, "ingressBurst": limits.ingress_burst,
                "egressRate": limits.egress_rate, "egressBurst": limits.egress_burst,
            }),
        );
    }
    if !capabilities.ips.is_empty() {
        all.insert("ips".into(), json!(capabilities.ips));
    }
    if !capabilities.mac.is_empty() {
        all.insert("mac".into(), json!(capabilities.mac));
    }
    if let Some(dns) = &capabilities.dns {
        all.insert("dns".into(), json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options}));
    }
    if !capabilities.aliases.is_empty() {
        all.insert("aliases".into(), json!(capabilities.aliases));
    }
    if !capabilities.cgroup_path.is_empty() {
        all.insert("cgroupPath".into(), json!(capabilities.cgroup_path));
    }
    all
}

fn capabilities(all: &Value) -> Capabilities {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or(0);
    let port = |value: &Value, key: &str| u16::try_from(number(value, key)).unwrap_or(0);
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    Capabilities {
        ports: all["portMappings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|mapping| PortMapping {
                host_port: port(mapping, "hostPort"),
                container_port: port(mapping, "containerPort"),
                protocol: text(mapping, "protocol"),
                host_ip: mapping["hostIP"].as_str().and_then(|ip| ip.parse().ok()),
            })
            .collect(),
        bandwidth: all.get("bandwidth").map(|limits| Bandwidth {
            ingress_rate: number(limits, "ingressRate"),
            ingress_burst: number(limits, "ingressBurst"),
            egress_rate: number(limits, "egressRate"),
            egress_burst: number(limits, "egressBurst"),
        }),
        ips: words(&all["ips"]),
        mac: text(all, "mac"),
        dns: all.get("dns").map(|dns| CniDns {
            servers: words(&dns["servers"]),
            searches: words(&dns["searches"]),
            options: words(&dns["options"]),
            domain: String::new(),
        }),
        aliases: words(&all["aliases"]),
        cgroup_path: text(all, "cgroupPath"),
    }
}

impl Entry {
    fn to_json(&self) -> Value {
        let own = &self.attachment;
        json!({
            "containerId": own.container,
            "netns": own.netns,
            "networkName": own.network,
            "ifName": own.interface,
            "cniArgs": own.args,
            "capabilityArgs": runtime_config(&own.capabilities),
            "list": self.list.value(),
            "file": self.list.file,
            "result": self.result,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let list = serde_json::to_vec(&value["list"]).ok()?;
        Some(Self {
            attachment: CniAttachment {
                container: text("containerId")?,
                netns: text("netns")?,
                network: text("networkName")?,
                interface: text("ifName")?,
                args: value["cniArgs"]
                    .as_object()?
                    .iter()
                    .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                    .collect(),
                capabilities: capabilities(&value["capabilityArgs"]),
            },
            list: List::parse(&list, Path::new(&text("file")?)).ok()?,
            result: Some(value["result"].clone()).filter(|result| !result.is_null()),
        })
    }
}

/// The folder of all entries.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Networks and containers hold no slash; the interface does not either.
    fn path(&self, attachment: &CniAttachment) -> PathBuf {
        self.folder.join(format!("{}-{}-{}", attachment.network, attachment.container, attachment.interface))
    }

    pub(super) fn get(&self, attachment: &CniAttachment) -> Result<Option<Entry>> {
        read(&self.path(attachment))
    }

    /// Writes an entry so that it survives the loss of power.
    pub(super) fn put(&self, entry: &Entry) -> Result<()> {
        let path = self.path(&entry.attachment);
        let os = |error| Error::os(format!("write {}", path.display()), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(os)?;
        let beside = path.with_extension("new");
        let text = serde_json::to_vec(&entry.to_json())
            .map_err(|error| Error::internal("a CNI attachment as JSON").caused_by(error))?;
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            fs::File::open(&self.folder)?.sync_all()
        };
        write().map_err(os)
    }

    pub(super) fn remove(&self, attachment: &CniAttachment) -> Result<()> {
        let path = self.path(attachment);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::os(format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Every entry; a file that cannot be read is told and left.
    pub(super) fn all(&self) -> Result<Vec<Entry>> {
        let files = match fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::os(format!("read {}", self.folder.display()), error)),
        };
        let mut entries = Vec::new();
        for file in files.flatten().map(|file| file.path()) {
            if file.extension().is_some_and(|ending| ending == "new") {
                continue; // a write that was cut short
            }
            match read(&file) {
                Ok(entry) => entries.extend(entry),
                Err(error) => tracing::warn!(file = %file.display(), %error, "a CNI attachment cannot be read"),
            }
        }
        Ok(entries)
    }
}

fn read(path: &Path) -> Result<Option<Entry>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::os(format!("read {}", path.display()), error)),
    };
    let damaged = || Error::new(Fault::Corrupt, format!("the CNI attachment {}", path.display()));
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| damaged().caused_by(error))?;
    Entry::from_json(&value).map(Some).ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_went() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("results"));
        assert!(cache.all().unwrap().is_empty());
        let list = List::parse(br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#, Path::new("/x"))
            .unwrap();
        let attachment = CniAttachment {
            container: "c".into(),
            netns: "/proc/1/ns/net".into(),
            network: "n".into(),
            interface: "eth0".into(),
            args: [("K8S_POD_NAME".to_owned(), "p".to_owned())].into(),
            capabilities: Capabilities {
                ports: vec![PortMapping {
                    host_port: 80,
                    container_port: 8080,
                    protocol: "tcp".into(),
                    host_ip: Some("127.0.0.1".parse().unwrap()),
                }],
                bandwidth: Some(Bandwidth { ingress_rate: 1, ingress_burst: 2, egress_rate: 3, egress_burst: 4 }),
                ips: vec!["10.0.0.2/24".into()],
                mac: "02:00:00:00:00:01".into(),
                dns: Some(CniDns { servers: vec!["9.9.9.9".into()], ..CniDns::default() }),
                aliases: vec!["a".into()],
                cgroup_path: "/x".into(),
            },
        };
        let mut entry = Entry { attachment, list, result: None };
        cache.put(&entry).unwrap();
        assert_eq!(cache.get(&entry.attachment).unwrap().as_ref(), Some(&entry));
        entry.result = Some(json!({"cniVersion": "1.0.0"}));
        cache.put(&entry).unwrap();
        assert_eq!(cache.all().unwrap(), std::slice::from_ref(&entry));
        fs::write(folder.path().join("results/damaged"), "x").unwrap();
        assert_eq!(cache.all().unwrap().len(), 1);
        cache.remove(&entry.attachment).unwrap();
        cache.remove(&entry.attachment).unwrap();
        assert!(cache.get(&entry.attachment).unwrap().is_none());
    }
}
