//! The configuration's defaults with their words, as TOML and as a page.

use super::{Config, Engine, Key, Limits, Listeners, Log, Metrics, Network, TcpListener, UnixListener};
use std::fmt::Write as _;

/// Name, words and keys of each section, in the order of the file.
fn sections() -> Vec<(&'static str, &'static str, &'static [Key])> {
    vec![
        ("listeners", Listeners::PAGE, Listeners::KEYS),
        ("limits", Limits::PAGE, Limits::KEYS),
        ("metrics", Metrics::PAGE, Metrics::KEYS),
        ("log", Log::PAGE, Log::KEYS),
        ("engine", Engine::PAGE, Engine::KEYS),
        ("network", Network::PAGE, Network::KEYS),
    ]
}

fn words(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn defaults() -> toml::Table {
    toml::Table::try_from(Config::default()).expect("the defaults are plain tables")
}

/// The value of a key as TOML text; none where the default is "not set".
fn value(table: &toml::Table, key: &str) -> Option<String> {
    table.get(key).map(ToString::to_string)
}

/// The default configuration as a commented file.
#[must_use]
pub fn default_toml() -> String {
    let all = defaults();
    let mut text = String::from("# The configuration of crated with its defaults. Every key is optional.\n\n");
    for key in &Config::KEYS[..2] {
        entry(&mut text, key, &all);
    }
    for (name, page, keys) in sections() {
        let _ = writeln!(text, "\n# {}\n[{name}]", words(page));
        let empty = toml::Table::new();
        let table = all.get(name).and_then(toml::Value::as_table).unwrap_or(&empty);
        for key in keys {
            entry(&mut text, key, table);
        }
    }
    let _ = writeln!(text, "\n# How registries are reached.\n[registry]");
    if let Some(registry) = all.get("registry").and_then(toml::Value::as_table) {
        for (key, value) in registry {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    text
}

fn entry(text: &mut String, key: &Key, table: &toml::Table) {
    let _ = writeln!(text, "# {}", words(key.words));
    let _ = match value(table, key.name) {
        Some(value) => writeln!(text, "{} = {value}", key.name),
        None => writeln!(text, "# {} =", key.name),
    };
}

/// `docs/config.md`.
#[must_use]
pub fn page() -> String {
    let all = defaults();
    let mut text = format!(
        "# Configuration\n\nMade by `crated docs config`; do not edit.\n\ncrated reads `{}` where it exists, or the file of \
         `--config`. Every key is optional; an unknown one is refused. The flags `--root`, `--state`, `--address`, `--log-level` \
         and `--log-format` win over the file. `crated config default` prints all defaults as a file, `crated config check` reads \
         one and says what is wrong with it.\n",
        super::DEFAULT_FILE
    );
    table(&mut text, "Top of the file", "", &Config::KEYS[..2], &all);
    for (name, page, keys) in sections() {
        let empty = toml::Table::new();
        let values = all.get(name).and_then(toml::Value::as_table).unwrap_or(&empty);
        table(&mut text, &format!("`[{name}]`"), page, keys, values);
    }
    let values = |value: Result<toml::Table, _>| value.expect("the defaults are plain tables");
    let unix = values(toml::Table::try_from(UnixListener::default()));
    table(&mut text, "`[[listeners.unix]]`", UnixListener::PAGE, UnixListener::KEYS, &unix);
    let tcp = values(toml::Table::try_from(TcpListener::default()));
    table(&mut text, "`[[listeners.tcp]]`", TcpListener::PAGE, TcpListener::KEYS, &tcp);
    let _ = writeln!(text, "\n## `[registry]`\n\nHow registries are reached.\n\n| key | default |\n|---|---|");
    if let Some(registry) = all.get("registry").and_then(toml::Value::as_table) {
        for (key, value) in registry {
            let _ = writeln!(text, "| `{key}` | `{value}` |");
        }
    }
    let _ = writeln!(
        text,
        "\n## `[plugins.\"<type>\".<id>]`\n\nSettings of one plugin; types and ids as `ctr plugins ls` shows them.\n\n| plugin | key | \
         meaning |\n|---|---|---|"
    );
    for (plugin, key, meaning) in crate::builtin::PLUGIN_KEYS {
        let _ = writeln!(text, "| `{plugin}` | `{key}` | {meaning} |");
    }
    text
}

fn table(text: &mut String, title: &str, page: &str, keys: &[Key], values: &toml::Table) {
    let _ = write!(text, "\n## {title}\n\n");
    if !page.is_empty() {
        let _ = writeln!(text, "{}\n", words(page));
    }
    let _ = writeln!(text, "| key | default | meaning |\n|---|---|---|");
    for key in keys {
        let shown = value(values, key.name).map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        let _ = writeln!(text, "| `{}` | {shown} | {} |", key.name, words(key.words));
    }
}
