//! Writers over pairs of records, and the comparison of a store with what they were told.
//!
//! Each writer counts slots up; a commit puts (or, each fifth time, deletes) both records of a slot's pair and logs one event. Some
//! commits do not wait for the disk: a power cut may take those, with all that came later, and never one that came before a durable one.

use bytes::Bytes;
use crated_core::record::Event;
use crated_core::{Cursor, MetadataStore, Op};
use crated_store::{Metadata, Options};
use crated_types::Fault;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::child::Verdict;
use crate::dice::{Dice, bytes};

const WRITERS: u64 = 4;
const SLOTS: u64 = 8;
const COMMITS: usize = 120;
/// A life is a run of the store from its opening to its end.
const LIVES: usize = 3;
/// Commits of a life behind which nothing happens, and for how long: longer than the index lags.
const LULLS: u64 = 4;
const LULL: Duration = Duration::from_millis(250);

/// Newest acknowledged count by writer and slot.
pub(crate) type Acked = BTreeMap<(u64, u64), u64>;

/// Bytes of an acknowledgement: writer, slot, count, twice the revision (and one more where it was not durable).
pub(crate) const ACK: usize = 32;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Durable,
    Soon,
}

/// Small segments, so that everything happens often.
pub(crate) fn options() -> Options {
    Options { segment: 32 << 10, snapshot_every: 96 << 10, keep_events: 64 << 20, ..Options::default() }
}

fn key(writer: u64, slot: u64, twin: char) -> Vec<u8> {
    format!("t/{writer:03}/{slot}{twin}/pair-of-records").into_bytes()
}

fn value(writer: u64, slot: u64, count: u64, twin: char) -> Bytes {
    let mix = count * 7919 + writer * 31 + slot;
    // some are too big for one record of sled
    let length = if mix.is_multiple_of(61) { 150_000 } else { 100 + (mix % 1000) as usize };
    let mut value = count.to_le_bytes().to_vec();
    value.extend(bytes(mix * 1_000_000 + writer * 1000 + slot * 10 + u64::from(twin == 'b'), length));
    value.into()
}

fn deleted(count: u64) -> bool {
    count % 5 == 4
}

/// The commit of a count.
pub(crate) fn ops(writer: u64, slot: u64, count: u64) -> Vec<Op> {
    let twin = |twin| match deleted(count) {
        true => Op::Delete(key(writer, slot, twin)),
        false => Op::Put(key(writer, slot, twin), value(writer, slot, count, twin)),
    };
    let event = Event { topic: format!("{writer}.{slot}.{count}"), ..Event::default() };
    vec![twin('a'), twin('b'), Op::event(&event)]
}

/// Commits and acknowledges in one unbuffered write.
pub(crate) async fn commit(store: &Metadata, acks: &File, (writer, slot, count): (u64, u64, u64), wait: Wait) {
    let ops = ops(writer, slot, count);
    let revision = match wait {
        Wait::Durable => store.commit(ops).await.unwrap().0 * 2,
        Wait::Soon => store.commit_soon(ops).await.unwrap().0 * 2 + 1,
    };
    let mut ack = Vec::new();
    [writer, slot, count, revision].iter().for_each(|number| ack.extend(number.to_le_bytes()));
    (&*acks).write_all(&ack).unwrap();
}

/// What the acknowledgements of a file say of a store that reaches to `reach`.
fn acked(path: &Path, reach: u64) -> Result<Acked, String> {
    let mut acked = Acked::new();
    for ack in std::fs::read(path).unwrap_or_default().chunks_exact(ACK) {
        let number = |at: usize| u64::from_le_bytes(ack[at..at + 8].try_into().unwrap());
        let (revision, soon) = (number(24) / 2, number(24) % 2 == 1);
        if revision <= reach {
            let newest = acked.entry((number(0), number(8))).or_default();
            *newest = number(16).max(*newest);
        } else if !soon {
            return Err(format!("lost: the store ends at revision {reach}, {revision} was acknowledged as durable"));
        }
    }
    Ok(acked)
}

/// The child that writes.
pub(crate) async fn write(folder: &Path, acks: &Path) {
    let acks = Arc::new(File::options().append(true).create(true).open(acks).unwrap());
    let mut counts = [[0; SLOTS as usize]; WRITERS as usize];
    for life in 0..LIVES {
        let (store, _) = Metadata::open(&folder.join("metadata"), options()).unwrap();
        let writers = (0..WRITERS).map(|writer| {
            let (store, acks, mut counts) = (store.clone(), acks.clone(), counts[writer as usize]);
            tokio::spawn(async move {
                let mut dice = Dice::new(writer * 100 + life as u64);
                for _ in 0..COMMITS / LIVES {
                    let slot = dice.below(SLOTS as usize);
                    counts[slot] += 1;
                    let wait = if dice.below(3) == 0 { Wait::Soon } else { Wait::Durable };
                    commit(&store, &acks, (writer, slot as u64, counts[slot]), wait).await;
                }
                counts
            })
        });
        for (writer, task) in writers.collect::<Vec<_>>().into_iter().enumerate() {
            counts[writer] = task.await.unwrap();
        }
        // Nobody waits for the disk for a while: the index follows all the same, and must not get ahead of it.
        for slot in 0..LULLS {
            counts[0][slot as usize] += 1;
            commit(&store, &acks, (0, slot, counts[0][slot as usize]), Wait::Soon).await;
            tokio::time::sleep(LULL).await;
        }
    }
}

