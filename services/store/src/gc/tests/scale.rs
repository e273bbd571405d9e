//! A collection of many blobs beside a writer: how long it keeps the writer is printed. 20,000 by default; `TORTURE_BLOBS=100000` is
//! the long form.

use super::*;
use crated_core::Op;
use std::time::Duration;

fn number(number: usize) -> Digest {
    sha256(&number.to_le_bytes())
}

/// Records of blobs in chains of ten; every other chain hangs on an image.
async fn fill(bench: &Bench, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(1000) {
        let mut ops = Vec::new();
        for at in chunk {
            let mut labels = Labels::new();
            if at % 10 != 9 {
                labels.insert("containerd.io/gc.ref.content.0".into(), number(at + 1).to_string());
            }
            let blob = Blob { digest: number(*at).to_string(), size: 1, labels, ..Blob::default() };
            ops.push(BLOBS.put(BLOBS.key("default", &blob.digest), &blob));
            if at % 20 == 0 {
                let name = format!("i{at}");
                ops.push(
                    crated_core::record::IMAGES
                        .put(crated_core::record::IMAGES.key("default", &name), &image(&name, &number(*at))),
                );
            }
        }
        bench.metadata.commit(ops).await.unwrap();
    }
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!("{} commits, p50 {:?}, p99 {:?}, longest {:?}", times.len(), at(50), at(99), at(100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_over_many_blobs_keeps_no_writer_waiting() {
    let count = std::env::var("TORTURE_BLOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let bench = Arc::new(Bench::new().await);
    fill(&bench, count).await;
    let writer = |until: CancellationToken| {
        let metadata = bench.metadata.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while !until.is_cancelled() {
                let begun = Instant::now();
                metadata.commit(vec![Op::Put(b"w/1".to_vec(), "x".into())]).await.unwrap();
                times.push(begun.elapsed());
            }
            times
        })
    };
    let alone = CancellationToken::new();
    let quiet = writer(alone.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;
    alone.cancel();
    println!("a writer alone: {}", shown(quiet.await.unwrap()));
    let _ = bench.metadata.longest_hold();
    let passing = CancellationToken::new();
    let beside = writer(passing.clone());
    let begun = Instant::now();
    let collected = bench.collector.collect().await.unwrap();
    let took = begun.elapsed();
    passing.cancel();
    let times = beside.await.unwrap();
    println!("beside a pass over {count} blobs, half of them garbage ({took:?}): {}", shown(times.clone()));
    println!("the pass itself held the writer for at most {:?}", bench.metadata.longest_hold());
    assert_eq!(collected.blobs, count / 2);
    assert_eq!(bench.metadata.scan_all(&BLOBS.prefix("")).await.unwrap().len(), count - count / 2);
    assert!(times.len() > 10, "the writer went on: {}", times.len());
}
