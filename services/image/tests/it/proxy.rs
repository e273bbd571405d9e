//! Proxies: https through a tunnel, http in the absolute form, credentials for the proxy alone, and what is said when it refuses.

use super::client::config;
use super::images;
use super::registry_fixture::{Registry, basic};
use crated_image::RegistryConfig;
use crated_image::registry::{Access, Registry as Client};
use crated_types::{Descriptor, Error, Fault, Reference, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A proxy that leads everything to one registry, whatever its name.
struct Proxy {
    address: SocketAddr,
    /// Heads of what it was asked.
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// `refusal` is answered to each request in place of the registry.
    async fn start(registry: SocketAddr, refusal: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let told = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, registry, refusal, Arc::clone(&told)));
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut client: TcpStream,
    registry: SocketAddr,
    refusal: Option<&'static str>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let text = String::from_utf8(head).unwrap();
    seen.lock().unwrap().push(text.clone());
    if let Some(refusal) = refusal {
        let _ = client.write_all(format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
        return;
    }
    let mut server = TcpStream::connect(registry).await.unwrap();
    if text.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    } else {
        server.write_all(text.as_bytes()).await.unwrap();
    }
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

fn through(proxy: &Proxy) -> RegistryConfig {
    let url = format!("http://me:pass%2Fword@{}", proxy.address);
    RegistryConfig { http_proxy: url.clone(), https_proxy: url, proxy_from_environment: false, ..config() }
}

async fn resolve(config: RegistryConfig, name: &str) -> Result<Descriptor> {
    let reference = Reference::parse(name).unwrap();
    Client::new(config).repository(&reference, Access::default()).await?.resolve().await
}

#[tokio::test]
async fn http_is_asked_of_the_proxy_and_loopback_is_not() {
    let registry = Registry::start().await;
    registry.put_image(&images::three(), Some("1"));
    let proxy = Proxy::start(registry.address, None).await;
    let config = RegistryConfig { plain_http: vec!["registry.test:5000".into()], ..through(&proxy) };
    let target = resolve(config.clone(), "registry.test:5000/x:1").await.unwrap();
    assert_eq!(target.digest, images::three().digest());
    let seen = proxy.seen();
    assert!(seen[0].starts_with("HEAD http://registry.test:5000/v2/x/manifests/1 HTTP/1.1\r\n"), "{seen:?}");
    let credentials = basic("me", "pass/word");
    assert!(seen[0].to_ascii_lowercase().contains("proxy-authorization"), "{seen:?}");
    assert!(seen[0].contains(&credentials), "{seen:?}");
    resolve(config.clone(), &registry.name("x:1")).await.unwrap();
    assert_eq!(proxy.seen().len(), seen.len(), "loopback is reached directly");
    let direct = RegistryConfig { no_proxy: vec!["registry.test".into()], ..config };
    let error = resolve(direct, "registry.test:5000/x:1").await.unwrap_err();
    assert!(!error.to_string().contains("proxy"), "{error}");
    assert_eq!(proxy.seen().len(), seen.len());
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let Some(tls) = super::tls::server() else { return };
    let registry = Registry::serve(Some(tls)).await;
    registry.put_image(&images::three(), Some("1"));
    let proxy = Proxy::start(registry.address, None).await;
    let config = RegistryConfig { skip_verify: vec!["registry.test".into()], ..through(&proxy) };
    let target = resolve(config, "registry.test/x:1").await.unwrap();
    assert_eq!(target.digest, images::three().digest());
    let seen = proxy.seen();
    assert!(seen[0].starts_with("CONNECT registry.test:443 HTTP/1.1\r\n"), "{seen:?}");
    assert!(seen[0].contains(&basic("me", "pass/word")), "{seen:?}");
    let asked = registry.with(|state| state.seen.clone());
    assert!(!asked.is_empty() && asked.iter().all(|request| request.authorization.is_none()), "{asked:?}");
}

#[tokio::test]
async fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let registry = Registry::start().await;
    let says = |error: &Error, words: &[&str]| {
        let text = format!("{error} {}", error.remedy().unwrap_or_default());
        for word in words {
            assert!(text.contains(word), "want {word:?} in {text}");
        }
        assert!(!text.contains("pass"), "{text}");
    };
    let proxy = Proxy::start(registry.address, Some("403 Forbidden")).await;
    let name = proxy.address.to_string();
    let error = resolve(through(&proxy), "registry.test/x:1").await.unwrap_err();
    says(&error, &[&name, "registry.test:443", "403 Forbidden", "no_proxy"]);
    let proxy = Proxy::start(registry.address, Some("407 Proxy Authentication Required")).await;
    let error = resolve(through(&proxy), "registry.test/x:1").await.unwrap_err();
    says(&error, &["other credentials", "407"]);
    let plain = RegistryConfig { plain_http: vec!["registry.test".into()], ..through(&proxy) };
    let error = resolve(plain, "registry.test/x:1").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unauthenticated, "{error}");
    let nobody = RegistryConfig { https_proxy: "http://127.0.0.1:1".into(), ..through(&proxy) };
    let error = resolve(nobody, "registry.test/x:1").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unreachable, "{error}");
    says(&error, &["127.0.0.1:1", "HTTPS_PROXY"]);
    let wrong = RegistryConfig { https_proxy: "socks5://x".into(), ..config() };
    let error = resolve(wrong, "registry.test/x:1").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Invalid, "{error}");
}
