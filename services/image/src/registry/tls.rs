//! Connections: one pool per kind of TLS, made when it is first needed.

use super::config::RegistryConfig;
use super::hosts::Tls;
use super::proxy::{Dialer, Proxies};
use bytes::Bytes;
use crated_types::{Error, Fault, Kind, Result};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A pool of connections, http and https.
pub(crate) type Client = Pool<HttpsConnector<Dialer>, Full<Bytes>>;

/// Longest certificate file, in bytes.
const PEM_MAX: u64 = 1 << 20;
const POOL_IDLE: Duration = Duration::from_secs(30);
const POOL_PER_HOST: usize = 8;

/// Pools by their TLS, and the machine's root certificates.
#[derive(Debug)]
pub(crate) struct Clients {
    connect_timeout: Duration,
    agent: Arc<str>,
    proxies: Result<Arc<Proxies>>,
    pools: Mutex<HashMap<Tls, Client>>,
    roots: Mutex<Option<Arc<RootCertStore>>>,
}

impl Clients {
    pub(crate) fn new(config: &RegistryConfig) -> Self {
        Self {
            connect_timeout: config.connect_timeout(),
            agent: config.user_agent.as_str().into(),
            proxies: Proxies::of(config).map(Arc::new),
            pools: Mutex::default(),
            roots: Mutex::default(),
        }
    }
}

impl super::Shared {
    /// The pool for `tls`; the first use of a kind reads certificates, on a thread that may block.
    pub(crate) async fn client(self: &Arc<Self>, tls: &Tls) -> Result<Client> {
        if let Some(client) = self.clients.pools.lock().unwrap_or_else(PoisonError::into_inner).get(tls) {
            return Ok(client.clone());
        }
        let (shared, wanted) = (self.clone(), tls.clone());
        let client = crate::blocking(move || shared.clients.build(&wanted)).await?;
        self.clients.pools.lock().unwrap_or_else(PoisonError::into_inner).insert(tls.clone(), client.clone());
        Ok(client)
    }
}

impl Clients {
    /// The proxies, or what is wrong with their configuration.
    pub(crate) fn proxies(&self) -> Result<Arc<Proxies>> {
        match &self.proxies {
            Ok(proxies) => Ok(Arc::clone(proxies)),
            Err(error) => Err(error.duplicate()),
        }
    }

    fn build(&self, tls: &Tls) -> Result<Client> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(tls.dial_timeout.unwrap_or(self.connect_timeout)));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(self.tls(tls)?).https_or_http().enable_http1().wrap_connector(
                Dialer {
                    http,
                    proxies: self.proxies()?,
                    agent: Arc::clone(&self.agent),
                    patience: self.connect_timeout,
                },
            );
        Ok(Pool::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector))
    }

    fn tls(&self, tls: &Tls) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS versions of ring").caused_by(error))?;
        let builder = if tls.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
        } else {
            builder.with_root_certificates(self.roots(&tls.ca)?)
        };
        match tls.client.first() {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key_path = key.as_deref().unwrap_or(certificate);
                let key = PrivateKeyDer::from_pem_slice(&crate::read_file(key_path, PEM_MAX)?)
                    .map_err(|error| bad_pem(key_path, format!("no private key: {error}")))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| bad_pem(certificate, error.to_string()))
            }
        }
    }

    /// The machine's authorities, and those of the files.
    fn roots(&self, files: &[std::path::PathBuf]) -> Result<Arc<RootCertStore>> {
        let native = {
            let mut slot = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert_with(|| {
                let mut store = RootCertStore::empty();
                let loaded = rustls_native_certs::load_native_certs();
                for error in &loaded.errors {
                    tracing::warn!(%error, "root certificates of this machine");
                }
                store.add_parsable_certificates(loaded.certs);
                Arc::new(store)
            })
            .clone()
        };
        if files.is_empty() {
            return Ok(native);
        }
        let mut store = RootCertStore::clone(&native);
        for path in files {
            for certificate in certificates(path)? {
                store.add(certificate).map_err(|error| bad_pem(path, error.to_string()))?;
            }
        }
        Ok(Arc::new(store))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = crate::read_file(path, PEM_MAX)?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_pem(path, format!("no PEM: {error}")))?;
    if list.is_empty() {
        return Err(bad_pem(path, "holds no certificate".into()));
    }
    Ok(list)
}

fn bad_pem(path: &Path, why: String) -> Error {
    Error::new(Fault::Invalid, why)
        .on(Kind::File, path.display())
        .remedy_is("give it as PEM (-----BEGIN CERTIFICATE-----)")
}

/// Takes any certificate: what `skip_verify` asks for. Signatures of the handshake are still checked.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
