//! TCP sockets, always with mutual TLS: who is let in can do everything.

use super::Peer;
use super::connection::{Acceptor, rest};
use crate::config::TcpListener as Settings;
use crated_types::{Error, Fault, Result};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Time that a peer gets for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a silent peer is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A listening TCP socket.
pub struct TlsSocket {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TlsSocket").field(&self.listener).finish()
    }
}

impl TlsSocket {
    /// Listens as configured.
    ///
    /// # Errors
    /// What is wrong with the files or the address.
    pub async fn bind(settings: &Settings) -> Result<Self> {
        let tls = tls(settings)?;
        let listener = TcpListener::bind(&settings.address)
            .await
            .map_err(|error| Error::os(format!("listen on {}", settings.address), error))?;
        Ok(Self { listener, tls: TlsAcceptor::from(Arc::new(tls)) })
    }

    /// The address that it got.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until the daemon stops.
    pub async fn serve(self, acceptor: Acceptor) {
        let stop = acceptor.life.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    rest(&error).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let Ok(permit) = Arc::clone(&acceptor.connections).acquire_owned().await else { return };
            let (tls, acceptor) = (self.tls.clone(), acceptor.clone());
            acceptor.life.tracker.clone().spawn(async move {
                match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let peer = Peer { who: format!("tls {address}").into() };
                        acceptor.serve(stream, peer, Some(KEEP_ALIVE)).await;
                    }
                    Ok(Err(error)) => tracing::info!(%address, %error, "TLS peer refused"),
                    Err(_) => tracing::info!(%address, "TLS peer was too slow"),
                }
                drop(permit);
            });
        }
    }
}

fn tls(settings: &Settings) -> Result<ServerConfig> {
    let pem = |key: &str, path: &Path, error: String| {
        Error::new(Fault::Invalid, format!("listeners.tcp.{key}: {}: {error}", path.display()))
    };
    let certificates = |key: &'static str, path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let all: std::result::Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
        match all {
            Ok(all) if all.is_empty() => Err(pem(key, path, "holds no certificate".into())),
            Ok(all) => Ok(all),
            Err(error) => Err(pem(key, path, error.to_string())),
        }
    };
    let chain = certificates("certificate", &settings.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| pem("key", &settings.key, error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates("client_ca", &settings.client_ca)? {
        roots.add(authority).map_err(|error| pem("client_ca", &settings.client_ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| pem("client_ca", &settings.client_ca, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("TLS versions: {error}")))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| pem("certificate", &settings.certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
