//! Log lines on standard error, as text or JSON.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The filter of a level or of directives.
///
/// # Errors
/// What is wrong with the text.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let plain = level.chars().all(|letter| letter.is_ascii_alphabetic());
    if plain && !LEVELS.contains(&level) {
        return Err(format!("unknown level {level:?}; {}", crate::config::hint::suggestion(level, LEVELS)));
    }
    // A plain level is meant for crated; the wire below it would drown it.
    let directives = match level {
        "debug" | "trace" => format!("{level},h2=info,hyper=info,hyper_util=info,tower=info,rustls=info,sled=info"),
        _ => level.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|error| format!("{level:?}: {error}"))
}

/// Starts logging; a second call changes nothing.
///
/// # Errors
/// What is wrong with the level.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = filter(&log.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    Ok(())
}
