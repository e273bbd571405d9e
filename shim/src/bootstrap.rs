//! `start`: bind the group's socket, spawn the server with it, answer the address in the caller's own format.
//!
//! containerd 2.3 and later send `BootstrapParams` and read `BootstrapResult`; 1.7 to 2.2 read JSON; before that a bare
//! address is read. Older callers send the runtime options as an `Any`, or nothing.

use crate::args::Args;
use crate::{log, socket, spec};
use crated_api::containerd::runc::v1::Options;
use crated_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use crated_sys::clone::{Program, Spawn, spawn};
use crated_types::{Error, Fault, Result};
use prost::Message;
use prost_types::Any;
use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where sockets go unless the caller says otherwise.
const SOCKET_DIR: &str = "/run/containerd/s";
/// Largest standard input, in bytes.
const STDIN_MAX: u64 = 4 << 20;
/// Environment variable that tells the server the number of its listening socket.
pub(crate) const LISTEN_FD: &str = "CRATED_LISTEN_FD";
/// Environment variable that tells the server the path of its listening socket.
pub(crate) const SOCKET: &str = "CRATED_SOCKET";

/// How the caller wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// containerd 2.3 and later.
    Protobuf,
    /// containerd 1.7 to 2.2.
    Json,
    /// Before: version 2 of the protocol.
    Bare,
}

/// What came on standard input.
#[derive(Debug, PartialEq)]
struct Input {
    caller: Caller,
    options: Options,
    socket_dir: PathBuf,
    ttrpc_address: Option<String>,
}

pub(crate) fn read_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(STDIN_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::os("read standard input", error))?;
    Ok(bytes)
}

pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Error::os("write standard output", error))
}

fn options(any: &Any) -> Option<Options> {
    let name = any.type_url.rsplit('/').next()?;
    (name == "containerd.runc.v1.Options").then(|| Options::decode(any.value.as_slice()).ok())?
}

/// Tells the generations of callers apart. `json` says whether an old caller reads JSON.
fn understand(bytes: &[u8], namespace: &str, id: &str, json: bool) -> Input {
    if let Ok(params) = BootstrapParams::decode(bytes)
        && params.instance_id == id
        && params.namespace == namespace
        && !id.is_empty()
    {
        let options = params.extensions.iter().filter_map(|extension| extension.value.as_ref()).find_map(options);
        return Input {
            caller: Caller::Protobuf,
            options: options.unwrap_or_default(),
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map_or(SOCKET_DIR.into(), PathBuf::from),
            ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
        };
    }
    Input {
        caller: if json { Caller::Json } else { Caller::Bare },
        options: Any::decode(bytes).ok().as_ref().and_then(options).unwrap_or_default(),
        socket_dir: SOCKET_DIR.into(),
        ttrpc_address: None,
    }
}

/// The answer in the caller's format.
fn answer(caller: Caller, address: &str) -> Vec<u8> {
    match caller {
        Caller::Protobuf => BootstrapResult {
            version: 3,
            address: address.into(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        }
        .encode_to_vec(),
        Caller::Json => format!(r#"{{"version":3,"address":"{address}","protocol":"ttrpc"}}"#).into_bytes(),
        Caller::Bare => address.as_bytes().to_vec(),
    }
}

/// The socket of a group: a hash of daemon, namespace and group (`filepath.Join` of the three).
fn socket_path(dir: &Path, address: &str, namespace: &str, group: &str) -> PathBuf {
    let joined = format!("{}/{namespace}/{group}", address.trim_end_matches('/'));
    let hash = Sha256::digest(joined.as_bytes());
    dir.join(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// `start`.
///
/// # Errors
/// What could not be bound, read or spawned.
pub(crate) fn start(args: &Args) -> Result<()> {
    for (flag, value) in [("namespace", &args.namespace), ("id", &args.id)] {
        if !crated_types::name::is_identifier(value) {
            return Err(Error::invalid(flag, format_args!("{value:?} is no identifier")));
        }
    }
    let bundle = std::env::current_dir().map_err(|error| Error::os("getcwd", error))?;
    let input = understand(&read_stdin()?, &args.namespace, &args.id, answers_json());
    let group = spec::group(&bundle, &args.id)?;
    let path = socket_path(&input.socket_dir, &args.address, &args.namespace, &group);
    let address = format!("unix://{}", path.display());
    let dir = &input.socket_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::os(format!("mkdir {}", dir.display()), error))?;
    if !socket::answers(&path) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::os(format!("unlink {}", path.display()), error));
            }
            _ => {}
        }
        let listener = socket::listen(&path)?;
        if let Err(error) = spawn_server(args, &input, &bundle, &path, &listener.into()) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
    }
    // Read by people and by containerd's own tests.
    let _ = std::fs::write(bundle.join("address"), &address);
    print_bytes(&answer(input.caller, &address))
}

/// Whether a caller that sent no parameters reads JSON: containerd 1.7 marks itself by the version it can take, its
/// predecessors take whatever is printed as an address.
fn answers_json() -> bool {
    std::env::var("MAX_SHIM_VERSION").ok().and_then(|version| version.parse::<u32>().ok()).is_some_and(|max| max >= 2)
}

