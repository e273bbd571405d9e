//! From a wish to the options of `crated-spec`: modes, mounts, limits, confinement.

use crated_api::crated::engine::v1::{ContainerConfig, Resources as Limits};
use crated_spec::{
    Bind, BlockIo, NamespaceMode, NetworkMode, Options, Propagation, Resources, SeccompMode, Security, Tmpfs, Ulimit,
    User, UserNamespace,
};
use crated_sys::caps;
use crated_types::{ContainerId, Error, Fault, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use super::Wish;
use super::files::Files;
use crate::engine::Engine;
use crate::files::hostname;
use crate::network::{Mode, mode};
use crate::record::MountRecord;

/// Where the program of `--init` stands in a container.
const INIT: &str = "/sbin/docker-init";
/// Stands for the namespace of another container, whose process is only known at the start.
const LATER: &str = "/proc/0/ns/";

/// Columns and rows of a terminal; zeros leave it as it is.
pub(crate) fn console(columns: u32, rows: u32) -> Option<(u16, u16)> {
    let (columns, rows) = (u16::try_from(columns).ok()?, u16::try_from(rows).ok()?);
    (columns > 0 && rows > 0).then_some((columns, rows))
}

/// Checks the modes of namespaces; answers warnings.
pub(super) fn check_modes(config: &ContainerConfig) -> Result<Vec<String>> {
    namespace("config.pid_mode", &config.pid_mode, "pid", &["private"])?;
    namespace("config.ipc_mode", &config.ipc_mode, "ipc", &["private", "shareable"])?;
    namespace("config.uts_mode", &config.uts_mode, "", &["private"])?;
    namespace("config.cgroupns_mode", &config.cgroupns_mode, "", &["private"])?;
    namespace("config.user_mode", &config.user_mode, "", &["private"])?;
    namespace("config.time_mode", &config.time_mode, "", &["private"])?;
    security(config)?;
    let mut warnings = Vec::new();
    if config.user_mode == "private" {
        warnings.push("the container's user namespace maps every identity to itself: files keep their owners".into());
    }
    Ok(warnings)
}

/// The network namespace of a container. What it is attached to comes into a private one at its start.
fn network(config: &ContainerConfig) -> Result<NetworkMode> {
    Ok(match mode(config)? {
        Mode::None | Mode::Attached | Mode::Cni(_) => NetworkMode::None,
        Mode::Host => NetworkMode::Host,
        Mode::Path(path) => NetworkMode::Path(path.into()),
        Mode::Container(_) => NetworkMode::Path(format!("{LATER}net").into()),
    })
}

/// A mode of a namespace; `kind` is set where another container's may be joined.
fn namespace(field: &str, mode: &str, kind: &str, private: &[&str]) -> Result<NamespaceMode> {
    match mode {
        "" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        _ if private.contains(&mode) => Ok(NamespaceMode::Private),
        _ if !kind.is_empty() && mode.strip_prefix("container:").is_some_and(|other| !other.is_empty()) => {
            Ok(NamespaceMode::Path(format!("{LATER}{kind}").into()))
        }
        other => Err(Error::invalid(field, format_args!("{other:?} is not known"))),
    }
}

impl Engine {
    /// The options of a container.
    pub(super) fn options(
        &self,
        id: &ContainerId,
        wish: &Wish,
        user: User,
        files: &Files,
        mounted: &[MountRecord],
    ) -> Result<Options> {
        let config = &wish.config;
        let (mut binds, tmpfs) = mounts(files, mounted, wish)?;
        let init = if config.init { Some(self.init(&mut binds)?) } else { None };
        // Docker's order: what lies higher in the tree first, so that nothing is covered.
        binds.sort_by_key(|bind| bind.target.components().count());
        let host_uts = config.uts_mode == "host";
        Ok(Options {
            id: id.to_string(),
            rootfs: PathBuf::new(),
            image: wish.settings.config.clone(),
            args: config.command.clone(),
            entrypoint: (config.entrypoint_reset || !config.entrypoint.is_empty()).then(|| config.entrypoint.clone()),
            env: config.env.clone(),
            user,
            cwd: (!config.working_dir.is_empty()).then(|| config.working_dir.clone()),
            hostname: if host_uts { String::new() } else { hostname(id.as_str(), config) },
            domainname: if host_uts { String::new() } else { config.domainname.clone() },
            terminal: config.terminal,
            console_size: console(config.console_columns, config.console_rows),
            readonly_rootfs: config.read_only,
            tmpfs,
            binds,
            devices: super::devices::all(config)?,
            device_rules: Vec::new(),
            resources: resources(&config.resources.clone().unwrap_or_default()),
            ulimits: config
                .ulimits
                .iter()
                .map(|limit| Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
                .collect(),
            cap_add: config.cap_add.clone(),
            cap_drop: config.cap_drop.clone(),
            security: security(config)?,
            privileged: config.privileged,
            network: network(config)?,
            pid: namespace("config.pid_mode", &config.pid_mode, "pid", &["private"])?,
            ipc: namespace("config.ipc_mode", &config.ipc_mode, "ipc", &["private", "shareable"])?,
            uts: if host_uts { NamespaceMode::Host } else { NamespaceMode::Private },
            cgroup: namespace("config.cgroupns_mode", &config.cgroupns_mode, "", &["private"])?,
            userns: (config.user_mode == "private").then(identity),
            time_offsets: (config.time_mode == "private").then(BTreeMap::new),
            sysctls: config.sysctls.clone(),
            shm_size: u64::try_from(config.shm_size).ok().filter(|size| *size > 0),
            oom_score_adj: (config.oom_score_adj != 0).then_some(config.oom_score_adj),
            init,
            annotations: config.annotations.clone(),
            cgroup_path: (!config.cgroup_parent.is_empty())
                .then(|| format!("{}/{id}", config.cgroup_parent.trim_end_matches('/'))),
            kernel: Some(crated_sys::kernel::version()),
            ..Options::default()
        })
    }

    fn init(&self, binds: &mut Vec<Bind>) -> Result<String> {
        let Some(source) = self.deps.config.init_path.clone() else {
            return Err(Error::new(Fault::Unsupported, "an init in the container")
                .remedy_is("name a static init in the daemon's configuration, or leave --init out"));
        };
        binds.push(Bind { source, target: INIT.into(), readonly: true, ..Bind::default() });
        Ok(INIT.into())
    }
}

fn identity() -> UserNamespace {
    // 2^32-1 is no identity ("nobody" of the kernel), so the range ends before it.
    let whole = vec![crated_spec::IdMapping { container: 0, host: 0, size: u32::MAX }];
    UserNamespace { path: None, uid_mappings: whole.clone(), gid_mappings: whole }
}

fn mounts(files: &Files, mounted: &[MountRecord], wish: &Wish) -> Result<(Vec<Bind>, Vec<Tmpfs>)> {
    let taken = |target: &str| mounted.iter().any(|mount| mount.target == target);
    let mut binds = Vec::new();
    let own = [("/etc/hostname", &files.hostname), ("/etc/hosts", &files.hosts), ("/etc/resolv.conf", &files.resolv)];
    for (target, source) in own {
        if !taken(target) {
            binds.push(Bind { source: source.clone(), target: target.into(), ..Bind::default() });
        }
    }
    let mut tmpfs = Vec::new();
    for mount in mounted {
        if mount.kind == "tmpfs" {
            let planned = wish.volumes.0.iter().find(|planned| planned.record.target == mount.target);
            let mut options = planned.map(|planned| planned.options.clone()).unwrap_or_default();
            if mount.read_only && !options.iter().any(|option| option == "ro") {
                options.push("ro".into());
            }
            tmpfs.push(Tmpfs { target: mount.target.clone().into(), options });
        } else {
            binds.push(Bind {
                source: mount.source.clone().into(),
                target: mount.target.clone().into(),
                readonly: mount.read_only,
                non_recursive: false,
                propagation: propagation(&mount.propagation)?,
            });
        }
    }
    Ok((binds, tmpfs))
}

fn propagation(text: &str) -> Result<Propagation> {
    Ok(match text {
        "" | "rprivate" => Propagation::RPrivate,
        "private" => Propagation::Private,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::RShared,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::RSlave,
        other => return Err(Error::invalid("config.mounts.propagation", format_args!("{other:?} is not known"))),
    })
}

/// Limits as the spec builder takes them; zeros and empty texts set nothing.
pub(crate) fn resources(limits: &Limits) -> Resources {
    let set = |number: i64| (number != 0).then_some(number);
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    Resources {
        memory: set(limits.memory),
        memory_reservation: set(limits.memory_reservation),
        memory_swap: set(limits.memory_swap),
        memory_swappiness: limits.memory_swappiness.and_then(|number| u64::try_from(number).ok()),
        oom_kill_disable: limits.oom_kill_disable,
        nano_cpus: u64::try_from(limits.nano_cpus).ok().filter(|number| *number > 0),
        cpu_shares: (limits.cpu_shares > 0).then_some(limits.cpu_shares),
        cpu_period: (limits.cpu_period > 0).then_some(limits.cpu_period),
        cpu_quota: set(limits.cpu_quota),
        cpuset_cpus: text(&limits.cpuset_cpus),
        cpuset_mems: text(&limits.cpuset_mems),
        pids_limit: set(limits.pids_limit),
        blkio: BlockIo {
            weight: u16::try_from(limits.blkio_weight).ok().filter(|weight| *weight > 0),
            ..BlockIo::default()
        },
        unified: BTreeMap::new(),
    }
}

/// `--security-opt`: docker's words, with `=` or `:`. A seccomp profile is its JSON text: clients read the file.
fn security(config: &ContainerConfig) -> Result<Security> {
    let mut security = Security::default();
    for option in &config.security_opt {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        let bad = || Error::invalid("config.security_opt", format_args!("{option:?} is not known"));
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp = SeccompMode::Unconfined,
            ("seccomp", "builtin" | "default") => security.seccomp = SeccompMode::Default,
            ("seccomp", profile) if profile.trim_start().starts_with('{') => {
                security.seccomp = SeccompMode::Profile(profile.to_owned());
            }
            ("seccomp", _) => return Err(bad().remedy_is("give unconfined, or the profile's JSON text")),
            ("apparmor", "unconfined") => security.apparmor = Some("unconfined".into()),
            ("apparmor", profile) if !profile.is_empty() => security.apparmor = Some(profile.to_owned()),
            ("systempaths", "unconfined") => security.system_paths_unconfined = true,
            ("label", "disable") => {}
            _ => return Err(bad()),
        }
    }
    Ok(security)
}

/// The spec of a container, as JSON.
pub(super) fn spec(options: Options) -> Result<Vec<u8>> {
    let spec = crated_spec::build(&options)?;
    let failed = |error| Error::internal("spec as JSON").caused_by(error);
    let mut value = serde_json::to_value(&spec).map_err(failed)?;
    if let Some(process) = value.get_mut("process") {
        keep_own_capabilities(process);
    }
    serde_json::to_vec(&value).map_err(failed)
}

/// Takes capabilities out of a process that we have not ourselves and so cannot give ("all" means all of ours, as with docker).
pub(crate) fn keep_own_capabilities(process: &mut Value) {
    static OWN: LazyLock<caps::CapSet> = LazyLock::new(caps::bounding);
    let own = *OWN;
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| name.as_str().and_then(caps::number).is_none_or(|number| own.contains(number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_says_whose_the_namespace_is() {
        let network = |text: &str| network(&ContainerConfig { network: text.into(), ..ContainerConfig::default() });
        for own in ["none", "bridge", "mine", "cni:pods"] {
            assert_eq!(network(own).unwrap(), NetworkMode::None, "{own}");
        }
        assert_eq!(network("host").unwrap(), NetworkMode::Host);
        assert_eq!(network("ns:/run/netns/a").unwrap(), NetworkMode::Path("/run/netns/a".into()));
        assert_eq!(network("container:web").unwrap(), NetworkMode::Path("/proc/0/ns/net".into()));
    }

    #[test]
    fn security_options_are_dockers() {
        let with = |options: &[&str]| {
            security(&ContainerConfig {
                security_opt: options.iter().map(|option| (*option).to_owned()).collect(),
                ..ContainerConfig::default()
            })
        };
        let parsed = with(&["no-new-privileges", "seccomp=unconfined", "apparmor:unconfined"]).unwrap();
        assert!(parsed.no_new_privileges && parsed.seccomp == SeccompMode::Unconfined);
        assert_eq!(parsed.apparmor.as_deref(), Some("unconfined"));
        assert_eq!(with(&["seccomp={\"a\":1}"]).unwrap().seccomp, SeccompMode::Profile("{\"a\":1}".into()));
        for bad in ["seccomp=/etc/passwd", "nonsense", "no-new-privileges=maybe", "apparmor="] {
            assert!(with(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn zeros_are_no_limits() {
        assert_eq!(resources(&Limits::default()), Resources::default());
        let limits = Limits { memory: 1 << 20, memory_swap: -1, nano_cpus: 500_000_000, ..Limits::default() };
        let set = resources(&limits);
        assert_eq!((set.memory, set.memory_swap, set.nano_cpus), (Some(1 << 20), Some(-1), Some(500_000_000)));
    }

    #[test]
    fn nobody_gets_capabilities_that_we_lack() {
        let all: Vec<_> = caps::NAMES.iter().map(|name| format!("CAP_{}", name.trim_start_matches("CAP_"))).collect();
        let mut process = serde_json::json!({"capabilities": {"bounding": all, "ambient": []}});
        keep_own_capabilities(&mut process);
        let kept = process["capabilities"]["bounding"].as_array().unwrap();
        assert_eq!(kept.len(), caps::bounding().iter().count());
        keep_own_capabilities(&mut serde_json::json!({}));
    }

    #[test]
    fn a_console_needs_both_sides() {
        assert_eq!(console(80, 24), Some((80, 24)));
        assert!(console(0, 24).is_none() && console(80, 0).is_none() && console(70_000, 24).is_none());
    }
}
