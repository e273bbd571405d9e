//! TLS: authorities of hosts.toml, client certificates, and what is said when a certificate is not trusted.

use super::client::config;
use super::images;
use super::registry_fixture::Registry;
use crated_image::RegistryConfig;
use crated_image::registry::{Access, Registry as Client};
use crated_types::{Fault, Reference};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A self-signed certificate and its key.
fn certificate(dir: &Path, name: &str) -> bool {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={name}"), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(dir.join(format!("{name}.key")))
        .arg("-out")
        .arg(dir.join(format!("{name}.crt")))
        .output();
    let made = made.is_ok_and(|output| output.status.success());
    if !made {
        println!("skip: openssl cannot make a certificate");
    }
    made
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

/// A server with a certificate that nobody vouches for; none where openssl is missing.
pub(crate) fn server() -> Option<Arc<rustls::ServerConfig>> {
    let dir = tempfile::tempdir().unwrap();
    if !certificate(dir.path(), "server") {
        return None;
    }
    let key = PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(&dir.path().join("server.crt")), key)
        .unwrap();
    Some(Arc::new(server))
}

#[tokio::test]
async fn certificates_are_checked_and_given_as_hosts_toml_says() {
    let dir = tempfile::tempdir().unwrap();
    if !certificate(dir.path(), "server") || !certificate(dir.path(), "client") {
        return;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(chain(&dir.path().join("client.crt")).remove(0)).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            chain(&dir.path().join("server.crt")),
            PrivateKeyDer::from_pem_file(dir.path().join("server.key")).unwrap(),
        )
        .unwrap();
    let registry = Registry::serve(Some(Arc::new(server))).await;
    registry.put_image(&images::three(), Some("1"));

    let folder = dir.path().join(registry.address.to_string());
    std::fs::create_dir(&folder).unwrap();
    let config = RegistryConfig { hosts_dir: dir.path().into(), ..config() };
    let reference = Reference::parse(&registry.name("x:1")).unwrap();
    let resolve = async |text: &str| {
        let text = format!("server = \"https://{}\"\n{text}", registry.address);
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
        Client::new(config.clone()).repository(&reference, Access::default()).await?.resolve().await
    };
    let error = resolve("").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unreachable, "{error}");
    assert!(error.remedy().unwrap().contains("`ca`"), "{:?}", error.remedy());
    let client = "client = [[\"../client.crt\", \"../client.key\"]]\n";
    resolve(&format!("ca = \"../server.crt\"\n{client}")).await.unwrap();
    resolve(&format!("skip_verify = true\n{client}")).await.unwrap();
    assert!(resolve("ca = \"../server.crt\"\n").await.is_err(), "the server wants a client's certificate");
    let error = resolve("ca = \"../none.crt\"\n").await.unwrap_err();
    assert!(error.to_string().contains("none.crt"), "{error}");
    let error = resolve("ca = \"../server.key\"\n").await.unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
    // docker's layout: no hosts.toml, but what it would name.
    std::fs::remove_file(folder.join("hosts.toml")).unwrap();
    for (from, to) in [("server.crt", "ca.crt"), ("client.crt", "x.cert"), ("client.key", "x.key")] {
        std::fs::copy(dir.path().join(from), folder.join(to)).unwrap();
    }
}
