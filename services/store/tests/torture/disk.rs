//! A disk as a power cut leaves it: what a completed sync covered stays; of the rest nothing, all, a part, torn at sectors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::dice::Dice;

const MAGIC: u32 = 0x005E_CA11;
const HEAD: usize = 32;

/// When a name is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// ext4's rule: any sync commits all earlier changes of names.
    Ext4,
    /// Only the sync of the folder itself.
    Strict,
}

/// One recorded call.
pub(crate) struct Event {
    /// `C`reate, `M`kdir, `R`ename, `U`nlink, `W`rite, `T`runcate, `B`arrier begun, `b`arrier returned.
    pub kind: u8,
    pub inode: u64,
    pub offset: u64,
    pub first: Vec<u8>,
    pub second: Vec<u8>,
}

/// Reads a recording.
pub(crate) fn read(path: &Path) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (mut at, mut events) = (0, Vec::new());
    while at + HEAD <= bytes.len() {
        assert_eq!(u32_at(at), MAGIC, "the recording is broken");
        let (first, second) = (u32_at(at + 24) as usize, u32_at(at + 28) as usize);
        let (middle, end) = (at + HEAD + first, at + HEAD + first + second);
        events.push(Event {
            kind: bytes[at + 4],
            inode: u64_at(at + 8),
            offset: u64_at(at + 16),
            first: bytes[at + HEAD..middle].to_vec(),
            second: bytes[middle..end].to_vec(),
        });
        at = end;
    }
    events
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => put(bytes, *offset, data),
            Self::Resize(size) => bytes.resize(*size, 0),
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<(usize, Change)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Folder,
    File(usize),
}

#[derive(Clone)]
enum NameChange {
    Add(String, Entry),
    Remove(String),
    Rename(String, String, Option<Entry>),
}

type Tree = BTreeMap<String, Entry>;

