//! A policy as classic BPF (kernel Documentation/networking/filter.rst, seccomp_filter.rst). Pure.

use super::numbers::{Abi, X32_BIT};
use super::policy::{Action, Condition, KILL_PROCESS, NO_SUCH_CALL, Policy, Table, Test, Verdict};
use crated_sys::seccomp::Instruction;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// The whole program.
pub(super) fn program(policy: &Policy) -> Vec<Instruction> {
    let mut code = vec![plain(LOAD, ARCHITECTURE)];
    let table = |abi| policy.tables.iter().find(|table| table.abi == abi);
    for abi in [Abi::X86_64, Abi::Aarch64, Abi::X86] {
        let Some(native) = table(abi) else { continue };
        let mut section = vec![plain(LOAD, NUMBER)];
        let own = search(native, policy.default, 0);
        if abi == Abi::X86_64 {
            // Numbers with the bit are x32's, but for -1, with which a tracer skips a call.
            let foreign = match table(Abi::X32) {
                Some(table) => search(table, policy.default, X32_BIT),
                None => vec![plain(RETURN, KILL_PROCESS)],
            };
            let mut high =
                vec![Instruction { code: JUMP_EQUAL, jt: 0, jf: 1, k: u32::MAX }, plain(RETURN, policy.default)];
            high.extend(foreign);
            branch(&mut section, JUMP_GREATER_OR_EQUAL, X32_BIT, own, high);
        } else {
            section.extend(own);
        }
        let rest = std::mem::take(&mut section);
        code.push(Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: abi.audit() });
        code.push(plain(JUMP, rest.len() as u32));
        code.extend(rest);
    }
    code.push(plain(RETURN, KILL_PROCESS));
    code
}

/// `if accumulator OP k { high } else { low }`; both end in a return.
fn branch(code: &mut Vec<Instruction>, operation: u16, k: u32, low: Vec<Instruction>, high: Vec<Instruction>) {
    match u8::try_from(low.len()) {
        Ok(distance) => code.push(Instruction { code: operation, jt: distance, jf: 0, k }),
        Err(_) => {
            code.push(Instruction { code: operation, jt: 0, jf: 1, k });
            code.push(plain(JUMP, low.len() as u32));
        }
    }
    code.extend(low);
    code.extend(high);
}

/// Finds the verdict of the number in the accumulator.
fn search(table: &Table, default: Action, offset: u32) -> Vec<Instruction> {
    let fallback = Verdict::Always(default);
    let none = Verdict::Always(NO_SUCH_CALL);
    // Ranges by their first number, each up to the next one; neighbours differ.
    let mut ranges: Vec<(u32, &Verdict)> = vec![(0, &fallback)];
    let mut push = |start: u32, verdict| match ranges.last_mut() {
        Some((_, last)) if *last == verdict => {}
        Some((first, last)) if *first == start => *last = verdict,
        _ => ranges.push((start, verdict)),
    };
    let mut next = 0;
    for (number, verdict) in &table.verdicts {
        if *number > next {
            push(next, &fallback);
        }
        push(*number, verdict);
        next = number + 1;
    }
    push(next, &fallback);
    if let Some(newest) = table.newest {
        push(newest + 1, &none);
    }
    tree(&ranges, default, offset)
}

/// Instructions that a short jump can pass.
const SHORT: usize = u8::MAX as usize;

