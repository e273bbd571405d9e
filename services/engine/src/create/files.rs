//! The engine's own files of a container: hostname, hosts, resolv.conf and the place of its log.

use crated_api::crated::engine::v1::ContainerConfig;
use crated_types::{Error, Result};
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::engine::blocking;
use crate::names::short;

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
                     ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// What was written.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) hostname: PathBuf,
    pub(super) hosts: PathBuf,
    /// None where the container reaches no network.
    pub(super) resolv: Option<PathBuf>,
    /// None where no log is kept.
    pub(super) log: Option<PathBuf>,
}

/// The host name of a container: what it asks for, the host's where it shares it, else its short id.
pub(super) fn hostname(id: &str, config: &ContainerConfig) -> String {
    if !config.hostname.is_empty() {
        config.hostname.clone()
    } else if config.uts_mode == "host" || config.network == "host" {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    } else {
        short(id).to_owned()
    }
}

/// Writes the files; a folder that is there is written anew.
pub(super) async fn write(folder: PathBuf, id: &str, config: &ContainerConfig) -> Result<Files> {
    let name = hostname(id, config);
    let hosts = hosts_text(config, &name)?;
    let resolv = resolv_text(config)?;
    let log = (config.log_driver != "none").then(|| folder.join(format!("{id}-json.log")));
    blocking(move || {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| Error::os(format!("make folder {}", folder.display()), error))?;
        let put = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            // The container sees these files, so they can be read by everyone in it, whoever it runs as.
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .map_err(|error| Error::os(format!("write {}", path.display()), error))?;
            Ok(path)
        };
        Ok(Files {
            hostname: put("hostname", &format!("{name}\n"))?,
            hosts: put("hosts", &hosts)?,
            resolv: resolv.map(|text| put("resolv.conf", &text)).transpose()?,
            log,
        })
    })
    .await
}

fn hosts_text(config: &ContainerConfig, name: &str) -> Result<String> {
    let mut text =
        if config.network == "host" { host_file("/etc/hosts")?.unwrap_or_else(|| HOSTS.into()) } else { HOSTS.into() };
    if config.network != "host" && !name.is_empty() {
        // Programs look their own name up: without a network it leads to the loopback.
        let full = if config.domainname.is_empty() { String::new() } else { format!("{name}.{} ", config.domainname) };
        let _ = writeln!(text, "127.0.1.1\t{full}{name}");
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in &config.extra_hosts {
        let (host, address) = extra_host(entry)?;
        let _ = writeln!(text, "{address}\t{host}");
    }
    Ok(text)
}

/// `name:address` or `name=address`; the address may be in brackets.
fn extra_host(entry: &str) -> Result<(&str, IpAddr)> {
    let bad = || {
        Error::invalid("config.extra_hosts", format_args!("{entry:?} is not NAME:ADDRESS"))
            .remedy_is("e.g. db:10.0.0.5")
    };
    let (host, address) = entry.split_once(['=', ':']).ok_or_else(bad)?;
    let address = address.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| bad())?;
    if host.is_empty() || host.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(bad());
    }
    Ok((host, address))
}

fn resolv_text(config: &ContainerConfig) -> Result<Option<String>> {
    if !config.dns.is_empty() {
        let mut text = String::new();
        for server in &config.dns {
            let address: IpAddr = server
                .parse()
                .map_err(|_| Error::invalid("config.dns", format_args!("{server:?} is no IP address")))?;
            let _ = writeln!(text, "nameserver {address}");
        }
        return Ok(Some(text));
    }
    let reaches =
        config.network == "host" || config.network.starts_with("ns:") || config.network.starts_with("container:");
    if !reaches {
        return Ok(None);
    }
    Ok(Some(host_file("/etc/resolv.conf")?.unwrap_or_default()))
}

fn host_file(path: &str) -> Result<Option<String>> {
    match fs::read_to_string(Path::new(path)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(Error::os(format!("read {path}"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_as_docker_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let id = "a".repeat(64);
        let config = ContainerConfig {
            hostname: "web".into(),
            domainname: "example.org".into(),
            extra_hosts: vec!["db:10.0.0.5".into(), "six:[fd00::1]".into(), "seven=fd00::2".into()],
            ..ContainerConfig::default()
        };
        let files = write(folder.path().join("c"), &id, &config).await.unwrap();
        assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "web\n");
        let hosts = fs::read_to_string(&files.hosts).unwrap();
        for line in
            ["127.0.0.1\tlocalhost", "127.0.1.1\tweb.example.org web", "10.0.0.5\tdb", "fd00::1\tsix", "fd00::2\tseven"]
        {
            assert!(hosts.lines().any(|found| found == line), "{line} in {hosts}");
        }
        assert!(files.resolv.is_none());
        assert_eq!(files.log.unwrap().file_name().unwrap().to_str().unwrap(), format!("{id}-json.log"));
        let none =
            ContainerConfig { log_driver: "none".into(), dns: vec!["9.9.9.9".into()], ..ContainerConfig::default() };
        let files = write(folder.path().join("d"), &id, &none).await.unwrap();
        assert_eq!(fs::read_to_string(files.resolv.unwrap()).unwrap(), "nameserver 9.9.9.9\n");
        assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "aaaaaaaaaaaa\n");
        assert!(files.log.is_none());
    }

    #[test]
    fn lines_cannot_be_smuggled_in() {
        for entry in ["", "a", "a:", ":1.2.3.4", "a b:1.2.3.4", "a\nb:1.2.3.4", "a:1.2.3.4\n5.6.7.8 c"] {
            assert!(extra_host(entry).is_err(), "{entry:?}");
        }
        let config = ContainerConfig { dns: vec!["1.1.1.1\noptions x".into()], ..ContainerConfig::default() };
        assert!(resolv_text(&config).is_err());
    }
}
