//! The registry client: resolve a name, read manifests, stream blobs (OCI distribution-spec; docker's token protocol).
//!
//! A [`Registry`] is made from a [`RegistryConfig`] and holds what is shared between pulls: connections, tokens, root certificates. A
//! [`Repository`] is one reference's view of it: the endpoints that serve it (mirrors first, see [`hosts`]) and the caller's
//! [`Access`]. Everything that a registry sends is hostile: sizes, redirects, retries and waits are bounded, digests are
//! checked by who stores the bytes, and credentials go to the host that they were given for and to nobody else.

mod auth;
mod blob;
mod challenge;
mod config;
mod credentials;
mod fail;
mod hosts;
mod proxy;
mod retry;
mod session;
mod tls;

pub use blob::BlobReader;
pub use config::RegistryConfig;
pub use credentials::Credentials;

use crate::manifest::{self, OciDescriptor};
use auth::Tokens;
use crated_types::descriptor::media;
use crated_types::{Descriptor, Digest, Error, Fault, Kind, Reference, Result};
use hosts::{Endpoint, Role};
use http::{Method, StatusCode, header};
use session::Ask;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest manifest, index or configuration, in bytes.
pub const DOCUMENT_MAX: u64 = 8 << 20;

/// How one caller reaches a registry.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Credentials for the reference's registry; without them docker's config.json is asked.
    pub credentials: Option<Credentials>,
    /// Speak http to the reference's registry.
    pub plain_http: bool,
    /// Do not verify the certificate of the reference's registry.
    pub skip_verify: bool,
    /// Headers sent to the reference's registry.
    pub headers: Vec<(String, String)>,
    /// A folder in the layout of containerd's `certs.d`, in place of the configured one.
    pub hosts_dir: Option<std::path::PathBuf>,
}

/// What pulls share: connections, tokens, certificates.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: RegistryConfig,
    pub(crate) tokens: Tokens,
    pub(crate) clients: tls::Clients,
}

impl Registry {
    /// A client; nothing is read or opened before the first request.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        let clients = tls::Clients::new(&config);
        Self(Arc::new(Shared { config, tokens: Tokens::default(), clients }))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RegistryConfig {
        &self.0.config
    }

    /// One repository, with the endpoints that hosts.toml gives for it at this moment.
    ///
    /// # Errors
    /// [`Fault::Invalid`] where hosts.toml or the access is malformed.
    pub async fn repository(&self, reference: &Reference, access: Access) -> Result<Repository> {
        let shared = self.0.clone();
        let (domain, given) = (reference.domain().to_owned(), access.clone());
        let endpoints = crate::blocking(move || hosts::endpoints(&shared.config, &domain, &given)).await?;
        Ok(Repository(Arc::new(Inner { shared: self.0.clone(), reference: reference.clone(), access, endpoints })))
    }
}

