//! `events` and `logs`.

use crate::cmd::prelude::*;
use crate::output;
use clap::Args;
use futures::StreamExt;
use std::io::Write;

/// Follow what happens.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Start behind this cursor (0.0: from the oldest that is kept)
    #[arg(long, default_value = "")]
    since: String,
    /// End at the newest event
    #[arg(long)]
    no_follow: bool,
    /// Filter, e.g. topic~=/tasks
    #[arg(short, long)]
    filter: Vec<String>,
    /// Events of every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

impl Events {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let request = api::EventsRequest {
            since: self.since,
            filters: self.filter,
            all_namespaces: self.all_namespaces,
            no_follow: self.no_follow,
        };
        let mut events = client.engine().events(request).await?.into_inner();
        while let Some(event) = events.next().await {
            let event = event?;
            let time = output::rfc3339(event.time.as_ref());
            if self.json {
                let data: serde_json::Value = serde_json::from_str(&event.json).unwrap_or_default();
                let line = serde_json::json!({
                    "cursor": event.cursor, "time": time, "namespace": event.namespace, "topic": event.topic,
                    "event": data, "actor": event.actor, "cause": event.cause,
                });
                println!("{line}");
            } else {
                println!("{} {time} {} {} {}", event.cursor, event.namespace, event.topic, event.json);
            }
        }
        Ok(0)
    }
}

/// Show the output of a container.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Lines from the end, or all
    #[arg(short = 'N', long, default_value = "all")]
    tail: String,
    /// Since a time (RFC 3339, seconds, or an age such as 10m)
    #[arg(long)]
    since: Option<String>,
    /// Until a time
    #[arg(long)]
    until: Option<String>,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    container: String,
}

impl Logs {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let tail = match self.tail.as_str() {
            "all" => None,
            number => Some(number.parse().with_context(|| format!("--tail {number:?} is neither a number nor all"))?),
        };
        let request = api::LogsRequest {
            container: self.container,
            follow: self.follow,
            tail,
            since: self.since.as_deref().map(output::parse_time).transpose()?,
            until: self.until.as_deref().map(output::parse_time).transpose()?,
            stdout: true,
            stderr: true,
        };
        let mut entries = client.engine().logs(request).await?.into_inner();
        let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            let to: &mut dyn Write = if entry.stream == "stderr" { &mut err } else { &mut out };
            if self.timestamps {
                write!(to, "{} ", output::rfc3339(entry.time.as_ref()))?;
            }
            to.write_all(&entry.line)?;
            to.flush()?;
        }
        Ok(0)
    }
}
