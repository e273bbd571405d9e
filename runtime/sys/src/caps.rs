//! Capabilities: the sets of a thread and the names of all.

use crate::{
    error::{Context, Errno, Result, SysError},
    raw,
};

/// Names by number (linux/capability.h), up to Linux 5.9; later kernels have no more so far.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The number of a capability by its name, with or without `CAP_`, in any case.
pub fn number(name: &str) -> Option<u8> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| &n[4..] == short).map(|n| n as u8)
}

/// A set of capabilities, one a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CapSet(pub u64);

impl CapSet {
    /// CAP_SYS_ADMIN alone.
    pub const SYS_ADMIN: CapSet = CapSet(1 << 21);

    /// Whether capability `number` is in it.
    pub fn contains(self, number: u8) -> bool {
        self.0 >> number & 1 == 1
    }
    /// Adds capability `number`.
    pub fn insert(&mut self, number: u8) {
        self.0 |= 1 << number;
    }
    /// Both sets.
    pub fn union(self, other: CapSet) -> CapSet {
        CapSet(self.0 | other.0)
    }
    /// The numbers in it.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64u8).filter(move |n| self.contains(*n))
    }
}

/// The three sets that capset(2) knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What counts now.
    pub effective: CapSet,
    /// What may be made effective.
    pub permitted: CapSet,
    /// What survives execve of a file that has it as inheritable. Best empty.
    pub inheritable: CapSet,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// The sets of the calling thread.
pub fn get() -> Result<Sets> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and the two data structs that version 3 fills live through the call.
    unsafe { raw::call(libc::SYS_capget, [&raw const header as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0]) }
        .of("capget", || "self")?;
    let join = |low: u32, high: u32| CapSet(u64::from(high) << 32 | u64::from(low));
    Ok(Sets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Sets the sets of the calling thread.
pub fn set(sets: Sets) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (sets.effective.0 >> shift) as u32,
        permitted: (sets.permitted.0 >> shift) as u32,
        inheritable: (sets.inheritable.0 >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and the two data structs that version 3 reads live through the call.
    unsafe { raw::call(libc::SYS_capset, [&raw const header as usize, data.as_ptr() as usize, 0, 0, 0, 0]) }
        .map(drop)
        .of("capset", || format!("eff {:x} prm {:x} inh {:x}", sets.effective.0, sets.permitted.0, sets.inheritable.0))
}

/// Whether the kernel knows capability `number`, and whether it is in the bounding set.
fn bounding_has(number: u8) -> Option<bool> {
    match prctl(libc::PR_CAPBSET_READ, u64::from(number), 0) {
        Ok(n) => Some(n == 1),
        Err(_) => None,
    }
}

/// All capabilities that the running kernel knows.
pub fn all() -> CapSet {
    let mut set = CapSet::default();
    (0..64u8).take_while(|n| bounding_has(*n).is_some()).for_each(|n| set.insert(n));
    set
}

/// The bounding set of the calling thread.
pub fn bounding() -> CapSet {
    let mut set = CapSet::default();
    (0..64u8)
        .map_while(|n| bounding_has(n).map(|has| (n, has)))
        .filter(|(_, has)| *has)
        .for_each(|(n, _)| set.insert(n));
    set
}

/// Drops all but `keep` from the bounding set, for good.
pub fn limit_bounding(keep: CapSet) -> Result<()> {
    for number in 0..64u8 {
        if keep.contains(number) {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, u64::from(number), 0) {
            // The kernel knows no capability of this number, nor a higher one.
            Err(Errno::EINVAL) => break,
            other => {
                other.of("prctl", || format!("PR_CAPBSET_DROP, {}", NAMES.get(usize::from(number)).unwrap_or(&"?")))?
            }
        };
    }
    Ok(())
}

/// Makes `set` the ambient set; each must be permitted and inheritable.
pub fn set_ambient(set: CapSet) -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).of("prctl", || "PR_CAP_AMBIENT_CLEAR_ALL")?;
    for number in set.iter() {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(number))
            .of("prctl", || format!("PR_CAP_AMBIENT_RAISE, {number}"))?;
    }
    Ok(())
}

/// Names to a set; the answer's error is the first name that no kernel knows.
pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<CapSet> {
    let mut set = CapSet::default();
    for name in names {
        set.insert(
            number(name)
                .ok_or_else(|| SysError::new("capset", format!("{name:?}: no such capability"), Errno::EINVAL))?,
        );
    }
    Ok(set)
}

pub(crate) fn prctl(option: i32, a: u64, b: u64) -> std::result::Result<usize, Errno> {
    // SAFETY: the options used in this crate take numbers, no pointers, here.
    unsafe { raw::call(libc::SYS_prctl, [option as usize, a as usize, b as usize, 0, 0, 0]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernel_header() {
        assert_eq!(number("cap_sys_admin"), Some(21));
        assert_eq!(number("CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("CAP_CAP_KILL"), None);
        assert!(get().unwrap().permitted.0 & !all().0 == 0);
        assert!(parse(["CAP_KILL", "bogus"]).unwrap_err().operands.contains("bogus"));
    }
}
