//! Workers that resolve, write, label, name and let go of the same few blobs while the collector runs without a pause. What a worker
//! holds, and all that this refers to, is there at every moment; when all have let go, exactly what images lead to is left.

use super::*;
use crated_core::Mask;
use crated_core::record::IMAGES;
use crated_types::LeaseId;

const WORKERS: u64 = 4;
const BLOBS_MAX: u64 = 10;

/// Seeded dice (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn text(number: u64) -> String {
    format!("blob {number}")
}

fn digest(number: u64) -> Digest {
    sha256(text(number).as_bytes())
}

struct Worker {
    bench: Arc<Bench>,
    me: u64,
    dice: Dice,
    lease: LeaseId,
    leases: u64,
    /// Seen to be there since the lease holds it.
    held: BTreeSet<u64>,
    /// Images of ours, by name.
    named: BTreeMap<String, u64>,
}

impl Worker {
    async fn new(bench: Arc<Bench>, me: u64, seed: u64) -> Self {
        let lease = lease(&format!("w{me}.0"));
        bench.leases.create(&bench.scope, Some(lease.clone()), Labels::new()).await.unwrap();
        let dice = Dice(seed * 1000 + me);
        Self { bench, me, dice, lease, leases: 0, held: BTreeSet::new(), named: BTreeMap::new() }
    }

    fn any_held(&mut self) -> Option<u64> {
        let all: Vec<u64> = self.held.iter().copied().collect();
        (!all.is_empty()).then(|| all[self.dice.below(all.len())])
    }

    /// A label of ours that refers to something that we hold.
    fn reference(&mut self) -> Labels {
        let to = self.any_held().map(|to| digest(to).to_string()).unwrap_or_default();
        labels(&[(&format!("containerd.io/gc.ref.content.w{}", self.me), &to)])
    }

    async fn step(&mut self) {
        let bench = self.bench.clone();
        let held = bench.scope.with_lease(self.lease.clone());
        match self.dice.below(10) {
            0..=3 => {
                // first held, then looked for
                let wanted = self.dice.below(BLOBS_MAX as usize) as u64;
                let resource = Resource { kind: ResourceKind::Content, id: digest(wanted).to_string() };
                bench.leases.add(&bench.scope, &self.lease, resource).await.unwrap();
                if bench.content.info(&held, &digest(wanted)).await.is_err() {
                    let labels = self.reference();
                    let name = reference(&format!("w{}", self.me));
                    let written =
                        bench.content.write_all(&held, &name, text(wanted).into(), &digest(wanted), labels).await;
                    // another worker was faster
                    assert!(
                        written.as_ref().is_ok() || written.as_ref().is_err_and(crated_types::Error::is_already_exists),
                        "{written:?}"
                    );
                }
                self.held.insert(wanted);
            }
            4 | 5 => {
                let Some(carrier) = self.any_held() else { return };
                let labels = self.reference();
                let mask = Mask::Paths(labels.keys().map(|key| format!("labels.{key}")).collect());
                bench.content.update(&held, &digest(carrier), &labels, &mask).await.unwrap();
            }
            6 => {
                let Some(target) = self.any_held() else { return };
                let name = format!("w{}.{}", self.me, self.dice.below(3));
                if self.named.remove(&name).is_some() {
                    bench.images.delete(&bench.scope, &name, None, false).await.unwrap();
                }
                bench.images.create(&held, image(&name, &digest(target))).await.unwrap();
                self.named.insert(name, target);
            }
            7 => {
                let Some(name) = self.named.keys().next().cloned() else { return };
                self.named.remove(&name);
                bench.images.delete(&bench.scope, &name, None, false).await.unwrap();
            }
            _ if self.dice.below(3) == 0 => {
                self.held.clear();
                bench.leases.delete(&bench.scope, &self.lease, false).await.unwrap();
                self.leases += 1;
                self.lease = lease(&format!("w{}.{}", self.me, self.leases));
                bench.leases.create(&bench.scope, Some(self.lease.clone()), Labels::new()).await.unwrap();
            }
            _ => tokio::task::yield_now().await,
        }
    }

    /// What we hold or name is there, with all that it refers to.
    async fn look(&self, step: u64) {
        // labels change while we walk: what is really gone is gone at every walk
        for _ in 0..10 {
            if self.walk(step).await {
                return;
            }
        }
        panic!("worker {}, step {step}: something that is referred to is gone", self.me);
    }

    async fn walk(&self, step: u64) -> bool {
        let bench = &self.bench;
        let ours: Vec<Digest> = self.held.iter().chain(self.named.values()).map(|number| digest(*number)).collect();
        for one in &ours {
            let found = bench.content.info(&bench.scope, one).await;
            assert!(found.is_ok(), "worker {}, step {step}: {found:?}", self.me);
        }
        let mut seen: BTreeSet<Digest> = ours.into_iter().collect();
        let mut todo: Vec<Digest> = seen.iter().cloned().collect();
        while let Some(one) = todo.pop() {
            let Ok(blob) = bench.content.info(&bench.scope, &one).await else { return false };
            for (_, value) in blob.labels.iter().filter(|(key, _)| key.starts_with("containerd.io/gc.ref.content.")) {
                let next: Digest = value.parse().unwrap();
                if seen.insert(next.clone()) {
                    todo.push(next);
                }
            }
        }
        true
    }
}

/// What the images of the store lead to.
async fn led_to(bench: &Bench) -> BTreeSet<String> {
    let images = IMAGES.list(&*bench.metadata, &IMAGES.prefix("")).await.unwrap();
    let mut todo: Vec<String> = images.into_iter().filter_map(|(_, _, image)| Some(image.target?.digest)).collect();
    let mut seen = BTreeSet::new();
    while let Some(one) = todo.pop() {
        if !seen.insert(one.clone()) {
            continue;
        }
        let blob = bench.content.info(&bench.scope, &one.parse().unwrap()).await.unwrap();
        todo.extend(blob.labels.into_iter().filter(|(key, _)| key.contains("gc.ref")).map(|(_, value)| value));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_workers_hold_is_there_at_every_moment() {
    let (seed, steps) = (number("TORTURE_SEED", 1), number("TORTURE_STEPS", 150));
    let bench = Arc::new(Bench::new().await);
    let token = CancellationToken::new();
    let (collector, stop) = (Arc::clone(&bench.collector), token.clone());
    let collecting = tokio::spawn(async move {
        let (mut rounds, mut taken) = (0, 0);
        while !stop.is_cancelled() {
            taken += collector.collect().await.unwrap().blobs;
            rounds += 1;
        }
        (rounds, taken)
    });
    let workers = (0..WORKERS).map(|me| {
        let bench = bench.clone();
        tokio::spawn(async move {
            let mut worker = Worker::new(bench, me, seed).await;
            for step in 0..steps {
                worker.step().await;
                worker.look(step).await;
            }
            worker.bench.leases.delete(&worker.bench.scope, &worker.lease, false).await.unwrap();
            worker.held.clear();
            worker.look(steps).await;
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    token.cancel();
    let (rounds, taken) = collecting.await.unwrap();
    println!("seed {seed}: {rounds} collections took {taken} blobs beside {WORKERS} workers of {steps} steps");
    assert!(rounds > 3 && taken > 0, "the collector had nothing to do");
    let wanted = led_to(&bench).await;
    bench.collector.collect().await.unwrap();
    assert_eq!(blobs(&bench).await, wanted);
    assert_eq!(files(&bench), wanted.len());
}
