//! Options to spec: the one function that knows docker's defaults as a whole.

use crate::env::{DEFAULT_PATH, HOME, merge_env, resolve_args};
use crate::options::{Hook, IdMapping, NamespaceMode, NetworkMode, Options, SeccompMode, User};
use crate::{caps, devices, mounts, parse, resources, seccomp};
use crated_types::{Error, Result};
use oci_spec::runtime::{self as oci, LinuxNamespaceType, Spec};
use std::path::{Path, PathBuf};

/// Version of the runtime spec that our specs follow.
pub(crate) const OCI_VERSION: &str = "1.2.1";

/// Paths that read as empty (docker's list; powercap is the RAPL side channel, GHSA-jq35-85cj-fj4p).
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that cannot be written (docker's list).
const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Makes the spec of a container.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] that names the option, for values that make no sense or contradict one another.
pub fn build(options: &Options) -> Result<Spec> {
    let mut root = oci::Root::default();
    let rootfs = if options.rootfs.as_os_str().is_empty() { Path::new("rootfs") } else { &options.rootfs };
    root.set_path(rootfs.into()).set_readonly(Some(options.readonly_rootfs));
    let mounts = mounts::mounts(options)?;
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_root(Some(root))
        .set_process(Some(process(options)?))
        .set_hostname(name("hostname", &options.hostname, options)?)
        .set_domainname(name("domainname", &options.domainname, options)?)
        .set_hooks(hooks(options)?)
        .set_annotations(
            Some(options.annotations.clone().into_iter().collect())
                .filter(|all: &std::collections::HashMap<_, _>| !all.is_empty()),
        )
        .set_linux(Some(linux(options, &mounts)?))
        .set_mounts(Some(mounts));
    Ok(spec)
}

fn process(options: &Options) -> Result<oci::Process> {
    let mut args =
        resolve_args(&options.image.entrypoint, &options.image.cmd, options.entrypoint.as_deref(), &options.args)?;
    if let Some(init) = &options.init {
        parse::container_path("init", Path::new(init))?;
        args.splice(0..0, [init.clone(), "--".into()]);
    }
    let cwd = options.cwd.as_deref().filter(|cwd| !cwd.is_empty()).unwrap_or(&options.image.working_dir);
    if options.oom_score_adj.is_some_and(|value| !(-1000..=1000).contains(&value)) {
        return Err(Error::invalid("oom-score-adj", "it is not -1000..=1000"));
    }
    let bounding = caps::resolve(&options.cap_add, &options.cap_drop, options.privileged)?;
    let mut process = oci::Process::default();
    process
        .set_terminal(Some(options.terminal))
        .set_console_size(console_size(options.console_size))
        .set_user(user(&options.user))
        .set_args(Some(args))
        .set_env(Some(env(options)?))
        .set_cwd(check_cwd(if cwd.is_empty() { "/" } else { cwd })?)
        .set_capabilities(Some(caps::sets(bounding, options.user.uid)))
        .set_rlimits(resources::rlimits(&options.ulimits)?)
        .set_no_new_privileges(Some(options.security.no_new_privileges))
        .set_apparmor_profile(options.security.apparmor.clone().filter(|_| !options.privileged))
        .set_selinux_label(options.security.selinux_label.clone())
        .set_oom_score_adj(options.oom_score_adj);
    Ok(process)
}

fn env(options: &Options) -> Result<Vec<String>> {
    let mut env = vec![format!("PATH={DEFAULT_PATH}")];
    if !options.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", options.hostname));
    }
    if options.terminal {
        env.push("TERM=xterm".into());
    }
    // An image may carry an entry without "="; it sets nothing, and must not remove what we set.
    let image: Vec<String> = options.image.env.iter().filter(|entry| entry.contains('=')).cloned().collect();
    merge_env(&mut env, &image)?;
    merge_env(&mut env, &options.env)?;
    if let Some(home) = &options.user.home
        && !env.iter().any(|entry| entry.starts_with("HOME="))
    {
        merge_env(&mut env, &[format!("{HOME}={home}")])?;
    }
    Ok(env)
}

pub(crate) fn console_size(size: Option<(u16, u16)>) -> Option<oci::Box> {
    let (columns, rows) = size?;
    oci::BoxBuilder::default().width(columns).height(rows).build().ok()
}

