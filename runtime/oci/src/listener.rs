//! The listener of seccomp's notifications: who gets the descriptor, and what is told with it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use oci_spec::runtime::Spec;

use crate::{
    error::{OciError, Result, Step},
    hooks,
};

/// `linux.seccomp.listenerPath`.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    path: PathBuf,
    metadata: String,
    state: String,
}

impl Listener {
    /// What a spec says, if its profile has a listener.
    pub(crate) fn of(spec: &Spec, state: &str) -> Option<Listener> {
        let seccomp = spec.linux().as_ref()?.seccomp().as_ref()?;
        Some(Listener {
            path: seccomp.listener_path().clone()?,
            metadata: seccomp.listener_metadata().clone().unwrap_or_default(),
            state: state.to_owned(),
        })
    }

    /// Hands the descriptor to whoever listens there (runtime-spec config-linux.md §The Container Process State).
    pub(crate) fn send(&self, fd: BorrowedFd<'_>, pid: i32) -> Result<()> {
        let state: serde_json::Value =
            serde_json::from_str(&hooks::state(&self.state, "creating", pid)).unwrap_or_default();
        let message = serde_json::json!({
            "ociVersion": state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self.metadata,
            "state": state,
        });
        let peer = std::os::unix::net::UnixStream::connect(&self.path);
        let peer = peer.map_err(|e| OciError::File { path: self.path.clone(), reason: e.to_string() })?;
        crated_sys::socket::send(peer.as_fd(), message.to_string().as_bytes(), &[fd])
            .step(|| "linux.seccomp.listenerPath".into())
            .map(drop)
    }
}
