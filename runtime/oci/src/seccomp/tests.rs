//! The compiled program against the meaning of the profile, by an interpreter of BPF, and against the kernel.

use super::numbers::{Abi, X32_BIT};
use super::*;
use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use proptest::prelude::*;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;

/// Runs a filter as the kernel does, with the checks of its verifier.
fn run(filter: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0_u8; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (at, argument) in arguments.iter().enumerate() {
        data[16 + 8 * at..24 + 8 * at].copy_from_slice(&argument.to_ne_bytes());
    }
    let mut accumulator = 0_u32;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = filter[at];
        at += 1;
        let mut jump = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            0x20 => accumulator = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return k,
            code => panic!("code {code:#x}"),
        }
    }
}

fn holds(argument: &LinuxSeccompArg, arguments: [u64; 6]) -> bool {
    let (left, right) = (arguments[argument.index()], argument.value());
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => left == right,
        LinuxSeccompOperator::ScmpCmpNe => left != right,
        LinuxSeccompOperator::ScmpCmpLt => left < right,
        LinuxSeccompOperator::ScmpCmpLe => left <= right,
        LinuxSeccompOperator::ScmpCmpGt => left > right,
        LinuxSeccompOperator::ScmpCmpGe => left >= right,
        LinuxSeccompOperator::ScmpCmpMaskedEq => left & right == argument.value_two().unwrap_or(0) & right,
    }
}

/// What the profile means, written down a second time and as plainly as can be.
fn meaning(profile: &LinuxSeccomp, abi: Abi, number: u32, arguments: [u64; 6]) -> u32 {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let named = |rule: &LinuxSyscall| rule.names().iter().any(|name| abi.number(name) == Some(number));
    let of_call: Vec<_> = rules
        .iter()
        .filter(|rule| named(rule))
        .map(|rule| (rule, rule.action().as_u32(rule.errno_ret())))
        .filter(|(_, action)| *action != default)
        .collect();
    let args = |rule: &LinuxSyscall| rule.args().clone().unwrap_or_default();
    if let Some((_, action)) = of_call.iter().find(|(rule, _)| args(rule).is_empty()) {
        return *action;
    }
    for (rule, action) in of_call {
        let args = args(rule);
        let mut indices: Vec<_> = args.iter().map(|arg| arg.index()).collect();
        indices.sort_unstable();
        let repeated = indices.windows(2).any(|pair| pair[0] == pair[1]);
        let hit = if repeated {
            args.iter().any(|arg| holds(arg, arguments))
        } else {
            args.iter().all(|arg| holds(arg, arguments))
        };
        if hit {
            return action;
        }
    }
    let newest = rules.iter().flat_map(|rule| rule.names()).filter_map(|name| abi.number(name)).max();
    let permissive = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    );
    if !permissive && newest.is_some_and(|newest| number > newest) { ERRNO | 38 } else { default }
}

// Names without a multiplexer on i386, among them numbers that differ and neighbours.
const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "close",
    "stat",
    "fstat",
    "clone",
    "clone3",
    "openat2",
    "personality",
    "faccessat2",
    "what",
];

fn values() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..4, Just(1 << 32), Just((1 << 32) + 1), Just(u64::MAX), Just(u64::from(u32::MAX)), any::<u64>()]
}

fn actions() -> impl Strategy<Value = (LinuxSeccompAction, Option<u32>)> {
    use LinuxSeccompAction as A;
    let action = prop::sample::select(vec![
        A::ScmpActKill,
        A::ScmpActKillProcess,
        A::ScmpActTrap,
        A::ScmpActErrno,
        A::ScmpActTrace,
        A::ScmpActLog,
        A::ScmpActAllow,
    ]);
    (action, prop::option::of(0_u32..100))
}

fn args() -> impl Strategy<Value = LinuxSeccompArg> {
    use LinuxSeccompOperator as O;
    let operator = prop::sample::select(vec![
        O::ScmpCmpEq,
        O::ScmpCmpNe,
        O::ScmpCmpLt,
        O::ScmpCmpLe,
        O::ScmpCmpGt,
        O::ScmpCmpGe,
        O::ScmpCmpMaskedEq,
    ]);
    (0_usize..6, values(), prop::option::of(values()), operator).prop_map(|(index, value, two, operator)| {
        let json = serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": operator});
        serde_json::from_value(json).unwrap()
    })
}

fn rules() -> impl Strategy<Value = LinuxSyscall> {
    let names = prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..4);
    (names, actions(), prop::collection::vec(args(), 0..4)).prop_map(|(names, (action, errno), args)| {
        let mut rule = LinuxSyscall::default();
        rule.set_names(names.into_iter().map(Into::into).collect()).set_action(action).set_errno_ret(errno);
        rule.set_args(Some(args).filter(|args| !args.is_empty()));
        rule
    })
}

fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
    (actions(), prop::collection::vec(rules(), 0..8)).prop_map(|((action, errno), rules)| {
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(action).set_default_errno_ret(errno).set_syscalls(Some(rules));
        profile.set_architectures(Some(vec![Arch::ScmpArchX86, Arch::ScmpArchX32]));
        profile
    })
}

proptest! {
    #[test]
    fn the_program_means_what_the_profile_means(
        profile in profiles(), name in prop::sample::select(NAMES.to_vec()), odd in 0_u32..600,
        arguments in prop::array::uniform6(values()),
    ) {
        let filter = compile_for(&profile, Machine::X86_64).unwrap().filter();
        for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
            for number in [abi.number(name).unwrap_or(odd), odd] {
                let offset = if abi == Abi::X32 { X32_BIT } else { 0 };
                let got = run(&filter, abi.audit(), number + offset, arguments);
                prop_assert_eq!(got, meaning(&profile, abi, number, arguments), "{:?} {}", abi, number);
            }
        }
        let default = profile.default_action().as_u32(profile.default_errno_ret());
        prop_assert_eq!(run(&filter, Abi::X86_64.audit(), u32::MAX, arguments), default);
        prop_assert_eq!(run(&filter, Abi::Aarch64.audit(), odd, arguments), KILL);
        let filter = compile_for(&profile, Machine::Aarch64).unwrap().filter();
        let number = Abi::Aarch64.number(name).unwrap_or(odd);
        prop_assert_eq!(run(&filter, Abi::Aarch64.audit(), number, arguments), meaning(&profile, Abi::Aarch64, number, arguments));
    }

    #[test]
    fn jumps_stay_inside_and_the_end_is_reached(profile in profiles()) {
        let filter = compile_for(&profile, Machine::X86_64).unwrap().filter();
        for (at, instruction) in filter.iter().enumerate() {
            let far = match instruction.code {
                0x05 => instruction.k as usize,
                0x15 | 0x25 | 0x35 => usize::from(instruction.jt.max(instruction.jf)),
                _ => 0,
            };
            prop_assert!(at + 1 + far < filter.len() || instruction.code == 0x06);
        }
        prop_assert_eq!(filter.last().unwrap().code, 0x06);
    }
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).into()).collect()).set_action(action);
    rule
}

fn profile(action: LinuxSeccompAction, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(action).set_syscalls(Some(rules));
    profile
}

