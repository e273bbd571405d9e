//! Marking: the graph of all records, and what is reached from its roots.

use crated_core::record::{BLOBS, CONTAINERS, IMAGES, INGESTS, LEASED, LEASES, SNAPSHOTS};
use crated_core::{MetadataStore, Revision, Stored};
use crated_types::{Labels, Result, label};
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};

use super::graph::{self, Node};
use crate::content::Content;

/// Records that are read at once.
const PAGE: usize = 256;

/// What a record is to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Never taken.
    Fixed,
    /// Taken where nothing keeps it.
    Blob,
    /// Taken where nothing keeps it, with an event.
    Snapshot,
    /// Taken where it has expired and nothing keeps it, with an event.
    Image,
    /// Taken where nothing keeps it.
    Ingest,
}

/// A record in the graph.
#[derive(Debug)]
pub(super) struct Vertex {
    /// Its key.
    pub key: Node,
    /// Its revision; none where there is no such record.
    pub revision: Revision,
    /// What it is.
    pub what: What,
    /// What it keeps.
    pub keeps: Vec<usize>,
    /// What keeps it.
    pub kept_by: Vec<usize>,
    /// Reached from a root.
    pub alive: bool,
    labels: Labels,
}

/// The graph after marking.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// Records by number.
    pub vertices: Vec<Vertex>,
    numbers: HashMap<Node, usize>,
    /// Expired leases, with their revisions.
    pub leases: Vec<(Node, Revision)>,
    /// Marks of leases that have expired or are gone.
    pub marks: Vec<Node>,
    roots: Vec<usize>,
    flat: Vec<usize>,
    conditional: Vec<(usize, usize, String)>,
}

impl Marked {
    /// The number of a key, where it is in the graph.
    pub(super) fn number(&self, key: &[u8]) -> Option<usize> {
        self.numbers.get(key).copied()
    }

    fn vertex(&mut self, key: Node) -> usize {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = self.vertices.len();
        self.numbers.insert(key.clone(), number);
        self.vertices.push(Vertex {
            key,
            revision: Revision::ABSENT,
            what: What::Fixed,
            keeps: Vec::new(),
            kept_by: Vec::new(),
            alive: false,
            labels: Labels::new(),
        });
        number
    }

    fn edge(&mut self, from: usize, to: usize) {
        self.vertices[from].keeps.push(to);
        self.vertices[to].kept_by.push(from);
    }

    /// Takes a record in.
    fn add(&mut self, key: Node, stored: &Stored, what: What, root: bool) -> usize {
        let edges = graph::edges(&key, &stored.value);
        let number = self.vertex(key);
        self.vertices[number].revision = stored.revision;
        self.vertices[number].what = what;
        for node in edges.keeps {
            let other = self.vertex(node);
            self.edge(number, other);
        }
        for node in edges.kept_by {
            let other = self.vertex(node);
            self.edge(other, number);
        }
        for (node, condition) in edges.conditional {
            let other = self.vertex(node);
            self.conditional.push((number, other, condition));
        }
        if root {
            self.roots.push(number);
        }
        number
    }

    /// Adds the edges whose condition holds, both ways: keeping is the safe side.
    fn settle_conditions(&mut self, now: Timestamp) {
        for (from, to, condition) in std::mem::take(&mut self.conditional) {
            if graph::holds(&condition, &self.vertices[to].labels, now) {
                self.edge(from, to);
                self.edge(to, from);
            }
        }
    }

    /// Marks what is reached. A flat lease's resources are alive, and no more.
    fn walk(&mut self) {
        for number in self.reached(&self.roots) {
            self.vertices[number].alive = true;
        }
        for number in std::mem::take(&mut self.flat) {
            self.vertices[number].alive = true;
        }
    }

    /// Everything that these keep, themselves included.
    pub(super) fn reached(&self, from: &[usize]) -> HashSet<usize> {
        let mut seen: HashSet<usize> = from.iter().copied().collect();
        let mut todo = from.to_vec();
        while let Some(number) = todo.pop() {
            todo.extend(self.vertices[number].keeps.iter().filter(|next| seen.insert(**next)));
        }
        seen
    }

    /// What may be taken: referrers before what they refer to, then what is in rings.
    pub(super) fn candidates(&self) -> Vec<usize> {
        let may = |vertex: &Vertex| !vertex.alive && vertex.what != What::Fixed && vertex.revision != Revision::ABSENT;
        let all: Vec<usize> = (0..self.vertices.len()).filter(|number| may(&self.vertices[*number])).collect();
        let set: HashSet<usize> = all.iter().copied().collect();
        let mut waits: HashMap<usize, usize> = HashMap::new();
        for number in &all {
            waits.insert(*number, self.vertices[*number].kept_by.iter().filter(|other| set.contains(other)).count());
        }
        let mut order: Vec<usize> = all.iter().copied().filter(|number| waits[number] == 0).collect();
        let mut at = 0;
        while let Some(number) = order.get(at).copied() {
            at += 1;
            for next in self.vertices[number].keeps.iter().filter(|next| set.contains(next)) {
                if let Some(left) = waits.get_mut(next) {
                    *left -= 1;
                    if *left == 0 {
                        order.push(*next);
                    }
                }
            }
        }
        let ordered: HashSet<usize> = order.iter().copied().collect();
        order.extend(all.into_iter().filter(|number| !ordered.contains(number)));
        order
    }
}