impl NameChange {
    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Add(path, entry) => {
                tree.insert(path.clone(), *entry);
            }
            Self::Remove(path) => {
                tree.remove(path);
            }
            Self::Rename(from, to, entry) => {
                let below = format!("{from}/");
                let moved: Vec<_> =
                    tree.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below)).collect();
                let moved: Vec<_> = moved.into_iter().map(|(path, entry)| (path.clone(), *entry)).collect();
                tree.remove(from);
                tree.extend(entry.map(|entry| (to.clone(), entry)));
                for (path, entry) in moved {
                    tree.remove(&path);
                    tree.insert(format!("{to}/{}", &path[below.len()..]), entry);
                }
            }
        }
    }

    /// The folder whose sync makes it durable.
    fn folder(&self) -> &str {
        let (Self::Add(path, _) | Self::Remove(path) | Self::Rename(_, path, _)) = self;
        path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// The state of a disk while a recording is played.
#[derive(Default)]
pub(crate) struct Disk {
    clock: usize,
    files: Vec<File>,
    inodes: HashMap<u64, usize>,
    barriers: HashMap<u64, Vec<usize>>,
    /// What the running system sees.
    live: Tree,
    durable: Tree,
    pending: Vec<(usize, NameChange)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Disk {
    /// Plays one call.
    pub(crate) fn play(&mut self, event: &Event, names: Names) {
        self.clock += 1;
        match event.kind {
            b'C' => {
                // a number that was used before is another file now
                self.inodes.insert(event.inode, self.files.len());
                self.name(NameChange::Add(text(&event.first), Entry::File(self.files.len())));
                self.files.push(File::default());
            }
            b'M' => self.name(NameChange::Add(text(&event.first), Entry::Folder)),
            b'U' => self.name(NameChange::Remove(text(&event.first))),
            b'R' => {
                let from = text(&event.first);
                let entry = self.live.get(&from).copied();
                self.name(NameChange::Rename(from, text(&event.second), entry));
            }
            b'W' => self.change(event.inode, Change::Write(event.offset as usize, event.first.clone())),
            b'T' => self.change(event.inode, Change::Resize(event.offset as usize)),
            b'B' => self.barriers.entry(event.inode).or_default().push(self.clock),
            b'b' => self.settle(event, names),
            other => panic!("unknown call {other}"),
        }
    }

    fn name(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push((self.clock, change));
    }

    fn change(&mut self, inode: u64, change: Change) {
        if let Some(file) = self.inodes.get(&inode) {
            self.files[*file].pending.push((self.clock, change));
        }
    }

    /// A sync returned: what was there when it began is durable.
    fn settle(&mut self, event: &Event, names: Names) {
        let begun = self.barriers.get_mut(&event.inode).map_or(0, |begun| begun.remove(0));
        let folder = (event.offset == 1).then(|| text(&event.first));
        let mut left = Vec::new();
        for (clock, change) in std::mem::take(&mut self.pending) {
            let synced = names == Names::Ext4 || folder.as_deref() == Some(change.folder());
            if clock < begun && synced { change.apply(&mut self.durable) } else { left.push((clock, change)) }
        }
        self.pending = left;
        if let Some(file) = self.inodes.get(&event.inode).filter(|_| folder.is_none()) {
            let file = &mut self.files[*file];
            let covered = file.pending.partition_point(|(clock, _)| *clock < begun);
            for (_, change) in file.pending.drain(..covered) {
                change.apply(&mut file.durable);
            }
        }
    }

    /// Writes what a cut leaves of the folder `root` to `to`.
    pub(crate) fn cut(&self, root: &str, to: &Path, names: Names, dice: &mut Dice) {
        let mut tree = self.durable.clone();
        self.keep_names(&mut tree, names, dice);
        std::fs::create_dir_all(to).unwrap();
        let how = dice.below(6);
        let below = format!("{root}/");
        let whole = |path: &str| {
            path[below.len()..]
                .match_indices('/')
                .all(|(at, _)| tree.get(&path[..below.len() + at]) == Some(&Entry::Folder))
        };
        for (path, entry) in tree.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below)) {
            // a file whose folder is not there cannot be there
            if !whole(path) {
                continue;
            }
            let target = to.join(&path[below.len()..]);
            match entry {
                Entry::Folder => std::fs::create_dir_all(target).unwrap(),
                Entry::File(file) => std::fs::write(target, self.files[*file].after_cut(how, dice)).unwrap(),
            }
        }
    }

    fn keep_names(&self, tree: &mut Tree, names: Names, dice: &mut Dice) {
        let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
        let all = dice.below(self.pending.len() + 1);
        for (number, (_, change)) in self.pending.iter().enumerate() {
            let keep = match names {
                Names::Ext4 => number < all,
                // each folder by itself keeps a first part of its changes
                Names::Strict => {
                    let left = kept.entry(change.folder()).or_insert_with(|| dice.below(8));
                    *left = left.saturating_sub(1);
                    *left > 0
                }
            };
            if keep {
                change.apply(tree);
            }
        }
    }
}

impl File {
    fn after_cut(&self, how: usize, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let first = dice.below(self.pending.len() + 1);
        for (number, (_, change)) in self.pending.iter().enumerate() {
            match (how, change) {
                (1, change) => change.apply(&mut bytes),
                (2, change) if dice.coin() => change.apply(&mut bytes),
                (3, Change::Write(offset, data)) => pieces(&mut bytes, *offset, data, 4096, dice),
                (4, Change::Write(offset, data)) => pieces(&mut bytes, *offset, data, 512, dice),
                (3 | 4, change) if dice.coin() => change.apply(&mut bytes),
                (5, change) if number < first => change.apply(&mut bytes),
                (5, Change::Write(offset, data)) if number == first => {
                    let torn = (dice.below(data.len() / 512 + 1) * 512).min(data.len());
                    put(&mut bytes, *offset, &data[..torn]);
                }
                _ => {}
            }
        }
        bytes
    }
}

/// Some of the pages or sectors of a write reached the disk.
fn pieces(bytes: &mut Vec<u8>, offset: usize, data: &[u8], unit: usize, dice: &mut Dice) {
    let mut at = 0;
    while at < data.len() {
        let end = (((offset + at) / unit + 1) * unit - offset).min(data.len());
        if dice.coin() {
            put(bytes, offset + at, &data[at..end]);
        }
        at = end;
    }
}
