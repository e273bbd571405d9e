//! Which endpoints serve a registry's domain: mirrors and server of `hosts.toml`, in containerd's `certs.d` layout.
//!
//! Looked for in `<dir>/<host>_<port>_/`, `<dir>/<host>:<port>/`, `<dir>/<host>/` and `<dir>/_default/`; the first folder that
//! exists counts. A folder without a `hosts.toml` may hold `*.crt`, `*.cert` and `*.key` as docker has them.

use super::Access;
use super::config::RegistryConfig;
use super::credentials::Credentials;
use crated_types::{Error, Fault, Kind, Result};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use url::Url;

/// Longest hosts.toml, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The host behind `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// What an endpoint is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Resolve,
    Pull,
}

/// TLS of an endpoint; the key of its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
    pub(crate) skip_verify: bool,
    pub(crate) dial_timeout: Option<Duration>,
}

/// One server that is asked: a mirror, or the registry itself.
#[derive(Clone)]
pub(crate) struct Endpoint {
    base: Url,
    name: String,
    resolve: bool,
    pull: bool,
    /// The domain that it stands in for, told by `?ns=`.
    mirrored: Option<String>,
    /// Whether it is the reference's own registry: the caller's credentials are for it alone.
    pub(crate) own: bool,
    pub(crate) tls: Tls,
    pub(crate) headers: HeaderMap,
    /// The credentials for it and where they came from, once they were looked for.
    pub(crate) found: Arc<OnceCell<Option<(Credentials, String)>>>,
}

// Headers may hold secrets.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.base)
    }
}

impl Endpoint {
    /// Host and port, for people and as the key of credentials.
    pub(crate) fn host(&self) -> &str {
        &self.name
    }

    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    pub(crate) fn can(&self, role: Role) -> bool {
        match role {
            Role::Resolve => self.resolve,
            Role::Pull => self.pull,
        }
    }

    /// `<base>/<path>`; `path` holds only characters that stand for themselves.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        if let Some(domain) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", domain);
        }
        url
    }
}

/// The endpoints for `domain`, in the order in which they are asked; the registry itself comes last.
pub(crate) fn endpoints(config: &RegistryConfig, domain: &str, access: &Access) -> Result<Vec<Endpoint>> {
    let dir = access.hosts_dir.as_deref().unwrap_or(&config.hosts_dir);
    let context = Context { config, domain, access };
    let Some(folder) = folder(dir, domain) else {
        return Ok(vec![context.server(None, &Section::default(), Path::new(""))?]);
    };
    let path = folder.join("hosts.toml");
    let text = match crate::read_file(&path, FILE_MAX) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => {
            let section = Section { certs: docker_certs(&folder)?, ..Section::default() };
            return Ok(vec![context.server(None, &section, &folder)?]);
        }
        Err(error) => return Err(error),
    };
    let text = String::from_utf8(text).map_err(|_| malformed(&path, "is not UTF-8"))?;
    context.file(&text, &path, &folder)
}

fn folder(dir: &Path, domain: &str) -> Option<PathBuf> {
    if dir.as_os_str().is_empty() {
        return None;
    }
    let escaped =
        domain.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(host, port)| format!("{host}_{port}_"));
    [escaped.as_deref(), Some(domain), Some("_default")]
        .into_iter()
        .flatten()
        .map(|name| dir.join(name))
        .find(|path| path.is_dir())
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    root: Section,
    #[serde(default)]
    host: BTreeMap<String, Section>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Section {
    capabilities: Option<Vec<String>>,
    ca: OneOrMany<String>,
    client: OneOrMany<OneOrMany<String>>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany<String>>,
    dial_timeout: Option<String>,
    #[serde(skip)]
    certs: Certs,
}

#[derive(Clone, Default)]
struct Certs {
    ca: Vec<PathBuf>,
    client: Vec<(PathBuf, Option<PathBuf>)>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    fn all(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

fn malformed(path: &Path, why: impl fmt::Display) -> Error {
    Error::new(Fault::Invalid, format!("hosts.toml: {why}")).on(Kind::File, path.display()).remedy_is(
        "its form is that of containerd's registry hosts: server, [host.\"https://mirror\"], capabilities, ca, client",
    )
}

struct Context<'a> {
    config: &'a RegistryConfig,
    domain: &'a str,
    access: &'a Access,
}

impl Context<'_> {
    fn file(&self, text: &str, path: &Path, folder: &Path) -> Result<Vec<Endpoint>> {
        let file: File = toml::from_str(text).map_err(|error| malformed(path, error.message()))?;
        let mut sections: Vec<(usize, &String, &Section)> = Vec::new();
        for (host, section) in &file.host {
            sections.push((position(text, host), host, section));
        }
        sections.sort_by_key(|(position, ..)| *position); // the order of the file is the order in which they are asked
        let mut endpoints = Vec::new();
        for (_, host, section) in sections {
            endpoints.push(self.endpoint(Some(host), section, folder, false).map_err(|why| malformed(path, why))?);
        }
        endpoints.push(self.server(file.server.as_deref(), &file.root, folder).map_err(|why| malformed(path, why))?);
        Ok(endpoints)
    }

