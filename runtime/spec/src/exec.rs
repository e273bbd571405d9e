//! The process of an exec: the container's, with what the caller changes.

use crate::caps;
use crate::env::{HOME, merge_env};
use crate::options::User;
use crated_types::{Error, Result};
use oci_spec::runtime::{self as oci, Spec};
use serde::{Deserialize, Serialize};

/// What an exec changes of the container's process; `Default` runs as the container's user in its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOptions {
    /// The command.
    pub args: Vec<String>,
    /// `KEY=VALUE` over the container's; a bare `KEY` removes it.
    pub env: Vec<String>,
    /// Another identity.
    pub user: Option<User>,
    /// Another working directory.
    pub cwd: Option<String>,
    /// A pseudo-terminal instead of pipes.
    pub terminal: bool,
    /// Columns and rows of the terminal at the start.
    pub console_size: Option<(u16, u16)>,
    /// All capabilities.
    pub privileged: bool,
}

/// The process of an exec in the container of `spec`.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] where the command is missing, a value is malformed or the spec has no process.
pub fn exec_process(spec: &Spec, options: &ExecOptions) -> Result<oci::Process> {
    let Some(base) = spec.process() else {
        return Err(Error::invalid("spec", "the container's spec has no process"));
    };
    if options.args.is_empty() || options.args[0].is_empty() {
        return Err(Error::invalid("args", "no command was given"));
    }
    crate::env::check_args(&options.args)?;
    let mut process = base.clone();
    process.set_args(Some(options.args.clone()));
    process.set_terminal(Some(options.terminal));
    process.set_console_size(crate::build::console_size(options.console_size));
    if let Some(cwd) = &options.cwd {
        process.set_cwd(crate::build::check_cwd(cwd)?);
    }
    let mut env = base.env().clone().unwrap_or_default();
    if let Some(user) = &options.user {
        // The container's HOME belongs to the container's user.
        env.retain(|entry| !entry.starts_with("HOME="));
        process.set_user(crate::build::user(user));
        if let Some(home) = &user.home {
            merge_env(&mut env, &[format!("{HOME}={home}")])?;
        }
    }
    if options.terminal && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    merge_env(&mut env, &options.env)?;
    process.set_env(Some(env));
    let bounding = if options.privileged {
        caps::all_capabilities()
    } else {
        base.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default()
    };
    if options.user.is_some() || options.privileged {
        process.set_capabilities(Some(caps::sets(bounding, process.user().uid())));
    }
    Ok(process)
}
