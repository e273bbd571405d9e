//! TCP with mutual TLS: certificates made on the spot by openssl; who has none is not let in.

use super::{Running, config};
use crate::config::TcpListener;
use crate::daemon::Daemon;
use crated_api::containerd::services::version::v1::version_client::VersionClient;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

fn openssl(dir: &Path, arguments: &str) -> bool {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// An authority, and a certificate of it for `localhost`, which serves both ends.
fn certificates(dir: &Path) -> bool {
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"))
        && openssl(dir, &format!("req {key} -keyout key.pem -out request.pem -subj /CN=localhost"))
        && openssl(
            dir,
            "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext",
        )
}

fn client(dir: &Path, with_certificate: bool) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if with_certificate {
        let chain = vec![CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn connect(address: SocketAddr, tls: TlsConnector) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: http::Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_lets_in_who_has_a_certificate_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    if !certificates(dir.path()) {
        println!("skip: openssl (not installed, or it makes no certificates)");
        return;
    }
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = config(dir.path());
    config.listeners.tcp = vec![TcpListener {
        address: address.to_string(),
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
        client_ca: dir.path().join("ca.pem"),
    }];
    let daemon = Daemon::start(config).await.unwrap();
    let running = Running { daemon, dir };
    let channel = connect(address, client(running.dir.path(), true)).await.unwrap();
    assert_eq!(VersionClient::new(channel).version(()).await.unwrap().into_inner().version, crate::VERSION);
    // TLS 1.3 tells a client of its missing certificate with the first read: connecting or calling fails.
    let stranger = match connect(address, client(running.dir.path(), false)).await {
        Ok(channel) => VersionClient::new(channel).version(()).await.is_ok(),
        Err(_) => false,
    };
    assert!(!stranger);
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_certificate_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let missing = TcpListener { certificate: dir.path().join("no.pem"), ..TcpListener::default() };
    config.listeners.tcp = vec![TcpListener { address: "127.0.0.1:0".into(), ..missing }];
    let error = Daemon::start(config).await.unwrap_err().to_string();
    assert!(error.contains("listeners.tcp.certificate") && error.contains("no.pem"), "{error}");
}
