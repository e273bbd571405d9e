//! Lines to standard error, which is the bundle's `log`: a FIFO that the daemon reads, or a file.
//!
//! Nothing here blocks or fails: a line that cannot be written is lost.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Whether debug lines are written.
pub(crate) fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

/// Someone must act.
pub(crate) fn error(text: Arguments<'_>) {
    line("error", text);
}

/// We coped.
pub(crate) fn warn(text: Arguments<'_>) {
    line("warning", text);
}

/// An object's life.
pub(crate) fn info(text: Arguments<'_>) {
    line("info", text);
}

/// A decision.
pub(crate) fn debug(text: Arguments<'_>) {
    if DEBUG.load(Ordering::Relaxed) {
        line("debug", text);
    }
}

fn line(level: &str, text: Arguments<'_>) {
    let time = crate::time::rfc3339(SystemTime::now());
    let line = format!("time=\"{time}\" level={level} msg={:?} runtime=io.containerd.crated.v2\n", text.to_string());
    let _ = std::io::stderr().write_all(line.as_bytes());
}
