//! Progress of pulls and loads: bars on a terminal, plain lines elsewhere.

use crated_api::crated::engine::v1::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;

/// Shows progress on standard error.
#[derive(Debug)]
pub(crate) struct Shown {
    quiet: bool,
    bars: Option<MultiProgress>,
    known: BTreeMap<String, Line>,
}

#[derive(Debug)]
struct Line {
    bar: Option<ProgressBar>,
    action: String,
}

impl Shown {
    pub(crate) fn new(quiet: bool) -> Self {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { quiet, bars, known: BTreeMap::new() }
    }

    /// Shows one step.
    pub(crate) fn show(&mut self, progress: &Progress) {
        if self.quiet {
            return;
        }
        if progress.id.is_empty() {
            if !progress.message.is_empty() {
                self.say(&progress.message);
            }
            return;
        }
        let (id, action) = (progress.id.clone(), progress.action.clone());
        let bars = self.bars.clone();
        let line = self.known.entry(id).or_insert_with(|| Line {
            bar: bars
                .map(|bars| bars.add(ProgressBar::new(0).with_prefix(short(&progress.id)).with_style(style(false)))),
            action: String::new(),
        });
        let said = words(&progress.id, &action);
        let ended = matches!(said, "done" | "exists" | "unpacked");
        match &line.bar {
            Some(bar) => {
                bar.set_style(style(progress.total > 0 && !ended));
                bar.set_length(u64::try_from(progress.total).unwrap_or(0));
                bar.set_position(u64::try_from(progress.current).unwrap_or(0));
                bar.set_message(said.to_owned());
                if ended {
                    bar.abandon();
                }
            }
            None if line.action != action => {
                let detail =
                    if progress.message.is_empty() { String::new() } else { format!(" ({})", progress.message) };
                eprintln!("{}: {said}{detail}", short(&progress.id));
            }
            None => {}
        }
        line.action = action;
    }

    /// Leaves the bars as they are: what is printed next comes below them.
    fn end(&self) {
        for bar in self.known.values().filter_map(|line| line.bar.as_ref()).filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }

    fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(text);
            }
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.end();
    }
}

/// What people read of an action: a layer that has come is not done before it is unpacked.
fn words<'a>(id: &str, action: &'a str) -> &'a str {
    if action == "done" && id.starts_with("layer-") { "downloaded" } else { action }
}

fn style(bytes: bool) -> ProgressStyle {
    let template =
        if bytes { "{prefix}: {msg:<12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}" } else { "{prefix}: {msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// `layer-sha256:0123…` as people know it: the first 12 digits.
fn short(id: &str) -> String {
    match id.split_once("sha256:") {
        Some((_, hex)) => hex.chars().take(12).collect(),
        None => id.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_done_once_it_is_unpacked() {
        assert_eq!(words("layer-sha256:0123", "done"), "downloaded");
        assert_eq!(words("layer-sha256:0123", "unpacked"), "unpacked");
        assert_eq!(words("manifest-sha256:0123", "done"), "done");
        assert_eq!(short("layer-sha256:0123456789abcdef"), "0123456789ab");
    }
}
