//! Seccomp: an OCI profile becomes a program of classic BPF that the kernel runs at every system call.
//!
//! What a profile means is libseccomp's and runc's reading of it, for profiles are written against those:
//! - rules whose action is the default action say nothing and are dropped; names that no table has are skipped;
//! - of the rules of one system call an unconditional one wins, else the first whose conditions all hold;
//! - a rule with several conditions on the same argument is one rule a condition;
//! - where the default action refuses, numbers above the newest one that the profile names answer `ENOSYS`, so that C libraries
//!   fall back instead of taking `EPERM` for an answer;
//! - foreign architectures are killed.
//!
//! The program is a binary search over ranges of numbers with the same verdict: about seven comparisons a call for
//! docker's default profile. Compiling is pure: cache the [`Program`] by the profile.

mod assemble;
mod numbers;
mod policy;

use crated_sys::seccomp::Instruction;
use crated_types::Fault;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use serde::{Deserialize, Serialize};

/// `SECCOMP_FILTER_FLAG_*` (include/uapi/linux/seccomp.h).
const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE: u32 = 1 << 5;
/// `BPF_MAXINSNS`.
const INSTRUCTIONS_MAX: usize = 4096;

/// Why a profile cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The part of a rule makes no sense.
    #[error("seccomp rule for {syscall}: {reason}")]
    Rule {
        /// The first name of the rule.
        syscall: String,
        /// Why.
        reason: String,
    },
    /// The default action makes no sense.
    #[error("seccomp default action: {reason}")]
    Default {
        /// Why.
        reason: String,
    },
    /// The kernel takes no program of this length.
    #[error("seccomp profile compiles to {length} instructions, the kernel takes 4096")]
    TooLong {
        /// How many there would be.
        length: usize,
    },
}

impl From<Error> for crated_types::Error {
    fn from(error: Error) -> Self {
        Self::new(Fault::Invalid, "linux.seccomp").at("seccomp").caused_by(error)
    }
}

/// A machine that containers run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    /// x86-64, with i386 and x32 where a profile lists them.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Machine {
    /// This one; `None` where we have no tables, and a profile cannot be enforced.
    #[must_use]
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }
}

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Program {
    /// The kernel's `struct sock_filter`, one after the other, in the machine's byte order.
    pub instructions: Vec<[u8; 8]>,
    /// Flags for seccomp(2).
    pub flags: u32,
}

impl Program {
    /// Whether loading it answers a descriptor for notifications (`SCMP_ACT_NOTIFY`).
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }

    /// The instructions for [`crated_sys::seccomp::load`].
    #[must_use]
    pub fn filter(&self) -> Vec<Instruction> {
        self.instructions
            .iter()
            .map(|bytes| Instruction {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect()
    }
}

/// Compiles a profile for this machine.
///
/// # Errors
/// See [`compile_for`]; and where we have no tables for this machine.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let reason = format!("no tables of system calls for {}", std::env::consts::ARCH);
    compile_for(profile, Machine::native().ok_or(Error::Default { reason })?)
}

/// Compiles a profile for a machine.
///
/// # Errors
/// Impossible conditions and error numbers, `SCMP_ACT_NOTIFY` where it would lock up, and programs that are too long.
pub fn compile_for(profile: &LinuxSeccomp, machine: Machine) -> Result<Program, Error> {
    let policy = policy::Policy::new(profile, machine)?;
    let code = assemble::program(&policy);
    if code.len() > INSTRUCTIONS_MAX {
        return Err(Error::TooLong { length: code.len() });
    }
    let instructions = code
        .iter()
        .map(|instruction| {
            let ([a, b], [c, d, e, f]) = (instruction.code.to_ne_bytes(), instruction.k.to_ne_bytes());
            [a, b, instruction.jt, instruction.jf, c, d, e, f]
        })
        .collect();
    Ok(Program { instructions, flags: flags(profile, policy.notifies) })
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> u32 {
    // As runc: a profile that says nothing of flags does not turn off speculation.
    let Some(wanted) = profile.flags() else {
        return FLAG_SPEC_ALLOW | if notifies { FLAG_NEW_LISTENER } else { 0 };
    };
    let mut flags = if notifies { FLAG_NEW_LISTENER } else { 0 };
    for flag in wanted {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // Init has one thread: there is nothing to synchronise, and the kernel refuses it beside a listener.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => {
                if notifies {
                    0
                } else {
                    FLAG_TSYNC
                }
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                if notifies {
                    FLAG_WAIT_KILLABLE
                } else {
                    0
                }
            }
        };
    }
    flags
}

#[cfg(test)]
mod tests;
