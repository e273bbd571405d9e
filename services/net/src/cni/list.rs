//! Lists of plugins, as they stand in the configuration folder. What they name is run as root: nobody else may write there.

use crated_types::{Error, Fault, Kind, Result};
use serde_json::{Map, Value};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most plugins of a list.
const PLUGINS_MAX: usize = 32;
/// Versions of the specification that are spoken, lowest first.
pub(super) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A version of the specification; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) usize);

impl Version {
    pub(super) const V0_3: Self = Self(2);
    pub(super) const V0_4: Self = Self(4);
    pub(super) const V1_0: Self = Self(5);
    pub(super) const V1_1: Self = Self(6);

    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = if text.is_empty() { "0.1.0" } else { text };
        VERSIONS.iter().position(|known| *known == text).map(Self)
    }

    pub(super) const fn text(self) -> &'static str {
        VERSIONS[self.0]
    }
}

/// A list, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) no_check: bool,
    pub(super) no_gc: bool,
    pub(super) plugins: Vec<Map<String, Value>>,
    pub(super) file: PathBuf,
}

impl List {
    /// Reads a list, or a configuration of one plugin.
    pub(super) fn parse(text: &[u8], file: &Path) -> Result<Self> {
        let bad =
            |why: String| Error::new(Fault::Malformed, format!("{}: {why}", file.display())).on(Kind::Network, "cni");
        let value: Value = serde_json::from_slice(text).map_err(|error| bad(format!("is no JSON: {error}")))?;
        let Value::Object(mut map) = value else { return Err(bad("is no JSON object".into())) };
        let name = map.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        check_name(&name).map_err(&bad)?;
        let version = version(&map).map_err(&bad)?;
        let flag = |map: &Map<String, Value>, key: &str| match map.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
            Some(other) => Err(bad(format!("{key}: {other} is neither true nor false"))),
        };
        let (no_check, no_gc) = (flag(&map, "disableCheck")?, flag(&map, "disableGC")?);
        let plugins = match map.remove("plugins") {
            None => vec![Value::Object(map)],
            Some(Value::Array(plugins)) => plugins,
            Some(_) => return Err(bad("plugins: is no array".into())),
        };
        if plugins.is_empty() || plugins.len() > PLUGINS_MAX {
            return Err(bad(format!("plugins: {} of them, want 1 to {PLUGINS_MAX}", plugins.len())));
        }
        let mut checked = Vec::new();
        for plugin in plugins {
            let Value::Object(plugin) = plugin else { return Err(bad("plugins: one is no object".into())) };
            check_type(type_of(&plugin)).map_err(&bad)?;
            checked.push(plugin);
        }
        Ok(Self { name, version, no_check, no_gc, plugins: checked, file: file.to_owned() })
    }

    /// The types of its plugins.
    pub(super) fn types(&self) -> Vec<String> {
        self.plugins.iter().map(|plugin| type_of(plugin).to_owned()).collect()
    }

    /// The whole list as one would write it, for the memory.
    pub(super) fn value(&self) -> Value {
        serde_json::json!({
            "cniVersion": self.version.text(),
            "name": self.name,
            "disableCheck": self.no_check,
            "disableGC": self.no_gc,
            "plugins": self.plugins,
        })
    }
}

/// The type of a plugin: its program's name.
pub(super) fn type_of(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The version of a list; of several (`cniVersions`, from 1.1) the highest that we speak.
fn version(map: &Map<String, Value>) -> Result<Version, String> {
    let named = map.get("cniVersion").and_then(Value::as_str);
    let mut known: Vec<Version> = map
        .get("cniVersions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|version| Version::parse(version.as_str()?))
        .collect();
    if known.is_empty() || named.is_some() {
        let text = named.unwrap_or_default();
        match Version::parse(text) {
            Some(version) => known.push(version),
            None if known.is_empty() => {
                return Err(format!("cniVersion: {text:?} is not spoken here, only {}", VERSIONS.join(", ")));
            }
            None => {}
        }
    }
    known.into_iter().max().ok_or_else(|| "cniVersion: none is spoken here".into())
}

fn check_name(name: &str) -> Result<(), String> {
    let good = name.len() <= 128
        && name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'));
    if good { Ok(()) } else { Err(format!("name: {name:?} is not [a-zA-Z0-9][a-zA-Z0-9_.-]*")) }
}

/// A type is the name of a file in a plugin folder, never a path.
fn check_type(kind: &str) -> Result<(), String> {
    let good = !kind.is_empty() && !kind.contains(['/', '\0']) && kind != "." && kind != "..";
    if good { Ok(()) } else { Err(format!("type: {kind:?} is no file name")) }
}

/// The lists of a folder, by file name; of two with one name the first counts. What cannot be used comes beside.
pub(super) fn load(folder: &Path) -> Result<(Vec<List>, Vec<Error>)> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        Err(error) => return Err(Error::os(format!("read {}", folder.display()), error)),
    };
    check_owner(folder)?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| {
        let ending = file.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("conflist" | "conf" | "json")) && file.is_file()
    });
    files.sort();
    let (mut lists, mut bad): (Vec<List>, Vec<Error>) = (Vec::new(), Vec::new());
    for file in files {
        match read(&file) {
            Ok(list) if lists.iter().any(|known| known.name == list.name) => {}
            Ok(list) => lists.push(list),
            Err(error) => bad.push(error),
        }
    }
    Ok((lists, bad))
}

