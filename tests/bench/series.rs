//! Numbers of one case, and the table of all.

use std::fmt;
use std::time::{Duration, Instant};

/// Rounds whose times are not kept.
const WARM_UP: usize = 3;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds.
    Time,
    /// MiB.
    Memory,
}

/// One contestant's numbers.
#[derive(Clone, Debug)]
struct Line {
    case: String,
    name: String,
    unit: Unit,
    /// Sorted, in milliseconds or MiB.
    numbers: Vec<f64>,
}

impl Line {
    fn at(&self, share: f64) -> f64 {
        let last = self.numbers.len().saturating_sub(1);
        let place = (share * last as f64).round() as usize;
        self.numbers.get(place).copied().unwrap_or(f64::NAN)
    }
}

/// All numbers. The first line of a case is ours: the others are divided by it.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Line>,
}

/// Something that is measured.
pub(crate) type Contestant<'a> = (&'a str, Box<dyn FnMut() + 'a>);

impl Table {
    /// Adds numbers.
    pub(crate) fn add(&mut self, case: &str, name: &str, unit: Unit, mut numbers: Vec<f64>) {
        numbers.sort_by(f64::total_cmp);
        let line = Line { case: case.into(), name: name.into(), unit, numbers };
        eprintln!("{case}: {name}: {:.2}", line.at(0.5));
        self.lines.push(line);
    }

    /// Runs contestants in turn, so that what disturbs the machine disturbs all, and keeps how long each took.
    pub(crate) fn race(&mut self, case: &str, rounds: usize, mut contestants: Vec<Contestant<'_>>) {
        let mut times = vec![Vec::with_capacity(rounds); contestants.len()];
        for round in 0..rounds + WARM_UP {
            for (times, (_, act)) in times.iter_mut().zip(&mut contestants) {
                let begun = Instant::now();
                act();
                if round >= WARM_UP {
                    times.push(millis(begun.elapsed()));
                }
            }
        }
        for (times, (name, _)) in times.into_iter().zip(contestants) {
            self.add(case, name, Unit::Time, times);
        }
    }
}

/// Milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| case | who | n | median | p99 | times ours |")?;
        writeln!(f, "|---|---|---:|---:|---:|---:|")?;
        for line in &self.lines {
            let ours = self.lines.iter().find(|other| other.case == line.case).map_or(f64::NAN, |ours| ours.at(0.5));
            let unit = match line.unit {
                Unit::Time => "ms",
                Unit::Memory => "MiB",
            };
            writeln!(
                f,
                "| {} | {} | {} | {:.2} {unit} | {:.2} {unit} | {:.1} |",
                line.case,
                line.name,
                line.numbers.len(),
                line.at(0.5),
                line.at(0.99),
                line.at(0.5) / ours
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut table = Table::default();
        table.add("c", "ours", Unit::Time, vec![3.0, 1.0, 2.0]);
        table.add("c", "theirs", Unit::Time, vec![8.0]);
        let text = table.to_string();
        assert!(text.contains("| c | ours | 3 | 2.00 ms | 3.00 ms | 1.0 |"), "{text}");
        assert!(text.contains("| c | theirs | 1 | 8.00 ms | 8.00 ms | 4.0 |"), "{text}");
    }
}
