//! `run` and `create`.

use crate::cmd::options::Container;
use crate::cmd::prelude::*;
use crate::cmd::session::{DETACH_KEYS, End, Session};
use crate::progress::Shown;
use crate::terminal;
use clap::Args;
use crated_api::crated::engine::v1::run_response::Step;
use futures::StreamExt;

/// Create a container without starting it.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Do not show the pull of an image
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    container: Container,
}

impl Create {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let config = self.container.config()?;
        let cidfile = self.container.cidfile()?;
        let answers = client.engine().create(api::CreateRequest { config: Some(config) }).await?;
        let created = follow(answers.into_inner(), self.quiet).await?;
        note(cidfile, &created.id)?;
        println!("{}", created.id);
        Ok(0)
    }
}

/// Writes the id to the file of `--cidfile`.
fn note(file: Option<std::fs::File>, id: &str) -> Result<()> {
    use std::io::Write;
    match file {
        Some(mut file) => Ok(file.write_all(id.as_bytes())?),
        None => Ok(()),
    }
}

/// Create a container and run it.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Do not show the pull of an image
    #[arg(short, long)]
    quiet: bool,
    /// Print the id and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Remove it once it has ended
    #[arg(long)]
    rm: bool,
    /// Keys that detach
    #[arg(long, default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Forward signals to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    sig_proxy: bool,
    #[command(flatten)]
    container: Container,
}

impl Run {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let mut config =
            self.container.config().map_err(|error| Failure { exit: 125, ..Failure::new(format!("{error:#}")) })?;
        config.auto_remove = self.rm;
        config.stdin_once = config.open_stdin && !self.detach;
        let interactive = config.open_stdin;
        if config.terminal && interactive && !self.detach && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(Failure { exit: 1, ..Failure::new("the input device is not a terminal: leave out -t") }.into());
        }
        if let Some((columns, rows)) = terminal::size() {
            config.console_columns = columns.into();
            config.console_rows = rows.into();
        }
        let cidfile = self.container.cidfile()?;
        let of_run = |status| Failure::from(status).of_run();
        let request = api::RunRequest { config: Some(config), attach: !self.detach };
        let answers = client.engine().run(request).await.map_err(of_run)?;
        let created = follow(answers.into_inner(), self.quiet).await.map_err(of_run)?;
        note(cidfile, &created.id)?;
        if self.detach {
            println!("{}", created.id);
            return Ok(0);
        }
        let session = Session {
            client,
            container: created.id.clone(),
            exec: String::new(),
            stdin: interactive,
            detach_keys: &self.detach_keys,
            proxy: self.sig_proxy,
        };
        let attached = session.attach(&created.attach_socket, true).await?;
        match session.copy(attached).await? {
            End::Exit(status) => {
                // The shim was quicker than the daemon: what we answer holds for whoever asks next (`rm`, `ps`, the name).
                let wait = api::WaitRequest { container: created.id, removed: self.rm };
                let _ = client.engine().wait(wait).await; // the daemon may be away; the status is known
                Ok(u8::try_from(status).unwrap_or(u8::MAX))
            }
            End::Detached => Ok(0),
            End::Closed => {
                let request = api::WaitRequest { container: created.id, removed: false };
                let answer = client.engine().wait(request).await.map_err(of_run)?.into_inner();
                eprintln!("cratectl: the connection to the container was lost: {}", answer.error);
                Ok(u8::try_from(answer.status).unwrap_or(u8::MAX))
            }
        }
    }
}

/// Shows progress until the container is there.
async fn follow(mut answers: tonic::Streaming<api::RunResponse>, quiet: bool) -> Result<api::Created, tonic::Status> {
    let mut shown = Shown::new(quiet);
    let mut created = None;
    while let Some(answer) = answers.next().await {
        match answer?.step {
            Some(Step::Progress(progress)) => shown.show(&progress),
            Some(Step::Container(container)) => {
                for warning in &container.warnings {
                    eprintln!("cratectl: warning: {warning}");
                }
                created = Some(container);
            }
            None => {}
        }
    }
    created.ok_or_else(|| tonic::Status::internal("the daemon answered no container"))
}
