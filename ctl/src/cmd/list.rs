//! `ps` and `top`.

use crate::cmd::prelude::*;
use crate::output;
use clap::Args;

/// List containers.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// The newest only
    #[arg(short, long)]
    latest: bool,
    /// The newest N
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    last: i64,
    /// Filter, e.g. name==web, status==exited, labels.stage==test
    #[arg(short, long)]
    filter: Vec<String>,
    /// Go template for each container
    #[arg(long)]
    format: Option<String>,
}

impl Ps {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let last = if self.latest { 1 } else { self.last };
        let filters = self.filter.iter().map(|filter| docker_filter(filter)).collect();
        let all = self.all || last > 0 || self.filter.iter().any(|filter| filter.starts_with("status"));
        let request = api::ListRequest { all, filters, last };
        let containers = client.engine().list(request).await?.into_inner().containers;
        let template = self.format.as_deref().map(crate::format::Template::parse).transpose()?;
        let mut rows = Vec::new();
        for container in &containers {
            let id = if self.no_trunc { container.id.clone() } else { output::short(&container.id) };
            let mut command = container.command.clone();
            if !self.no_trunc && command.chars().count() > 20 {
                command = command.chars().take(19).chain(['…']).collect();
            }
            let created = output::ago(container.created_at.as_ref());
            if self.quiet {
                println!("{id}");
            } else if let Some(template) = &template {
                let data = serde_json::json!({
                    "ID": id, "Names": container.name, "Image": container.image, "Command": format!("\"{command}\""),
                    "CreatedAt": output::rfc3339(container.created_at.as_ref()), "RunningFor": created,
                    "State": container.state, "Status": container.status, "Labels": container.labels,
                    "Networks": container.network, "Ports": container.ports, "Pid": container.pid, "Runtime": container.runtime,
                });
                println!("{}", template.render(&data)?);
            } else {
                rows.push(vec![
                    id,
                    container.image.clone(),
                    format!("\"{command}\""),
                    created,
                    container.status.clone(),
                    container.ports.clone(),
                    container.name.clone(),
                ]);
            }
        }
        if !self.quiet && template.is_none() {
            let titles = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
            println!("{}", output::table(&titles, rows));
        }
        Ok(0)
    }
}

/// docker's `key=value` beside containerd's `key==value`.
fn docker_filter(text: &str) -> String {
    match text.split_once('=') {
        Some((key, value)) if !value.starts_with('=') && !key.ends_with(['!', '~']) && !key.is_empty() => match key {
            "label" => match value.split_once('=') {
                Some((label, value)) => format!("labels.{label:?}=={value:?}"),
                None => format!("labels.{value:?}"),
            },
            "name" | "id" => format!("{key}~={value:?}"),
            _ => format!("{key}=={value:?}"),
        },
        _ => text.into(),
    }
}

/// Show the processes of a container.
#[derive(Debug, Args)]
pub(crate) struct Top {
    container: String,
}

impl Top {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let answer = client.engine().top(api::TopRequest { container: self.container }).await?.into_inner();
        let titles: Vec<&str> = answer.titles.iter().map(String::as_str).collect();
        println!("{}", output::table(&titles, answer.rows.into_iter().map(|row| row.cells).collect()));
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_filters_become_containerds() {
        assert_eq!(docker_filter("name=web"), "name~=\"web\"");
        assert_eq!(docker_filter("label=a.b=c"), "labels.\"a.b\"==\"c\"");
        assert_eq!(docker_filter("status=exited"), "status==\"exited\"");
        assert_eq!(docker_filter("name==web"), "name==web");
        assert_eq!(docker_filter("name~=^w"), "name~=^w");
    }
}
