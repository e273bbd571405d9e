//! Proxies: which one a request goes through, and the way there.
//!
//! https goes through a tunnel (`CONNECT`, RFC 9110, 9.3.6), so the proxy sees no more than the registry's name; http is asked of the
//! proxy in the absolute form. The rules of `no_proxy` are those of Go's programs, as containerd and docker read them; loopback
//! never goes through a proxy.

use super::config::RegistryConfig;
use base64::Engine;
use crated_types::{Error, Result};
use http::{HeaderValue, Request, Uri, header};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;
use url::Url;

/// Longest answer of a proxy to `CONNECT`, in bytes.
const ANSWER_MAX: usize = 16 << 10;

/// A proxy.
#[derive(Clone)]
struct Proxy {
    uri: Uri,
    /// `host:port`, for messages.
    name: String,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// What is reached without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Direct {
    All,
    /// Addresses of a network; none: no port is named.
    Network(IpAddr, u8, Option<u16>),
    /// A name; with the flag only those below it.
    Domain(String, bool, Option<u16>),
}

/// The proxies of both schemes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    http: Option<Arc<Proxy>>,
    https: Option<Arc<Proxy>>,
    direct: Vec<Direct>,
}

impl Proxies {
    /// From the configuration, else from the environment (`HTTPS_PROXY` before `https_proxy`, and so on).
    ///
    /// # Errors
    /// [`crated_types::Fault::Invalid`] that names the key or the variable.
    pub(crate) fn of(config: &RegistryConfig) -> Result<Self> {
        let environment = |name: &'static str| {
            let lower = name.to_ascii_lowercase();
            let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            config.proxy_from_environment.then(|| read(name).or_else(|| read(&lower))).flatten()
        };
        let proxy = |configured: &str, key: &'static str, variable: &'static str| match configured {
            "" => environment(variable).map(|text| parse(&text, variable)).transpose(),
            text => parse(text, key).map(Some),
        };
        let mut direct = config.no_proxy.clone();
        if direct.is_empty() {
            direct =
                environment("NO_PROXY").map(|list| list.split(',').map(str::to_owned).collect()).unwrap_or_default();
        }
        Ok(Self {
            http: proxy(&config.http_proxy, "registry.http_proxy", "HTTP_PROXY")?,
            https: proxy(&config.https_proxy, "registry.https_proxy", "HTTPS_PROXY")?,
            direct: direct.iter().filter_map(|entry| Direct::parse(entry)).collect(),
        })
    }

    fn get(&self, uri: &Uri) -> Option<&Arc<Proxy>> {
        let https = uri.scheme_str() == Some("https");
        let proxy = if https { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let address: Option<IpAddr> = host.parse().ok();
        let loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        (!loopback && !self.direct.iter().any(|rule| rule.fits(&host, address, port))).then_some(proxy)
    }

    /// Puts the proxy's credentials into a request that it sees.
    pub(crate) fn authorize<B>(&self, request: &mut Request<B>) {
        if request.uri().scheme_str() == Some("http")
            && let Some(value) = self.get(request.uri()).and_then(|proxy| proxy.authorization.clone())
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
        }
    }
}

fn parse(text: &str, key: &'static str) -> Result<Arc<Proxy>> {
    let bad = |why: &str| {
        // never the text itself: it may hold a password
        Error::invalid(key, format_args!("{why}")).remedy_is("write it as http://[user:password@]host[:port]")
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&whole).map_err(|error| bad(&format!("is no URL: {error}")))?;
    if url.scheme() != "http" {
        return Err(bad(&format!("speaks {}, only http proxies are known", url.scheme())));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| bad("names no host"))?;
    let name = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
    let uri = format!("http://{name}").parse().map_err(|error| bad(&format!("is no address: {error}")))?;
    let decoded = |text: &str| percent_decoded(text).ok_or_else(|| bad("has credentials that are not UTF-8"));
    let authorization = match (url.username(), url.password()) {
        ("", None) => None,
        (user, password) => {
            let pair = format!("{}:{}", decoded(user)?, decoded(password.unwrap_or_default())?);
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            let mut value =
                HeaderValue::try_from(format!("Basic {encoded}")).map_err(|_| bad("has bad credentials"))?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    Ok(Arc::new(Proxy { uri, name, authorization }))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

impl Direct {
    /// `*`, an address, a network in CIDR form, a name (and those below it), `.name` (only those below it); each but `*` with
    /// `:port` where only that is meant. What is none of these fits nothing.
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            return Some(Self::Network(address.parse().ok()?, bits.parse().ok()?, None));
        }
        if let Ok(address) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Network(address, 128, None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Network(address, 128, port));
        }
        let host = host.strip_prefix('*').unwrap_or(&host);
        let below = host.starts_with('.');
        let name = host.trim_start_matches('.').to_owned();
        (!name.is_empty()).then_some(Self::Domain(name, below, port))
    }

    fn fits(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits, only) => {
                only.is_none_or(|only| only == port) && address.is_some_and(|address| within(address, *network, *bits))
            }
            Self::Domain(name, below, only) => {
                let sub = host.strip_suffix(name.as_str()).is_some_and(|front| front.ends_with('.'));
                only.is_none_or(|only| only == port) && (sub || (!below && host == name))
            }
        }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (u32::from(address).into(), u32::from(network).into(), 32_u8),
        (IpAddr::V6(address), IpAddr::V6(network)) => (u128::from(address), u128::from(network), 128),
        _ => return false,
    };
    let free = u32::from(width - bits.min(width));
    address.checked_shr(free).unwrap_or(0) == network.checked_shr(free).unwrap_or(0)
}

