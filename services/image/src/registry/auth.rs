//! Who we are: basic authentication and bearer tokens (distribution's token and OAuth2 protocols), remembered per endpoint and scope.

use super::challenge::Challenge;
use super::credentials::{self, Credentials};
use super::hosts::{Endpoint, Tls, host_name};
use super::{Inner, fail, session};
use base64::Engine;
use bytes::Bytes;
use crated_types::{Error, Fault, Result};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use url::Url;

/// Longest answer of a token server, in bytes.
const TOKEN_MAX: u64 = 1 << 20;
/// A token's life where none is told (distribution's token protocol).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// How long a basic `Authorization` is sent without a new challenge.
const BASIC_LIFE: Duration = Duration::from_secs(300);
/// Most tokens that are remembered.
const TOKENS_MAX: usize = 1024;
const CLIENT_ID: &str = "crated";

/// Tokens by endpoint, scope and caller.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<TokenKey, (HeaderValue, Instant)>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(…)")
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    origin: String,
    scope: String,
    who: Option<Credentials>,
}

impl Tokens {
    pub(crate) fn key(&self, endpoint: &Endpoint, scope: &str, who: Option<&Credentials>) -> TokenKey {
        let origin = endpoint.base().origin().ascii_serialization();
        TokenKey { origin, scope: scope.to_owned(), who: who.cloned() }
    }

