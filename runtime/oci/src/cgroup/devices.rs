//! Device rules: the OCI list becomes the state that the v1 kernel would reach, written by v1 as a difference, by v2 as a program.

use super::error::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::collections::BTreeMap;

/// Permission to read.
pub(super) const READ: u8 = 1;
/// Permission to write.
pub(super) const WRITE: u8 = 2;
/// Permission to make a node.
pub(super) const MKNOD: u8 = 4;
const ALL: u8 = READ | WRITE | MKNOD;

/// Which devices an exception is about; `None` is every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Selector {
    pub(super) block: bool,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

/// A default and the exceptions from it (kernel, security/device_cgroup.c).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) allow: bool,
    pub(super) exceptions: BTreeMap<Selector, u8>,
}

/// Every container has these (runtime-spec config-linux.md §Default Devices), and may make any node (as runc permits).
const ALWAYS: &[(bool, Option<u32>, Option<u32>, u8)] = &[
    (false, None, None, MKNOD),
    (true, None, None, MKNOD),
    (false, Some(1), Some(3), ALL), // null
    (false, Some(1), Some(5), ALL), // zero
    (false, Some(1), Some(7), ALL), // full
    (false, Some(1), Some(8), ALL), // random
    (false, Some(1), Some(9), ALL), // urandom
    (false, Some(5), Some(0), ALL), // tty
    (false, Some(5), Some(2), ALL), // ptmx
    (false, Some(136), None, ALL),  // pts
];

impl State {
    /// No rule: everything is allowed.
    pub(super) const fn open() -> Self {
        Self { allow: true, exceptions: BTreeMap::new() }
    }

    /// The state after `rules` in order, and the devices that every container has.
    pub(super) fn from_rules(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut state = Self::open();
        for rule in rules {
            state.apply(rule)?;
        }
        if !rules.is_empty() {
            for (block, major, minor, access) in ALWAYS {
                state.add(true, Selector { block: *block, major: *major, minor: *minor }, *access);
            }
        }
        Ok(state)
    }

    fn apply(&mut self, rule: &LinuxDeviceCgroup) -> Result<()> {
        let bad = |reason: String| Error::Resource { field: "devices", reason };
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => {
                u32::try_from(number).map(Some).map_err(|_| bad(format!("device number {number} is out of range")))
            }
        };
        let block = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => {
                *self = Self { allow: rule.allow(), exceptions: BTreeMap::new() };
                return Ok(());
            }
            LinuxDeviceType::B => true,
            LinuxDeviceType::C | LinuxDeviceType::U => false,
            LinuxDeviceType::P => return Err(bad("a rule is about named pipes".into())),
        };
        let selector = Selector { block, major: number(rule.major())?, minor: number(rule.minor())? };
        let text = rule.access().as_deref().unwrap_or_default();
        let access =
            parse_access(text).ok_or_else(|| bad(format!("access {text:?} has other letters than r, w, m")))?;
        self.add(rule.allow(), selector, if access == 0 { ALL } else { access });
        Ok(())
    }

    fn add(&mut self, allow: bool, selector: Selector, access: u8) {
        if allow == self.allow {
            if let Some(held) = self.exceptions.get_mut(&selector) {
                *held &= !access;
                if *held == 0 {
                    self.exceptions.remove(&selector);
                }
            }
        } else {
            *self.exceptions.entry(selector).or_default() |= access;
        }
    }

    /// Reads `devices.list`.
    pub(super) fn parse(list: &str) -> Option<Self> {
        let mut state = Self { allow: false, exceptions: BTreeMap::new() };
        for line in list.lines() {
            if line.trim() == "a *:* rwm" {
                return Some(Self::open());
            }
            let mut parts = line.split([' ', ':']);
            let block = match parts.next()? {
                "b" => true,
                "c" => false,
                _ => return None,
            };
            let mut number = || match parts.next()? {
                "*" => Some(None),
                text => text.parse().ok().map(Some),
            };
            let selector = Selector { block, major: number()?, minor: number()? };
            state.exceptions.insert(selector, parse_access(parts.next()?)?);
        }
        Some(state)
    }

    /// The writes that lead from `self` to `wanted`: file name and text. Where the default stays `deny`, only what differs.
    pub(super) fn transition(&self, wanted: &Self) -> Vec<(&'static str, String)> {
        if self == wanted {
            return Vec::new();
        }
        let mut writes = Vec::new();
        let file = |allow: bool| if allow { "devices.allow" } else { "devices.deny" };
        // `devices.list` does not tell the exceptions of an open default, so such a state is always written anew.
        let keep = !self.allow && !wanted.allow;
        let open_already = wanted.allow && *self == Self::open();
        if !keep && !open_already {
            writes.push((file(wanted.allow), "a *:* rwm".into()));
        }
        let held = if keep { self.exceptions.clone() } else { BTreeMap::new() };
        for (selector, access) in &wanted.exceptions {
            let missing = access & !held.get(selector).unwrap_or(&0);
            if missing != 0 {
                writes.push((file(!wanted.allow), selector.line(missing)));
            }
        }
        for (selector, access) in &held {
            let surplus = access & !wanted.exceptions.get(selector).unwrap_or(&0);
            if surplus != 0 {
                writes.push((file(wanted.allow), selector.line(surplus)));
            }
        }
        writes
    }

    /// Whether a device may be used so; the model that the program and the kernel are tested against.
    #[cfg(test)]
    pub(super) fn permits(&self, block: bool, major: u32, minor: u32, access: u8) -> bool {
        let hits = |selector: &Selector| {
            selector.block == block
                && selector.major.is_none_or(|number| number == major)
                && selector.minor.is_none_or(|number| number == minor)
        };
        let mut exceptions = self.exceptions.iter().filter(|(selector, _)| hits(selector));
        if self.allow {
            // Denied where any exception has a bit of it.
            !exceptions.any(|(_, held)| held & access != 0)
        } else {
            // Allowed where one exception has all of it.
            exceptions.any(|(_, held)| held & access == access)
        }
    }
}

