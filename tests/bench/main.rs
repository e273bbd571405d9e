//! `crated-bench`: we and our peers side by side on this machine. Prints medians, 99th percentiles and ratios; judges nothing.
//!
//! `cargo run --release -p crated-tests --bin crated-bench [-- --quick] [CASE...]` as root, after `.ci/build release`. Peers that
//! are not installed are left out, and said so.

mod bundle;
mod latency;
mod load;
mod memory;
mod network;
mod series;
mod tree;

use series::Table;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What may be named on the command line.
const CASES: [&str; 6] = ["run", "runtime", "exec", "load", "memory", "network"];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds of a short command, after the warm-up.
    pub(crate) rounds: usize,
    /// Rounds of an import.
    pub(crate) imports: usize,
    /// Bytes of the image that is imported.
    pub(crate) image: u64,
    /// Idle containers, ours and containerd's.
    pub(crate) idle: (usize, usize),
}

const WHOLE: Effort = Effort { rounds: 100, imports: 5, image: 300 << 20, idle: (100, 20) };
const QUICK: Effort = Effort { rounds: 15, imports: 1, image: 60 << 20, idle: (10, 3) };

/// What every case needs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) effort: Effort,
    /// A folder for images and bundles.
    pub(crate) folder: tempfile::TempDir,
    /// A static program that only succeeds.
    pub(crate) program: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (flags, cases): (Vec<_>, Vec<_>) = words.iter().map(String::as_str).partition(|word| word.starts_with('-'));
    if let Some(wrong) = flags.iter().find(|flag| **flag != "--quick") {
        anyhow::bail!("{wrong}: only --quick is known");
    }
    if let Some(wrong) = cases.iter().find(|case| !CASES.contains(case)) {
        anyhow::bail!("{wrong}: the cases are {}", CASES.join(", "));
    }
    let effort = if flags.is_empty() { WHOLE } else { QUICK };
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in("/tmp")?;
    let program = static_true(folder.path())?;
    let bench = Bench { effort, folder, program };
    let wanted = |case: &str| cases.is_empty() || cases.contains(&case);
    let mut table = Table::default();
    if wanted("runtime") {
        bundle::measure(&bench, &mut table)?;
    }
    if wanted("run") || wanted("exec") {
        latency::measure(&bench, &mut table, wanted("run"), wanted("exec"));
    }
    if wanted("load") {
        load::measure(&bench, &mut table)?;
    }
    if wanted("memory") {
        memory::measure(&bench, &mut table);
    }
    if wanted("network") {
        network::measure(&bench, &mut table)?;
    }
    print!("{table}");
    Ok(())
}

/// Compiles `true` without a library to load.
fn static_true(folder: &Path) -> anyhow::Result<PathBuf> {
    let (source, program) = (folder.join("true.c"), folder.join("true"));
    std::fs::write(&source, "int main(void) { return 0; }\n")?;
    let done = Command::new("gcc").args(["-static", "-O2", "-s", "-o"]).arg(&program).arg(&source).status()?;
    anyhow::ensure!(done.success(), "gcc ended with {done}");
    Ok(program)
}

/// Whether a program is installed; says so where it is not.
pub(crate) fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found {
        eprintln!("skip: {program} is not installed");
    }
    found
}
