//! One request to one endpoint: authorised, redirected, repeated, all within bounds.
//!
//! ```text
//! exchange: 401? ─ authorise once ─▶ follow: 3xx? ─ at most 10 hops, credentials stay home ─▶ patiently: 429, 5xx, no answer? ─ back-off
//! ```

use super::challenge::Challenge;
use super::hosts::{Endpoint, Tls, host_name};
use super::retry::{Backoff, retry_after};
use super::tls::Client;
use super::{Inner, fail};
use bytes::Bytes;
use crated_types::{Error, Fault, Kind, Result};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::time::{Duration, SystemTime};
use url::Url;

/// Most redirects that are followed.
const REDIRECTS_MAX: usize = 10;
/// Repetitions where no connection comes about: a wrong name or a closed port seldom heals within seconds.
const CONNECTS: u32 = 2;

/// A request, without who asks.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: Method,
    url: Url,
    accept: &'static str,
    /// First byte that is wanted.
    from: u64,
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url, accept: &'static str) -> Self {
        Self { method, url, accept, from: 0 }
    }

    pub(crate) fn from(self, from: u64) -> Self {
        Self { from, ..self }
    }

    fn request(&self, url: &Url, agent: &str) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(url.as_str())
            .header(header::USER_AGENT, agent)
            .header(header::ACCEPT, self.accept)
            .header(header::ACCEPT_ENCODING, "identity");
        if self.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.from));
        }
        request.body(Full::default()).map_err(|error| Error::invalid("url", format_args!("{url}: {error}")))
    }
}

impl Inner {
    /// Sends `ask` and answers whatever comes but redirects, challenges, and what went away by asking again.
    pub(crate) async fn exchange(&self, endpoint: &Endpoint, ask: Ask, last: bool) -> Result<Response<Incoming>> {
        let scope = format!("repository:{}:pull", self.reference.path());
        let key = self.shared.tokens.key(endpoint, &scope, self.access.credentials.as_ref().filter(|_| endpoint.own));
        let mut authorization = self.shared.tokens.get(&key);
        let mut fresh = false;
        loop {
            let (answer, home) = self.follow(endpoint, &ask, authorization.as_ref(), last).await?;
            if answer.status() != StatusCode::UNAUTHORIZED || !home {
                return Ok(answer);
            }
            self.shared.tokens.forget(&key);
            if fresh {
                return Err(self.rejected(endpoint));
            }
            let challenges: Vec<Challenge> = answer
                .headers()
                .get_all(header::WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(Challenge::parse)
                .collect();
            drop(answer);
            let (value, lifetime) = self.authorize(endpoint, &challenges, &scope, last).await?;
            self.shared.tokens.put(key.clone(), value.clone(), lifetime);
            authorization = Some(value);
            fresh = true;
        }
    }

    /// Follows redirects. The second answer says whether the endpoint's own origin answered.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
        last: bool,
    ) -> Result<(Response<Incoming>, bool)> {
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let home = url.origin() == endpoint.base().origin();
            let mut request = ask.request(&url, &self.shared.config.user_agent)?;
            // Credentials, own headers and client certificates are for this endpoint and for no other host.
            let tls = if home { endpoint.tls.clone() } else { Tls { client: Vec::new(), ..endpoint.tls.clone() } };
            if home {
                for (name, value) in &endpoint.headers {
                    request.headers_mut().append(name, value.clone());
                }
                if let Some(value) = authorization {
                    request.headers_mut().insert(header::AUTHORIZATION, value.clone());
                }
            }
            let answer = self.patiently(&self.shared.client(&tls).await?, request, &host_name(&url), last).await?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, home));
            }
            url = self.redirected(&url, answer.headers().get(header::LOCATION))?;
        }
        Err(self.bad(&host_name(&ask.url), format!("more than {REDIRECTS_MAX} redirects")))
    }

    fn redirected(&self, from: &Url, location: Option<&HeaderValue>) -> Result<Url> {
        let host = host_name(from);
        let text =
            location.and_then(|value| value.to_str().ok()).ok_or_else(|| self.bad(&host, "a redirect to nowhere"))?;
        let url = from.join(text).map_err(|error| self.bad(&host, format!("a redirect to no URL: {error}")))?;
        match (from.scheme(), url.scheme()) {
            (_, "https") | ("http", "http") => {}
            ("https", "http") => {
                return Err(self.bad(&host, format!("a redirect from https to http ({})", host_name(&url))));
            }
            (_, scheme) => return Err(self.bad(&host, format!("a redirect to scheme {scheme:?}"))),
        }
        if !url.has_host() || !url.username().is_empty() || url.password().is_some() {
            return Err(self.bad(&host, "a redirect with credentials in its URL"));
        }
        Ok(url)
    }

    /// Asks one URL until it answers something other than "later", or patience runs out.
    pub(crate) async fn patiently(
        &self,
        client: &Client,
        mut request: Request<Full<Bytes>>,
        peer: &str,
        last: bool,
    ) -> Result<Response<Incoming>> {
        self.shared.clients.proxies()?.authorize(&mut request);
        let mut backoff = Backoff::new(&self.shared.config, last);
        let mut connects = 0;
        loop {
            let error = match tokio::time::timeout(
                self.shared.config.response_timeout(),
                client.request(request.clone()),
            )
            .await
            {
                Ok(Ok(answer)) => {
                    let status = answer.status();
                    if !matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) {
                        return Ok(answer);
                    }
                    let asked = retry_after(answer.headers(), SystemTime::now());
                    let Some(wait) = backoff.wait(asked) else { return Ok(answer) };
                    tracing::warn!(host = peer, status = status.as_u16(), ?wait, "registry asks for patience");
                    drop(answer);
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Ok(Err(error)) => {
                    let failure = fail::transport(&self.reference, peer, &error, error.is_connect());
                    if error.is_connect() {
                        connects += 1;
                        if connects > CONNECTS || failure.to_string().contains("certificate") {
                            return Err(failure);
                        }
                    }
                    failure
                }
                Err(_) => self.silent(peer, self.shared.config.response_timeout()),
            };
            let Some(wait) = backoff.wait(None) else { return Err(error) };
            tracing::warn!(host = peer, %error, ?wait, "no answer, asking again");
            tokio::time::sleep(wait).await;
        }
    }

    pub(crate) fn silent(&self, peer: &str, waited: Duration) -> Error {
        Error::new(Fault::TimedOut, format!("{peer} sent nothing for {} s", waited.as_secs()))
            .on(Kind::Image, &self.reference)
            .remedy_is("the registry or the network is too slow: try again (what was fetched is kept), or use a mirror (hosts.toml)")
    }

    /// The registry breaks the rules.
    pub(crate) fn bad(&self, host: &str, what: impl std::fmt::Display) -> Error {
        Error::new(Fault::BadRegistry, format!("{host} answered {what}")).on(Kind::Image, &self.reference)
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn body(answer: Response<Incoming>, limit: u64, idle: Duration) -> Result<Vec<u8>> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(idle, body.frame())
            .await
            .map_err(|_| Error::new(Fault::TimedOut, format!("the registry sent nothing for {} s", idle.as_secs())))?;
        match frame {
            None => return Ok(bytes),
            Some(Err(error)) => {
                return Err(Error::new(Fault::Unreachable, "the connection was cut in an answer").caused_by(error));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    if bytes.len() as u64 + data.len() as u64 > limit {
                        return Err(Error::new(Fault::BadRegistry, format!("the answer has more than {limit} bytes")));
                    }
                    bytes.extend_from_slice(&data);
                }
            }
        }
    }
}
