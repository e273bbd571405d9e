//! `stats`: what containers use.

use crate::cmd::prelude::*;
use crate::output;
use clap::Args;
use futures::StreamExt;
use std::io::IsTerminal;

/// Show what containers use.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// One sample, then end
    #[arg(long)]
    no_stream: bool,
    /// Go template for each container
    #[arg(long)]
    format: Option<String>,
    /// Containers; all that run without any
    containers: Vec<String>,
}

impl Stats {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let template = self.format.as_deref().map(crate::format::Template::parse).transpose()?;
        let request = api::StatsRequest { containers: self.containers, stream: !self.no_stream, interval_ms: 0 };
        let mut answers = client.engine().stats(request).await?.into_inner();
        let clear = !self.no_stream && std::io::stdout().is_terminal();
        while let Some(answer) = answers.next().await {
            let mut rows = Vec::new();
            for sample in answer?.samples {
                let share = if sample.memory_limit == 0 {
                    0.0
                } else {
                    sample.memory_usage as f64 * 100.0 / sample.memory_limit as f64
                };
                let row = vec![
                    output::short(&sample.id),
                    sample.name.clone(),
                    format!("{:.2}%", sample.cpu_percent),
                    format!("{} / {}", output::memory(sample.memory_usage), output::memory(sample.memory_limit)),
                    format!("{share:.2}%"),
                    format!("{} / {}", output::size(sample.network_received), output::size(sample.network_sent)),
                    format!("{} / {}", output::size(sample.block_read), output::size(sample.block_write)),
                    sample.pids.to_string(),
                ];
                if let Some(template) = &template {
                    let data = serde_json::json!({
                        "ID": row[0], "Container": row[0], "Name": row[1], "CPUPerc": row[2], "MemUsage": row[3],
                        "MemPerc": row[4], "NetIO": row[5], "BlockIO": row[6], "PIDs": row[7],
                    });
                    println!("{}", template.render(&data)?);
                }
                rows.push(row);
            }
            if template.is_none() {
                if clear {
                    print!("\x1b[2J\x1b[H");
                }
                let titles =
                    ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"];
                println!("{}", output::table(&titles, rows));
            }
        }
        Ok(0)
    }
}