fn text(value: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(value).map_err(|_| Error::new(Fault::Invalid, "command line: NUL inside of a word"))
}

fn spawn_server(args: &Args, input: &Input, bundle: &Path, path: &Path, listener: &OwnedFd) -> Result<()> {
    let image = crated_sys::program::sealed_self().map_err(os)?;
    let mut argv = vec![
        text("containerd-shim-crated-v2")?,
        text("-namespace")?,
        text(args.namespace.as_str())?,
        text("-id")?,
        text(args.id.as_str())?,
        text("-address")?,
        text(args.address.as_str())?,
        text("-publish-binary")?,
        text(args.publish_binary.as_str())?,
    ];
    if args.debug {
        argv.push(text("-debug")?);
    }
    let mut environment =
        vec![text(format!("{LISTEN_FD}={}", listener.as_raw_fd()))?, text(format!("{SOCKET}={}", path.display()))?];
    for (key, value) in std::env::vars_os() {
        if input.ttrpc_address.is_some() && key == "TTRPC_ADDRESS" {
            continue;
        }
        let mut pair = key.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        environment.push(text(pair)?);
    }
    if let Some(address) = &input.ttrpc_address {
        environment.push(text(format!("TTRPC_ADDRESS={address}"))?);
    }
    let null = crate::io::null()?;
    let logs = open_log(bundle).unwrap_or(crate::io::null()?);
    let mut child = spawn(
        &Program { image: image.as_fd(), argv: &argv, env: &environment },
        &Spawn {
            stdio: [Some(null.as_fd()), Some(null.as_fd()), Some(logs.as_fd())],
            keep: &[listener.as_fd()],
            session: true,
            ..Spawn::default()
        },
    )
    .map_err(os)?;
    child.executed().map_err(os)?;
    adjust(child.pid, &input.options);
    Ok(())
}

/// The bundle's `log`: opened so that neither a full FIFO nor a daemon that went away ever blocks or kills the server.
fn open_log(bundle: &Path) -> Option<OwnedFd> {
    use crated_sys::OFlag;
    crated_sys::fs::open(&bundle.join("log"), OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_NONBLOCK, 0).ok()
}

fn os(error: crated_sys::SysError) -> Error {
    Error::os("start the server", error.into())
}

/// Makes the server a bit likelier to be killed than its parent, and puts it into the cgroup that was asked for.
fn adjust(pid: i32, options: &Options) {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = own
        && let Err(error) = crated_sys::process::set_oom_score_adj(pid, (score + 1).min(1000))
    {
        log::debug(format_args!("oom score of the server stays: {error}"));
    }
    if !options.shim_cgroup.is_empty()
        && let Err(error) = crate::runtime::join_cgroup(&options.shim_cgroup, pid)
    {
        log::error(format_args!("the server stays outside of cgroup {}: {error}", options.shim_cgroup));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_api::containerd::runtime::bootstrap::v1::Extension;

    fn any() -> Any {
        let options = Options { shim_cgroup: "/x".into(), ..Options::default() };
        Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() }
    }

    #[test]
    fn every_generation_of_callers_is_understood() {
        let params = BootstrapParams {
            instance_id: "c".into(),
            namespace: "ns".into(),
            containerd_ttrpc_address: "/t".into(),
            socket_dir: Some("/s".into()),
            extensions: vec![Extension { value: Some(any()) }],
            ..BootstrapParams::default()
        };
        let input = understand(&params.encode_to_vec(), "ns", "c", true);
        assert_eq!((input.caller, input.options.shim_cgroup.as_str()), (Caller::Protobuf, "/x"));
        assert_eq!((input.socket_dir, input.ttrpc_address.as_deref()), ("/s".into(), Some("/t")));
        let input = understand(&any().encode_to_vec(), "ns", "c", true);
        assert_eq!((input.caller, input.options.shim_cgroup.as_str()), (Caller::Json, "/x"));
        let input = understand(b"", "ns", "c", false);
        assert_eq!((input.caller, input.options), (Caller::Bare, Options::default()));
        assert_eq!(understand(b"\xff\xff", "ns", "c", true).caller, Caller::Json);
        assert_eq!(understand(&params.encode_to_vec(), "ns", "other", true).caller, Caller::Json);
    }

    #[test]
    fn every_caller_can_read_its_answer() {
        let address = "unix:///run/containerd/s/x";
        let result = BootstrapResult::decode(answer(Caller::Protobuf, address).as_slice()).unwrap();
        assert_eq!((result.version, result.address.as_str(), result.protocol.as_str()), (3, address, "ttrpc"));
        let json: serde_json::Value = serde_json::from_slice(&answer(Caller::Json, address)).unwrap();
        assert_eq!(json, serde_json::json!({"version": 3, "address": address, "protocol": "ttrpc"}));
        assert_eq!(answer(Caller::Bare, address), address.as_bytes());
    }

    #[test]
    fn the_address_is_that_of_the_other_shims() {
        let path = socket_path(Path::new(SOCKET_DIR), "/run/containerd/containerd.sock", "default", "x");
        assert_eq!(
            path,
            Path::new(SOCKET_DIR).join("5e250b13f984a15f73216d143af1bf3c64171aa56c781ba9d4040c75b2c1eee2")
        );
    }
}