    fn server(&self, server: Option<&str>, section: &Section, folder: &Path) -> Result<Endpoint> {
        self.endpoint(server, section, folder, true)
    }

    fn endpoint(&self, address: Option<&str>, section: &Section, folder: &Path, server: bool) -> Result<Endpoint> {
        let base = match address {
            Some(address) => parse_base(address, section.override_path)?,
            None => self.default_base()?,
        };
        let name = host_name(&base);
        let own =
            server && (name == self.domain || (self.domain == "docker.io" && name == DOCKER_HUB) || address.is_none());
        let mut tls = section.tls(folder)?;
        tls.skip_verify |= self.config.skip_verify.iter().any(|host| *host == name || (own && host == self.domain));
        tls.skip_verify |= own && self.access.skip_verify;
        let mut headers = section.headers()?;
        if own {
            for (key, value) in &self.access.headers {
                append(&mut headers, key, value)?;
            }
        }
        let can = |what: &str| match &section.capabilities {
            Some(list) => list.iter().any(|capability| capability == what),
            None => true,
        };
        Ok(Endpoint {
            mirrored: (!own && name != self.domain).then(|| self.domain.to_owned()),
            resolve: can("resolve"),
            pull: can("pull"),
            own,
            base,
            name,
            tls,
            headers,
            found: Arc::default(),
        })
    }

    /// Where a domain is when nothing is configured.
    fn default_base(&self) -> Result<Url> {
        let host = if self.domain == "docker.io" { DOCKER_HUB } else { self.domain };
        let plain = self.access.plain_http
            || self.config.plain_http.iter().any(|name| name == self.domain)
            || (is_loopback(self.domain) && !self.domain.ends_with(":443"));
        let scheme = if plain { "http" } else { "https" };
        parse_base(&format!("{scheme}://{host}"), false)
    }
}

impl Section {
    fn tls(&self, folder: &Path) -> Result<Tls> {
        let mut ca: Vec<PathBuf> = self.ca.all().iter().map(|path| folder.join(path)).collect();
        ca.extend(self.certs.ca.iter().cloned());
        let mut client = self.certs.client.clone();
        for entry in self.client.all() {
            match entry.all() {
                [both] => client.push((folder.join(both), None)),
                [cert, key] if key.is_empty() => client.push((folder.join(cert), None)),
                [cert, key] => client.push((folder.join(cert), Some(folder.join(key)))),
                _ => return Err(Error::invalid("client", "an entry is a file, or a certificate and a key")),
            }
        }
        let dial_timeout = self.dial_timeout.as_deref().map(duration).transpose()?;
        Ok(Tls { ca, client, skip_verify: self.skip_verify, dial_timeout })
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (key, values) in &self.header {
            for value in values.all() {
                append(&mut headers, key, value)?;
            }
        }
        Ok(headers)
    }
}

fn append(headers: &mut HeaderMap, key: &str, value: &str) -> Result<()> {
    let name: HeaderName =
        key.parse().map_err(|_| Error::invalid("header", format_args!("{key:?} is no header name")))?;
    let value: HeaderValue = value
        .parse()
        .map_err(|_| Error::invalid("header", format_args!("the value of {key:?} has bytes that none may have")))?;
    headers.append(name, value);
    Ok(())
}

/// `5s`, `500ms`, `1m`: the part of Go's durations that is used for it.
fn duration(text: &str) -> Result<Duration> {
    let bad = || Error::invalid("dial_timeout", format_args!("{text:?} is not a number with ms, s or m"));
    let split = text.find(|char: char| char.is_ascii_alphabetic()).ok_or_else(bad)?;
    let number: u64 = text[..split].parse().map_err(|_| bad())?;
    match &text[split..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(bad()),
    }
}

/// Where the table of a host starts in the file.
fn position(text: &str, host: &str) -> usize {
    use toml::de::{DeTable, DeValue};
    let Ok(document) = DeTable::parse(text) else { return 0 };
    let found = document.get_ref().iter().find(|(key, _)| key.get_ref() == "host").and_then(|(_, value)| {
        match value.get_ref() {
            DeValue::Table(table) => {
                table.iter().find(|(key, _)| key.get_ref() == host).map(|(key, _)| key.span().start)
            }
            _ => None,
        }
    });
    found.unwrap_or(0)
}