pub(crate) fn user(user: &User) -> oci::User {
    // The primary group is among the others (CVE-2022-36109: a group that denies must not be left out).
    let mut groups = vec![user.gid];
    for gid in &user.additional_gids {
        if !groups.contains(gid) {
            groups.push(*gid);
        }
    }
    let mut identity = oci::User::default();
    identity.set_uid(user.uid).set_gid(user.gid).set_umask(user.umask).set_additional_gids(Some(groups));
    identity
}

pub(crate) fn check_cwd(cwd: &str) -> Result<PathBuf> {
    parse::container_path("workdir", Path::new(cwd))
}

fn name(what: &'static str, name: &str, options: &Options) -> Result<Option<String>> {
    if name.is_empty() {
        return Ok(None);
    }
    if options.uts == NamespaceMode::Host {
        // It would rename the host; docker refuses a flag, and leaves its own choice out.
        return Ok(None);
    }
    // __NEW_UTS_LEN
    if name.len() > 64 || !name.chars().all(|char| char.is_ascii_alphanumeric() || "-._".contains(char)) {
        let reason = format_args!("{name:?} is longer than 64 characters or has others than letters, digits, - . _");
        return Err(Error::invalid(what, reason));
    }
    Ok(Some(name.into()))
}

fn hooks(options: &Options) -> Result<Option<oci::Hooks>> {
    let list = |hooks: &[Hook]| -> Result<Option<Vec<oci::Hook>>> {
        let convert = |hook: &Hook| {
            if !hook.path.is_absolute() {
                return Err(Error::invalid("hooks", format_args!("{} is not absolute", hook.path.display())));
            }
            let mut converted = oci::Hook::default();
            converted
                .set_path(hook.path.clone())
                .set_args(Some(hook.args.clone()).filter(|args| !args.is_empty()))
                .set_env(Some(hook.env.clone()).filter(|env| !env.is_empty()))
                .set_timeout(hook.timeout);
            Ok(converted)
        };
        Ok(Some(hooks.iter().map(convert).collect::<Result<Vec<_>>>()?).filter(|hooks| !hooks.is_empty()))
    };
    let wanted = &options.hooks;
    let mut hooks = oci::Hooks::default();
    hooks
        .set_create_runtime(list(&wanted.create_runtime)?)
        .set_create_container(list(&wanted.create_container)?)
        .set_start_container(list(&wanted.start_container)?)
        .set_poststart(list(&wanted.poststart)?)
        .set_poststop(list(&wanted.poststop)?);
    Ok(Some(hooks).filter(|hooks| *hooks != oci::Hooks::default()))
}

fn linux(options: &Options, mounts: &[oci::Mount]) -> Result<oci::Linux> {
    let mut linux = oci::Linux::default();
    let paths = |list: &[&str]| -> Vec<String> {
        if options.privileged || options.security.system_paths_unconfined {
            return Vec::new();
        }
        // What a person mounts there on purpose stays as it is.
        list.iter().filter(|path| !mounts::covers(mounts, path)).map(|path| (*path).into()).collect()
    };
    let cgroup = options.cgroup_path.clone().unwrap_or_else(|| format!("/crated/{}", options.id));
    if options.cgroup_path.is_none() && options.id.is_empty() {
        return Err(Error::invalid("id", "the container has neither an id nor a cgroup path"));
    }
    linux
        .set_resources(Some(resources::resources(options)?))
        .set_cgroups_path(Some(cgroup.into()))
        .set_namespaces(Some(namespaces(options)))
        .set_devices(Some(devices::nodes(options)?).filter(|nodes| !nodes.is_empty()))
        .set_seccomp(seccomp_filter(options)?)
        .set_rootfs_propagation(mounts::rootfs_propagation(options))
        .set_masked_paths(Some(paths(MASKED_PATHS)))
        .set_readonly_paths(Some(paths(READONLY_PATHS)))
        .set_mount_label(options.security.mount_label.clone())
        .set_sysctl(sysctls(options)?)
        .set_net_devices(None);
    if let Some(userns) = &options.userns {
        let mappings = |list: &[IdMapping]| {
            let convert = |map: &IdMapping| {
                let mapping = oci::LinuxIdMappingBuilder::default();
                let mapping = mapping.container_id(map.container).host_id(map.host).size(map.size);
                mapping.build().expect("every field has a default")
            };
            Some(list.iter().map(convert).collect::<Vec<_>>()).filter(|list| !list.is_empty())
        };
        if userns.path.is_none() && (userns.uid_mappings.is_empty() || userns.gid_mappings.is_empty()) {
            return Err(Error::invalid("userns", "a new user namespace needs mappings of users and groups"));
        }
        linux.set_uid_mappings(mappings(&userns.uid_mappings)).set_gid_mappings(mappings(&userns.gid_mappings));
    }
    if let Some(offsets) = &options.time_offsets {
        let mut all = std::collections::HashMap::new();
        for (clock, seconds) in offsets {
            if clock != "monotonic" && clock != "boottime" {
                return Err(Error::invalid("time-offsets", format_args!("{clock:?} is not monotonic or boottime")));
            }
            let mut offset = oci::LinuxTimeOffset::default();
            offset.set_secs(Some(*seconds));
            all.insert(clock.clone(), offset);
        }
        linux.set_time_offsets(Some(all).filter(|all| !all.is_empty()));
    }
    Ok(linux)
}

