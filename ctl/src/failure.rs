//! What went wrong, for a person: what failed, in which step, and what to do.

use crated_api::crated::engine::v1::ErrorDetail;
use prost::Message;
use std::fmt;
use tonic::Status;

/// Exit status of `run` where the daemon failed (docker's convention).
pub const DAEMON: u8 = 125;
/// Exit status of `run` where the command cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status of `run` where the command does not exist.
pub const NOT_FOUND: u8 = 127;

/// An error with its exit status.
#[derive(Debug)]
pub struct Failure {
    /// What failed and why.
    pub text: String,
    /// Step of the operation.
    pub step: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
    /// Stable identifier of the daemon's error, see docs/errors.md.
    pub fault: String,
    /// Status of the process.
    pub exit: u8,
}

impl Failure {
    /// A failure of ours.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), step: None, remedy: None, fault: String::new(), exit: 1 }
    }

    /// A command line that means nothing.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::new(text) }
    }

    /// The same with another exit status, unless the fault has its own in `run` and `exec`.
    #[must_use]
    pub fn of_run(mut self) -> Self {
        self.exit = match self.fault.as_str() {
            "command-not-found" => NOT_FOUND,
            "command-not-executable" => NOT_EXECUTABLE,
            _ => DAEMON,
        };
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(step) = &self.step {
            write!(f, "\n  step: {step}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  try: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let detail = detail(&status).unwrap_or_default();
        let some = |text: String| (!text.is_empty()).then_some(text);
        let text = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
        Self { text, step: some(detail.step), remedy: some(detail.remedy), fault: detail.fault, exit: 1 }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<crated_types::Error> for Failure {
    fn from(error: crated_types::Error) -> Self {
        let remedy = error.remedy().map(str::to_owned);
        Self { remedy, fault: error.fault().id().into(), ..Self::new(error.to_string()) }
    }
}

fn detail(status: &Status) -> Option<ErrorDetail> {
    let status = crated_api::google::rpc::Status::decode(status.details()).ok()?;
    let any = status.details.into_iter().find(|any| any.type_url.ends_with("crated.engine.v1.ErrorDetail"))?;
    ErrorDetail::decode(any.value.as_slice()).ok()
}
