//! From spec to plan: order, checks and defaults. Pure.

use std::path::Path;

use crated_sys::{mount::MsFlags, namespace::Kinds};
use oci_spec::runtime::{Hook, Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, LinuxSeccomp, Mount, Spec};

use super::{
    DeviceStep, HookPlan, Input, Maps, MountOptions, MountStep, MountWhat, Plan, Step, TreeInput, mounts::propagation,
};
use crate::error::{OciError, Result};

/// What the plan depends on besides the spec.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Id of the container.
    pub id: String,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
    /// chroot instead of pivot_root.
    pub no_pivot_root: bool,
    /// Stay in the caller's session keyring.
    pub no_new_keyring: bool,
    /// The root file system comes from mounts, not from `root.path`.
    pub root_given: bool,
}

/// Files of procfs that may be covered by a bind mount (what lxcfs serves); all else there is refused.
const IN_PROC: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Device nodes that every container has (runtime-spec config-linux.md §Default Devices).
const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
];

/// Compiles a spec.
///
/// # Errors
/// [`OciError::Spec`] and [`OciError::Unsupported`], naming the field.
pub fn compile(spec: &Spec, facts: &Facts) -> Result<Plan> {
    crate::spec::validate(spec, facts.root_given)?;
    let default = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&default);
    let process = spec.process().as_ref().ok_or_else(|| OciError::spec("process", "missing"))?;
    let mut plan = Plan { process: super::process(process, facts)?, ..Plan::default() };
    let mut build = Build { plan: &mut plan, user: false, own: Kinds::NONE };
    build.namespaces(linux)?;
    build.identity(spec, facts);
    build.plan.steps.push(Step::Root);
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        build.mount(index, mount, linux)?;
    }
    build.devices(spec, linux)?;
    if build.plan.process.terminal {
        let size = process.console_size().map(|s| (s.width() as u16, s.height() as u16)).filter(|s| *s != (0, 0));
        build.plan.steps.push(Step::Console { size, bind: true });
    }
    build.finish(spec, linux, facts)?;
    plan.process.personality = personality(linux);
    plan.process.seccomp = linux.seccomp().as_ref().map(seccomp).transpose()?;
    Ok(plan)
}

struct Build<'a> {
    plan: &'a mut Plan,
    user: bool,
    own: Kinds,
}

/// The kernel's flag of a namespace type.
pub(crate) fn kind(kind: LinuxNamespaceType) -> Kinds {
    match kind {
        LinuxNamespaceType::Mount => Kinds::MOUNT,
        LinuxNamespaceType::Cgroup => Kinds::CGROUP,
        LinuxNamespaceType::Uts => Kinds::UTS,
        LinuxNamespaceType::Ipc => Kinds::IPC,
        LinuxNamespaceType::User => Kinds::USER,
        LinuxNamespaceType::Pid => Kinds::PID,
        LinuxNamespaceType::Network => Kinds::NETWORK,
        LinuxNamespaceType::Time => Kinds::TIME,
    }
}