fn namespaces(options: &Options) -> Vec<oci::LinuxNamespace> {
    let mut all = Vec::new();
    let mut push = |typ, path: Option<&PathBuf>| {
        let mut namespace = oci::LinuxNamespace::default();
        namespace.set_typ(typ).set_path(path.cloned());
        all.push(namespace);
    };
    push(LinuxNamespaceType::Mount, None);
    match &options.network {
        NetworkMode::None => push(LinuxNamespaceType::Network, None),
        NetworkMode::Path(path) => push(LinuxNamespaceType::Network, Some(path)),
        NetworkMode::Host => {}
    }
    for (typ, mode) in [
        (LinuxNamespaceType::Uts, &options.uts),
        (LinuxNamespaceType::Pid, &options.pid),
        (LinuxNamespaceType::Ipc, &options.ipc),
        (LinuxNamespaceType::Cgroup, &options.cgroup),
    ] {
        match mode {
            NamespaceMode::Private => push(typ, None),
            NamespaceMode::Path(path) => push(typ, Some(path)),
            NamespaceMode::Host => {}
        }
    }
    if let Some(userns) = &options.userns {
        push(LinuxNamespaceType::User, userns.path.as_ref());
    }
    if options.time_offsets.is_some() {
        push(LinuxNamespaceType::Time, None);
    }
    all
}

fn seccomp_filter(options: &Options) -> Result<Option<oci::LinuxSeccomp>> {
    let bounding = || caps::resolve(&options.cap_add, &options.cap_drop, options.privileged);
    match &options.security.seccomp {
        SeccompMode::Unconfined => Ok(None),
        SeccompMode::Default if options.privileged => Ok(None),
        SeccompMode::Default => Ok(Some(seccomp::Profile::docker()?.resolve(&bounding()?, options.kernel)?)),
        SeccompMode::Profile(text) => Ok(Some(seccomp::Profile::parse(text)?.resolve(&bounding()?, options.kernel)?)),
    }
}

/// Kernel parameters that belong to a namespace (runc's check): others would change the host.
fn sysctls(options: &Options) -> Result<Option<std::collections::HashMap<String, String>>> {
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let mut all = std::collections::HashMap::new();
    let own_network = options.network != NetworkMode::Host;
    if own_network && matches!(options.network, NetworkMode::None) || matches!(options.network, NetworkMode::Path(_)) {
        // Docker's: no capability is needed for ping and low ports in a network of one's own.
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        if options.userns.is_none() {
            all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    for (key, value) in &options.sysctls {
        let bad = |reason: &str| Error::invalid("sysctl", format_args!("{key}: {reason}"));
        // Slashes and dots are both separators; a part ".." or an empty one would leave the tree.
        let dotted = key.replace('/', ".");
        if dotted.split('.').any(str::is_empty) || value.contains(['\0', '\n']) {
            return Err(bad("it is malformed"));
        }
        let private = |mode: &NamespaceMode| *mode != NamespaceMode::Host;
        let allowed = if dotted.starts_with("net.") {
            own_network
        } else if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
            private(&options.ipc)
        } else if dotted == "kernel.domainname" {
            private(&options.uts)
        } else {
            false
        };
        if !allowed {
            return Err(bad("it belongs to no namespace of the container, setting it would change the host"));
        }
        all.insert(key.clone(), value.clone());
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

#[cfg(test)]
mod tests;
