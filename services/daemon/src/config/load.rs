//! Reading the file, with errors that a person can act on: file, line, key, what is wrong, what was meant.

use super::{Config, hint};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for ConfigError {}

/// Reads `file`; with `optional`, a file that does not exist is an empty one.
///
/// # Errors
/// What cannot be read or understood, with its line.
pub fn read(file: &Path, optional: bool) -> Result<Config, ConfigError> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(file, &text),
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(ConfigError { file: file.into(), line: None, what: format!("cannot be read: {error}") }),
    }
}

/// Reads the text of `file`.
///
/// # Errors
/// As [`read`].
pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let config: Config = toml::from_str(text).map_err(|error| {
        let at = error.span().map(|span| span.start);
        ConfigError {
            file: file.into(),
            line: at.map(|at| line_of(text, at)),
            what: explain(error.message(), &at.map(|at| table_of(text, at)).unwrap_or_default()),
        }
    })?;
    check(&config).map_err(|(key, what)| ConfigError {
        file: file.into(),
        line: find(text, &key),
        what: format!("{key}: {what}"),
    })?;
    Ok(config)
}

/// The error of a plugin's table, which only the plugin itself can read.
#[must_use]
pub fn of_plugin(file: &Path, text: &str, slot: &str, id: &str, message: &str) -> ConfigError {
    let table = format!("plugins.{slot:?}.{id}");
    let key = quoted(message).map_or_else(|| table.clone(), |key| format!("{table}.{key}"));
    ConfigError { file: file.into(), line: find(text, &key), what: explain(message, &table) }
}

/// The error of a table for a plugin that does not exist.
#[must_use]
pub fn unknown_plugin(file: &Path, text: &str, slot: &str, id: &str, hint: &str) -> ConfigError {
    let table = format!("plugins.{slot:?}.{id}");
    ConfigError { file: file.into(), line: find(text, &table), what: format!("[{table}]: no such plugin; {hint}") }
}

/// Rules that types do not hold.
fn check(config: &Config) -> Result<(), (String, String)> {
    let absolute = |key: &str, path: &Path| {
        if super::is_absolute(path) {
            Ok(())
        } else {
            Err((key.to_owned(), format!("{:?} must be an absolute path without \"..\"", path.display().to_string())))
        }
    };
    absolute("root", &config.root)?;
    absolute("state", &config.state)?;
    absolute("listeners.address", &config.address())?;
    for listener in &config.listeners.unix {
        absolute("listeners.unix.path", &listener.path)?;
    }
    for listener in &config.listeners.tcp {
        if listener.address.parse::<std::net::SocketAddr>().is_err() {
            return Err((
                "listeners.tcp.address".into(),
                format!("{:?} is not IP:PORT, as in \"127.0.0.1:7443\"", listener.address),
            ));
        }
    }
    if !config.metrics.address.is_empty() && config.metrics.address.parse::<std::net::SocketAddr>().is_err() {
        return Err(("metrics.address".into(), format!("{:?} is not IP:PORT", config.metrics.address)));
    }
    let bounds = [
        ("limits.message_bytes", config.limits.message_bytes, 1 << 16),
        ("limits.concurrent_requests", config.limits.concurrent_requests, 1),
        ("limits.concurrent_streams", config.limits.concurrent_streams, 1),
        ("limits.connections", config.limits.connections, 1),
        ("limits.request_deadline_seconds", config.limits.request_deadline_seconds, 1),
        ("limits.blocking_threads", config.limits.blocking_threads, 4),
    ];
    for (key, value, least) in bounds {
        if !(least..=u64::from(u32::MAX)).contains(&value) {
            return Err((key.into(), format!("{value} is out of bounds: {least} to {}", u32::MAX)));
        }
    }
    crate::log::filter(&config.log.level).map_err(|error| ("log.level".to_owned(), error))?;
    Ok(())
}

/// serde's message for people: unknown keys get a suggestion.
fn explain(message: &str, table: &str) -> String {
    let message = message.trim_end();
    let place = if table.is_empty() { String::new() } else { format!(" in [{table}]") };
    let Some(key) = message.strip_prefix("unknown field ").and_then(|_| quoted(message)) else {
        return format!("{message}{place}");
    };
    let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
    format!("unknown key {key:?}{place}; {}", hint::suggestion(key, known.iter().copied()))
}

