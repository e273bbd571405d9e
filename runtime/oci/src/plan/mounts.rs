//! Mount options: containerd's and runc's words to attributes, propagation and data.

use crated_sys::mount::{MsFlags, attr};

/// Options of one mount, sorted by what they act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`.
    pub recursive: bool,
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// Attributes to set on all mounts below.
    pub recursive_set: u64,
    /// Attributes to clear on all mounts below.
    pub recursive_clear: u64,
    /// `MS_*`, recursive.
    pub propagation: Vec<(u64, bool)>,
    /// `idmap` (false) or `ridmap` (true).
    pub idmap: Option<bool>,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `remount`.
    pub remount: bool,
    /// For the file system itself.
    pub data: Vec<(String, Option<String>)>,
}

/// Attribute words: name, bits to clear, bits to set.
const ATTRIBUTES: [(&str, u64, u64); 20] = [
    ("ro", 0, attr::RDONLY),
    ("rw", attr::RDONLY, 0),
    ("nosuid", 0, attr::NOSUID),
    ("suid", attr::NOSUID, 0),
    ("nodev", 0, attr::NODEV),
    ("dev", attr::NODEV, 0),
    ("noexec", 0, attr::NOEXEC),
    ("exec", attr::NOEXEC, 0),
    ("noatime", attr::ATIME, attr::NOATIME),
    ("atime", attr::ATIME, attr::RELATIME),
    ("relatime", attr::ATIME, attr::RELATIME),
    ("norelatime", attr::ATIME, attr::RELATIME),
    ("strictatime", attr::ATIME, attr::STRICTATIME),
    ("nostrictatime", attr::ATIME, attr::RELATIME),
    ("nodiratime", 0, attr::NODIRATIME),
    ("diratime", attr::NODIRATIME, 0),
    ("nosymfollow", 0, attr::NOSYMFOLLOW),
    ("symfollow", attr::NOSYMFOLLOW, 0),
    ("nodevices", 0, attr::NODEV),
    ("devices", attr::NODEV, 0),
];

impl MountOptions {
    /// Sorts option words; each may hold several, separated by commas only where a single option has none (as given).
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> MountOptions {
        let mut out = MountOptions::default();
        for option in options {
            out.take(option);
        }
        out
    }

    fn take(&mut self, option: &str) {
        if let Some((_, clear, set)) = ATTRIBUTES.iter().find(|(name, ..)| *name == option) {
            apply(&mut self.set, &mut self.clear, *clear, *set);
            return;
        }
        let below = option.strip_prefix('r').and_then(|o| ATTRIBUTES.iter().find(|(name, ..)| *name == o));
        if let Some((_, clear, set)) = below {
            apply(&mut self.recursive_set, &mut self.recursive_clear, *clear, *set);
            return;
        }
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            "" | "defaults" | "loud" | "silent" | "async" | "nomand" | "mand" | "nolazytime" | "noiversion" => {}
            _ => match propagation(option) {
                Some(change) => self.propagation.push(change),
                None => self.data.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.to_owned(), None),
                }),
            },
        }
    }

    /// Attributes for a fresh mount.
    pub fn attributes(&self) -> u64 {
        self.set | self.recursive_set
    }
}

/// Every option word that is understood by itself, not passed to the file system.
pub fn mount_words() -> Vec<String> {
    let plain = ATTRIBUTES.iter().map(|(name, ..)| (*name).to_owned());
    let below = ATTRIBUTES.iter().map(|(name, ..)| format!("r{name}"));
    let kinds = ["private", "slave", "shared", "unbindable"];
    let propagation = kinds.iter().flat_map(|k| [(*k).to_owned(), format!("r{k}")]);
    let others = ["bind", "rbind", "defaults", "idmap", "ridmap", "tmpcopyup"].map(str::to_owned);
    let mut words: Vec<String> = plain.chain(below).chain(propagation).chain(others).collect();
    words.sort();
    words
}

fn apply(all_set: &mut u64, all_clear: &mut u64, clear: u64, set: u64) {
    *all_set = (*all_set & !clear) | set;
    *all_clear |= clear;
    if clear == 0 {
        *all_clear &= !set;
    }
}

/// `private`, `rslave` …: `MS_*` and whether for all below.
pub(crate) fn propagation(word: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match word.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    let flags = match name {
        "private" => MsFlags::MS_PRIVATE,
        "slave" => MsFlags::MS_SLAVE,
        "shared" => MsFlags::MS_SHARED,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some((flags.bits(), recursive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_where_they_belong() {
        let o = MountOptions::parse(["rbind", "rprivate", "ro", "nosuid", "size=64m", "rro", "ridmap", "newinstance"]);
        assert!(o.bind && o.recursive && o.idmap == Some(true));
        assert_eq!(o.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(o.recursive_set, attr::RDONLY);
        assert_eq!(o.propagation, [(MsFlags::MS_PRIVATE.bits(), true)]);
        assert_eq!(o.data, [("size".to_owned(), Some("64m".to_owned())), ("newinstance".to_owned(), None)]);
    }

    #[test]
    fn the_last_word_counts() {
        let o = MountOptions::parse(["ro", "rw", "noatime", "strictatime"]);
        assert_eq!((o.set, o.clear), (attr::STRICTATIME, attr::RDONLY | attr::ATIME));
        let o = MountOptions::parse(["rw", "ro"]);
        assert_eq!((o.set, o.clear & attr::RDONLY), (attr::RDONLY, 0));
    }
}
