//! Inspect: a container and an image in docker's JSON shape.

use crated_api::crated::engine::v1::{ContainerConfig, InspectRequest, InspectResponse, Resources};
use crated_core::network::Attachment;
use crated_core::record::Container;
use crated_spec::ImageConfig;
use crated_types::{Error, Reference, Result, Scope, SnapshotKey};
use oci_spec::runtime::Spec;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use crate::engine::Engine;
use crate::life::State;
use crate::list::{ForeignTask, args_of};
use crate::lookup::Found;
use crate::network::verbs::settings_json;
use crate::record::{Life, MountRecord};

/// How docker writes a time that is not there.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Engine {
    /// Describes a container.
    pub async fn inspect(self: &Arc<Self>, scope: &Scope, request: InspectRequest) -> Result<InspectResponse> {
        let found = self.find(scope, &request.name).await?;
        let (state, task) = match &found.life {
            Some(life) => (life.state(), ForeignTask::default()),
            None => self.foreign_state(scope, &found.id).await?,
        };
        let config = match &found.life {
            Some(life) => life.wanted(found.id.as_str())?,
            None => ContainerConfig::default(),
        };
        let attachment = self.attachment(scope, &found.id, &config).await?;
        let spec = spec_of(&found.record);
        let args = args_of(&found.record);
        let life = found.life.clone().unwrap_or_else(|| foreign_life(&found, state, task));
        let folder = self.folder(&scope.namespace, found.id.as_str());
        let own = |name: &str| {
            let path = folder.join(name);
            if found.life.is_some() { path.display().to_string() } else { String::new() }
        };
        let value = json!({
            "Id": found.id.as_str(),
            "Created": time(found.record.created_at.as_ref()),
            "Path": args.first().cloned().unwrap_or_default(),
            "Args": args.iter().skip(1).collect::<Vec<_>>(),
            "State": state_json(state, &life),
            "Image": life.image,
            "ResolvConfPath": own("resolv.conf"),
            "HostnamePath": own("hostname"),
            "HostsPath": own("hosts"),
            "LogPath": life.log_path,
            "Name": format!("/{}", found.name()),
            "RestartCount": life.restart_count,
            "Driver": found.record.snapshotter,
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": Value::Null,
            "HostConfig": host_config(&config, &found.record, spec.as_ref(), attachment.as_ref()),
            "GraphDriver": self.graph_driver(scope, &found.record).await,
            "Mounts": life.mounts.iter().map(mount).collect::<Vec<_>>(),
            "Config": container_config(&found, &config, spec.as_ref()),
            "NetworkSettings": settings_json(&config, life.pid, attachment.as_ref()),
        });
        Ok(InspectResponse { json: text(&value)? })
    }

    async fn graph_driver(&self, scope: &Scope, record: &Container) -> Value {
        let mut data = Map::new();
        if let (Ok(snapshotter), Ok(key)) =
            (self.snapshotter(&record.snapshotter), SnapshotKey::new(&record.snapshot_key))
        {
            let mounts = snapshotter.mounts(scope, &key).await.unwrap_or_default();
            for option in mounts.iter().flat_map(|mount| &mount.options) {
                let (name, value) = option.split_once('=').unwrap_or((option, ""));
                let key = match name {
                    "lowerdir" => "LowerDir",
                    "upperdir" => "UpperDir",
                    "workdir" => "WorkDir",
                    _ => continue,
                };
                data.insert(key.into(), value.into());
            }
            if let Some(bind) = mounts.iter().find(|mount| mount.fstype == "bind") {
                data.insert("Source".into(), bind.source.as_str().into());
            }
        }
        json!({"Name": record.snapshotter, "Data": data})
    }

    /// Describes an image.
    pub async fn inspect_image(self: &Arc<Self>, scope: &Scope, request: InspectRequest) -> Result<InspectResponse> {
        let image = self.find_image(scope, &request.name).await?;
        let view = self.deps.puller.view(scope, &image, &self.platform).await?;
        let settings = crated_spec::Image::parse(&view.config_bytes)?;
        let target = image.target.clone().unwrap_or_default();
        let names = self.names_of(scope, &target.digest).await?;
        let mut tags = Vec::new();
        let mut digests = Vec::new();
        for name in &names {
            if let Ok(reference) = Reference::parse(name) {
                if reference.tag().is_some() {
                    tags.push(name.clone());
                }
                digests.push(format!("{}@{}", reference.name(), target.digest));
            } else {
                tags.push(name.clone());
            }
        }
        digests.sort();
        digests.dedup();
        let value = json!({
            "Id": view.config.digest.as_str(),
            "RepoTags": tags,
            "RepoDigests": digests,
            "Parent": "",
            "Comment": settings.history.last().map(|step| step.comment.clone()).unwrap_or_default(),
            "Created": settings.created,
            "DockerVersion": "",
            "Author": settings.author,
            "Config": image_config(&settings.config),
            "Architecture": settings.architecture,
            "Variant": settings.variant,
            "Os": settings.os,
            "Size": view.size,
            "GraphDriver": {
                "Name": self.deps.config.default_snapshotter,
                "Data": {"ChainID": view.chain_id.as_ref().map(SnapshotKey::as_str).unwrap_or_default()},
            },
            "RootFS": {"Type": "layers", "Layers": view.diff_ids.iter().map(|digest| digest.as_str()).collect::<Vec<_>>()},
            "Metadata": {"LastTagTime": time(image.updated_at.as_ref())},
            "Descriptor": {"mediaType": target.media_type, "digest": target.digest, "size": target.size},
            "Labels": image.labels,
        });
        Ok(InspectResponse { json: text(&value)? })
    }
}

