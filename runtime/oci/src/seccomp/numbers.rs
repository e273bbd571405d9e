//! Numbers of system calls by architecture, from the kernel's tables.

mod aarch64;
mod x32;
mod x86;
mod x86_64;

/// An architecture as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
}

/// The bit that marks a number as x32's (`__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// `AUDIT_ARCH_*` (include/uapi/linux/audit.h); x32 shares x86-64's.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The number of a call, without [`X32_BIT`].
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let table = self.table();
        table.binary_search_by_key(&name, |(name, _)| name).ok().map(|at| table[at].1)
    }

    pub(super) const fn table(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::X86_64 => x86_64::TABLE,
            Self::X86 => x86::TABLE,
            Self::X32 => x32::TABLE,
            Self::Aarch64 => aarch64::TABLE,
        }
    }

    /// On i386 a socket or System V IPC call can also be made through one call whose first argument tells which
    /// (include/uapi/linux/net.h, include/uapi/linux/ipc.h): its number and that argument.
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, u64)> {
        if self != Self::X86 {
            return None;
        }
        const SOCKET: &[&str] = &[
            "socket",
            "bind",
            "connect",
            "listen",
            "accept",
            "getsockname",
            "getpeername",
            "socketpair",
            "send",
            "recv",
            "sendto",
            "recvfrom",
            "shutdown",
            "setsockopt",
            "getsockopt",
            "sendmsg",
            "recvmsg",
            "accept4",
            "recvmmsg",
            "sendmmsg",
        ];
        const IPC: &[(&str, u64)] = &[
            ("semop", 1),
            ("semget", 2),
            ("semctl", 3),
            ("semtimedop", 4),
            ("msgsnd", 11),
            ("msgrcv", 12),
            ("msgget", 13),
            ("msgctl", 14),
            ("shmat", 21),
            ("shmdt", 22),
            ("shmget", 23),
            ("shmctl", 24),
        ];
        if let Some(at) = SOCKET.iter().position(|known| *known == name) {
            return Some((self.number("socketcall")?, at as u64 + 1));
        }
        let (_, call) = IPC.iter().find(|(known, _)| *known == name)?;
        Some((self.number("ipc")?, *call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_right_at_known_points() {
        for abi in [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64] {
            assert!(abi.table().is_sorted_by(|a, b| a.0 < b.0), "{abi:?}");
            assert_eq!(abi.number("clone3"), Some(435));
            assert_eq!(abi.number("nonsense"), None);
        }
        assert_eq!(Abi::X86_64.number("read"), Some(0));
        assert_eq!(Abi::X86.number("socketcall"), Some(102));
        assert_eq!(Abi::X32.number("execve"), Some(520));
        assert_eq!(Abi::Aarch64.number("openat"), Some(56));
        assert_eq!(Abi::Aarch64.number("open"), None);
        assert_eq!(Abi::X86.multiplexed("socket"), Some((102, 1)));
        assert_eq!(Abi::X86.multiplexed("shmctl"), Some((117, 24)));
        assert_eq!(Abi::X86_64.multiplexed("socket"), None);
    }
}