    pub(crate) fn get(&self, key: &TokenKey) -> Option<HeaderValue> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    pub(crate) fn put(&self, key: TokenKey, value: HeaderValue, life: Duration) {
        let now = Instant::now();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.retain(|_, (_, until)| *until > now);
        }
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(key, (value, now + life));
    }

    pub(crate) fn forget(&self, key: &TokenKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Inner {
    /// The `Authorization` that answers a challenge, and how long it may be used.
    pub(crate) async fn authorize(
        &self,
        endpoint: &Endpoint,
        challenges: &[Challenge],
        scope: &str,
        last: bool,
    ) -> Result<(HeaderValue, Duration)> {
        let found = self.credentials(endpoint).await?;
        let credentials = found.as_ref().map(|(credentials, _)| credentials);
        if let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            if let Some(Credentials::Bearer(token)) = credentials {
                return Ok((secret(format!("Bearer {token}"))?, BASIC_LIFE));
            }
            return self.token(endpoint, challenge, credentials, scope, last).await;
        }
        if !challenges.iter().any(|challenge| challenge.scheme == "basic") {
            let schemes: Vec<&str> = challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
            let what = format!("401 with no way to authenticate that we know (offered: {schemes:?})");
            return Err(self.bad(endpoint.host(), what));
        }
        match credentials {
            Some(Credentials::Basic { username, password }) => Ok((basic(username, password)?, BASIC_LIFE)),
            Some(Credentials::Bearer(token)) => Ok((secret(format!("Bearer {token}"))?, BASIC_LIFE)),
            Some(Credentials::Identity(_)) => Err(self.rejected(endpoint)),
            None => Err(fail::unauthenticated(&self.reference, endpoint.host(), "")),
        }
    }

    /// The answer to a 401 after we said who we are.
    pub(crate) fn rejected(&self, endpoint: &Endpoint) -> Error {
        match endpoint.found.get() {
            Some(Some((_, source))) => fail::refused(&self.reference, endpoint.host(), source),
            _ => fail::unauthenticated(&self.reference, endpoint.host(), " (anonymous access is refused)"),
        }
    }

    /// The credentials for this endpoint, and where they came from; looked up once a repository.
    async fn credentials(&self, endpoint: &Endpoint) -> Result<Option<(Credentials, String)>> {
        let found = endpoint
            .found
            .get_or_try_init(|| async {
                if endpoint.own
                    && let Some(given) = &self.access.credentials
                {
                    return Ok(Some((given.clone(), "the caller".to_owned())));
                }
                credentials::lookup(&self.shared.config.docker_config, endpoint.host(), self.reference.path()).await
            })
            .await;
        found.cloned()
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
        scope: &str,
        last: bool,
    ) -> Result<(HeaderValue, Duration)> {
        let realm = self.realm(endpoint, challenge)?;
        let parameter = |name: &str| challenge.parameters.get(name).map(String::as_str);
        let request = match credentials {
            Some(Credentials::Identity(token)) => self.oauth(&realm, parameter("service"), scope, token)?,
            _ => {
                let mut url = realm.clone();
                if let Some(service) = parameter("service") {
                    url.query_pairs_mut().append_pair("service", service);
                }
                url.query_pairs_mut().append_pair("scope", parameter("scope").unwrap_or(scope));
                let request = self.request(Method::GET, &url);
                let request = match credentials {
                    Some(Credentials::Basic { username, password }) => {
                        request.header(header::AUTHORIZATION, basic(username, password)?)
                    }
                    _ => request,
                };
                request
                    .body(Full::default())
                    .map_err(|error| self.bad(endpoint.host(), format!("a bad realm: {error}")))?
            }
        };
        // Redirects are not followed here: the request may carry a password.
        let home = realm.origin() == endpoint.base().origin();
        let tls = if home { endpoint.tls.clone() } else { Tls { client: Vec::new(), ..endpoint.tls.clone() } };
        let peer = host_name(&realm);
        let answer = self.patiently(&self.shared.client(&tls).await?, request, &peer, last).await?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if credentials.is_some() => {
                return Err(self.rejected(endpoint).at("authenticate"));
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(fail::unauthenticated(&self.reference, endpoint.host(), "").at("authenticate"));
            }
            status if status.is_redirection() => return Err(self.bad(&peer, "a redirect of its token server")),
            status => return Err(fail::of_status(&self.reference, &peer, status, "", "authenticate")),
        }
        let bytes = session::body(answer, TOKEN_MAX, self.shared.config.idle_timeout()).await?;
        let answer: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| self.bad(&peer, "something that is no token").at("authenticate"))?;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() {
            return Err(self.bad(&peer, "an empty token").at("authenticate"));
        }
        // A little less than its life: it must still be good when the request arrives.
        let life = answer.expires_in.map_or(TOKEN_LIFE, |seconds| Duration::from_secs(seconds.min(86_400)));
        Ok((secret(format!("Bearer {token}"))?, life * 9 / 10))
    }

    /// The token server. It may be another host, but never in clear text where the registry is not.
    fn realm(&self, endpoint: &Endpoint, challenge: &Challenge) -> Result<Url> {
        let host = endpoint.host();
        let text =
            challenge.parameters.get("realm").ok_or_else(|| self.bad(host, "a bearer challenge without a realm"))?;
        let url =
            endpoint.base().join(text).map_err(|error| self.bad(host, format!("realm {text:?}, no URL: {error}")))?;
        let clear = url.scheme() == "http" && endpoint.base().scheme() == "http";
        if (url.scheme() != "https" && !clear) || !url.has_host() || !url.username().is_empty() {
            return Err(self.bad(host, format!("realm {text:?}, which is not safe to ask")));
        }
        Ok(url)
    }

    fn oauth(&self, realm: &Url, service: Option<&str>, scope: &str, token: &str) -> Result<Request<Full<Bytes>>> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", scope)
            .append_pair("refresh_token", token)
            .finish();
        self.request(Method::POST, realm)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(form.into()))
            .map_err(|error| self.bad(&host_name(realm), format!("a bad realm: {error}")))
    }

    fn request(&self, method: Method, url: &Url) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::USER_AGENT, &self.shared.config.user_agent)
            .header(header::ACCEPT, "application/json")
    }
}

fn basic(username: &str, password: &str) -> Result<HeaderValue> {
    secret(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"))))
}

fn secret(text: String) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(Fault::BadRegistry, "the token has bytes that no header may have"))?;
    value.set_sensitive(true);
    Ok(value)
}
