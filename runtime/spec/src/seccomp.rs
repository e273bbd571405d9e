//! Seccomp profiles in docker's form, with parts that depend on capabilities, architecture and kernel, to the OCI form.

use crate::caps::parse_capability;
use crated_types::{Error, Fault, Result};
use oci_spec::runtime::{Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSyscall};
use serde::Deserialize;
use std::sync::OnceLock;

/// Docker's default profile, as facts: which calls, under which conditions. AF_ALG, AF_VSOCK and io_uring are not in it.
pub const DOCKER_DEFAULT: &str = include_str!("data/seccomp.json");
/// Longest profile that is parsed, in bytes.
pub const PROFILE_MAX: usize = 4 << 20;

/// A profile in docker's form; the OCI form is the part of it without conditions.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<Family>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    listener_path: Option<std::path::PathBuf>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Family {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Rule {
    /// The old form with one name a rule.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    #[serde(default, rename = "errnoRet")]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<oci_spec::runtime::LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// This machine, as Go and as seccomp name it.
fn native() -> Option<(&'static str, Arch)> {
    match std::env::consts::ARCH {
        "x86_64" => Some(("amd64", Arch::ScmpArchX86_64)),
        "aarch64" => Some(("arm64", Arch::ScmpArchAarch64)),
        "s390x" => Some(("s390x", Arch::ScmpArchS390x)),
        "riscv64" => Some(("riscv64", Arch::ScmpArchRiscv64)),
        "powerpc64" => Some(("ppc64le", Arch::ScmpArchPpc64le)),
        "loongarch64" => Some(("loong64", Arch::ScmpArchLoongarch64)),
        _ => None,
    }
}

impl Profile {
    /// Docker's default.
    ///
    /// # Errors
    /// None: a test holds that the text parses.
    pub fn docker() -> Result<&'static Self> {
        static DEFAULT: OnceLock<Profile> = OnceLock::new();
        if let Some(profile) = DEFAULT.get() {
            return Ok(profile);
        }
        let profile = Self::parse(DOCKER_DEFAULT)?;
        Ok(DEFAULT.get_or_init(|| profile))
    }

    /// Parses a profile of docker's or of the OCI form.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for what is no profile.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > PROFILE_MAX {
            return Err(Error::invalid("seccomp", format_args!("the profile is longer than {PROFILE_MAX} bytes")));
        }
        let profile: Self = serde_json::from_str(text)
            .map_err(|error| Error::new(Fault::Invalid, "seccomp profile").caused_by(error))?;
        if profile.architectures.as_ref().is_some_and(|list| !list.is_empty())
            && profile.arch_map.as_ref().is_some_and(|list| !list.is_empty())
        {
            return Err(Error::invalid("seccomp", "the profile has both architectures and archMap"));
        }
        Ok(profile)
    }

    /// The OCI form for a container with these capabilities on this machine; `kernel` as in
    /// [`crate::Options::kernel`].
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a capability or kernel version that makes no sense.
    pub fn resolve(&self, caps: &Capabilities, kernel: Option<(u32, u32)>) -> Result<LinuxSeccomp> {
        let native = native();
        let mut architectures = self.architectures.clone().unwrap_or_default();
        for family in self.arch_map.iter().flatten() {
            if native.is_some_and(|(_, arch)| arch == family.architecture) {
                architectures.push(family.architecture);
                architectures.extend(family.sub_architectures.iter().flatten().copied());
            }
        }
        let mut syscalls = Vec::new();
        for rule in self.syscalls.iter().flatten() {
            let arch = native.map_or("", |(name, _)| name);
            if rule.excludes.as_ref().map_or(Ok(false), |condition| condition.excludes(caps, arch, kernel))?
                || !rule.includes.as_ref().map_or(Ok(true), |condition| condition.includes(caps, arch, kernel))?
            {
                continue;
            }
            let names: Vec<String> = rule.name.iter().chain(rule.names.iter().flatten()).cloned().collect();
            if names.is_empty() {
                return Err(Error::invalid("seccomp", "a rule of the profile names no system call"));
            }
            let mut call = LinuxSyscall::default();
            call.set_names(names)
                .set_action(rule.action)
                .set_errno_ret(rule.errno_ret)
                .set_args(rule.args.clone().filter(|args| !args.is_empty()));
            syscalls.push(call);
        }
        let mut filter = LinuxSeccomp::default();
        filter
            .set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno_ret)
            .set_architectures(Some(architectures).filter(|list| !list.is_empty()))
            .set_flags(self.flags.clone())
            .set_listener_path(self.listener_path.clone())
            .set_listener_metadata(self.listener_metadata.clone())
            .set_syscalls(Some(syscalls));
        Ok(filter)
    }
}

impl Condition {
    /// All that is said must hold: one of the architectures, every capability, the kernel.
    fn includes(&self, caps: &Capabilities, arch: &str, kernel: Option<(u32, u32)>) -> Result<bool> {
        for name in self.caps.iter().flatten() {
            if !caps.contains(&parse_capability(name)?) {
                return Ok(false);
            }
        }
        let arches = self.arches.as_deref().unwrap_or_default();
        if !arches.is_empty() && !arches.iter().any(|known| known == arch) {
            return Ok(false);
        }
        Ok(self.new_enough(kernel)?.unwrap_or(true))
    }