/// The child that checks a folder after a cut or damage, goes on with it and checks once more.
pub(crate) async fn check(folder: &Path, acks: &Path) -> Verdict {
    let mut notes = Vec::new();
    let mut told = None;
    for round in 0..2 {
        let (store, report) = match Metadata::open(&folder.join("metadata"), options()) {
            Ok(opened) => opened,
            Err(error) if error.fault() == Fault::Corrupt && round == 0 => return Verdict::Refused(error.to_string()),
            Err(error) => return Verdict::Wrong(format!("round {round}: {error}")),
        };
        let mended = report.healed.is_some() || report.rebuilt.is_some();
        if mended && round > 0 {
            return Verdict::Wrong(format!("mended twice: {report:?}"));
        }
        let healed = report.healed.is_some() || !notes.is_empty();
        let acked = match told.clone().map_or_else(|| acked(acks, report.revision.0), Ok) {
            Ok(acked) => told.insert(acked).clone(),
            Err(why) => return Verdict::Wrong(format!("round {round}: {why} {report:?}")),
        };
        if let Err(why) = compare(&store, &acked, !healed).await {
            return Verdict::Wrong(format!("round {round}: {why} {report:?}"));
        }
        if report.healed.is_some() {
            notes.push("healed");
        }
        match (round, store.commit(vec![Op::Put(b"z".to_vec(), Bytes::from_static(b"1"))]).await) {
            (_, Err(error)) => return Verdict::Wrong(format!("it does not go on: {error}")),
            (0, Ok(_)) => {}
            (_, Ok(_)) => match store.get(b"z").await {
                Ok(Some(_)) => {}
                answer => return Verdict::Wrong(format!("what was written after it: {answer:?}")),
            },
        }
    }
    Verdict::Good(notes.join(", "))
}

/// Compares a store with what was acknowledged: nothing lost, nothing half, nothing garbled, each event once.
async fn compare(store: &Metadata, acked: &Acked, events: bool) -> Result<(), String> {
    let text = |error: crated_types::Error| error.to_string();
    let mut scanned: HashMap<_, _> = store.scan_all(b"t/").await.map_err(text)?.into_iter().collect();
    let mut counts = Acked::new();
    for (writer, slot) in (0..WRITERS).flat_map(|writer| (0..SLOTS).map(move |slot| (writer, slot))) {
        let mut found = Vec::new();
        for twin in ['a', 'b'] {
            let stored = store.get(&key(writer, slot, twin)).await.map_err(text)?;
            if scanned.remove(&key(writer, slot, twin)) != stored {
                return Err(format!("scan and get differ at {writer}.{slot}"));
            }
            found.push(stored.map(|stored| stored.value));
        }
        let wanted = acked.get(&(writer, slot)).copied().unwrap_or(0);
        let count = found[0].as_ref().map(|value| u64::from_le_bytes(value[..8].try_into().unwrap()));
        // a deleted pair stands for the one count near what is wanted that deletes
        let gone = [wanted, wanted + 1].into_iter().find(|count| *count == 0 || deleted(*count));
        let count = count.or(gone).ok_or_else(|| format!("lost: {writer}.{slot} is gone, acknowledged {wanted}"))?;
        if count < wanted || count > wanted + 1 {
            return Err(format!("lost: {writer}.{slot} is {count}, acknowledged {wanted}"));
        }
        let whole = |twin| (count > 0 && !deleted(count)).then(|| value(writer, slot, count, twin));
        if found[0] != whole('a') || found[1] != whole('b') {
            return Err(format!("half or garbled: {writer}.{slot} at {count}"));
        }
        counts.insert((writer, slot), count);
    }
    if let Some((stray, _)) = scanned.iter().next() {
        return Err(format!("stray {}", String::from_utf8_lossy(stray)));
    }
    if events { compare_events(store, &counts).await } else { Ok(()) }
}

async fn compare_events(store: &Metadata, counts: &Acked) -> Result<(), String> {
    let mut seen = Acked::new();
    let mut cursor = Cursor::default();
    loop {
        let page = store.events(cursor, 500).await.map_err(|error| format!("events: {error}"))?;
        let Some(last) = page.last() else { break };
        cursor = last.cursor;
        for logged in &page {
            let mut parts = logged.event.topic.split('.').map(|part| part.parse::<u64>().unwrap());
            let (writer, slot, count) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let before = seen.insert((writer, slot), count).unwrap_or(0);
            if count != before + 1 {
                return Err(format!("event {writer}.{slot}.{count} follows {before}"));
            }
        }
    }
    match counts.iter().find(|(slot, count)| seen.get(slot).copied().unwrap_or(0) != **count) {
        Some((slot, count)) => Err(format!("events of {slot:?} end at {:?}, not at {count}", seen.get(slot))),
        None => Ok(()),
    }
}
