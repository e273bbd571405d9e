//! Identifiers and names of containers: 64 random hexadecimal digits, and docker's grammar of names.

use crated_types::{Error, Result};
use std::fs::File;
use std::io::Read;

/// Longest name, in bytes.
pub(crate) const NAME_MAX: usize = 253;
/// Digits of a short identifier.
const SHORT: usize = 12;

const MOODS: &[&str] = &[
    "able", "agile", "alert", "ample", "apt", "balmy", "bold", "brave", "breezy", "brisk", "calm", "candid", "cheery",
    "civil", "clear", "clever", "cosy", "crisp", "curious", "daring", "deft", "dreamy", "eager", "early", "earnest",
    "fair", "fearless", "fleet", "fond", "frank", "fresh", "frosty", "gentle", "glad", "golden", "grand", "happy",
    "hardy", "hearty", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "lunar", "mellow",
    "merry", "mighty", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud",
    "quick", "quiet", "rapid", "ready", "robust", "rosy", "serene", "sharp", "silent", "sincere", "snowy", "solar",
    "solid", "spry", "stable", "steady", "stout", "sturdy", "subtle", "sunny", "swift", "tame", "tender", "tidy",
    "tranquil", "trusty", "upbeat", "valiant", "vivid", "warm", "whole", "wise", "witty", "zesty",
];

const THINGS: &[&str] = &[
    "acorn",
    "albatross",
    "alder",
    "anchor",
    "aspen",
    "badger",
    "barge",
    "barrel",
    "basin",
    "basket",
    "beacon",
    "beaver",
    "birch",
    "bobbin",
    "bramble",
    "brook",
    "buoy",
    "cargo",
    "cedar",
    "chest",
    "clover",
    "comet",
    "coral",
    "crane",
    "crate",
    "cricket",
    "dock",
    "dolphin",
    "dory",
    "dune",
    "ember",
    "falcon",
    "fern",
    "ferry",
    "finch",
    "fjord",
    "gale",
    "gannet",
    "glacier",
    "grove",
    "gull",
    "hamper",
    "harbour",
    "hawthorn",
    "hazel",
    "heron",
    "holly",
    "hull",
    "inlet",
    "ivy",
    "jetty",
    "juniper",
    "kayak",
    "keel",
    "kestrel",
    "kiln",
    "lagoon",
    "lantern",
    "larch",
    "lark",
    "lichen",
    "linden",
    "lock",
    "lynx",
    "magpie",
    "maple",
    "marten",
    "mast",
    "meadow",
    "moss",
    "oar",
    "orchard",
    "osprey",
    "otter",
    "pallet",
    "parcel",
    "pebble",
    "petrel",
    "pier",
    "plover",
    "pontoon",
    "poplar",
    "puffin",
    "quay",
    "raft",
    "reef",
    "ridge",
    "robin",
    "rowan",
    "rudder",
    "sail",
    "schooner",
    "seal",
    "shoal",
    "sloop",
    "spruce",
    "starling",
    "stoat",
    "swallow",
    "tarn",
    "tern",
    "thicket",
    "thrush",
    "tide",
    "tiller",
    "trawler",
    "trunk",
    "tugboat",
    "walnut",
    "wharf",
    "willow",
    "wren",
    "yew",
];

/// Whether `name` is a container's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, at most 253 bytes.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (2..=NAME_MAX).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Checks a name and takes a leading slash off it, as docker does.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] with the grammar.
pub fn check_name(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    if is_name(bare) {
        return Ok(bare);
    }
    let shown: String = bare.chars().take(64).collect();
    Err(Error::invalid(
        "name",
        format_args!("{shown:?} must match [a-zA-Z0-9][a-zA-Z0-9_.-]+ and have 2 to {NAME_MAX} bytes"),
    ))
}

/// A fresh identifier.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0; 32];
    fill(&mut bytes)?;
    Ok(hex(&bytes))
}

/// A fresh name; `attempt` above 0 adds a number, so that some attempt is free.
pub(crate) fn random_name(attempt: u32) -> Result<String> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    let pick =
        |list: &[&'static str], low: u8, high: u8| list[usize::from(u16::from_le_bytes([low, high])) % list.len()];
    let name = format!("{}_{}", pick(MOODS, bytes[0], bytes[1]), pick(THINGS, bytes[2], bytes[3]));
    Ok(if attempt == 0 { name } else { format!("{name}{}", u16::from_le_bytes([bytes[4], bytes[5]])) })
}

/// The first digits of an identifier of ours; other identifiers whole.
pub(crate) fn short(id: &str) -> &str {
    if is_random_id(id) { &id[..SHORT] } else { id }
}

/// Whether an identifier looks like one of [`random_id`].
pub(crate) fn is_random_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(bytes))
        .map_err(|error| Error::os("read /dev/urandom", error))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_dockers_grammar() {
        for good in ["ab", "0a", "a_", "A.b-c_d", "web-1", &"x".repeat(NAME_MAX)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a", "_a", "-a", ".a", "a b", "a/b", "é1", "a\n", &"x".repeat(NAME_MAX + 1)] {
            assert!(!is_name(bad), "{bad}");
        }
        assert_eq!(check_name("/web").unwrap(), "web");
        assert!(check_name("//web").is_err());
    }

    #[test]
    fn generated_names_and_identifiers_are_valid_and_fresh() {
        let names: BTreeSet<_> = (0..200).map(|attempt| random_name(attempt % 2).unwrap()).collect();
        assert!(names.len() > 150 && names.iter().all(|name| is_name(name)), "{names:?}");
        let id = random_id().unwrap();
        assert!(is_random_id(&id) && id != random_id().unwrap());
        assert_eq!(short(&id).len(), 12);
        assert_eq!(short("redis-1"), "redis-1");
        for list in [MOODS, THINGS] {
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len());
            assert!(list.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
        }
    }
}