/// Connects, through a proxy where one is meant.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) http: HttpConnector,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) agent: Arc<str>,
    /// For a proxy's answer.
    pub(crate) patience: Duration,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Dialer {
    type Response = Way;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Way, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.get(&uri).cloned() else {
            let connecting = self.http.call(uri);
            return Box::pin(async move { Ok(Way { io: connecting.await?, proxied: false }) });
        };
        let connecting = self.http.call(proxy.uri.clone());
        let (agent, patience) = (Arc::clone(&self.agent), self.patience);
        Box::pin(async move {
            let failed = |error: &dyn std::fmt::Display| format!("proxy {}: {error}", proxy.name);
            let io = connecting.await.map_err(|error| {
                let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                failed(&cause)
            })?;
            if uri.scheme_str() != Some("https") {
                return Ok(Way { io, proxied: true });
            }
            let mut stream = io.into_inner();
            match tokio::time::timeout(patience, tunnel(&mut stream, &proxy, &uri, &agent)).await {
                Ok(made) => made.map_err(|error| failed(&error))?,
                Err(_) => return Err(failed(&format_args!("no answer within {} s", patience.as_secs())).into()),
            }
            Ok(Way { io: TokioIo::new(stream), proxied: false })
        })
    }
}

/// Asks a proxy for a tunnel to the host of `uri`.
async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, uri: &Uri, agent: &str) -> io::Result<()> {
    let target = format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
    let mut ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {agent}\r\n").into_bytes();
    if let Some(value) = &proxy.authorization {
        ask.extend_from_slice(b"Proxy-Authorization: ");
        ask.extend_from_slice(value.as_bytes());
        ask.extend_from_slice(b"\r\n");
    }
    ask.extend_from_slice(b"\r\n");
    stream.write_all(&ask).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // byte by byte: what follows the head belongs to the registry
        answer.push(stream.read_u8().await?);
        if answer.len() > ANSWER_MAX {
            return Err(io::Error::other("an answer that does not end"));
        }
    }
    let head = String::from_utf8_lossy(&answer);
    let first = head.lines().next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
    if status.len() == 3 && status.starts_with('2') {
        return Ok(());
    }
    let told: String = first.chars().filter(|char| !char.is_control()).take(100).collect();
    let why = if status == "407" { "it wants other credentials" } else { "it makes no tunnel" };
    Err(io::Error::other(format!("{why} to {target} ({told})")))
}

/// A connection to a registry or a proxy.
#[derive(Debug)]
pub(crate) struct Way {
    io: TokioIo<TcpStream>,
    /// Requests on it are for a proxy, in the absolute form.
    proxied: bool,
}

impl Connection for Way {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl hyper::rt::Read for Way {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Way {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(direct: &[&str]) -> Proxies {
        Proxies::of(&RegistryConfig {
            https_proxy: "http://user:p%40ss@proxy.test:3128".into(),
            http_proxy: "plain.test".into(),
            no_proxy: direct.iter().map(|entry| (*entry).into()).collect(),
            proxy_from_environment: false,
            ..RegistryConfig::default()
        })
        .unwrap()
    }

    fn through(proxies: &Proxies, uri: &str) -> String {
        proxies.get(&uri.parse().unwrap()).map(|proxy| proxy.name.clone()).unwrap_or_default()
    }

    #[test]
    fn each_scheme_has_its_proxy_and_loopback_has_none() {
        let proxies = proxies(&[]);
        assert_eq!(through(&proxies, "https://ghcr.io/v2/"), "proxy.test:3128");
        assert_eq!(through(&proxies, "http://registry.lan:5000/v2/"), "plain.test:80");
        for near in ["http://localhost:5000/", "https://127.0.0.1/", "https://[::1]:5000/", "http://127.8.9.1/"] {
            assert_eq!(through(&proxies, near), "", "{near}");
        }
        let shown = format!("{proxies:?}");
        assert!(shown.contains("proxy.test") && !shown.contains("p@ss") && !shown.contains("Basic"), "{shown}");
        let mut request = Request::get("http://registry.lan/").body(()).unwrap();
        proxies.authorize(&mut request);
        assert!(request.headers().is_empty(), "that proxy wants no credentials, and the other one's are not its");
    }

    #[test]
    fn no_proxy_is_read_as_gos_programs_read_it() {
        let rules =
            ["corp.test", ".below.test", "*.star.test", "10.0.0.0/8", "192.0.2.7", "ported.test:5000", "fd00::/8"];
        let proxies = proxies(&rules);
        for direct in [
            "https://corp.test/",
            "https://CORP.test/",
            "https://a.corp.test/",
            "https://x.below.test/",
            "https://x.star.test/",
            "https://10.1.2.3/",
            "https://192.0.2.7/",
            "https://ported.test:5000/",
            "https://[fd12::1]/",
        ] {
            assert_eq!(through(&proxies, direct), "", "{direct}");
        }
        for other in [
            "https://notcorp.test/",
            "https://below.test/",
            "https://11.1.2.3/",
            "https://192.0.2.8/",
            "https://ported.test/",
            "https://[2001:db8::1]/",
        ] {
            assert_eq!(through(&proxies, other), "proxy.test:3128", "{other}");
        }
        assert_eq!(through(&self::proxies(&["*"]), "https://ghcr.io/"), "");
        assert_eq!(through(&self::proxies(&[" ", "", "/x", ":"]), "https://ghcr.io/"), "proxy.test:3128");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        for bad in ["socks5://user:secret@h", "http://", "http://user:secret@:3128", "http://[::secret"] {
            let config = RegistryConfig { https_proxy: bad.into(), ..RegistryConfig::default() };
            let error = Proxies::of(&config).unwrap_err();
            assert!(
                error.to_string().contains("registry.https_proxy") && !error.to_string().contains("secret"),
                "{error}"
            );
        }
    }
}
