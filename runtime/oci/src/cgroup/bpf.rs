//! The eBPF program by which cgroup v2 guards devices (`BPF_PROG_TYPE_CGROUP_DEVICE`), made from a state of rules. Pure.

use super::devices::{MKNOD, READ, State, WRITE};

// struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, access_type = access << 16 | type
// (include/uapi/linux/bpf.h).
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

// Operation codes (Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const AND_VALUE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

// Registers: r1 comes with the context; the rest we choose.
const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// One instruction; a 64-bit number in little-endian order, which both our architectures use.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    code as u64 | (to as u64) << 8 | (from as u64) << 12 | (offset as u16 as u64) << 16 | (value as u32 as u64) << 32
}

/// The program that answers 1 where `state` permits an access and 0 where not.
pub(super) fn program(state: &State) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, TYPE, SCRATCH, 0, 0),
        instruction(LOAD_WORD, MAJOR, SCRATCH, 4, 0),
        instruction(LOAD_WORD, MINOR, SCRATCH, 8, 0),
        instruction(MOVE, ACCESS, TYPE, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(AND_VALUE, TYPE, 0, 0, 0xffff),
    ];
    for (selector, access) in &state.exceptions {
        // Each test that fails jumps behind the block; the distance is patched in when the block is complete.
        let mut tests = vec![(JUMP_NOT_EQUAL, TYPE, if selector.block { TYPE_BLOCK } else { TYPE_CHAR })];
        for (register, number) in [(MAJOR, selector.major), (MINOR, selector.minor)] {
            if let Some(number) = number {
                // Kernel numbers have 12 and 20 bits; a larger one matches nothing, and so does -1.
                tests.push((JUMP_NOT_EQUAL, register, i32::try_from(number).unwrap_or(-1)));
            }
        }
        let held = bits(*access);
        let mut block: Vec<u64> = Vec::new();
        let length = tests.len() + 3 + 2;
        for (code, register, value) in tests {
            let rest = length - block.len() - 1;
            block.push(instruction(code, register, 0, rest as i16, value));
        }
        block.push(instruction(MOVE, SCRATCH, ACCESS, 0, 0));
        if state.allow {
            // Denied where it has any of the bits.
            block.push(instruction(AND_VALUE, SCRATCH, 0, 0, held));
            block.push(instruction(JUMP_EQUAL, SCRATCH, 0, 2, 0));
        } else {
            // Allowed where it has no other bits.
            block.push(instruction(AND_VALUE, SCRATCH, 0, 0, !held & 7));
            block.push(instruction(JUMP_NOT_EQUAL, SCRATCH, 0, 2, 0));
        }
        block.push(instruction(MOVE_VALUE, ANSWER, 0, 0, i32::from(!state.allow)));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        code.extend(block);
    }
    code.push(instruction(MOVE_VALUE, ANSWER, 0, 0, i32::from(state.allow)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

fn bits(access: u8) -> i32 {
    [(READ, ACCESS_READ), (WRITE, ACCESS_WRITE), (MKNOD, ACCESS_MKNOD)]
        .into_iter()
        .filter(|(ours, _)| access & ours != 0)
        .fold(0, |bits, (_, theirs)| bits | theirs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::devices::tests::states;
    use proptest::prelude::*;

    /// Runs the few instructions that [`program`] uses.
    fn run(code: &[u64], block: bool, major: u32, minor: u32, access: u8) -> u64 {
        let kind = if block { TYPE_BLOCK } else { TYPE_CHAR };
        let context = [(bits(access) << 16 | kind) as u32, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let word = code[at];
            let (to, from) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, value) = ((word >> 16) as i16, (word >> 32) as i32);
            at += 1;
            let mut jump = |taken: bool| {
                if taken {
                    at = at.strict_add_signed(offset as isize)
                }
            };
            match word as u8 {
                LOAD_WORD => registers[to] = u64::from(context[offset as usize / 4]),
                MOVE => registers[to] = registers[from],
                MOVE_VALUE => registers[to] = value as i64 as u64,
                AND_VALUE => registers[to] &= value as i64 as u64,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP_EQUAL => jump(registers[to] == value as i64 as u64),
                JUMP_NOT_EQUAL => jump(registers[to] != value as i64 as u64),
                EXIT => return registers[0],
                code => panic!("unknown code {code:#x}"),
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules(state in states(), block: bool, major in 0_u32..4, minor in 0_u32..4, access in 1_u8..8) {
            let allowed = run(&program(&state), block, major, minor, access) == 1;
            prop_assert_eq!(allowed, state.permits(block, major, minor, access));
        }
    }
}
