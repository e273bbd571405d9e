//! `inspect` and `timeline`.

use crate::cmd::prelude::*;
use crate::format::Template;
use crate::output;
use clap::Args;
use serde_json::Value;

/// Show everything about containers or images.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Go template instead of JSON
    #[arg(short, long)]
    format: Option<String>,
    /// container or image; without it, a container first
    #[arg(long = "type", value_parser = ["container", "image"])]
    kind: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

impl Inspect {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let template = self.format.as_deref().map(Template::parse).transpose()?;
        let mut found = Vec::new();
        let mut status = 0;
        for name in &self.names {
            match self.one(client, name).await {
                Ok(data) => match &template {
                    Some(template) => println!("{}", template.render(&data)?),
                    None => found.push(data),
                },
                Err(error) => {
                    crate::complain(&error);
                    status = 1;
                }
            }
        }
        if template.is_none() {
            println!("{}", serde_json::to_string_pretty(&found)?);
        }
        Ok(status)
    }

    async fn one(&self, client: &Client, name: &str) -> Result<Value> {
        let request = || api::InspectRequest { name: name.into() };
        let kind = self.kind.as_deref();
        if kind != Some("image") {
            match client.engine().inspect(request()).await {
                Ok(answer) => return Ok(serde_json::from_str(&answer.into_inner().json)?),
                Err(status) if kind.is_none() && status.code() == tonic::Code::NotFound => {}
                Err(status) => return Err(status.into()),
            }
        }
        match client.engine().inspect_image(request()).await {
            Ok(answer) => Ok(serde_json::from_str(&answer.into_inner().json)?),
            Err(status) if kind.is_none() && status.code() == tonic::Code::NotFound => {
                bail!("no container and no image is named {name:?}")
            }
            Err(status) => Err(status.into()),
        }
    }
}

/// Show the steps of a container's operations.
#[derive(Debug, Args)]
pub(crate) struct Timeline {
    container: String,
}

impl Timeline {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let answer = client.engine().timeline(api::TimelineRequest { container: self.container }).await?.into_inner();
        for operation in answer.operations {
            println!(
                "{} {} {} ({} µs, by {})",
                output::rfc3339(operation.started_at.as_ref()),
                operation.kind,
                operation.outcome,
                operation.took_us,
                operation.actor,
            );
            for step in operation.steps {
                let note = if step.note.is_empty() { String::new() } else { format!("  {}", step.note) };
                println!("  {:>10} µs  +{:<8} {}{note}", step.at_us, step.took_us, step.name);
            }
        }
        Ok(0)
    }
}