#[test]
fn a_socket_call_is_also_met_through_socketcall() {
    let mut profile =
        profile(LinuxSeccompAction::ScmpActAllow, vec![rule(&["socket"], LinuxSeccompAction::ScmpActErrno)]);
    profile.set_architectures(Some(vec![Arch::ScmpArchX86]));
    let filter = compile_for(&profile, Machine::X86_64).unwrap().filter();
    assert_eq!(run(&filter, Abi::X86.audit(), 102, [1, 0, 0, 0, 0, 0]), ERRNO | 1);
    assert_eq!(run(&filter, Abi::X86.audit(), 102, [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&filter, Abi::X86.audit(), 359, [0; 6]), ERRNO | 1);
}

#[test]
fn x32_is_killed_where_it_is_not_listed() {
    let profile = profile(LinuxSeccompAction::ScmpActAllow, vec![]);
    let filter = compile_for(&profile, Machine::X86_64).unwrap().filter();
    assert_eq!(run(&filter, Abi::X86_64.audit(), X32_BIT, [0; 6]), KILL);
    assert_eq!(run(&filter, Abi::X86.audit(), 1, [0; 6]), KILL);
    assert_eq!(run(&filter, Abi::X86_64.audit(), 1, [0; 6]), ALLOW);
}

#[test]
fn flags_are_the_profiles() {
    let mut allow = profile(LinuxSeccompAction::ScmpActAllow, vec![]);
    assert_eq!(compile_for(&allow, Machine::X86_64).unwrap().flags, FLAG_SPEC_ALLOW);
    use LinuxSeccompFilterFlag as F;
    allow.set_flags(Some(vec![
        F::SeccompFilterFlagLog,
        F::SeccompFilterFlagTsync,
        F::SeccompFilterFlagWaitKillableRecv,
    ]));
    assert_eq!(compile_for(&allow, Machine::X86_64).unwrap().flags, FLAG_LOG | FLAG_TSYNC);
    allow.set_syscalls(Some(vec![rule(&["mkdir"], LinuxSeccompAction::ScmpActNotify)]));
    let program = compile_for(&allow, Machine::X86_64).unwrap();
    assert!(program.notifies());
    assert_eq!(program.flags, FLAG_LOG | FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE);
}

#[test]
fn impossible_profiles_are_refused() {
    use LinuxSeccompAction as A;
    let notify = profile(A::ScmpActNotify, vec![]);
    assert!(matches!(compile_for(&notify, Machine::X86_64), Err(Error::Default { .. })));
    let write = profile(A::ScmpActAllow, vec![rule(&["read", "write"], A::ScmpActNotify)]);
    assert!(matches!(compile_for(&write, Machine::X86_64), Err(Error::Rule { .. })));
    let far = serde_json::from_str(r#"{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}"#).unwrap();
    let mut bad = rule(&["read"], A::ScmpActErrno);
    bad.set_args(Some(vec![far]));
    let error = compile_for(&profile(A::ScmpActAllow, vec![bad]), Machine::X86_64).unwrap_err();
    assert_eq!(error.to_string(), "seccomp rule for read: argument 6 is not 0..=5");
    let mut bad = rule(&["read"], A::ScmpActErrno);
    bad.set_errno_ret(Some(5000));
    assert!(compile_for(&profile(A::ScmpActAllow, vec![bad]), Machine::X86_64).is_err());
    let mut many = rule(&["read"], A::ScmpActErrno);
    let args = |value: u64| {
        serde_json::from_value(serde_json::json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"})).unwrap()
    };
    many.set_args(Some((0..2000).map(args).collect()));
    assert!(matches!(compile_for(&profile(A::ScmpActAllow, vec![many]), Machine::X86_64), Err(Error::TooLong { .. })));
}

#[test]
fn the_kernel_takes_the_program_and_obeys() {
    let Some(_) = Machine::native() else {
        eprintln!("skip: no tables for this machine");
        return;
    };
    let mut refuse = rule(&["mkdir", "mkdirat"], LinuxSeccompAction::ScmpActErrno);
    refuse.set_errno_ret(Some(95));
    let program = compile(&profile(LinuxSeccompAction::ScmpActAllow, vec![refuse])).unwrap();
    let path = std::env::temp_dir().join(format!("crated-seccomp-{}", std::process::id()));
    // Without TSYNC a filter is the thread's own and ends with it.
    let outcome = std::thread::spawn(move || {
        crated_sys::seccomp::load(&program.filter(), program.flags).map(|_| std::fs::create_dir(path))
    });
    match outcome.join().unwrap() {
        Ok(made) => assert_eq!(made.unwrap_err().raw_os_error(), Some(95)),
        Err(error) => eprintln!("skip: {error}"),
    }
}

/// Docker's default profile for a container with docker's default capabilities.
fn docker() -> LinuxSeccomp {
    let caps = crated_spec::DEFAULT_CAPABILITIES.into_iter().collect();
    crated_spec::seccomp::Profile::docker().unwrap().resolve(&caps, None).unwrap()
}

/// How many instructions the kernel runs for a call.
fn steps(filter: &[Instruction], arch: u32, number: u32) -> usize {
    let (mut at, mut count) = (0, 0);
    let mut accumulator = 0;
    loop {
        let Instruction { code, jt, jf, k } = filter[at];
        at += 1;
        count += 1;
        let mut jump = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            0x20 => accumulator = if k == 4 { arch } else { number },
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            _ => return count,
        }
    }
}

#[test]
fn dockers_default_profile_refuses_and_permits_what_it_should() {
    if Machine::native() != Some(Machine::X86_64) {
        eprintln!("skip: the profile is resolved for the machine");
        return;
    }
    let filter = compile_for(&docker(), Machine::X86_64).unwrap().filter();
    let call = |name: &str, first: u64| {
        run(&filter, Abi::X86_64.audit(), Abi::X86_64.number(name).unwrap(), [first, 0, 0, 0, 0, 0])
    };
    for name in ["read", "execve", "openat2", "mseal", "ptrace", "chroot"] {
        assert_eq!(call(name, 0), ALLOW, "{name}");
    }
    for name in ["mount", "bpf", "io_uring_setup", "io_uring_enter", "keyctl", "kexec_load", "unshare", "setns"] {
        assert_eq!(call(name, 0), ERRNO | 1, "{name}");
    }
    for (family, action) in [(1, ALLOW), (2, ALLOW), (16, ALLOW), (38, ERRNO | 1), (40, ERRNO | 1)] {
        assert_eq!(call("socket", family), action, "family {family}");
    }
    assert_eq!(call("clone", 0x11), ALLOW);
    assert_eq!(call("clone", 0x1000_0011), ERRNO | 1);
    assert_eq!(call("clone3", 0), ERRNO | 38);
    assert_eq!(run(&filter, Abi::X86_64.audit(), 900, [0; 6]), ERRNO | 38);
    assert_eq!(run(&filter, Abi::X86.audit(), Abi::X86.number("mount").unwrap(), [0; 6]), ERRNO | 1);
    assert_eq!(run(&filter, Abi::X86.audit(), Abi::X86.number("mmap2").unwrap(), [0; 6]), ALLOW);
    let worst = (0..480).map(|number| steps(&filter, Abi::X86_64.audit(), number)).max().unwrap();
    eprintln!("docker's profile: {} instructions, at most {worst} a call", filter.len());
    let read = steps(&filter, Abi::X86_64.audit(), 0);
    assert!(filter.len() < 900 && worst < 100 && read < 20, "{read}");
    eprintln!("read takes {read}");
}