/// One repository on its registry and mirrors.
#[derive(Clone, Debug)]
pub struct Repository(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reference: Reference,
    pub(crate) access: Access,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Repository {
    /// The reference.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.0.reference
    }

    /// What the reference's tag or digest stands for at this moment. For a small price of bytes the document itself is kept
    /// in no case: fetch it by [`Repository::document`].
    ///
    /// # Errors
    /// [`Fault::NotFound`], [`Fault::Unauthenticated`], [`Fault::Denied`], [`Fault::RateLimited`], [`Fault::Unreachable`],
    /// [`Fault::TimedOut`], [`Fault::BadRegistry`], [`Fault::Unsupported`] for formats of the past.
    pub async fn resolve(&self) -> Result<Descriptor> {
        self.each(Role::Resolve, "resolve", |endpoint, last| async move { self.resolve_at(endpoint, last).await }).await
    }

    /// A manifest or index, whole, its digest and size checked.
    ///
    /// # Errors
    /// As [`Repository::resolve`]; [`Fault::DigestMismatch`], [`Fault::SizeMismatch`].
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > DOCUMENT_MAX {
            return Err(fail::too_large(&self.0.reference, descriptor.size));
        }
        self.each(Role::Pull, "fetch manifest", |endpoint, last| async move {
            let bytes = self.get_document(endpoint, descriptor.digest.as_str(), last).await?.1;
            if bytes.len() as u64 != descriptor.size {
                return Err(Error::new(
                    Fault::SizeMismatch,
                    format!("{} sent {} bytes, {} were announced", endpoint.host(), bytes.len(), descriptor.size),
                )
                .on(Kind::Content, &descriptor.digest));
            }
            fail::verify(&descriptor.digest, &bytes, endpoint.host())?;
            Ok(bytes)
        })
        .await
    }

    /// A blob from `offset` on. Cut connections are resumed behind the reader's back, from other endpoints where need be.
    ///
    /// # Errors
    /// As [`Repository::resolve`].
    pub async fn blob(&self, descriptor: &OciDescriptor, offset: u64) -> Result<BlobReader> {
        BlobReader::open(self.clone(), descriptor.clone(), offset).await
    }

    /// Asks one endpoint after the other; the answer is the first success, or the error of the last one.
    async fn each<'a, T, F>(
        &'a self,
        role: Role,
        step: &'static str,
        ask: impl Fn(&'a Endpoint, bool) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let able: Vec<&Endpoint> = self.0.endpoints.iter().filter(|endpoint| endpoint.can(role)).collect();
        let mut failure = fail::no_endpoint(&self.0.reference, step);
        for (index, endpoint) in able.iter().enumerate() {
            let last = index + 1 == able.len();
            match ask(endpoint, last).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    if !last {
                        tracing::warn!(host = endpoint.host(), %error, step, "mirror failed, asking the next endpoint");
                    }
                    failure = error;
                }
            }
        }
        Err(failure.at(step))
    }

    fn manifests(&self, endpoint: &Endpoint, object: &str) -> url::Url {
        endpoint.url(&format!("{}/manifests/{object}", self.0.reference.path()))
    }

    async fn resolve_at(&self, endpoint: &Endpoint, last: bool) -> Result<Descriptor> {
        let reference = &self.0.reference;
        let object = reference.object();
        let ask = Ask::new(Method::HEAD, self.manifests(endpoint, object), ACCEPT);
        let answer = self.0.exchange(endpoint, ask, last).await?;
        let status = answer.status();
        if status == StatusCode::METHOD_NOT_ALLOWED || status == StatusCode::NOT_IMPLEMENTED {
            return self.resolve_by_get(endpoint, object, last).await;
        }
        if !status.is_success() {
            return Err(fail::status(&self.0, endpoint, answer, "resolve").await);
        }
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let told =
            text(header::HeaderName::from_static("docker-content-digest")).and_then(|t| t.parse::<Digest>().ok());
        let size = text(header::CONTENT_LENGTH).and_then(|t| t.parse::<u64>().ok()).filter(|size| *size > 0);
        let kind = text(header::CONTENT_TYPE).map(essence).unwrap_or_default();
        let (Some(digest), Some(size), true) = (told, size, is_document(&kind)) else {
            return self.resolve_by_get(endpoint, object, last).await;
        };
        check_asked(reference, &digest, endpoint)?;
        if size > DOCUMENT_MAX {
            return Err(fail::too_large(reference, size));
        }
        Ok(Descriptor { media_type: kind, digest, size, annotations: BTreeMap::new() })
    }

    /// For registries whose HEAD says too little.
    async fn resolve_by_get(&self, endpoint: &Endpoint, object: &str, last: bool) -> Result<Descriptor> {
        let (kind, bytes) = self.get_document(endpoint, object, last).await?;
        let digest = match self.0.reference.digest() {
            Some(digest) => {
                fail::verify(digest, &bytes, endpoint.host())?;
                digest.clone()
            }
            None => manifest::sha256(&bytes),
        };
        let media_type = manifest::detect(&kind, &bytes).map_err(|error| {
            Error::new(Fault::BadRegistry, format!("{} answered something that is no manifest", endpoint.host()))
                .on(Kind::Image, &self.0.reference)
                .caused_by(error)
                .remedy_is("check that the host is a registry and that the name is right")
        })?;
        Ok(Descriptor { media_type, digest, size: bytes.len() as u64, annotations: BTreeMap::new() })
    }

    async fn get_document(&self, endpoint: &Endpoint, object: &str, last: bool) -> Result<(String, Vec<u8>)> {
        let ask = Ask::new(Method::GET, self.manifests(endpoint, object), ACCEPT);
        let answer = self.0.exchange(endpoint, ask, last).await?;
        if !answer.status().is_success() {
            return Err(fail::status(&self.0, endpoint, answer, "fetch manifest").await);
        }
        let value = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = essence(value("content-type"));
        let told = value("docker-content-digest").to_owned();
        let bytes = session::body(answer, DOCUMENT_MAX, self.0.shared.config.idle_timeout())
            .await
            .map_err(|error| error.on(Kind::Image, &self.0.reference).at("fetch manifest"))?;
        if let Ok(told) = told.parse::<Digest>() {
            fail::verify(&told, &bytes, endpoint.host())?;
        }
        Ok((kind, bytes))
    }
}

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// A media type without its parameters.
fn essence(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_document(kind: &str) -> bool {
    media::is_index(kind) || media::is_manifest(kind)
}

/// Who asks by digest gets that digest or nothing.
fn check_asked(reference: &Reference, told: &Digest, endpoint: &Endpoint) -> Result<()> {
    match reference.digest() {
        Some(asked) if asked.algorithm() == told.algorithm() && asked != told => Err(Error::new(
            Fault::DigestMismatch,
            format!("{} answered {told} where {asked} was asked for", endpoint.host()),
        )
        .on(Kind::Image, reference)
        .remedy_is("the registry or a proxy in between is lying or broken: do not trust its bytes")),
        _ => Ok(()),
    }
}