fn read(file: &Path) -> Result<List> {
    check_owner(file)?;
    let os = |error| Error::os(format!("read {}", file.display()), error);
    if std::fs::metadata(file).map_err(os)?.len() > FILE_MAX {
        return Err(Error::new(Fault::Malformed, format!("{}: is longer than {FILE_MAX} bytes", file.display())));
    }
    List::parse(&std::fs::read(file).map_err(os)?, file)
}

/// What decides what runs as root is written by root alone (or by who we are).
pub(super) fn check_owner(path: &Path) -> Result<()> {
    let meta = std::fs::metadata(path).map_err(|error| Error::os(format!("stat {}", path.display()), error))?;
    let own = rustix::process::geteuid().as_raw();
    if (meta.uid() != 0 && meta.uid() != own) || meta.mode() & 0o022 != 0 {
        return Err(Error::new(
            Fault::Denied,
            format!("{}: others may write it (owner {}, mode {:o})", path.display(), meta.uid(), meta.mode() & 0o7777),
        )
        .remedy_is(format!("chown root {0} && chmod go-w {0}", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(text: &str) -> Result<List> {
        List::parse(text.as_bytes(), Path::new("/etc/cni/net.d/x.conflist"))
    }

    #[test]
    fn lists_and_single_configurations_are_read() {
        let list =
            parse(r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#).unwrap();
        assert_eq!((list.types(), list.version.text()), (vec!["bridge".into(), "portmap".into()], "1.0.0"));
        let one = parse(r#"{"cniVersion":"0.3.1","name":"b","type":"bridge","bridge":"br0"}"#).unwrap();
        assert_eq!((one.types(), one.plugins[0]["bridge"].as_str()), (vec!["bridge".into()], Some("br0")));
        let several = r#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.0.0","1.1.0","9.0.0"],"name":"c","type":"x","disableCheck":true}"#;
        let several = parse(several).unwrap();
        assert!(several.version == Version::V1_1 && several.no_check && !several.no_gc);
        let again = List::parse(&serde_json::to_vec(&several.value()).unwrap(), &several.file).unwrap();
        assert_eq!(again, several);
    }

    #[test]
    fn what_cannot_be_used_is_said_with_its_reason() {
        for (text, why) in [
            ("nonsense", "no JSON"),
            ("[]", "no JSON object"),
            (r#"{"cniVersion":"1.0.0","type":"x"}"#, "name"),
            (r#"{"cniVersion":"1.0.0","name":"../x","type":"x"}"#, "name"),
            (r#"{"cniVersion":"7.0.0","name":"x","type":"x"}"#, "cniVersion"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#, "plugins"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../../bin/sh"}]}"#, "type"),
            (r#"{"cniVersion":"1.0.0","name":"x","plugins":[7]}"#, "plugins"),
            (r#"{"cniVersion":"1.0.0","name":"x","type":"x","disableGC":7}"#, "disableGC"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("x.conflist"), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_file_wins_and_a_bad_one_hinders_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            file
        };
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        put("20-b.conf", r#"{"cniVersion":"1.0.0","name":"a","type":"second"}"#);
        put("10-a.conflist", r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"first"}]}"#);
        put("30-c.json", r#"{"cniVersion":"1.0.0","name":"c","type":"third"}"#);
        put("40-d.conf", "nonsense");
        put("50-e.txt", r#"{"cniVersion":"1.0.0","name":"e","type":"x"}"#);
        let open = put("60-f.conf", r#"{"cniVersion":"1.0.0","name":"f","type":"x"}"#);
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o666)).unwrap();
        let (lists, bad) = load(folder.path()).unwrap();
        assert_eq!(lists.iter().map(|list| list.types().remove(0)).collect::<Vec<_>>(), ["first", "third"]);
        assert_eq!(bad.len(), 2);
        assert_eq!(bad[1].fault(), Fault::Denied);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(load(folder.path()).unwrap_err().fault(), Fault::Denied);
        let (lists, bad) = load(&folder.path().join("none")).unwrap();
        assert!(lists.is_empty() && bad.is_empty());
    }
}