    /// Any of what is said is enough.
    fn excludes(&self, caps: &Capabilities, arch: &str, kernel: Option<(u32, u32)>) -> Result<bool> {
        for name in self.caps.iter().flatten() {
            if caps.contains(&parse_capability(name)?) {
                return Ok(true);
            }
        }
        Ok(self.arches.iter().flatten().any(|known| known == arch) || self.new_enough(kernel)?.unwrap_or(false))
    }

    fn new_enough(&self, kernel: Option<(u32, u32)>) -> Result<Option<bool>> {
        let Some(text) = &self.min_kernel else { return Ok(None) };
        let bad = || Error::invalid("seccomp", format_args!("minKernel {text:?} is not like 4.8"));
        let (major, minor) = text.split_once('.').ok_or_else(bad)?;
        let wanted = (major.parse().map_err(|_| bad())?, minor.parse().map_err(|_| bad())?);
        Ok(Some(kernel.is_none_or(|kernel| kernel >= wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::{DEFAULT_CAPABILITIES, all_capabilities};

    fn allowed(filter: &LinuxSeccomp, name: &str) -> bool {
        filter.syscalls().iter().flatten().any(|call| {
            call.action() == LinuxSeccompAction::ScmpActAllow && call.names().iter().any(|known| known == name)
        })
    }

    #[test]
    fn dockers_profile_follows_capabilities() {
        let profile = Profile::docker().unwrap();
        let plain = profile.resolve(&DEFAULT_CAPABILITIES.into_iter().collect(), None).unwrap();
        for name in ["read", "execve", "chroot", "ptrace", "clone", "socket", "personality"] {
            assert!(allowed(&plain, name), "{name}");
        }
        for name in [
            "mount",
            "bpf",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "keyctl",
            "add_key",
            "kexec_load",
            "unshare",
            "clone3",
            "swapon",
            "userfaultfd",
            "init_module",
        ] {
            assert!(!allowed(&plain, name), "{name}");
        }
        let full = profile.resolve(&all_capabilities(), Some((3, 0))).unwrap();
        for name in ["mount", "bpf", "clone3", "unshare", "init_module", "ptrace"] {
            assert!(allowed(&full, name), "{name}");
        }
        let no_chroot = profile.resolve(&Capabilities::new(), Some((4, 7))).unwrap();
        assert!(!allowed(&no_chroot, "chroot") && !allowed(&no_chroot, "ptrace"));
    }

    #[test]
    fn sockets_of_the_kernels_crypto_and_of_hypervisors_are_refused() {
        let filter = Profile::docker().unwrap().resolve(&all_capabilities(), None).unwrap();
        let families = |family: u64| {
            filter.syscalls().iter().flatten().filter(|call| call.names() == &["socket"]).any(|call| {
                let args = call.args().clone().unwrap();
                match args[0].op() {
                    oci_spec::runtime::LinuxSeccompOperator::ScmpCmpLt => family < args[0].value(),
                    _ => family == args[0].value(),
                }
            })
        };
        // AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_XDP; AF_ALG, AF_VSOCK, AF_DECnet.
        assert!([1, 2, 10, 16, 17, 44].into_iter().all(families));
        assert!(![38, 40, 12].into_iter().any(families));
    }

    #[test]
    fn conditions_are_read_as_docker_reads_them() {
        let profile = |condition: &str| {
            let text = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"name":"x","action":"SCMP_ACT_ALLOW",{condition}}}]}}"#
            );
            Profile::parse(&text).unwrap().resolve(&DEFAULT_CAPABILITIES.into_iter().collect(), Some((5, 10)))
        };
        let holds = |condition: &str| allowed(&profile(condition).unwrap(), "x");
        let arch = native().unwrap().0;
        assert!(holds(r#""includes":{}"#) && holds(r#""includes":{"minKernel":"5.10"}"#));
        assert!(!holds(r#""includes":{"minKernel":"5.11"}"#) && !holds(r#""includes":{"minKernel":"6.0"}"#));
        assert!(holds(&format!(r#""includes":{{"arches":["z","{arch}"],"caps":["CAP_KILL"]}}"#)));
        assert!(!holds(r#""includes":{"caps":["CAP_KILL","CAP_BPF"]}"#));
        assert!(!holds(r#""excludes":{"caps":["CAP_BPF","CAP_KILL"]}"#) && holds(r#""excludes":{"caps":["CAP_BPF"]}"#));
        assert!(!holds(&format!(r#""excludes":{{"arches":["{arch}"]}}"#)));
        assert!(profile(r#""includes":{"caps":["CAP_WHAT"]}"#).is_err());
        assert!(profile(r#""includes":{"minKernel":"x"}"#).is_err());
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"defaultAction":"SCMP_ACT_WHAT"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
        ] {
            assert_eq!(Profile::parse(text).unwrap_err().fault(), Fault::Invalid, "{text}");
        }
    }
}