/// An address of hosts.toml as the base of the API: `https` where no scheme is told, `/v2` behind it unless overridden.
fn parse_base(address: &str, override_path: bool) -> Result<Url> {
    let text = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let bad = |why: &str| Error::invalid("server", format_args!("{address:?} {why}"));
    let mut url = Url::parse(&text).map_err(|error| bad(&format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("is neither http nor https"));
    }
    if !url.has_host() || !url.username().is_empty() || url.password().is_some() {
        return Err(bad("must have a host and no credentials"));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(url)
}

/// Host and, where it is not the scheme's own, port.
pub(crate) fn host_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// `localhost`, `127.0.0.0/8`, `::1`, with or without a port.
pub(crate) fn is_loopback(domain: &str) -> bool {
    let host = match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => domain.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// docker's layout: `*.crt` are authorities, `x.cert` with `x.key` a client's pair.
fn docker_certs(folder: &Path) -> Result<Certs> {
    let failed = |error| Error::os(format!("list {}", folder.display()), error);
    let mut certs = Certs::default();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => certs.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                certs.client.push((path, Some(key)));
            }
            _ => {}
        }
    }
    Ok(certs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, domain: &str) -> Result<Vec<Endpoint>> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(domain.replace(':', "_") + if domain.contains(':') { "_" } else { "" });
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
        let config = RegistryConfig { hosts_dir: dir.path().into(), ..RegistryConfig::default() };
        endpoints(&config, domain, &Access::default())
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        let config = RegistryConfig {
            hosts_dir: "/nowhere".into(),
            plain_http: vec!["reg.test:5000".into()],
            ..RegistryConfig::default()
        };
        for (domain, url) in [
            ("docker.io", "https://registry-1.docker.io/v2/a"),
            ("quay.io", "https://quay.io/v2/a"),
            ("localhost:5000", "http://localhost:5000/v2/a"),
            ("127.3.0.1:80", "http://127.3.0.1/v2/a"),
            ("[::1]:5000", "http://[::1]:5000/v2/a"),
            ("localhost:443", "https://localhost/v2/a"),
            ("reg.test:5000", "http://reg.test:5000/v2/a"),
        ] {
            let list = endpoints(&config, domain, &Access::default()).unwrap();
            assert_eq!(list.len(), 1);
            assert_eq!(list[0].url("a").as_str(), url);
            assert!(list[0].own);
        }
    }

    #[test]
    fn mirrors_are_asked_in_the_order_of_the_file() {
        let list = of(
            r#"
            server = "https://registry-1.docker.io"
            [host."http://z.test:5000"]
            capabilities = ["pull"]
            skip_verify = true
            dial_timeout = "5s"
            [host."https://a.test/prefix"]
            ca = "a.crt"
            client = [["c.cert", "c.key"]]
            [host."https://a.test/prefix".header]
            x-key = ["1", "2"]
            [host."https://b.test/v2/raw"]
            override_path = true
            ca = ["/b1.crt", "b2.crt"]
            client = "both.pem"
            "#,
            "docker.io",
        )
        .unwrap();
        let urls: Vec<String> = list.iter().map(|endpoint| endpoint.url("x/y").to_string()).collect();
        assert_eq!(
            urls,
            [
                "http://z.test:5000/v2/x/y?ns=docker.io",
                "https://a.test/prefix/v2/x/y?ns=docker.io",
                "https://b.test/v2/raw/x/y?ns=docker.io",
                "https://registry-1.docker.io/v2/x/y",
            ]
        );
        assert!(list[0].can(Role::Pull) && !list[0].can(Role::Resolve) && list[0].tls.skip_verify);
        assert_eq!(list[0].tls.dial_timeout, Some(Duration::from_secs(5)));
        assert_eq!(list[1].headers.get_all("x-key").iter().count(), 2);
        assert!(list[1].tls.ca[0].ends_with("docker.io/a.crt"));
        assert_eq!(list[2].tls.ca[0], Path::new("/b1.crt"));
        assert_eq!(list[2].tls.client[0].1, None);
        assert!(list[3].own && !list[1].own);
    }

    #[test]
    fn without_a_server_the_registry_comes_last() {
        let list = of("[host.\"mirror.test\"]\n", "quay.io:8443").unwrap();
        assert_eq!(list[0].url("a").as_str(), "https://mirror.test/v2/a?ns=quay.io%3A8443");
        assert_eq!(list[1].url("a").as_str(), "https://quay.io:8443/v2/a");
    }

    #[test]
    fn a_bad_file_is_named() {
        for text in [
            "server = 1",
            "[host.\"ftp://x\"]\n",
            "server = \"https://u:p@x\"",
            "= ",
            "[host.\"https://x\"]\ncapabilities = 1",
        ] {
            let error = of(text, "quay.io").unwrap_err();
            assert!(error.to_string().contains("hosts.toml"), "{error}");
        }
    }

    #[test]
    fn dockers_layout_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("r.test");
        std::fs::create_dir(&folder).unwrap();
        for name in ["ca.crt", "c.cert", "c.key"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let config = RegistryConfig { hosts_dir: dir.path().into(), ..RegistryConfig::default() };
        let list = endpoints(&config, "r.test", &Access::default()).unwrap();
        assert_eq!(list[0].tls.ca.len(), 1);
        assert_eq!(list[0].tls.client, [(folder.join("c.cert"), Some(folder.join("c.key")))]);
    }
}
