//! The flags of `run` and `create`, and what they mean.

use crate::cmd::prelude::*;
use clap::Args;
use std::collections::BTreeMap;

/// Limits that `run`, `create` and `update` share.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct Limits {
    /// Memory, e.g. 512m
    #[arg(short, long, value_parser = parse::bytes)]
    memory: Option<i64>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_parser = parse::bytes, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Memory that is kept when the host runs short
    #[arg(long, value_parser = parse::bytes)]
    memory_reservation: Option<i64>,
    /// How readily memory is swapped out, 0 to 100
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..=100))]
    memory_swappiness: Option<i64>,
    /// Number of CPUs, e.g. 1.5
    #[arg(long, value_parser = parse::cpus)]
    cpus: Option<i64>,
    /// Share of CPU time against others (1024 is one share)
    #[arg(short, long)]
    cpu_shares: Option<u64>,
    /// Length of a CPU period, in µs
    #[arg(long)]
    cpu_period: Option<u64>,
    /// CPU time in a period, in µs
    #[arg(long, allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// CPUs to run on, e.g. 0-3,5
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Number of processes; -1 for no limit
    #[arg(long, allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Share of disk time, 10 to 1000
    #[arg(long)]
    blkio_weight: Option<u32>,
    /// Processes stall instead of being killed when memory is used up
    #[arg(long)]
    oom_kill_disable: bool,
}

impl Limits {
    pub(crate) fn resources(&self) -> Result<api::Resources> {
        if self.cpus.is_some() && (self.cpu_quota.is_some() || self.cpu_period.is_some()) {
            bail!("--cpus excludes --cpu-period and --cpu-quota: it sets both");
        }
        Ok(api::Resources {
            memory: self.memory.unwrap_or(0),
            memory_swap: self.memory_swap.unwrap_or(0),
            memory_reservation: self.memory_reservation.unwrap_or(0),
            nano_cpus: self.cpus.unwrap_or(0),
            cpu_shares: self.cpu_shares.unwrap_or(0),
            cpu_period: self.cpu_period.unwrap_or(0),
            cpu_quota: self.cpu_quota.unwrap_or(0),
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
            pids_limit: self.pids_limit.unwrap_or(0),
            blkio_weight: self.blkio_weight.unwrap_or(0),
            oom_kill_disable: self.oom_kill_disable,
            memory_swappiness: self.memory_swappiness,
        })
    }
}

