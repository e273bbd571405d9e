//! A registry in this process that serves what it is given and misbehaves as it is told.

use super::images::Built;
use bytes::Bytes;
use crated_image::manifest::sha256;
use crated_types::Digest;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::task::JoinSet;

type Chunk = Result<Frame<Bytes>, std::io::Error>;
type Body = StreamBody<BoxStream<'static, Chunk>>;

/// Who may read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Auth {
    #[default]
    Anyone,
    /// `Authorization: Basic` of this name and password.
    Basic(&'static str, &'static str),
    /// A bearer token; anonymous or for this name and password.
    Token(Option<(&'static str, &'static str)>),
    /// A bearer token for this refresh token (OAuth2).
    Refresh(&'static str),
    /// Nobody: every token is refused.
    Nobody,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    pub(crate) blobs: BTreeMap<Digest, Bytes>,
    pub(crate) auth: Auth,
    /// Statuses (with Retry-After) that come before any answer to a path that contains the key.
    pub(crate) before: HashMap<&'static str, VecDeque<(u16, Option<&'static str>)>>,
    /// Bytes after which each of the next blob answers is cut.
    pub(crate) cuts: VecDeque<usize>,
    pub(crate) no_ranges: bool,
    pub(crate) no_head: bool,
    /// Blobs are answered by a redirect to this address.
    pub(crate) redirect: Option<String>,
    /// A blob's body stops after so many bytes until the gate is opened.
    pub(crate) gate: Option<(usize, Arc<Notify>)>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) tokens: usize,
}

