//! How long a container takes; run with `--ignored --nocapture`.

use std::time::Instant;

use crated_sys::pidfd;

use super::harness::{Bundle, Output, ready};

#[test]
#[ignore = "prints figures"]
fn figures() {
    if !ready() {
        return;
    }
    let mut all: Vec<[u128; 4]> = Vec::new();
    for _ in 0..200 {
        let bundle = Bundle::new(&["/bin/busybox", "true"]);
        let output = Output::new();
        let stdio = output.stdio();
        let spec = bundle.parsed();
        drop(spec);
        let t = Instant::now();
        let mut container = bundle.create(stdio).unwrap();
        let created = t.elapsed().as_micros();
        container.start().unwrap();
        let started = t.elapsed().as_micros() - created;
        pidfd::wait(container.pidfd()).unwrap();
        let waited = t.elapsed().as_micros() - created - started;
        container.destroy().unwrap();
        let destroyed = t.elapsed().as_micros() - created - started - waited;
        all.push([created, started, waited, destroyed]);
    }
    for (i, name) in ["create", "start", "wait", "destroy"].iter().enumerate() {
        let mut column: Vec<_> = all.iter().map(|r| r[i]).collect();
        column.sort_unstable();
        println!("{name}: min {} median {} µs", column[0], column[column.len() / 2]);
    }
    let mut sums: Vec<u128> = all.iter().map(|r| r.iter().sum()).collect();
    sums.sort_unstable();
    println!("all: min {} median {} µs", sums[0], sums[sums.len() / 2]);
}
