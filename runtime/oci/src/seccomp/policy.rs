//! What a profile decides: for each architecture and number an action, or conditions on the arguments. Pure.

use super::numbers::Abi;
use super::{Error, Machine};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall};
use std::collections::BTreeMap;

/// `SECCOMP_RET_KILL_PROCESS`.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
const ERRNO_MAX: u32 = 4095;

/// What the kernel is told to do, as `SECCOMP_RET_*` with its data.
pub(super) type Action = u32;

/// A profile, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) default: Action,
    pub(super) tables: Vec<Table>,
    pub(super) notifies: bool,
}

/// The decisions of one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) abi: Abi,
    /// Without [`super::numbers::X32_BIT`].
    pub(super) verdicts: BTreeMap<u32, Verdict>,
    /// Numbers above this one answer `ENOSYS`.
    pub(super) newest: Option<u32>,
}

/// The decision about one number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    Always(Action),
    /// The first whose conditions all hold, else the default.
    When(Vec<(Vec<Condition>, Action)>),
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    /// 0..=5.
    pub(super) argument: u8,
    pub(super) test: Test,
    pub(super) value: u64,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal after it was masked.
    Masked(u64),
}

pub(super) const NO_SUCH_CALL: Action = 0x0005_0000 | ENOSYS;

impl Policy {
    pub(super) fn new(profile: &LinuxSeccomp, machine: Machine) -> Result<Self, Error> {
        let errno = profile.default_errno_ret();
        let default = action(profile.default_action(), errno).map_err(|reason| Error::Default { reason })?;
        if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
            // The program that hands the descriptor over would be stopped by its own filter.
            return Err(Error::Default { reason: "SCMP_ACT_NOTIFY cannot be the default".into() });
        }
        let mut notifies = false;
        let mut rules = Vec::new();
        for call in profile.syscalls().iter().flatten() {
            let rule = Rule::new(call)?;
            if call.action() == LinuxSeccompAction::ScmpActNotify {
                notifies = true;
                if call.names().iter().any(|name| name == "write") {
                    let reason = "SCMP_ACT_NOTIFY cannot be used for write".into();
                    return Err(Error::Rule { syscall: "write".into(), reason });
                }
            }
            rules.push((call.names().as_slice(), rule));
        }
        let refuses = !matches!(
            profile.default_action(),
            LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
        );
        let tables = abis(profile, machine)
            .into_iter()
            .map(|abi| Table::new(abi, &rules, default, refuses && default != NO_SUCH_CALL))
            .collect();
        Ok(Self { default, tables, notifies })
    }
}

struct Rule {
    action: Action,
    /// Alternatives; one without conditions always holds.
    alternatives: Vec<Vec<Condition>>,
}

impl Rule {
    fn new(call: &LinuxSyscall) -> Result<Self, Error> {
        let syscall = || call.names().first().cloned().unwrap_or_default();
        let bad = |reason| Error::Rule { syscall: syscall(), reason };
        let action = action(call.action(), call.errno_ret()).map_err(bad)?;
        let mut conditions = Vec::new();
        for argument in call.args().iter().flatten() {
            let index = u8::try_from(argument.index()).ok().filter(|index| *index < 6);
            let index = index.ok_or_else(|| bad(format!("argument {} is not 0..=5", argument.index())))?;
            let (value, two) = (argument.value(), argument.value_two().unwrap_or(0));
            let (test, value) = match argument.op() {
                LinuxSeccompOperator::ScmpCmpEq => (Test::Equal, value),
                LinuxSeccompOperator::ScmpCmpNe => (Test::NotEqual, value),
                LinuxSeccompOperator::ScmpCmpLt => (Test::Less, value),
                LinuxSeccompOperator::ScmpCmpLe => (Test::LessOrEqual, value),
                LinuxSeccompOperator::ScmpCmpGt => (Test::Greater, value),
                LinuxSeccompOperator::ScmpCmpGe => (Test::GreaterOrEqual, value),
                LinuxSeccompOperator::ScmpCmpMaskedEq => (Test::Masked(value), two & value),
            };
            conditions.push(Condition { argument: index, test, value });
        }
        let repeated = (1..conditions.len())
            .any(|at| conditions[..at].iter().any(|earlier| earlier.argument == conditions[at].argument));
        let alternatives =
            if repeated { conditions.into_iter().map(|condition| vec![condition]).collect() } else { vec![conditions] };
        Ok(Self { action, alternatives })
    }
}

impl Table {
    fn new(abi: Abi, rules: &[(&[String], Rule)], default: Action, refuses: bool) -> Self {
        let mut table = Self { abi, verdicts: BTreeMap::new(), newest: None };
        for (names, rule) in rules {
            for name in *names {
                let Some(number) = abi.number(name) else { continue };
                if refuses {
                    table.newest = table.newest.max(Some(number));
                }
                if rule.action == default {
                    continue;
                }
                for conditions in &rule.alternatives {
                    table.add(number, conditions.clone(), rule.action);
                }
                // The arguments of the call itself are behind a pointer then, out of a filter's reach.
                if let Some((number, call)) = abi.multiplexed(name)
                    && rule.alternatives == [[]]
                {
                    let which = Condition { argument: 0, test: Test::Equal, value: call };
                    table.add(number, vec![which], rule.action);
                }
            }
        }
        table
    }

    fn add(&mut self, number: u32, conditions: Vec<Condition>, action: Action) {
        let verdict = self.verdicts.entry(number).or_insert_with(|| Verdict::When(Vec::new()));
        match verdict {
            Verdict::Always(_) => {}
            _ if conditions.is_empty() => *verdict = Verdict::Always(action),
            Verdict::When(rules) => rules.push((conditions, action)),
        }
    }
}

/// The architectures that a filter serves: the machine's own, and those of its relatives that the profile lists.
fn abis(profile: &LinuxSeccomp, machine: Machine) -> Vec<Abi> {
    let listed = |arch| profile.architectures().as_ref().is_some_and(|all| all.contains(&arch));
    match machine {
        Machine::Aarch64 => vec![Abi::Aarch64],
        Machine::X86_64 => {
            let mut abis = vec![Abi::X86_64];
            if listed(Arch::ScmpArchX86) {
                abis.push(Abi::X86);
            }
            if listed(Arch::ScmpArchX32) {
                abis.push(Abi::X32);
            }
            abis
        }
    }
}

/// `SECCOMP_RET_*` (include/uapi/linux/seccomp.h).
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, String> {
    let data = || match errno {
        Some(errno) if errno > ERRNO_MAX => Err(format!("error number {errno} is above {ERRNO_MAX}")),
        errno => Ok(errno.unwrap_or(EPERM)),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | data()?,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | data()?,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    })
}