#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// Over TLS, where a configuration is given.
    pub(crate) async fn serve(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (shared.clone(), tls.clone());
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let state = state.clone();
                        async move { Ok::<_, Infallible>(answer(&state, address, request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls.map(tokio_rustls::TlsAcceptor::from) {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        Self { state, address, _tasks: tasks }
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// `127.0.0.1:<port>/<rest>`.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(crate) fn put_blob(&self, bytes: &[u8]) {
        self.with(|state| state.blobs.insert(sha256(bytes), Bytes::copy_from_slice(bytes)));
    }

    /// A document under its digest and, where given, a tag.
    pub(crate) fn put_document(&self, media_type: &str, bytes: &[u8], tag: Option<&str>) {
        self.with(|state| {
            for key in [Some(sha256(bytes).to_string()), tag.map(str::to_owned)].into_iter().flatten() {
                state.manifests.insert(key, (media_type.into(), bytes.to_vec()));
            }
        });
    }

    pub(crate) fn put_image(&self, image: &Built, tag: Option<&str>) {
        self.put_blob(&image.config);
        for layer in &image.layers {
            self.put_blob(&layer.bytes);
        }
        self.put_document(crated_types::descriptor::media::OCI_MANIFEST, &image.manifest, tag);
    }

    /// How often a path that contains `part` was asked for by `method`.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.with(|state| state.seen.iter().filter(|seen| seen.method == method && seen.path.contains(part)).count())
    }
}

fn plain(status: u16, text: &str) -> Response<Body> {
    let frame = Frame::data(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(StreamBody::new(stream::iter([Ok(frame)]).boxed()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn answer(state: &Mutex<State>, address: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let seen = Seen {
        method: request.method().to_string(),
        path: path.clone(),
        query: query.clone(),
        authorization: header("authorization"),
        range: header("range"),
    };
    let method = request.method().clone();
    let body = if path == "/token" && method == "POST" {
        use http_body_util::BodyExt;
        String::from_utf8(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    } else {
        String::new()
    };
    let mut state = state.lock().unwrap();
    state.seen.push(seen.clone());
    if let Some((status, after)) = state
        .before
        .iter_mut()
        .find(|(part, left)| path.contains(**part) && !left.is_empty())
        .and_then(|(_, left)| left.pop_front())
    {
        let mut response = plain(status, r#"{"errors":[{"code":"TROUBLE","message":"as told"}]}"#);
        if let Some(after) = after {
            response.headers_mut().insert("retry-after", after.parse().unwrap());
        }
        return response;
    }
    if path == "/token" {
        return token(&mut state, &seen, &body);
    }
    if let Some(challenge) = refuse(&state, address, &seen) {
        let mut response = plain(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
        response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        return response;
    }
    let last = path.rsplit('/').next().unwrap().to_owned();
    if path.contains("/manifests/") {
        if state.no_head && method == "HEAD" {
            return plain(405, "");
        }
        let Some((kind, bytes)) = state.manifests.get(&last) else { return plain(404, "") };
        let mut response = plain(200, "");
        let headers = response.headers_mut();
        headers.insert("content-type", kind.parse().unwrap());
        headers.insert("docker-content-digest", sha256(bytes).as_str().parse().unwrap());
        headers.insert("content-length", bytes.len().into());
        if method != "HEAD" {
            *response.body_mut() =
                StreamBody::new(stream::iter([Ok(Frame::data(Bytes::copy_from_slice(bytes)))]).boxed());
        }
        return response;
    }
    if let Some(to) = state.redirect.clone().filter(|_| path.contains("/blobs/")) {
        let mut response = plain(307, "");
        response.headers_mut().insert("location", format!("{to}{path}").parse().unwrap());
        return response;
    }
    let Some(bytes) = last.parse::<Digest>().ok().and_then(|digest| state.blobs.get(&digest).cloned()) else {
        return plain(404, "");
    };
    blob(&mut state, &seen, bytes)
}

fn token(state: &mut State, seen: &Seen, body: &str) -> Response<Body> {
    state.tokens += 1;
    let granted = match &state.auth {
        Auth::Token(None) | Auth::Nobody => true,
        Auth::Token(Some((name, password))) => seen.authorization == Some(basic(name, password)),
        Auth::Refresh(token) => {
            body.contains(&format!("refresh_token={token}")) && body.contains("grant_type=refresh_token")
        }
        _ => false,
    };
    if !granted || (seen.method == "GET" && !seen.query.contains("scope=repository%3A")) {
        return plain(401, "");
    }
    plain(200, r#"{"token":"good","expires_in":300}"#)
}

pub(crate) fn basic(name: &str, password: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}

/// The challenge for a request that may not.
fn refuse(state: &State, address: SocketAddr, seen: &Seen) -> Option<String> {
    let bearer = format!(r#"Bearer realm="http://{address}/token",service="fixture",scope="repository:x:pull""#);
    match &state.auth {
        Auth::Anyone => None,
        Auth::Basic(name, password) => {
            (seen.authorization != Some(basic(name, password))).then(|| r#"Basic realm="fixture""#.to_owned())
        }
        Auth::Nobody => Some(bearer),
        Auth::Token(_) | Auth::Refresh(_) => (seen.authorization.as_deref() != Some("Bearer good")).then_some(bearer),
    }
}

fn blob(state: &mut State, seen: &Seen, bytes: Bytes) -> Response<Body> {
    let total = bytes.len();
    let start = match &seen.range {
        Some(range) if !state.no_ranges => range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap(),
        _ => 0,
    };
    let rest = bytes.slice(start..);
    let length = rest.len();
    let cut = state.cuts.pop_front();
    let gate = state.gate.clone();
    let stop = cut.unwrap_or(length).min(length);
    let chunks: Vec<Bytes> = rest.slice(..stop).chunks(16 << 10).map(Bytes::copy_from_slice).collect();
    let body = stream::unfold((chunks.into_iter(), 0_usize, gate), |(mut chunks, sent, mut gate)| async move {
        let chunk = chunks.next()?;
        if gate.as_ref().is_some_and(|(after, _)| sent >= *after) {
            let (_, gate) = gate.take().unwrap();
            gate.notified().await;
        }
        let sent = sent + chunk.len();
        Some((Ok(Frame::data(chunk)), (chunks, sent, gate)))
    });
    let end = cut.map(|_| Err(std::io::Error::other("cut as told")));
    let mut response = Response::new(StreamBody::new(body.chain(stream::iter(end)).boxed()));
    response.headers_mut().insert("content-length", length.into());
    if start > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {start}-{}/{total}", total - 1);
        response.headers_mut().insert("content-range", range.parse().unwrap());
    }
    response
}