impl Build<'_> {
    /// Cgroup and time namespaces are left into by init: the first after it is in its cgroup, the second because its
    /// offsets can be written only before anything runs in it.
    fn namespaces(&mut self, linux: &Linux) -> Result<()> {
        let late = Kinds::CGROUP.with(Kinds::TIME);
        let mut unshare = Kinds::NONE;
        for namespace in linux.namespaces().iter().flatten() {
            let kind = kind(namespace.typ());
            self.own = self.own.with(kind);
            self.user |= kind == Kinds::USER;
            let path = namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty());
            match path.map(|p| p.to_string_lossy().into_owned()) {
                None if late.contains(kind) => unshare = unshare.with(kind),
                None => self.plan.namespaces |= kind.0,
                Some(path) if kind == Kinds::USER => self.plan.join_user = Some(path),
                Some(path) if kind == Kinds::PID => self.plan.join_pid = Some(path),
                Some(path) => {
                    let input = self.input(Input::Namespace { path, kind: kind.0 });
                    self.plan.steps.push(Step::Join { input, kind: kind.0 });
                }
            }
        }
        self.plan.maps = Maps {
            uids: crate::spec::maps(linux.uid_mappings().as_deref()),
            gids: crate::spec::maps(linux.gid_mappings().as_deref()),
        };
        if !unshare.is_empty() {
            self.plan.steps.push(Step::Unshare(unshare.0));
        }
        if Kinds(self.plan.namespaces).contains(Kinds::NETWORK) {
            self.plan.steps.push(Step::Loopback);
        }
        let mut offsets: Vec<_> = linux
            .time_offsets()
            .iter()
            .flatten()
            .map(|(clock, o)| (clock.clone(), o.secs().unwrap_or(0), o.nanosecs().unwrap_or(0)))
            .collect();
        offsets.sort();
        if !offsets.is_empty() {
            self.plan.steps.push(Step::TimeOffsets(offsets));
        }
        Ok(())
    }

    fn identity(&mut self, spec: &Spec, facts: &Facts) {
        if !facts.no_new_keyring {
            self.plan.steps.push(Step::Keyring(format!("_ses.{}", facts.id)));
        }
        if let Some(name) = spec.hostname().as_ref().filter(|n| !n.is_empty()) {
            self.plan.steps.push(Step::Hostname(name.clone()));
        }
        if let Some(name) = spec.domainname().as_ref().filter(|n| !n.is_empty()) {
            self.plan.steps.push(Step::Domainname(name.clone()));
        }
    }

    fn input(&mut self, input: Input) -> u32 {
        self.plan.inputs.push(input);
        self.plan.inputs.len() as u32 - 1
    }

    fn mount(&mut self, index: usize, mount: &Mount, linux: &Linux) -> Result<()> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let target = mount.destination().to_string_lossy().into_owned();
        let clean = lexical(&target);
        let words = mount.options().iter().flatten().map(String::as_str);
        let options = MountOptions::parse(words);
        if options.remount {
            return Err(OciError::unsupported(field("options"), "\"remount\" is not offered"));
        }
        let fstype = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "" });
        let source = mount.source().as_ref().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let bind = options.bind || fstype == "bind" || fstype == "none" && !source.is_empty();
        let in_proc = check_proc(&clean, fstype, bind).map_err(|why| OciError::spec(field("destination"), why))?;
        let mut attributes = options.attributes();
        let mut propagation = options.propagation.clone();
        let what = if bind {
            if source.is_empty() {
                return Err(OciError::spec(field("source"), "a bind mount needs one"));
            }
            attributes = 0;
            let tree = self.tree(&source, &options, mount, linux);
            propagation.clear();
            MountWhat::Tree { input: self.input(Input::Tree(tree)), source }
        } else if fstype.is_empty() {
            return Err(OciError::spec(field("type"), "missing"));
        } else if fstype == "cgroup" {
            MountWhat::Cgroup { own_namespace: self.own.contains(Kinds::CGROUP) }
        } else {
            let fallback = if source.is_empty() { fstype.to_owned() } else { source };
            MountWhat::Filesystem { fstype: fstype.to_owned(), source: fallback, options: options.data.clone() }
        };
        let copy_up = options.copy_up && fstype == "tmpfs";
        self.plan.steps.push(Step::Mount(MountStep { target, what, attributes, propagation, copy_up, in_proc }));
        Ok(())
    }

    fn tree(&self, source: &str, options: &MountOptions, mount: &Mount, linux: &Linux) -> TreeInput {
        let own = Maps {
            uids: crate::spec::maps(mount.uid_mappings().as_deref()),
            gids: crate::spec::maps(mount.gid_mappings().as_deref()),
        };
        let container = || Maps {
            uids: crate::spec::maps(linux.uid_mappings().as_deref()),
            gids: crate::spec::maps(linux.gid_mappings().as_deref()),
        };
        let given = !own.uids.is_empty() || !own.gids.is_empty();
        let idmap = match options.idmap {
            Some(recursive) => Some((if given { own } else { container() }, recursive)),
            None => given.then_some((own, false)),
        };
        let default = vec![(MsFlags::MS_SLAVE.bits(), true)];
        TreeInput {
            source: source.to_owned(),
            recursive: options.recursive,
            set: options.set,
            clear: options.clear,
            recursive_set: options.recursive_set,
            recursive_clear: options.recursive_clear,
            propagation: if options.propagation.is_empty() { default } else { options.propagation.clone() },
            idmap,
        }
    }

    fn devices(&mut self, spec: &Spec, linux: &Linux) -> Result<()> {
        let mounts = || spec.mounts().iter().flatten();
        let bound = mounts().any(|m| {
            let options = MountOptions::parse(m.options().iter().flatten().map(String::as_str));
            lexical(&m.destination().to_string_lossy()) == "/dev"
                && (options.bind || m.typ().as_deref() == Some("bind"))
        });
        if bound {
            return Ok(());
        }
        let asked: Vec<&LinuxDevice> = linux.devices().iter().flatten().collect();
        for (path, major, minor) in DEVICES {
            if asked.iter().any(|d| lexical(&d.path().to_string_lossy()) == path) {
                continue;
            }
            let step = DeviceStep {
                path: path.into(),
                mode: libc_chr(0o666),
                number: (major, minor),
                uid: 0,
                gid: 0,
                input: None,
            };
            self.device(step);
        }
        for (index, device) in asked.into_iter().enumerate() {
            let step = device_step(index, device)?;
            self.device(step);
        }
        for (target, path) in LINKS {
            self.plan.steps.push(Step::Symlink { target: target.into(), path: path.into(), replace: false });
        }
        if mounts()
            .any(|m| m.typ().as_deref() == Some("devpts") && lexical(&m.destination().to_string_lossy()) == "/dev/pts")
        {
            self.plan.steps.push(Step::Symlink { target: "pts/ptmx".into(), path: "/dev/ptmx".into(), replace: true });
        }
        Ok(())
    }

    /// In a user namespace nodes cannot be made: the host's are bound instead.
    fn device(&mut self, mut step: DeviceStep) {
        if self.user && step.mode & 0o170_000 != 0o010_000 {
            let tree = TreeInput {
                source: step.path.clone(),
                propagation: vec![(MsFlags::MS_PRIVATE.bits(), false)],
                ..TreeInput::default()
            };
            step.input = Some(self.input(Input::Tree(tree)));
        }
        self.plan.steps.push(Step::Device(step));
    }

    fn finish(&mut self, spec: &Spec, linux: &Linux, facts: &Facts) -> Result<()> {
        let hooks = spec.hooks().as_ref();
        let list =
            |hooks: Option<&Vec<Hook>>| hooks.map(|h| h.iter().map(hook).collect::<Vec<_>>()).unwrap_or_default();
        let create = list(hooks.and_then(|h| h.create_container().as_ref()));
        #[allow(deprecated, reason = "older callers still use prestart hooks")]
        let early = hooks.is_some_and(|h| {
            h.prestart().as_ref().is_some_and(|l| !l.is_empty())
                || h.create_runtime().as_ref().is_some_and(|l| !l.is_empty())
        });
        if early || !create.is_empty() {
            self.plan.steps.push(Step::Hooks(create));
        }
        self.plan.process.start_hooks = list(hooks.and_then(|h| h.start_container().as_ref()));
        let steps = &mut self.plan.steps;
        steps.push(Step::Pivot { no_pivot: facts.no_pivot_root });
        steps.push(Step::Directory { path: self.plan.process.cwd.clone() });
        if let Some(word) = linux.rootfs_propagation().as_ref().filter(|w| !w.is_empty()) {
            let (flags, recursive) = propagation(word)
                .ok_or_else(|| OciError::spec("linux.rootfsPropagation", format!("{word:?} is not a propagation")))?;
            steps.push(Step::RootPropagation { flags, recursive });
        }
        let mut sysctls: Vec<_> = linux.sysctl().iter().flatten().collect();
        sysctls.sort();
        for (key, value) in sysctls {
            let key = crate::spec::sysctl_path(key, self.own)?;
            steps.push(Step::Sysctl { key, value: value.clone() });
        }
        if spec.root().as_ref().is_some_and(|r| r.readonly().unwrap_or(false)) {
            steps.push(Step::ReadonlyRoot);
        }
        steps.extend(linux.readonly_paths().iter().flatten().map(|p| Step::ReadonlyPath(p.clone())));
        steps.extend(linux.masked_paths().iter().flatten().map(|p| Step::MaskPath(p.clone())));
        Ok(())
    }
}

