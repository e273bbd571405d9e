//! How a schedule disturbs an operation.

use super::dice::Dice;
use crate::faults::points;
use std::sync::LazyLock;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A failpoint.
    Rule(String),
    /// A failpoint that holds the work up, while the client vanishes after so many milliseconds.
    Held(String, u64),
    /// The daemon is killed after so many milliseconds.
    Daemon(u64),
    /// The client is.
    Client(u64),
    /// The container's shim is, or its process, before the operation.
    Shim,
    Process,
    /// The daemon is told to stop, and started again.
    Stop(u64),
}

/// The points that operations on containers pass; those that one does not pass change nothing.
static POINTS: LazyLock<Vec<(&str, bool)>> = LazyLock::new(|| {
    let mut points: Vec<(&str, bool)> = points::armed().filter(|(name, _)| !name.starts_with("image.")).collect();
    points.sort_unstable();
    points.dedup();
    points
});

impl Fault {
    pub(super) fn thrown(dice: &mut Dice) -> Self {
        let (point, fails) = dice.one(&POINTS);
        let at = 1 + dice.throw(3);
        match dice.throw(20) {
            0..=2 => Self::None,
            3 => Self::Daemon(dice.throw(60)),
            4 => Self::Client(dice.throw(60)),
            5 => Self::Stop(dice.throw(60)),
            6 => Self::Shim,
            7 => Self::Process,
            8 | 9 => Self::Held(format!("{point}=delay(60)@{at}"), 20 + dice.throw(60)),
            10 | 11 => Self::Rule(format!("store.commit=kill@{}", 1 + dice.throw(6))),
            12 => Self::Rule(format!("store.commit=error({})@{}", dice.one(&points::ERRORS), 1 + dice.throw(6))),
            13..=16 if fails => Self::Rule(format!("{point}=error({})@{at}", dice.one(&points::ERRORS))),
            _ => Self::Rule(format!("{point}=kill@{at}")),
        }
    }

    /// A death of the daemon in its start.
    pub(super) fn at_start(dice: &mut Dice) -> Option<String> {
        let (point, _) = dice.one(&POINTS);
        match dice.throw(6) {
            0 => Some(format!("{point}=kill@{}", 1 + dice.throw(2))),
            1 => Some(format!("store.commit=kill@{}", 1 + dice.throw(4))),
            _ => None,
        }
    }

    /// Whether the container may have died of it.
    pub(super) fn ends_containers(&self) -> bool {
        match self {
            Self::Rule(rule) => rule.starts_with("shim.") && rule.contains("=kill"),
            Self::Shim | Self::Process => true,
            _ => false,
        }
    }
}