fn text(value: &Value) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("inspection as JSON").caused_by(error))
}

fn spec_of(record: &Container) -> Option<Spec> {
    serde_json::from_slice(record.spec.as_ref()?.value.as_slice()).ok()
}

fn foreign_life(found: &Found, state: State, task: ForeignTask) -> Life {
    Life {
        name: found.id.to_string(),
        running: matches!(state, State::Running | State::Paused),
        paused: state == State::Paused,
        pid: if matches!(state, State::Running | State::Paused) { task.pid } else { 0 },
        exit: task.exit,
        started_at: task.started_at,
        finished_at: task.finished_at,
        ..Life::default()
    }
}

/// RFC 3339 with nanoseconds, as Go writes it.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    let Some(time) = time else { return NEVER.into() };
    match jiff::Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => time.to_string(),
        Err(_) => NEVER.into(),
    }
}

fn state_json(state: State, life: &Life) -> Value {
    json!({
        "Status": state.name(),
        "Running": life.running,
        "Paused": life.running && life.paused,
        "Restarting": state == State::Restarting,
        "OOMKilled": life.oom_killed,
        "Dead": false,
        "Pid": if life.running { life.pid } else { 0 },
        "ExitCode": life.exit,
        "Error": life.error,
        "StartedAt": time(life.started_at.as_ref()),
        "FinishedAt": time(life.finished_at.as_ref()),
    })
}

fn mount(mount: &MountRecord) -> Value {
    json!({
        "Type": mount.kind,
        "Name": mount.name,
        "Source": mount.source,
        "Destination": mount.target,
        "Driver": if mount.kind == "volume" { "local" } else { "" },
        "Mode": if mount.read_only { "ro" } else { "" },
        "RW": !mount.read_only,
        "Propagation": if mount.kind == "bind" && mount.propagation.is_empty() { "rprivate" } else { &mount.propagation },
    })
}

fn bind_text(asked: &crated_api::crated::engine::v1::Mount) -> String {
    let mode = if asked.read_only { ":ro" } else { "" };
    format!("{}:{}{mode}", asked.source, asked.target)
}

