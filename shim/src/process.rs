//! One process, init or exec: its state, its streams, and who waits for it.
//!
//! ```text
//! created ─start─▶ running ─▶ stopped       init only: running ⇄ paused
//! ```
//! The texts of refusals are those of runc's shim: clients match on them.

use crate::exit::Exit;
use crate::io::{Addresses, Io};
use crated_types::{Code, Error, Fault, Result};
use std::os::fd::OwnedFd;
use tokio::sync::oneshot;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Paused,
    Stopped,
}

/// What is asked of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pause,
    Resume,
    Update,
    Checkpoint,
    Start,
    Delete,
    Exec,
}

impl State {
    /// Whether init may do this now.
    pub(crate) fn allows(self, action: Action) -> Result<()> {
        use Action::{Checkpoint, Delete, Exec, Pause, Resume, Start, Update};
        use State::{Created, Paused, Running, Stopped};
        let refusal = match (self, action) {
            (Created, Pause) => "cannot pause task in created state",
            (Created, Resume) => "cannot resume task in created state",
            (Created, Checkpoint) => "cannot checkpoint a task in created state",
            (Running, Resume) => "cannot resume a running process",
            (Running, Start) => "cannot start a running process",
            (Running, Delete) => "cannot delete a running process",
            (Paused, Pause) => "cannot pause a paused container",
            (Paused, Start) => "cannot start a paused process",
            (Paused, Delete) => "cannot delete a paused process",
            (Paused, Exec) => "cannot exec in a paused state",
            (Stopped, Pause) => "cannot pause a stopped container",
            (Stopped, Resume) => "cannot resume a stopped container",
            (Stopped, Update) => "cannot update a stopped container",
            (Stopped, Checkpoint) => "cannot checkpoint a stopped container",
            (Stopped, Start) => "cannot start a stopped process",
            (Stopped, Exec) => "cannot exec in a stopped state",
            (Created, Update | Start | Delete | Exec)
            | (Running, Pause | Update | Checkpoint | Exec)
            | (Paused, Resume | Update | Checkpoint)
            | (Stopped, Delete) => return Ok(()),
        };
        Err(Error::peer(Code::Unknown, refusal))
    }
}

/// Who waits for an exit.
pub(crate) type Waiter = oneshot::Sender<Exit>;

/// A process that the shim keeps.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) state: State,
    pub(crate) addresses: Addresses,
    /// `None` once it is closed.
    pub(crate) io: Option<Io>,
    pub(crate) exit: Option<Exit>,
    waiters: Vec<Waiter>,
}

impl Process {
    /// A process that does not run yet.
    pub(crate) fn new(addresses: Addresses, io: Io) -> Self {
        Self { pid: 0, pidfd: None, state: State::Created, addresses, io: Some(io), exit: None, waiters: Vec::new() }
    }

    /// Its end, now or later.
    pub(crate) fn wait(&mut self, waiter: Waiter) {
        match self.exit {
            Some(exit) => drop(waiter.send(exit)),
            None => {
                self.waiters.retain(|waiter| !waiter.is_closed());
                self.waiters.push(waiter);
            }
        }
    }

    /// It has ended.
    pub(crate) fn ended(&mut self, exit: Exit) {
        self.state = State::Stopped;
        self.exit = Some(exit);
        self.pidfd = None;
        if let Some(io) = &mut self.io {
            io.exited(exit.status);
        }
        for waiter in self.waiters.drain(..) {
            // Whoever waited may have gone.
            let _ = waiter.send(exit);
        }
    }

    /// The refusal of a signal, where it cannot be sent.
    pub(crate) fn check_signal(&self) -> Result<()> {
        if self.exit.is_some() {
            return Err(Error::new(Fault::NotFound, "process already finished"));
        }
        if self.pid == 0 {
            return Err(Error::new(Fault::Precondition, "process not created"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_clients_know_them() {
        let text =
            |state: State, action| state.allows(action).map_or_else(|error| error.to_string(), |()| String::new());
        assert_eq!(text(State::Created, Action::Pause), "cannot pause task in created state");
        assert_eq!(text(State::Running, Action::Delete), "cannot delete a running process");
        assert_eq!(text(State::Paused, Action::Exec), "cannot exec in a paused state");
        assert_eq!(text(State::Stopped, Action::Exec), "cannot exec in a stopped state");
        assert_eq!(text(State::Stopped, Action::Delete), "");
        assert_eq!(State::Running.allows(Action::Start).unwrap_err().code(), Code::Unknown);
    }
}
