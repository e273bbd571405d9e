//! Capabilities: docker's default set, names of either spelling, additions and removals.

use crated_types::{Error, Result};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// What a container has unless told otherwise (docker's default set).
pub const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability of the kernel's list (include/uapi/linux/capability.h, up to CAP_CHECKPOINT_RESTORE).
const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// Every capability.
#[must_use]
pub fn all_capabilities() -> Capabilities {
    ALL.into_iter().collect()
}

/// A capability by name, with or without `CAP_`, in any case.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for a name that no kernel has.
pub fn parse_capability(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = ALL.into_iter().find(|known| known.to_string().trim_start_matches("CAP_") == bare);
    known.ok_or_else(|| Error::invalid("capability", format_args!("{name:?} is not known")))
}

/// The set after additions and removals, as docker computes it: with `ALL` added the removals count from all; with `ALL`
/// dropped only additions count.
pub(crate) fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<Capabilities> {
    let parse = |names: &[String]| -> Result<(bool, Capabilities)> {
        let mut all = false;
        let mut set = Capabilities::new();
        for name in names {
            if matches!(name.to_ascii_uppercase().as_str(), "ALL" | "CAP_ALL") {
                all = true;
            } else {
                set.insert(parse_capability(name)?);
            }
        }
        Ok((all, set))
    };
    let ((add_all, add), (drop_all, drop)) = (parse(add)?, parse(drop)?);
    if privileged {
        return Ok(all_capabilities());
    }
    let base = match (add_all, drop_all) {
        (true, _) => all_capabilities(),
        (false, true) => Capabilities::new(),
        (false, false) => DEFAULT_CAPABILITIES.into_iter().collect(),
    };
    // What is named in both lists is added: docker drops first.
    Ok(base.into_iter().filter(|capability| !drop.contains(capability)).chain(add).collect())
}

/// The five sets of a process: inheritable and ambient stay empty (CVE-2022-24769), and a user other than root starts
/// without any in force, as after its execve.
pub(crate) fn sets(bounding: Capabilities, uid: u32) -> LinuxCapabilities {
    let in_force = if uid == 0 { bounding.clone() } else { Capabilities::new() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding))
        .set_effective(Some(in_force.clone()))
        .set_permitted(Some(in_force))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn additions_and_removals_are_dockers() {
        let resolve = |add: &[&str], drop: &[&str]| resolve(&names(add), &names(drop), false).unwrap();
        assert_eq!(resolve(&[], &[]).len(), 14);
        assert_eq!(resolve(&[], &["all"]).len(), 0);
        assert_eq!(resolve(&["NET_ADMIN"], &["ALL"]), [Capability::NetAdmin].into_iter().collect());
        assert_eq!(resolve(&["ALL"], &["cap_sys_admin"]).len(), 40);
        let set = resolve(&["sys_time"], &["CAP_MKNOD"]);
        assert!(set.contains(&Capability::SysTime) && !set.contains(&Capability::Mknod) && set.len() == 14);
        assert!(super::resolve(&names(&["what"]), &[], true).is_err());
        assert_eq!(super::resolve(&[], &names(&["ALL"]), true).unwrap().len(), 41);
    }

    #[test]
    fn every_name_is_known_in_both_spellings() {
        for capability in ALL {
            let name = serde_json::to_string(&capability).unwrap().replace('"', "");
            assert!(name.starts_with("CAP_"));
            assert_eq!(parse_capability(&name).unwrap(), capability);
            assert_eq!(parse_capability(&name[4..].to_lowercase()).unwrap(), capability);
        }
    }
}
