//! Unix sockets: made whole before they are seen, a dead daemon's replaced, a live one's left alone.

use super::Peer;
use super::connection::{Acceptor, rest};
use crate::config::Mode;
use crated_types::{Error, Fault, Kind, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;

/// Longest path of a unix socket, in bytes (`sockaddr_un`, without its NUL).
const PATH_MAX: usize = 107;

/// A listening socket; its file is removed when dropped, unless another took its place.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    place: Place,
}

/// The file of a socket that is ours.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens at `path` with `mode` and owner.
    ///
    /// # Errors
    /// [`Fault::InUse`] where something answers there or the file is no socket; what the system says.
    pub fn bind(path: &Path, mode: Mode, uid: Option<u32>, gid: Option<u32>) -> Result<Self> {
        let os = |what: &str, error| Error::os(format!("{what} {}", path.display()), error);
        if path.as_os_str().len() > PATH_MAX - 4 {
            let text = format!("listeners: {:?} is longer than {} bytes", path.display().to_string(), PATH_MAX - 4);
            return Err(Error::new(Fault::Invalid, text).remedy_is("choose a shorter --address or --state"));
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| os("make the folder of", error))?;
        }
        check_free(path)?;
        // Made beside its place and renamed: nobody meets it before its permissions are right.
        let mut making = path.as_os_str().to_owned();
        making.push(".new");
        let making = PathBuf::from(making);
        let _ = std::fs::remove_file(&making);
        let listener = UnixListener::bind(&making).map_err(|error| os("listen on", error))?;
        let finished = (|| {
            std::fs::set_permissions(&making, std::fs::Permissions::from_mode(mode.0))?;
            if uid.is_some() || gid.is_some() {
                std::os::unix::fs::chown(&making, uid, gid)?;
            }
            let inode = std::fs::symlink_metadata(&making)?.ino();
            std::fs::rename(&making, path)?;
            Ok(inode)
        })();
        match finished {
            Ok(inode) => Ok(Self { listener, place: Place { path: path.into(), inode } }),
            Err(error) => {
                let _ = std::fs::remove_file(&making);
                Err(os("set up", error))
            }
        }
    }

    /// Accepts until the daemon stops.
    pub async fn serve(self, acceptor: Acceptor) {
        let Self { listener, place: _place } = self;
        let stop = acceptor.life.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &acceptor) => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, permit)) => {
                    let peer = match stream.peer_cred() {
                        Ok(peer) => Peer { who: credentials(peer.uid(), peer.pid()) },
                        Err(_) => continue,
                    };
                    let acceptor = acceptor.clone();
                    acceptor.life.tracker.clone().spawn(async move {
                        acceptor.serve(stream, peer, None).await;
                        drop(permit);
                    });
                }
                Err(error) => rest(&error).await,
            }
        }
    }

    /// Answers ttrpc calls until it is dropped.
    pub async fn serve_ttrpc(self, server: crated_ttrpc::Server) {
        let Self { listener, place: _place } = self;
        if let Err(error) = server.serve(listener).await {
            tracing::error!(%error, "ttrpc listener ended");
        }
    }
}

async fn accept(
    listener: &UnixListener,
    acceptor: &Acceptor,
) -> std::io::Result<(tokio::net::UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(&acceptor.connections).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// `uid=0 pid=123`.
#[must_use]
pub fn credentials(uid: u32, pid: Option<i32>) -> Arc<str> {
    match pid {
        Some(pid) => format!("uid={uid} pid={pid}").into(),
        None => format!("uid={uid}").into(),
    }
}

/// Checks that nobody listens at `path` and that what stands there may be replaced.
///
/// # Errors
/// [`Fault::InUse`] with what to do.
pub fn check_free(path: &Path) -> Result<()> {
    let in_use = |why: String, remedy: &'static str| {
        Err(Error::new(Fault::InUse, why).on(Kind::File, path.display()).remedy_is(remedy))
    };
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(there) if !there.file_type().is_socket() => {
            in_use("is not a socket".into(), "move the file away, or choose another --address")
        }
        Ok(_) => match BlockingStream::connect(path) {
            Ok(_) => in_use(
                "another daemon answers at this socket".into(),
                "stop it, or choose another --address (and another --root and --state)",
            ),
            Err(_) => Ok(()),
        },
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, socket = %self.path.display(), "socket not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.sock");
        let socket = Socket::bind(&path, Mode(0o600), None, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = Socket::bind(&path, Mode(0o600), None, None).unwrap_err();
        assert_eq!(error.fault(), Fault::InUse);
        drop(socket);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a killed daemon leaves its socket");
        let second = Socket::bind(&path, Mode(0o660), None, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        drop(second);
        assert!(path.exists(), "a foreign file stays");
        assert!(Socket::bind(&path, Mode(0o660), None, None).unwrap_err().to_string().contains("is not a socket"));
        let long = dir.path().join("x".repeat(120));
        assert_eq!(Socket::bind(&long, Mode(0o660), None, None).unwrap_err().fault(), Fault::Invalid);
    }
}