/// A container as flags describe it.
#[derive(Debug, Args)]
pub(crate) struct Container {
    /// Name; without it one is made up
    #[arg(long, default_value = "")]
    name: String,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment, NAME=value or NAME to take ours
    #[arg(short, long)]
    env: Vec<String>,
    /// Files with environment, a line each
    #[arg(long)]
    env_file: Vec<String>,
    /// SOURCE:TARGET[:ro], NAME:TARGET or TARGET
    #[arg(short, long)]
    volume: Vec<String>,
    /// type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long)]
    mount: Vec<String>,
    /// A tmpfs, TARGET[:options]
    #[arg(long)]
    tmpfs: Vec<String>,
    /// Working directory
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// User, as name or id, with :group or without
    #[arg(short, long, default_value = "")]
    user: String,
    /// Further groups
    #[arg(long)]
    group_add: Vec<String>,
    /// Program instead of the image's
    #[arg(long)]
    entrypoint: Option<String>,
    /// Host name
    #[arg(short = 'H', long, default_value = "")]
    hostname: String,
    /// Domain name
    #[arg(long, default_value = "")]
    domainname: String,
    /// Root file system read-only
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    limits: Limits,
    /// TYPE=SOFT[:HARD], e.g. nofile=1024:2048
    #[arg(long, value_parser = parse::ulimit)]
    ulimit: Vec<api::Ulimit>,
    /// Capabilities to add, or ALL
    #[arg(long)]
    cap_add: Vec<String>,
    /// Capabilities to drop, or ALL
    #[arg(long)]
    cap_drop: Vec<String>,
    /// seccomp=unconfined|FILE, no-new-privileges, apparmor=…, systempaths=unconfined
    #[arg(long)]
    security_opt: Vec<String>,
    /// All capabilities and devices, and no confinement
    #[arg(long)]
    privileged: bool,
    /// HOST[:CONTAINER[:rwm]]
    #[arg(long, value_parser = parse::device)]
    device: Vec<api::Device>,
    /// Kernel parameter, NAME=value
    #[arg(long)]
    sysctl: Vec<String>,
    /// Signal that stops it
    #[arg(long, default_value = "")]
    stop_signal: String,
    /// Seconds between that signal and SIGKILL
    #[arg(long)]
    stop_timeout: Option<i64>,
    /// A small init as process 1 that forwards signals and reaps
    #[arg(long)]
    init: bool,
    /// host or container:NAME
    #[arg(long, default_value = "")]
    pid: String,
    /// private, host or container:NAME
    #[arg(long, default_value = "")]
    ipc: String,
    /// host
    #[arg(long, default_value = "")]
    uts: String,
    /// host or private
    #[arg(long, default_value = "")]
    userns: String,
    /// host or private
    #[arg(long, default_value = "")]
    cgroupns: String,
    /// private: its own clocks since boot
    #[arg(long, default_value = "")]
    timens: String,
    /// Size of /dev/shm
    #[arg(long, value_parser = parse::bytes)]
    shm_size: Option<i64>,
    /// How readily the kernel kills it, -1000 to 1000
    #[arg(long, allow_negative_numbers = true, default_value_t = 0, hide_default_value = true)]
    oom_score_adj: i32,
    /// Label, NAME=value
    #[arg(short, long)]
    label: Vec<String>,
    /// Annotation, NAME=value
    #[arg(long)]
    annotation: Vec<String>,
    /// no, always, unless-stopped, on-failure[:max]
    #[arg(long)]
    restart: Option<String>,
    /// json-file or none
    #[arg(long, default_value = "")]
    log_driver: String,
    /// Option of the log driver, NAME=value
    #[arg(long)]
    log_opt: Vec<String>,
    /// Cgroup below which its own is made
    #[arg(long, default_value = "")]
    cgroup_parent: String,
    /// always, missing or never
    #[arg(long, default_value = "missing", value_parser = ["always", "missing", "never"])]
    pull: String,
    /// Platform, os/arch[/variant]
    #[arg(long, default_value = "")]
    platform: String,
    /// Snapshotter of the root file system
    #[arg(long, default_value = "")]
    snapshotter: String,
    /// Runtime, e.g. io.containerd.runc.v2
    #[arg(long, default_value = "")]
    runtime: String,
    /// Speak HTTP without TLS to the registry
    #[arg(long)]
    plain_http: bool,
    /// Credentials USER:PASSWORD for the registry
    #[arg(long, env = "CRATED_CREDENTIALS", hide_env_values = true)]
    creds: Option<String>,
    /// Write the id to this file, which must not exist
    #[arg(long)]
    cidfile: Option<std::path::PathBuf>,
    #[command(flatten)]
    networking: crate::cmd::networking::Networking,
    /// Image, then the command and its arguments: no flag of ours is read behind the image
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND]")]
    image_and_command: Vec<String>,
}

impl Container {
    /// Makes the file of `--cidfile`, which must not exist.
    pub(crate) fn cidfile(&self) -> Result<Option<std::fs::File>> {
        let Some(path) = &self.cidfile else { return Ok(None) };
        let made = std::fs::File::create_new(path);
        made.map(Some).with_context(|| format!("--cidfile {} cannot be made", path.display()))
    }

