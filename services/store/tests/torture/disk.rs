//! A disk as a power cut leaves it: what a completed sync covered stays; of the rest nothing, all, a part, torn at sectors.

use std::collections::{BTreeMap, HashMap};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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

/// One recorded call; kinds and fields stand in `recorder.c`.
pub(crate) struct Event {
    pub kind: u8,
    pub inode: u64,
    pub number: u64,
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
            number: u64_at(at + 16),
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
    Mode(u32),
    Attribute(String, Option<Vec<u8>>),
}

impl Change {
    fn apply(&self, state: &mut State) {
        match self {
            Self::Write(offset, data) => put(&mut state.bytes, *offset, data),
            Self::Resize(size) => state.bytes.resize(*size, 0),
            Self::Mode(mode) => state.mode = *mode,
            Self::Attribute(name, Some(value)) => drop(state.attributes.insert(name.clone(), value.clone())),
            Self::Attribute(name, None) => drop(state.attributes.remove(name)),
        }
    }

    /// A change of the inode, which ext4's journal commits in order.
    fn is_metadata(&self) -> bool {
        matches!(self, Self::Mode(_) | Self::Attribute(..))
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// What an inode holds.
#[derive(Clone, Default)]
struct State {
    bytes: Vec<u8>,
    mode: u32,
    attributes: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link(String),
    Device(u32, u32),
}

struct Node {
    kind: Kind,
    durable: State,
    pending: Vec<(usize, Change)>,
}

/// A node, by its number.
type Entry = usize;

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
    nodes: Vec<Node>,
    inodes: HashMap<u64, usize>,
    barriers: HashMap<(u64, u64), Vec<usize>>,
    /// What the running system sees.
    live: Tree,
    durable: Tree,
    pending: Vec<(usize, NameChange)>,
}

/// The barrier of a whole file system.
const EVERYTHING: u64 = 2;
const S_IFMT: u32 = 0o170_000;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Disk {
    /// Plays one call.
    pub(crate) fn play(&mut self, event: &Event, names: Names) {
        self.clock += 1;
        let mode = event.number as u32;
        match event.kind {
            b'C' => self.make(event, Kind::File),
            b'M' => self.make(event, Kind::Folder),
            b'S' => self.make(event, Kind::Link(text(&event.second))),
            b'N' => {
                let device = u32::from_le_bytes(event.second[..4].try_into().unwrap());
                self.make(event, Kind::Device(mode, device));
            }
            b'U' => self.name(NameChange::Remove(text(&event.first))),
            b'R' => {
                let from = text(&event.first);
                let entry = self.live.get(&from).copied();
                self.name(NameChange::Rename(from, text(&event.second), entry));
            }
            b'L' => {
                if let Some(entry) = self.live.get(&text(&event.first)).copied() {
                    self.name(NameChange::Add(text(&event.second), entry));
                }
            }
            b'W' => self.change(event.inode, Change::Write(event.number as usize, event.first.clone())),
            b'T' => self.change(event.inode, Change::Resize(event.number as usize)),
            b'A' => self.change(event.inode, Change::Mode(mode)),
            b'X' => self.change(event.inode, Change::Attribute(text(&event.first), Some(event.second.clone()))),
            b'x' => self.change(event.inode, Change::Attribute(text(&event.first), None)),
            b'B' => self.barriers.entry((event.inode, event.number)).or_default().push(self.clock),
            b'b' => self.settle(event, names),
            other => panic!("unknown call {other}"),
        }
    }

    fn make(&mut self, event: &Event, kind: Kind) {
        // a number that was used before is another file now
        self.inodes.insert(event.inode, self.nodes.len());
        self.name(NameChange::Add(text(&event.first), self.nodes.len()));
        let durable = State { mode: event.number as u32 & !S_IFMT, ..State::default() };
        self.nodes.push(Node { kind, durable, pending: Vec::new() });
    }

    fn name(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push((self.clock, change));
    }

    fn change(&mut self, inode: u64, change: Change) {
        if let Some(node) = self.inodes.get(&inode) {
            self.nodes[*node].pending.push((self.clock, change));
        }
    }

    /// A sync returned: what was there when it began is durable.
    fn settle(&mut self, event: &Event, names: Names) {
        let begun = self.barriers.get_mut(&(event.inode, event.number)).map_or(0, |begun| begun.remove(0));
        let all = event.number == EVERYTHING;
        let folder = (event.number == 1).then(|| text(&event.first));
        let mut left = Vec::new();
        for (clock, change) in std::mem::take(&mut self.pending) {
            let synced = all || names == Names::Ext4 || folder.as_deref() == Some(change.folder());
            if clock < begun && synced { change.apply(&mut self.durable) } else { left.push((clock, change)) }
        }
        self.pending = left;
        let synced = self.inodes.get(&event.inode).copied();
        for (number, node) in self.nodes.iter_mut().enumerate().filter(|(_, node)| !node.pending.is_empty()) {
            let whole = all || synced == Some(number);
            let Node { durable, pending, .. } = node;
            pending.retain(|(clock, change)| {
                let covered = *clock < begun && (whole || (names == Names::Ext4 && change.is_metadata()));
                if covered {
                    change.apply(durable);
                }
                !covered
            });
        }
    }

    /// Writes what a cut leaves of the folder `root` to `to`.
    pub(crate) fn cut(&self, root: &str, to: &Path, names: Names, dice: &mut Dice) {
        let mut tree = self.durable.clone();
        self.keep_names(&mut tree, names, dice);
        std::fs::create_dir_all(to).unwrap();
        let how = dice.below(6);
        let below = format!("{root}/");
        let is_folder = |path: &str| tree.get(path).is_some_and(|node| self.nodes[*node].kind == Kind::Folder);
        let whole =
            |path: &str| path[below.len()..].match_indices('/').all(|(at, _)| is_folder(&path[..below.len() + at]));
        let mut written: HashMap<Entry, PathBuf> = HashMap::new();
        let mut folders = Vec::new();
        for (path, entry) in tree.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below)) {
            // a file whose folder is not there cannot be there
            if !whole(path) {
                continue;
            }
            let target = to.join(&path[below.len()..]);
            if let Some(first) = written.get(entry) {
                std::fs::hard_link(first, &target).unwrap();
                continue;
            }
            let node = &self.nodes[*entry];
            let state = node.after_cut(how, dice);
            match &node.kind {
                Kind::Folder => {
                    std::fs::create_dir_all(&target).unwrap();
                    folders.push((target, state));
                    continue;
                }
                Kind::File => std::fs::write(&target, &state.bytes).unwrap(),
                Kind::Link(to) => std::os::unix::fs::symlink(to, &target).unwrap(),
                Kind::Device(mode, device) => device_file(&target, *mode, *device),
            }
            state.dress(&target, &node.kind);
            written.insert(*entry, target);
        }
        folders.iter().rev().for_each(|(path, state)| state.dress(path, &Kind::Folder));
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

fn device_file(path: &Path, mode: u32, device: u32) {
    let (kind, mode) = (rustix::fs::FileType::from_raw_mode(mode), rustix::fs::Mode::from_raw_mode(mode));
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device.into()).unwrap();
}