impl Selector {
    fn line(&self, access: u8) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let mut line = format!("{} {}:{} ", if self.block { 'b' } else { 'c' }, number(self.major), number(self.minor));
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if access & bit != 0 {
                line.push(letter);
            }
        }
        line
    }
}

fn parse_access(text: &str) -> Option<u8> {
    text.chars().try_fold(0, |access, letter| match letter {
        'r' => Some(access | READ),
        'w' => Some(access | WRITE),
        'm' => Some(access | MKNOD),
        _ => None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(allow: bool, typ: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_typ(Some(typ)).set_major(Some(major)).set_minor(Some(minor));
        rule.set_access(Some(access.into()));
        rule
    }

    pub(crate) fn states() -> impl Strategy<Value = State> {
        let number = || prop_oneof![Just(None), (0_u32..3).prop_map(Some)];
        let exception =
            (any::<bool>(), number(), number()).prop_map(|(block, major, minor)| Selector { block, major, minor });
        (any::<bool>(), prop::collection::btree_map(exception, 1_u8..8, 0..8))
            .prop_map(|(allow, exceptions)| State { allow, exceptions })
    }

    #[test]
    fn dockers_rules_deny_all_but_the_list() {
        use LinuxDeviceType::{A, B, C};
        let rules = [rule(false, A, -1, -1, "rwm"), rule(true, C, 10, 229, "rw"), rule(false, B, 8, 0, "")];
        let state = State::from_rules(&rules).unwrap();
        assert!(
            state.permits(false, 1, 3, ALL) && state.permits(false, 136, 9, READ) && state.permits(true, 8, 1, MKNOD)
        );
        assert!(state.permits(false, 10, 229, READ | WRITE));
        assert!(!state.permits(true, 8, 0, READ) && !state.permits(false, 1, 1, READ));
        let open = State::from_rules(&[rule(true, A, -1, -1, "rwm")]).unwrap();
        assert!(open.permits(true, 8, 0, ALL));
        assert_eq!(State::from_rules(&[]).unwrap(), State::open());
    }

    #[test]
    fn malformed_rules_are_refused() {
        use LinuxDeviceType::{C, P};
        for rule in [
            rule(true, C, 1, 1, "x"),
            rule(true, C, -2, 1, "r"),
            rule(true, C, 1, 1 << 40, "r"),
            rule(true, P, 1, 1, "r"),
        ] {
            assert!(State::from_rules(&[rule]).is_err());
        }
    }

    /// What the v1 kernel does with writes.
    fn write(state: &mut State, file: &str, line: &str) {
        let allow = file == "devices.allow";
        if line.starts_with('a') {
            *state = State { allow, exceptions: BTreeMap::new() };
            return;
        }
        let parsed = State::parse(line).unwrap();
        for (selector, access) in parsed.exceptions {
            state.add(allow, selector, access);
        }
    }

    proptest! {
        #[test]
        fn a_transition_ends_in_the_wanted_state(from in states(), to in states()) {
            // What is read of an open state has no exceptions.
            let seen = if from.allow { State::open() } else { from.clone() };
            let writes = seen.transition(&to);
            let mut state = seen.clone();
            for (file, line) in &writes {
                write(&mut state, file, line);
            }
            prop_assert_eq!(&state, &to);
            // Devices allowed before and after are allowed all the time.
            if !seen.allow && !to.allow {
                prop_assert!(writes.iter().all(|(_, line)| !line.starts_with('a')));
            }
        }
    }
}
