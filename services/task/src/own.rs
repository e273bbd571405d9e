//! Our own shim, started from a sealed image of its program with its listening socket: it serves at once.

use crate::bundle::{self, Bundle};
use crate::config::Config;
use crated_sys::clone::{Program, Spawn};
use crated_types::{ContainerId, Error, Namespace, Result};
use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// Longest path of a unix socket (unix(7)).
const SUN_PATH: usize = 107;

/// Sealed images of shim programs, made once for each version of the file.
#[derive(Debug, Default)]
pub(crate) struct Images {
    newest: Mutex<Option<(PathBuf, SystemTime, std::sync::Arc<OwnedFd>)>>,
}

impl Images {
    fn get(&self, program: &Path) -> Result<std::sync::Arc<OwnedFd>> {
        let os = |error| Error::os(format!("read {}", program.display()), error);
        let changed = std::fs::metadata(program).and_then(|meta| meta.modified()).map_err(os)?;
        let mut newest = self.newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((path, time, image)) = &*newest
            && path == program
            && *time == changed
        {
            return Ok(image.clone());
        }
        let image = std::sync::Arc::new(crated_sys::program::sealed(program).map_err(|error| os(error.into()))?);
        *newest = Some((program.into(), changed, image.clone()));
        Ok(image)
    }
}

/// A started shim.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// A socket path that no other shim has, now or before.
pub(crate) fn socket(config: &Config, namespace: &Namespace, id: &ContainerId) -> PathBuf {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let hash = Sha256::digest(format!("{}/{namespace}/{id}/{}", config.grpc_address.display(), since.as_nanos()));
    let name: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    bundle::sockets(&config.state).join(name)
}

/// Starts the shim of a bundle; it listens on `socket` before this answers.
pub(crate) fn start(
    config: &Config,
    images: &Images,
    program: &Path,
    bundle: &Bundle,
    (namespace, id): (&Namespace, &ContainerId),
    socket: &Path,
) -> Result<Started> {
    if socket.as_os_str().len() > SUN_PATH - crated_types::attach::SOCKET_SUFFIX.len() {
        return Err(Error::invalid(
            "state",
            format_args!("socket path {} is too long for the kernel", socket.display()),
        )
        .remedy_is("choose a shorter --state folder"));
    }
    let image = images.get(program)?;
    let listener =
        UnixListener::bind(socket).map_err(|error| Error::os(format!("bind {}", socket.display()), error))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| Error::os(format!("chmod {}", socket.display()), error))?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(bundle.path.join("log"))
        .map_err(|error| Error::os("open the shim's log", error))?;
    let text = |text: String| CString::new(text).map_err(|_| Error::invalid("path", "contains a NUL byte"));
    let mut arguments = vec![
        text(program.display().to_string())?,
        c"-namespace".into(),
        text(namespace.to_string())?,
        c"-id".into(),
        text(id.to_string())?,
        c"-address".into(),
        text(config.grpc_address.display().to_string())?,
    ];
    arguments.extend([c"-bundle".into(), text(bundle.path.display().to_string())?]);
    if config.debug {
        arguments.push(c"-debug".into());
    }
    arguments.push(c"serve".into());
    let mut environment = vec![
        text(format!("TTRPC_ADDRESS={}", config.ttrpc_address.display()))?,
        text(format!("GRPC_ADDRESS={}", config.grpc_address.display()))?,
        text(format!("NAMESPACE={namespace}"))?,
        text(format!("CRATED_SOCKET={}", socket.display()))?,
        text(format!("PATH={}", std::env::var("PATH").unwrap_or_default()))?,
    ];
    if let Some(arms) = crated_core::fail::arms() {
        environment.push(text(format!("CRATED_FAILPOINTS={arms}"))?);
    }
    let failed = |error: crated_sys::SysError| Error::os(format!("start shim {}", program.display()), error.into());
    let mut spawned = crated_sys::clone::spawn(
        &Program { image: image.as_fd(), argv: &arguments, env: &environment },
        &Spawn {
            // Standard input is the listening socket: the one descriptor that a program has for sure.
            stdio: [Some(listener.as_fd()), Some(log.as_fd()), Some(log.as_fd())],
            session: true,
            ..Spawn::default()
        },
    )
    .map_err(failed)?;
    spawned.executed().map_err(failed)?;
    let pid = u32::try_from(spawned.pid).map_err(|_| Error::internal("a negative pid"))?;
    bundle.write("shim.pid", pid.to_string().as_bytes())?;
    Ok(Started { pid, pidfd: spawned.pidfd })
}