/// Finds the range of the number by halves. What is short enough shares its returns, behind it: the kernel's work for a filter
/// goes with its length.
fn tree(ranges: &[(u32, &Verdict)], default: Action, offset: u32) -> Vec<Instruction> {
    if let [(_, verdict)] = ranges {
        return leaf(verdict, default);
    }
    let mut block = Block { code: Vec::new(), default, offset, returns: Vec::new() };
    block.add(ranges);
    if let Some(code) = block.closed() {
        return code;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let mut code = Vec::new();
    let (first, last) = (tree(low, default, offset), tree(high, default, offset));
    branch(&mut code, JUMP_GREATER_OR_EQUAL, high[0].0 + offset, first, last);
    code
}

/// Branches and rules, with the places of jumps to a return that is not written yet: instruction, whether of its `jt`, action.
struct Block {
    code: Vec<Instruction>,
    default: Action,
    offset: u32,
    returns: Vec<(usize, bool, Action)>,
}

impl Block {
    /// Adds the search of one of these ranges.
    fn add(&mut self, ranges: &[(u32, &Verdict)]) {
        if let [(_, verdict)] = ranges {
            self.code.extend(leaf(verdict, self.default));
            return;
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let at = self.code.len();
        self.code.push(plain(JUMP_GREATER_OR_EQUAL, high[0].0 + self.offset));
        for (half, taken) in [(low, false), (high, true)] {
            if let [(_, Verdict::Always(action))] = half {
                self.returns.push((at, taken, *action));
                continue;
            }
            // Too far is noticed at the end.
            let distance = u8::try_from(self.code.len() - at - 1).unwrap_or(u8::MAX);
            if taken {
                self.code[at].jt = distance;
            } else {
                self.code[at].jf = distance;
            }
            self.add(half);
        }
    }

    /// The code with its returns; nothing where a jump would be too long.
    fn closed(mut self) -> Option<Vec<Instruction>> {
        let mut actions: Vec<Action> = Vec::new();
        for (at, taken, action) in std::mem::take(&mut self.returns) {
            let place = actions.iter().position(|known| *known == action).unwrap_or_else(|| {
                actions.push(action);
                actions.len() - 1
            });
            let distance = u8::try_from(self.code.len() + place - at - 1).ok()?;
            if taken {
                self.code[at].jt = distance;
            } else {
                self.code[at].jf = distance;
            }
        }
        self.code.extend(actions.into_iter().map(|action| plain(RETURN, action)));
        (self.code.len() <= SHORT).then_some(self.code)
    }
}

fn leaf(verdict: &Verdict, default: Action) -> Vec<Instruction> {
    match verdict {
        Verdict::Always(action) => vec![plain(RETURN, *action)],
        Verdict::When(rules) => {
            let mut code = Vec::new();
            for (conditions, action) in rules {
                code.extend(rule(conditions, *action));
            }
            code.push(plain(RETURN, default));
            code
        }
    }
}

/// Where a test inside of a rule leads.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    On,
    /// The next condition: this one holds.
    Held,
    /// Behind the rule: it does not hold.
    Failed,
}

/// Returns `action` where all conditions hold, else goes on behind. At most 6 conditions of 5 instructions: short jumps do.
fn rule(conditions: &[Condition], action: Action) -> Vec<Instruction> {
    let mut parts: Vec<Vec<(Instruction, To, To)>> = conditions.iter().map(condition).collect();
    parts.push(vec![(plain(RETURN, action), To::On, To::On)]);
    let total: usize = parts.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(total);
    for part in parts {
        let end = code.len() + part.len();
        for (mut instruction, yes, no) in part {
            let next = code.len() + 1;
            let distance = |to| {
                let target = match to {
                    To::On => next,
                    To::Held => end,
                    To::Failed => total,
                };
                u8::try_from(target - next).expect("a rule has at most 31 instructions")
            };
            (instruction.jt, instruction.jf) = (distance(yes), distance(no));
            code.push(instruction);
        }
    }
    code
}

fn condition(condition: &Condition) -> Vec<(Instruction, To, To)> {
    let low_at = ARGUMENTS + 8 * u32::from(condition.argument) + if cfg!(target_endian = "big") { 4 } else { 0 };
    let high_at = low_at ^ 4;
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let load = |at| (plain(LOAD, at), To::On, To::On);
    let test = |code, k, yes, no| (plain(code, k), yes, no);
    match condition.test {
        Test::Equal => vec![
            load(high_at),
            test(JUMP_EQUAL, high, To::On, To::Failed),
            load(low_at),
            test(JUMP_EQUAL, low, To::Held, To::Failed),
        ],
        Test::NotEqual => vec![
            load(high_at),
            test(JUMP_EQUAL, high, To::On, To::Held),
            load(low_at),
            test(JUMP_EQUAL, low, To::Failed, To::Held),
        ],
        Test::Masked(mask) => vec![
            load(high_at),
            test(AND, (mask >> 32) as u32, To::On, To::On),
            test(JUMP_EQUAL, high, To::On, To::Failed),
            load(low_at),
            test(AND, mask as u32, To::On, To::On),
            test(JUMP_EQUAL, low, To::Held, To::Failed),
        ],
        Test::Greater | Test::GreaterOrEqual => vec![
            load(high_at),
            test(JUMP_GREATER, high, To::Held, To::On),
            test(JUMP_EQUAL, high, To::On, To::Failed),
            load(low_at),
            test(
                if condition.test == Test::Greater { JUMP_GREATER } else { JUMP_GREATER_OR_EQUAL },
                low,
                To::Held,
                To::Failed,
            ),
        ],
        Test::Less | Test::LessOrEqual => vec![
            load(high_at),
            test(JUMP_GREATER, high, To::Failed, To::On),
            test(JUMP_EQUAL, high, To::On, To::Held),
            load(low_at),
            test(
                if condition.test == Test::Less { JUMP_GREATER_OR_EQUAL } else { JUMP_GREATER },
                low,
                To::Failed,
                To::Held,
            ),
        ],
    }
}