/// Reads a table page by page.
async fn each(
    store: &dyn MetadataStore,
    prefix: Vec<u8>,
    mut visit: impl FnMut(Node, Stored) -> Result<()> + Send,
) -> Result<()> {
    let mut after = Vec::new();
    loop {
        let page = store.scan(&prefix, &after, PAGE).await?;
        let last = page.len() < PAGE;
        if let Some((key, _)) = page.last() {
            after.clone_from(key);
        }
        for (key, stored) in page {
            visit(key, stored)?;
        }
        if last {
            return Ok(());
        }
    }
}

/// Whether the labels say that the time is over; an unreadable time says nothing.
fn expired(labels: &Labels, now: Timestamp) -> bool {
    labels.get(label::GC_EXPIRE).and_then(|time| time.parse::<Timestamp>().ok()).is_some_and(|time| time <= now)
}

/// Builds the graph and marks it.
pub(super) async fn mark(store: &dyn MetadataStore, content: &Content) -> Result<Marked> {
    let now = Timestamp::now();
    let mut marked = Marked::default();
    leases(store, &mut marked, now).await?;
    each(store, IMAGES.prefix(""), |key, stored| {
        let image = IMAGES.decode(&key, &stored.value)?;
        let root = !expired(&image.labels, now);
        marked.add(key, &stored, What::Image, root);
        Ok(())
    })
    .await?;
    each(store, CONTAINERS.prefix(""), |key, stored| {
        marked.add(key, &stored, What::Fixed, true);
        Ok(())
    })
    .await?;
    each(store, SNAPSHOTS.prefix(""), |key, stored| {
        let snapshot = SNAPSHOTS.decode(&key, &stored.value)?;
        let root = snapshot.labels.contains_key(label::GC_ROOT);
        let number = marked.add(key, &stored, What::Snapshot, root);
        if snapshot.labels.keys().any(|key| key.starts_with("containerd.io/gc.cond.value-")) {
            marked.vertices[number].labels = snapshot.labels;
        }
        Ok(())
    })
    .await?;
    each(store, BLOBS.prefix(""), |key, stored| {
        let blob = BLOBS.decode(&key, &stored.value)?;
        let root = blob.labels.contains_key(label::GC_ROOT);
        marked.add(key, &stored, What::Blob, root);
        Ok(())
    })
    .await?;
    each(store, INGESTS.prefix(""), |key, stored| {
        let ingest = INGESTS.decode(&key, &stored.value)?;
        let lives = ingest.expires_at.as_ref().is_some_and(|time| time.seconds > now.as_second());
        let written = INGESTS.parts(&key).is_some_and(|(namespace, name)| content.is_written(namespace, name));
        marked.add(key, &stored, What::Ingest, lives || written);
        Ok(())
    })
    .await?;
    // away from the reactor: it has others to serve
    crate::blocking::run(move || {
        marked.settle_conditions(now);
        marked.walk();
        marked
    })
    .await
}

/// Leases and what they hold. The marks first: one whose lease is not found afterwards has lost it.
async fn leases(store: &dyn MetadataStore, marked: &mut Marked, now: Timestamp) -> Result<()> {
    let mut marks: Vec<Node> = Vec::new();
    each(store, LEASED.prefix(""), |key, _: Stored| {
        marks.push(key);
        Ok(())
    })
    .await?;
    let mut flat: HashMap<Node, bool> = HashMap::new();
    each(store, LEASES.prefix(""), |key, stored| {
        let lease = LEASES.decode(&key, &stored.value)?;
        if expired(&lease.labels, now) {
            marked.leases.push((key, stored.revision));
        } else {
            flat.insert(key, lease.labels.contains_key(label::GC_FLAT));
        }
        Ok(())
    })
    .await?;
    for key in marks {
        let parts = LEASED.parts(&key).and_then(|(namespace, id)| Some((namespace, graph::leased(namespace, id)?)));
        let held = parts.and_then(|(namespace, (lease, node))| Some((*flat.get(&LEASES.key(namespace, lease))?, node)));
        match held {
            None => marked.marks.push(key),
            Some((is_flat, node)) => {
                // the mark is a vertex, so that a mark made anew saves what it holds
                let mark = marked.vertex(key);
                let number = marked.vertex(node);
                if is_flat {
                    marked.flat.push(number);
                } else {
                    marked.edge(mark, number);
                    marked.roots.push(mark);
                }
            }
        }
    }
    Ok(())
}