/// The first word in back quotes.
fn quoted(message: &str) -> Option<&str> {
    message.split('`').nth(1)
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The table whose header stands last before `at`.
fn table_of(text: &str, at: usize) -> String {
    let mut table = String::new();
    for line in text[..at.min(text.len())].lines() {
        if let Some(header) = header(line) {
            table = header.into();
        }
    }
    table
}

fn header(line: &str) -> Option<&str> {
    let line = line.trim();
    let inner = line.strip_prefix("[[").and_then(|rest| rest.split_once("]]"));
    inner.or_else(|| line.strip_prefix('[').and_then(|rest| rest.split_once(']'))).map(|(header, _)| header.trim())
}

/// The line of a key (`a.b.c`): the assignment below its table's header, else the header.
fn find(text: &str, key: &str) -> Option<usize> {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let bare = |text: &str| text.replace(['"', '\'', ' '], "");
    let mut current = String::new();
    let mut of_table = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(header) = header(line) {
            current = bare(header);
            if current == bare(key) || (of_table.is_none() && current == bare(table)) {
                of_table = Some(number + 1);
            }
        } else if let Some((left, _)) = line.split_once('=')
            && (current == bare(table) && bare(left) == name || current.is_empty() && bare(left) == bare(key))
        {
            return Some(number + 1);
        }
    }
    of_table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("/c.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_told_with_line_and_table_and_what_was_meant() {
        assert_eq!(
            error("root = \"/r\"\n\n[limits]\nmesage_bytes = 1\n"),
            "/c.toml:4: unknown key \"mesage_bytes\" in [limits]; did you mean \"message_bytes\"?"
        );
        assert_eq!(error("rot = \"/r\"\n"), "/c.toml:1: unknown key \"rot\"; did you mean \"root\"?");
        let text = error("[[listeners.tcp]]\naddress = \"127.0.0.1:1\"\nclientca = \"/x\"\n");
        assert_eq!(text, "/c.toml:3: unknown key \"clientca\" in [listeners.tcp]; did you mean \"client_ca\"?");
    }

    #[test]
    fn a_wrong_value_is_told_with_its_line() {
        let text = error("[limits]\n\nmessage_bytes = \"many\"\n");
        assert!(text.starts_with("/c.toml:3: invalid type: string \"many\""), "{text}");
        let text = error("state = \"/s\"\nroot = \"relative\"\n");
        assert_eq!(text, "/c.toml:2: root: \"relative\" must be an absolute path without \"..\"");
        let text = error("[listeners]\nmode = \"999\"\n");
        assert!(text.contains("is not a mode"), "{text}");
        let text = error("[metrics]\naddress = \"everywhere\"\n");
        assert_eq!(text, "/c.toml:2: metrics.address: \"everywhere\" is not IP:PORT");
        assert!(error("root = ").starts_with("/c.toml:1: "));
    }

    #[test]
    fn a_plugins_key_is_told_like_the_others() {
        let text = "[plugins.\"io.containerd.snapshotter.v1\".overlayfs]\nrot = \"/x\"\n";
        let error = of_plugin(
            Path::new("/c.toml"),
            text,
            "io.containerd.snapshotter.v1",
            "overlayfs",
            "unknown field `rot`, expected `root`",
        );
        assert_eq!(
            error.to_string(),
            "/c.toml:2: unknown key \"rot\" in [plugins.\"io.containerd.snapshotter.v1\".overlayfs]; did you mean \"root\"?"
        );
    }

    #[test]
    fn an_unknown_plugin_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let text = "root = \"/r\"\n[plugins.\"io.containerd.snapshotter.v1\".overlay]\n";
        std::fs::write(&file, text).unwrap();
        let error = crate::builtin::check_config(&parse(&file, text).unwrap(), &file).unwrap_err().to_string();
        assert!(
            error.contains("c.toml:2: ") && error.ends_with("no such plugin; did you mean \"overlayfs\"?"),
            "{error}"
        );
        let text = "[plugins.\"io.containerd.snapshotter.v1\".native]\nrot = \"/x\"\n";
        std::fs::write(&file, text).unwrap();
        let error = crate::builtin::check_config(&parse(&file, text).unwrap(), &file).unwrap_err().to_string();
        assert!(error.contains("c.toml:2: unknown key \"rot\""), "{error}");
    }

    #[test]
    fn what_is_printed_as_default_reads_as_the_default() {
        let printed = crate::config::docs::default_toml();
        assert_eq!(parse(Path::new("default"), &printed).unwrap(), Config::default());
    }

    #[test]
    fn a_missing_file_counts_only_where_none_was_named() {
        assert_eq!(read(Path::new("/no/such/file"), true).unwrap(), Config::default());
        assert!(read(Path::new("/no/such/file"), false).unwrap_err().to_string().contains("cannot be read"));
    }
}