/// What was asked to be published, in docker's shape.
fn port_bindings(attachment: Option<&Attachment>) -> Map<String, Value> {
    let mut all: Map<String, Value> = Map::new();
    for port in attachment.map(|attachment| attachment.ports.as_slice()).unwrap_or_default() {
        let wanted = match (port.first, port.last) {
            (0, _) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let key = format!("{}/{}", port.container_port, port.protocol);
        let binding = json!({"HostIp": port.host_ip, "HostPort": wanted});
        match all.get_mut(&key).and_then(Value::as_array_mut) {
            Some(bindings) => bindings.push(binding),
            None => drop(all.insert(key, json!([binding]))),
        }
    }
    all
}

fn host_config(
    config: &ContainerConfig,
    record: &Container,
    spec: Option<&Spec>,
    attachment: Option<&Attachment>,
) -> Value {
    let limits = config.resources.clone().unwrap_or_default();
    let restart = config.restart.clone().unwrap_or_default();
    let binds: Vec<_> = config.mounts.iter().filter(|mount| mount.r#type != "tmpfs").map(bind_text).collect();
    let tmpfs: Map<String, Value> = config
        .mounts
        .iter()
        .filter(|mount| mount.r#type == "tmpfs")
        .map(|mount| (mount.target.clone(), mount.options.join(",").into()))
        .collect();
    let linux = spec.and_then(|spec| spec.linux().as_ref());
    let mut value = json!({
        "Binds": binds,
        "ContainerIDFile": "",
        "LogConfig": {
            "Type": if config.log_driver.is_empty() { "json-file" } else { &config.log_driver },
            "Config": config.log_options,
        },
        "NetworkMode": if config.network.is_empty() { "none" } else { &config.network },
        "PortBindings": port_bindings(attachment),
        "PublishAllPorts": config.publish_all,
        "RestartPolicy": {
            "Name": if restart.name.is_empty() { "no" } else { &restart.name },
            "MaximumRetryCount": restart.maximum_retries,
        },
        "AutoRemove": config.auto_remove,
        "ConsoleSize": [config.console_rows, config.console_columns],
        "CapAdd": config.cap_add,
        "CapDrop": config.cap_drop,
        "CgroupnsMode": if config.cgroupns_mode.is_empty() { "private" } else { &config.cgroupns_mode },
        "Dns": config.dns,
        "DnsOptions": config.dns_options,
        "DnsSearch": config.dns_search,
        "ExtraHosts": config.extra_hosts,
        "GroupAdd": config.group_add,
        "IpcMode": if config.ipc_mode.is_empty() { "private" } else { &config.ipc_mode },
        "OomScoreAdj": config.oom_score_adj,
        "PidMode": config.pid_mode,
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only,
        "SecurityOpt": config.security_opt,
        "Tmpfs": tmpfs,
        "UTSMode": config.uts_mode,
        "UsernsMode": config.user_mode,
        "ShmSize": if config.shm_size > 0 { config.shm_size } else { 64 << 20 },
        "Sysctls": config.sysctls,
        "Runtime": record.runtime_name,
        "Init": config.init,
        "Ulimits": config.ulimits.iter().map(|limit| json!({"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard})).collect::<Vec<_>>(),
        "Devices": config.devices.iter().map(|device| json!({
            "PathOnHost": device.host_path, "PathInContainer": device.container_path, "CgroupPermissions": device.permissions,
        })).collect::<Vec<_>>(),
        "CgroupParent": config.cgroup_parent,
        "MaskedPaths": linux.and_then(|linux| linux.masked_paths().clone()).unwrap_or_default(),
        "ReadonlyPaths": linux.and_then(|linux| linux.readonly_paths().clone()).unwrap_or_default(),
    });
    if let (Value::Object(all), Value::Object(limits)) = (&mut value, limits_json(&limits)) {
        all.extend(limits);
    }
    value
}

fn limits_json(limits: &Resources) -> Value {
    json!({
        "Memory": limits.memory,
        "MemorySwap": if limits.memory_swap == 0 { limits.memory * 2 } else { limits.memory_swap },
        "MemoryReservation": limits.memory_reservation,
        "MemorySwappiness": limits.memory_swappiness,
        "NanoCpus": limits.nano_cpus,
        "CpuShares": limits.cpu_shares,
        "CpuPeriod": limits.cpu_period,
        "CpuQuota": limits.cpu_quota,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "PidsLimit": if limits.pids_limit > 0 { Some(limits.pids_limit) } else { None },
        "BlkioWeight": limits.blkio_weight,
        "OomKillDisable": limits.oom_kill_disable,
    })
}

fn container_config(found: &Found, config: &ContainerConfig, spec: Option<&Spec>) -> Value {
    let process = spec.and_then(|spec| spec.process().as_ref());
    let own = found.life.is_some();
    let args = process.and_then(|process| process.args().clone()).unwrap_or_default();
    json!({
        "Hostname": spec.and_then(|spec| spec.hostname().clone()).unwrap_or_default(),
        "Domainname": config.domainname,
        "User": if config.user.is_empty() { process.map(|p| user_text(p.user().uid(), p.user().gid())).unwrap_or_default() } else { config.user.clone() },
        "AttachStdin": false,
        "AttachStdout": own,
        "AttachStderr": own,
        "Tty": process.and_then(|process| process.terminal()).unwrap_or(config.terminal),
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": process.and_then(|process| process.env().clone()).unwrap_or_default(),
        "Cmd": if config.command.is_empty() { args } else { config.command.clone() },
        "Image": if own { &config.image } else { &found.record.image },
        "Volumes": Value::Null,
        "WorkingDir": process.map(|process| process.cwd().display().to_string()).unwrap_or_default(),
        "Entrypoint": if config.entrypoint.is_empty() { Value::Null } else { json!(config.entrypoint) },
        "Labels": found.record.labels,
        "StopSignal": found.life.as_ref().map(|life| life.stop_signal.clone()).unwrap_or_default(),
        "StopTimeout": config.stop_timeout,
    })
}

fn user_text(uid: u32, gid: u32) -> String {
    if (uid, gid) == (0, 0) { String::new() } else { format!("{uid}:{gid}") }
}

fn image_config(config: &ImageConfig) -> Value {
    let paths = |keys: Vec<&String>| keys.into_iter().map(|key| (key.clone(), json!({}))).collect::<Map<_, _>>();
    json!({
        "User": config.user,
        "ExposedPorts": paths(config.exposed_ports.keys().collect()),
        "Env": config.env,
        "Cmd": config.cmd,
        "Volumes": paths(config.volumes.keys().collect()),
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint,
        "Labels": config.labels,
        "StopSignal": config.stop_signal,
        "Shell": config.shell,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_does() {
        assert_eq!(time(None), NEVER);
        assert_eq!(time(Some(&Timestamp { seconds: 1_700_000_000, nanos: 120_000_000 })), "2023-11-14T22:13:20.12Z");
        assert_eq!(time(Some(&Timestamp { seconds: 0, nanos: 0 })), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn an_exit_is_seen_in_the_state() {
        let life = Life { exit: 3, oom_killed: true, started_at: Some(Timestamp::default()), ..Life::default() };
        let state = state_json(life.state(), &life);
        assert_eq!(
            (&state["Status"], &state["ExitCode"], &state["OOMKilled"]),
            (&json!("exited"), &json!(3), &json!(true))
        );
        assert_eq!(state["FinishedAt"], NEVER);
    }
}