impl State {
    /// Gives a file its mode and attributes.
    fn dress(&self, path: &Path, kind: &Kind) {
        for (name, value) in &self.attributes {
            rustix::fs::lsetxattr(path, name.as_str(), value, rustix::fs::XattrFlags::empty()).unwrap();
        }
        if !matches!(kind, Kind::Link(_)) {
            std::fs::set_permissions(path, Permissions::from_mode(self.mode)).unwrap();
        }
    }
}

impl Node {
    fn after_cut(&self, how: usize, dice: &mut Dice) -> State {
        let mut state = self.durable.clone();
        let first = dice.below(self.pending.len() + 1);
        for (number, (_, change)) in self.pending.iter().enumerate() {
            match (how, change) {
                (1, change) => change.apply(&mut state),
                (2, change) if dice.coin() => change.apply(&mut state),
                (3, Change::Write(offset, data)) => pieces(&mut state.bytes, *offset, data, 4096, dice),
                (4, Change::Write(offset, data)) => pieces(&mut state.bytes, *offset, data, 512, dice),
                (3 | 4, change) if dice.coin() => change.apply(&mut state),
                (5, change) if number < first => change.apply(&mut state),
                (5, Change::Write(offset, data)) if number == first => {
                    let torn = (dice.below(data.len() / 512 + 1) * 512).min(data.len());
                    put(&mut state.bytes, *offset, &data[..torn]);
                }
                _ => {}
            }
        }
        state
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
