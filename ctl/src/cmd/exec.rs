//! `exec`: a further process in a running container.

use crate::cmd::prelude::*;
use crate::cmd::session::{DETACH_KEYS, Session, finish};
use crate::terminal;
use clap::Args;

/// Run a command in a running container.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Do not wait for the command
    #[arg(short, long)]
    detach: bool,
    /// Forward standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, as name or id, with :group or without
    #[arg(short, long, default_value = "")]
    user: String,
    /// Working directory
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// Environment, NAME=value or NAME to take ours
    #[arg(short, long)]
    env: Vec<String>,
    /// Files with environment, a line each
    #[arg(long)]
    env_file: Vec<String>,
    /// Give it all capabilities
    #[arg(long)]
    privileged: bool,
    /// Keys that detach
    #[arg(long, default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Container, then the command and its arguments: no flag of ours is read behind the container
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER COMMAND")]
    container_and_command: Vec<String>,
}

impl Exec {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let (container, command) = self.container_and_command.split_first().context("a container is needed")?;
        let env = crate::cmd::options::environment(&self.env, &self.env_file)?;
        let (columns, rows) = terminal::size().unwrap_or_default();
        let request = api::ExecRequest {
            container: container.clone(),
            command: command.to_vec(),
            env,
            working_dir: self.workdir,
            user: self.user,
            terminal: self.tty,
            stdin: self.interactive,
            detach: self.detach,
            privileged: self.privileged,
            detach_keys: self.detach_keys.clone(),
            console_columns: columns.into(),
            console_rows: rows.into(),
            start: String::new(),
            attach: !self.detach,
        };
        let of_run = |status| Failure::from(status).of_run();
        let started = client.engine().exec(request).await.map_err(of_run)?.into_inner();
        if self.detach {
            return Ok(0);
        }
        let session = Session {
            client,
            container: started.container_id,
            exec: started.id,
            stdin: self.interactive,
            detach_keys: &self.detach_keys,
            proxy: false,
        };
        let attached = session.attach(&started.attach_socket, true).await?;
        finish(session.copy(attached).await?)
    }
}