fn libc_chr(permissions: u32) -> u32 {
    0o020_000 | permissions
}

fn device_step(index: usize, device: &LinuxDevice) -> Result<DeviceStep> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => 0o020_000,
        LinuxDeviceType::B => 0o060_000,
        LinuxDeviceType::P => 0o010_000,
        LinuxDeviceType::A => return Err(OciError::spec(field("type"), "must be c, u, b or p")),
    };
    let number = |n: i64, name: &str| {
        u32::try_from(n).map_err(|_| OciError::spec(field(name), format!("{n} is not a device number")))
    };
    let fifo = kind == 0o010_000;
    Ok(DeviceStep {
        path: device.path().to_string_lossy().into_owned(),
        mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
        number: if fifo { (0, 0) } else { (number(device.major(), "major")?, number(device.minor(), "minor")?) },
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        input: None,
    })
}

/// A hook of the spec as init and the parent run it.
pub(crate) fn hook(hook: &Hook) -> HookPlan {
    HookPlan {
        path: hook.path().to_string_lossy().into_owned(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        timeout: hook.timeout().and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0),
    }
}

fn seccomp(profile: &LinuxSeccomp) -> Result<crate::seccomp::Program> {
    let program = crate::seccomp::compile(profile).map_err(|e| OciError::spec("linux.seccomp", e.to_string()))?;
    if program.notifies() && profile.listener_path().is_none() {
        return Err(OciError::spec("linux.seccomp.listenerPath", "needed by SCMP_ACT_NOTIFY"));
    }
    Ok(program)
}

fn personality(linux: &Linux) -> Option<u64> {
    use oci_spec::runtime::LinuxPersonalityDomain as D;
    linux.personality().as_ref().map(|p| match p.domain() {
        D::PerLinux => 0,
        D::PerLinux32 => 8,
    })
}

/// A path cleaned as text: absolute, no `.`, `..` or doubled slashes. For comparing only, never for opening.
pub(crate) fn lexical(path: &str) -> String {
    use std::path::Component;
    let mut parts: Vec<String> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether a mount may cover something of procfs; refuses what would hide procfs from the steps that rely on it.
fn check_proc(target: &str, fstype: &str, bind: bool) -> std::result::Result<bool, String> {
    if target == "/" {
        return Err("it is the root itself".into());
    }
    let Some(rest) = target.strip_prefix("/proc") else { return Ok(false) };
    match rest.strip_prefix('/') {
        // Whether a bound source is a procfs is seen when it is opened.
        None if rest.is_empty() => {
            if fstype == "proc" || bind {
                Ok(false)
            } else {
                Err("only a procfs may be mounted there".into())
            }
        }
        None => Ok(false),
        Some(inner) if IN_PROC.contains(&inner) => Ok(true),
        Some(_) => Err("lies inside /proc".into()),
    }
}
