//! Foreign shims: started as containerd does, with `start`, an address on standard output, and a FIFO for their log.

use crate::bundle::Bundle;
use crate::config::Config;
use crated_api::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult, Extension};
use crated_types::{ContainerId, Error, Fault, Namespace, Result};
use prost::Message;
use prost_types::Any;
use serde::Deserialize;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

/// Where a started shim answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) version: u32,
    pub(crate) address: String,
    protocol: String,
}

/// A shim's command line, common to all its verbs.
pub(crate) fn command(
    config: &Config,
    program: &Path,
    bundle: &Bundle,
    namespace: &Namespace,
    id: &ContainerId,
) -> Command {
    let daemon = std::env::current_exe().unwrap_or_else(|_| "crated".into());
    let mut command = Command::new(program);
    command
        .arg("-namespace")
        .arg(namespace.as_str())
        .arg("-address")
        .arg(&config.grpc_address)
        .arg("-publish-binary")
        .arg(daemon)
        .arg("-id")
        .arg(id.as_str())
        .current_dir(&bundle.path)
        .env("TTRPC_ADDRESS", &config.ttrpc_address)
        .env("GRPC_ADDRESS", &config.grpc_address)
        .env("NAMESPACE", namespace.as_str())
        .env("MAX_SHIM_VERSION", "2")
        .env("GOMAXPROCS", "2")
        .process_group(0)
        .kill_on_drop(true);
    if config.debug {
        command.arg("-debug");
    }
    command
}

/// Runs `start` and answers the address.
pub(crate) async fn start(
    config: &Config,
    program: &Path,
    bundle: &Bundle,
    (namespace, id): (&Namespace, &ContainerId),
    options: Option<&Any>,
) -> Result<Address> {
    follow_log(bundle, namespace, id)?;
    let plain = options.map(Message::encode_to_vec).unwrap_or_default();
    match attempt(config, program, bundle, (namespace, id), &plain).await {
        // Shims since containerd 2.3 take nothing but the bootstrap parameters, older ones nothing but the options.
        Err(error) if error.to_string().contains("deprecated API") => {
            let params = BootstrapParams {
                instance_id: id.to_string(),
                namespace: namespace.to_string(),
                containerd_version: env!("CARGO_PKG_VERSION").into(),
                containerd_ttrpc_address: config.ttrpc_address.display().to_string(),
                containerd_grpc_address: config.grpc_address.display().to_string(),
                containerd_binary: std::env::current_exe().unwrap_or_default().display().to_string(),
                extensions: options.map(|options| Extension { value: Some(options.clone()) }).into_iter().collect(),
                ..BootstrapParams::default()
            };
            attempt(config, program, bundle, (namespace, id), &params.encode_to_vec()).await
        }
        answer => answer,
    }
}

async fn attempt(
    config: &Config,
    program: &Path,
    bundle: &Bundle,
    (namespace, id): (&Namespace, &ContainerId),
    input: &[u8],
) -> Result<Address> {
    let mut child = command(config, program, bundle, namespace, id)
        .arg("start")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Error::os(format!("start {}", program.display()), error))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input).await; // a shim that reads nothing closes it
    }
    let output = tokio::time::timeout(config.shim_timeout, child.wait_with_output())
        .await
        .map_err(|_| Error::new(Fault::TimedOut, format!("{} start", program.display())))?
        .map_err(|error| Error::os(format!("wait for {}", program.display()), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::new(Fault::Runtime, format!("{} start: {}: {said}", program.display(), output.status)));
    }
    parse(&output.stdout)
}

/// Reads what `start` printed: protobuf, JSON, or the bare address of a version 2 shim.
fn parse(output: &[u8]) -> Result<Address> {
    let bad = |why: &str| {
        Error::new(Fault::Runtime, format!("shim start answered {:?}: {why}", String::from_utf8_lossy(output)))
    };
    let address = if let Ok(address) = serde_json::from_slice::<Address>(output) {
        address
    } else if let Some(result) = BootstrapResult::decode(output).ok().filter(|result| !result.address.is_empty()) {
        Address {
            version: u32::try_from(result.version).unwrap_or(0),
            address: result.address,
            protocol: result.protocol,
        }
    } else {
        let text = std::str::from_utf8(output).map_err(|_| bad("neither protobuf, JSON nor an address"))?;
        Address { version: 2, address: text.trim().into(), protocol: "ttrpc".into() }
    };
    match (address.version, address.protocol.as_str()) {
        (2 | 3, "ttrpc" | "") if address.address.starts_with("unix://") || address.address.starts_with('/') => {
            Ok(address)
        }
        (2 | 3, "ttrpc" | "") => Err(bad("the address is not a unix socket")),
        (2 | 3, _) => Err(bad("only ttrpc is spoken")),
        _ => Err(bad("versions 2 and 3 are spoken")),
    }
}

/// Opens the log FIFO before the shim runs, and copies its lines to our log for as long as both live.
pub(crate) fn follow_log(bundle: &Bundle, namespace: &Namespace, id: &ContainerId) -> Result<()> {
    let path = bundle.path.join("log");
    const FIFO: u32 = 0o010_000;
    crated_sys::fs::mknod_at(crated_sys::fs::cwd(), &path, FIFO | 0o700, 0)
        .map_err(|error| Error::os(format!("mkfifo {}", path.display()), error.into()))?;
    let fifo = tokio::net::unix::pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(&path)
        .map_err(|error| Error::os(format!("open {}", path.display()), error))?;
    let (namespace, id) = (namespace.clone(), id.clone());
    tokio::spawn(async move {
        // Opened for reading and writing, it never ends by itself: it is dropped when the bundle is gone.
        let mut lines = BufReader::new(fifo).lines();
        loop {
            match tokio::time::timeout(std::time::Duration::from_secs(30), lines.next_line()).await {
                Ok(Ok(Some(line))) => tracing::info!(%namespace, container = %id, "shim: {line}"),
                Ok(_) => return,
                Err(_) if path.exists() => {}
                Err(_) => return,
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_answers_are_read() {
        let json = br#"{"version":3,"address":"unix:///run/s/a","protocol":"ttrpc"}"#;
        assert_eq!(parse(json).unwrap().version, 3);
        let result =
            BootstrapResult { version: 3, address: "unix:///a".into(), protocol: "ttrpc".into(), ..Default::default() };
        assert_eq!(parse(&result.encode_to_vec()).unwrap().address, "unix:///a");
        assert_eq!(
            parse(b"unix:///run/x\n").unwrap(),
            Address { version: 2, address: "unix:///run/x".into(), protocol: "ttrpc".into() }
        );
    }

    #[test]
    fn what_we_do_not_speak_is_refused_by_name() {
        for bad in [
            &br#"{"version":4,"address":"unix:///a","protocol":"ttrpc"}"#[..],
            br#"{"version":3,"address":"unix:///a","protocol":"grpc"}"#,
            b"vsock://1:2",
            b"",
        ] {
            assert!(parse(bad).is_err());
        }
    }
}
