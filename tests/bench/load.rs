//! Import and unpack of an image with many files.

use crate::series::{Table, Unit, millis};
use crate::{Bench, installed, tree};
use crated_tests::{Containerd, Daemon, Run};
use std::time::Instant;

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let archive = bench.folder.path().join("many.tar");
    tree::archive(&archive, bench.effort.image)?;
    let path = archive.display().to_string();
    let mut times = vec![Vec::new(); 2];
    for _ in 0..bench.effort.imports {
        // Each import begins with an empty store on a quiet disk.
        let daemon = Daemon::start();
        times[0].push(timed(|| drop(daemon.ctl(&["load", "-i", &path]).ok())));
        daemon.finish();
        if installed("containerd") {
            let containerd = Containerd::start();
            times[1].push(timed(|| drop(containerd.ctr(&["images", "import", &path]).ok())));
        }
    }
    let case = format!("import of {} MB, {} files", bench.effort.image >> 20, tree::files(bench.effort.image));
    for (times, name) in times.into_iter().zip(["crated, cratectl load", "containerd, ctr images import"]) {
        if !times.is_empty() {
            table.add(&case, name, Unit::Time, times);
        }
    }
    Ok(())
}

/// Milliseconds of an act, after what is dirty was written.
fn timed(act: impl FnOnce()) -> f64 {
    Run::new("sync", &[]).run().ok();
    let begun = Instant::now();
    act();
    millis(begun.elapsed())
}