    /// The daemon's words for the flags.
    pub(crate) fn config(&self) -> Result<api::ContainerConfig> {
        let (image, command) = self.image_and_command.split_first().context("an image is needed")?;
        let mut mounts = self.volume.iter().map(|text| parse::volume(text)).collect::<Result<Vec<_>>>()?;
        mounts.extend(self.mount.iter().map(|text| parse::mount(text)).collect::<Result<Vec<_>>>()?);
        mounts.extend(self.tmpfs.iter().map(|text| parse::tmpfs(text)).collect::<Result<Vec<_>>>()?);
        if self.entrypoint.as_deref() == Some("") && command.is_empty() {
            bail!("--entrypoint \"\" leaves nothing to run: give a command");
        }
        let mut config = api::ContainerConfig {
            name: self.name.clone(),
            image: image.clone(),
            command: command.to_vec(),
            entrypoint: self.entrypoint.iter().filter(|program| !program.is_empty()).cloned().collect(),
            entrypoint_reset: self.entrypoint.is_some(),
            env: environment(&self.env, &self.env_file)?,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            group_add: self.group_add.clone(),
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            terminal: self.tty,
            open_stdin: self.interactive,
            stdin_once: false,
            read_only: self.read_only,
            auto_remove: false,
            privileged: self.privileged,
            init: self.init,
            mounts,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            security_opt: self.security_opt.iter().map(|text| parse::security(text)).collect::<Result<_>>()?,
            ulimits: self.ulimit.clone(),
            devices: self.device.clone(),
            resources: Some(self.limits.resources()?),
            labels: pairs("label", &self.label)?,
            sysctls: pairs("sysctl", &self.sysctl)?,
            annotations: pairs("annotation", &self.annotation)?,
            pid_mode: self.pid.clone(),
            ipc_mode: self.ipc.clone(),
            uts_mode: self.uts.clone(),
            user_mode: self.userns.clone(),
            cgroupns_mode: self.cgroupns.clone(),
            time_mode: self.timens.clone(),
            shm_size: self.shm_size.unwrap_or(0),
            oom_score_adj: self.oom_score_adj,
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            restart: self.restart.as_deref().map(restart_policy).transpose()?,
            snapshotter: self.snapshotter.clone(),
            runtime: self.runtime.clone(),
            platform: self.platform.clone(),
            log_driver: self.log_driver.clone(),
            log_options: pairs("log-opt", &self.log_opt)?,
            cgroup_parent: self.cgroup_parent.clone(),
            pull: self.pull.clone(),
            credentials: crate::cmd::image::credentials(self.creds.as_deref())?,
            plain_http: self.plain_http,
            ..api::ContainerConfig::default()
        };
        self.networking.fill(&mut config)?;
        Ok(config)
    }
}

/// `NAME=value`, or `NAME` for an empty value.
fn pairs(flag: &str, texts: &[String]) -> Result<BTreeMap<String, String>> {
    Ok(texts.iter().map(|text| crated_spec::parse::key_value(flag, text)).collect::<Result<_, _>>()?)
}

/// Environment of files and flags, in that order; `NAME` alone takes our own value, or nothing where we have none.
pub(crate) fn environment(flags: &[String], files: &[String]) -> Result<Vec<String>> {
    let ours = |name: &str| std::env::var(name).ok();
    let mut env = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        env.extend(crated_spec::parse::env_file(&text, ours).with_context(|| file.clone())?);
    }
    for flag in flags {
        env.extend(crated_spec::parse::env_flag(flag, ours)?);
    }
    Ok(env)
}

/// `no`, `always`, `unless-stopped`, `on-failure[:max]`.
pub(crate) fn restart_policy(text: &str) -> Result<api::RestartPolicy> {
    let (name, retries) = text.split_once(':').unwrap_or((text, "0"));
    let maximum_retries =
        retries.parse().with_context(|| format!("--restart {text:?}: {retries:?} is not a number"))?;
    match name {
        "no" | "always" | "unless-stopped" if !text.contains(':') => {}
        "on-failure" => {}
        _ => bail!("--restart {text:?} is not no, always, unless-stopped or on-failure[:max]"),
    }
    Ok(api::RestartPolicy { name: name.into(), maximum_retries })
}

/// Values of single flags: docker's syntax is read by `runtime/spec`, and told in the daemon's words here.
pub(crate) mod parse {
    use super::*;
    use crated_spec::Propagation;
    use crated_spec::parse::{self as spec, VolumeSource};
    use std::path::Path;

    /// Bytes with a unit, `512m`.
    pub(crate) fn bytes(text: &str) -> Result<i64, crated_types::Error> {
        spec::memory_swap(text)
    }

    /// CPUs as billionths.
    pub(crate) fn cpus(text: &str) -> Result<i64> {
        Ok(i64::try_from(spec::cpus(text)?)?)
    }

