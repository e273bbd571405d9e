//! `system check`: what is stored against what is recorded.

use crate::cmd::prelude::*;
use crate::output;
use api::check_response::Step;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;

/// Compare what is stored with what is recorded.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Mend what can be mended: fetch damaged blobs again, unpack layers again, remove orphans
    #[arg(long)]
    repair: bool,
    /// Read no blob and count no folder
    #[arg(long)]
    quick: bool,
    /// How to print what is found
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Print nothing but findings
    #[arg(short = 'q', long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One object
    Json,
}

impl Check {
    /// Exit status 0: all is well (now); 1: something is left.
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let request = api::CheckRequest { repair: self.repair, quick: self.quick };
        let mut answers = client.engine().check(request).await?.into_inner();
        let shown = Shown::new(self.quiet || self.format == Format::Json);
        let (mut findings, mut summary) = (Vec::new(), None);
        while let Some(answer) = answers.next().await {
            match answer?.step {
                Some(Step::Progress(progress)) => shown.show(&progress),
                Some(Step::Finding(finding)) => findings.push(finding),
                Some(Step::Summary(last)) => summary = Some(last),
                None => {}
            }
        }
        shown.end();
        let summary = summary.context("the daemon ended the check before its end")?;
        match self.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(&as_json(&findings, &summary))?),
            Format::Table => self.print(findings, &summary),
        }
        Ok(u8::from(summary.open > 0))
    }

    fn print(&self, findings: Vec<api::Finding>, summary: &api::CheckSummary) {
        if !findings.is_empty() {
            let rows = findings.into_iter().map(|finding| {
                let outcome = match (finding.outcome.is_empty(), finding.open) {
                    (true, _) => "left".to_owned(),
                    (false, true) => format!("left; {}", finding.outcome),
                    (false, false) => finding.outcome,
                };
                let namespace = if finding.namespace.is_empty() { "-".into() } else { finding.namespace };
                let used_by = if finding.used_by.is_empty() { "-".into() } else { finding.used_by.join(", ") };
                let remedy = if finding.remedy.is_empty() { "-".into() } else { finding.remedy };
                vec![finding.kind, namespace, finding.object, finding.problem, used_by, outcome, remedy]
            });
            let titles = ["KIND", "NAMESPACE", "OBJECT", "PROBLEM", "USED BY", "OUTCOME", "WHAT TO DO"];
            println!("{}", output::table(&titles, rows.collect()));
        }
        if self.quiet {
            return;
        }
        let bytes = output::size(u64::try_from(summary.bytes).unwrap_or(0));
        let seconds = std::time::Duration::from_micros(summary.took_us).as_secs_f64();
        println!(
            "{} blobs ({bytes} read), {} snapshots in {seconds:.1} s: {} found, {} mended, {} left",
            summary.blobs, summary.snapshots, summary.findings, summary.repaired, summary.open
        );
    }
}

fn as_json(findings: &[api::Finding], summary: &api::CheckSummary) -> serde_json::Value {
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "kind": finding.kind,
                "namespace": finding.namespace,
                "object": finding.object,
                "problem": finding.problem,
                "usedBy": finding.used_by,
                "outcome": finding.outcome,
                "open": finding.open,
                "remedy": finding.remedy,
            })
        })
        .collect();
    json!({
        "findings": findings,
        "blobs": summary.blobs,
        "bytesRead": summary.bytes,
        "snapshots": summary.snapshots,
        "found": summary.findings,
        "repaired": summary.repaired,
        "open": summary.open,
        "tookMicroseconds": summary.took_us,
    })
}

/// How far the check is, on a terminal.
struct Shown(Option<ProgressBar>);

impl Shown {
    fn new(quiet: bool) -> Self {
        Self((!quiet && std::io::stderr().is_terminal()).then(|| ProgressBar::new(0)))
    }

    fn show(&self, progress: &api::CheckProgress) {
        let Some(bar) = &self.0 else { return };
        let template = match progress.part.as_str() {
            "blobs" => "{msg:<9} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            _ => "{msg}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(progress.part.clone());
        bar.set_length(u64::try_from(progress.total).unwrap_or(0));
        bar.set_position(u64::try_from(progress.current).unwrap_or(0));
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