    /// `nofile=1024:2048`.
    pub(crate) fn ulimit(text: &str) -> Result<api::Ulimit, crated_types::Error> {
        spec::ulimit(text).map(|limit| api::Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
    }

    /// `/dev/a[:/dev/b[:rwm]]`.
    pub(crate) fn device(text: &str) -> Result<api::Device, crated_types::Error> {
        let device = spec::device(text)?;
        let text = |path: &Path| path.display().to_string();
        Ok(api::Device {
            host_path: text(&device.source),
            container_path: text(&device.target),
            permissions: device.access,
        })
    }

    /// `SOURCE:TARGET[:options]`, `NAME:TARGET`, `TARGET`. A source of the host may be relative or begin with `~/`.
    pub(crate) fn volume(text: &str) -> Result<api::Mount> {
        let whole = if text.starts_with('.') {
            let (source, rest) = text.split_once(':').unwrap_or((text, ""));
            format!("{}:{rest}", std::path::absolute(source)?.display())
        } else if let Some(rest) = text.strip_prefix("~/") {
            format!("{}/{rest}", std::env::var("HOME").context("~ needs HOME")?)
        } else {
            text.to_owned()
        };
        let volume = spec::volume(&whole)?;
        let (kind, source) = match volume.source {
            VolumeSource::Path(path) => ("bind", path.display().to_string()),
            VolumeSource::Name(name) => ("volume", name),
            VolumeSource::Anonymous => ("volume", String::new()),
        };
        let propagation = match volume.propagation {
            Propagation::RPrivate => "",
            Propagation::Private => "private",
            Propagation::Shared => "shared",
            Propagation::RShared => "rshared",
            Propagation::Slave => "slave",
            Propagation::RSlave => "rslave",
        };
        Ok(api::Mount {
            r#type: kind.into(),
            source,
            target: volume.target.display().to_string(),
            read_only: volume.readonly,
            propagation: propagation.into(),
            options: volume.no_copy.then(|| "nocopy".to_owned()).into_iter().collect(),
        })
    }

    /// `type=bind,source=/a,target=/b,readonly`.
    pub(crate) fn mount(text: &str) -> Result<api::Mount> {
        let mut mount = api::Mount { r#type: "volume".into(), ..api::Mount::default() };
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, "true"));
            match key {
                "type" if matches!(value, "bind" | "volume" | "tmpfs") => mount.r#type = value.into(),
                "source" | "src" => mount.source = value.into(),
                "target" | "destination" | "dst" => mount.target = value.into(),
                "readonly" | "ro" => mount.read_only = matches!(value, "true" | "1"),
                "bind-propagation" => mount.propagation = value.into(),
                "tmpfs-size" => mount.options.push(format!("size={}", bytes(value)?)),
                "tmpfs-mode" => mount.options.push(format!("mode={value}")),
                "volume-nocopy" => mount.options.push("nocopy".into()),
                "type" => bail!("mount {text:?}: type {value:?} is not bind, volume or tmpfs"),
                _ => bail!("mount {text:?}: {key:?} is not known"),
            }
        }
        if !mount.target.starts_with('/') {
            bail!("mount {text:?}: target=… must be an absolute path");
        }
        if mount.r#type == "bind" {
            if mount.source.is_empty() {
                bail!("mount {text:?}: a bind mount needs source=…");
            }
            mount.options.push("must-exist".into());
        }
        Ok(mount)
    }

    /// `TARGET[:options]`.
    pub(crate) fn tmpfs(text: &str) -> Result<api::Mount> {
        let tmpfs = spec::tmpfs(text)?;
        Ok(api::Mount {
            r#type: "tmpfs".into(),
            target: tmpfs.target.display().to_string(),
            read_only: tmpfs.options.iter().any(|option| option == "ro"),
            options: tmpfs.options,
            ..api::Mount::default()
        })
    }

    /// A profile's file is read here: the daemon may see other files than we do.
    pub(crate) fn security(text: &str) -> Result<String> {
        match text.strip_prefix("seccomp=") {
            Some("unconfined" | "builtin") | None => Ok(text.into()),
            Some(file) if file.trim_start().starts_with('{') => Ok(text.into()),
            Some(file) => {
                let profile =
                    std::fs::read_to_string(file).with_context(|| format!("cannot read the seccomp profile {file}"))?;
                Ok(format!("seccomp={profile}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_told_apart() {
        let bind = parse::volume("/a:/b:ro").unwrap();
        assert_eq!((bind.r#type.as_str(), bind.read_only), ("bind", true));
        assert_eq!(parse::volume("data:/b").unwrap().r#type, "volume");
        assert_eq!(parse::volume("/b").unwrap().source, "");
        assert!(parse::volume("./a:/b").unwrap().source.starts_with('/'));
        assert!(parse::volume("/a:/b:frob").unwrap_err().to_string().contains("frob"));
    }

    #[test]
    fn restart_policies_are_checked() {
        assert_eq!(restart_policy("on-failure:3").unwrap().maximum_retries, 3);
        assert!(restart_policy("always:3").is_err());
        assert!(restart_policy("sometimes").is_err());
    }
}
