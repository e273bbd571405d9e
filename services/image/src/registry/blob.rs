//! A blob as a stream of bytes that survives cut connections: it asks again from where it stands, and other endpoints where need be.

use super::hosts::{Role, Tls, host_name};
use super::retry::Backoff;
use super::session::Ask;
use super::{Repository, fail};
use crate::manifest::OciDescriptor;
use bytes::Bytes;
use crated_types::{Error, Fault, Kind, Result};
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use url::Url;

/// Progress that proves a connection good: repetitions count anew after it.
const PROGRESS: u64 = 256 << 10;
const STEP: &str = "fetch blob";

/// Bytes of one blob, in order, from an offset to its end. Their digest is checked by who stores them.
#[derive(Debug)]
pub struct BlobReader {
    repository: Repository,
    descriptor: OciDescriptor,
    /// Next byte that the caller gets.
    offset: u64,
    /// Bytes to throw away: the server does not know ranges.
    skip: u64,
    body: Option<Incoming>,
    peer: String,
    /// Endpoint (or URL behind them) that is asked next.
    turn: usize,
    opened_at: u64,
    backoff: Backoff,
}

impl BlobReader {
    pub(super) async fn open(repository: Repository, descriptor: OciDescriptor, offset: u64) -> Result<Self> {
        let backoff = Backoff::new(&repository.0.shared.config, true);
        let mut reader = Self {
            repository,
            descriptor,
            offset,
            skip: 0,
            body: None,
            peer: String::new(),
            turn: 0,
            opened_at: offset,
            backoff,
        };
        if offset < reader.descriptor.size {
            reader.connect().await?;
        }
        Ok(reader)
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// Where the registry cannot be reached for long, or sends more or less than the descriptor says.
    ///
    /// # Cancel safety
    /// A dropped call loses nothing that the next one would not fetch again.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let idle = self.repository.0.shared.config.idle_timeout();
        while self.offset < self.descriptor.size {
            let Some(body) = &mut self.body else {
                match self.connect().await {
                    Ok(()) => {}
                    // It may be starting again: as patient as with a cut connection.
                    Err(error) if matches!(error.fault(), Fault::Unreachable | Fault::TimedOut) => {
                        self.cut(error).await?
                    }
                    Err(error) => return Err(error),
                }
                continue;
            };
            let trouble = match tokio::time::timeout(idle, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Some(data) = self.take(data)? {
                        return Ok(Some(data));
                    }
                    continue;
                }
                Ok(Some(Err(error))) => fail::transport(&self.repository.0.reference, &self.peer, &error, false),
                Ok(None) => Error::new(
                    Fault::Unreachable,
                    format!("{} ended the blob at {} of {} bytes", self.peer, self.offset, self.descriptor.size),
                )
                .on(Kind::Image, &self.repository.0.reference),
                Err(_) => self.repository.0.silent(&self.peer, idle),
            };
            self.cut(trouble).await?;
        }
        Ok(None)
    }

    /// Whole size of the blob.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.descriptor.size
    }

    fn take(&mut self, mut data: Bytes) -> Result<Option<Bytes>> {
        if self.skip > 0 {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(data.len());
            self.skip -= skipped as u64;
            data = data.split_off(skipped);
        }
        if data.is_empty() {
            return Ok(None);
        }
        if data.len() as u64 > self.descriptor.size - self.offset {
            return Err(self.wrong_size(format!("{} sends more than the {} bytes", self.peer, self.descriptor.size)));
        }
        self.offset += data.len() as u64;
        if self.offset - self.opened_at >= PROGRESS {
            self.backoff.reset();
        }
        Ok(Some(data))
    }

    /// The connection is gone: wait, and let the next endpoint try.
    async fn cut(&mut self, trouble: Error) -> Result<()> {
        self.body = None;
        self.turn += 1;
        let Some(wait) = self.backoff.wait(None) else {
            return Err(trouble.at(STEP));
        };
        tracing::warn!(digest = %self.descriptor.digest, offset = self.offset, error = %trouble, ?wait, "download cut, resuming");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Opens the blob at the offset, at the endpoint whose turn it is or the first behind it that has it.
    async fn connect(&mut self) -> Result<()> {
        let inner = self.repository.0.clone();
        let able: Vec<_> = inner.endpoints.iter().filter(|endpoint| endpoint.can(Role::Pull)).collect();
        let mut failure = fail::no_endpoint(&inner.reference, STEP);
        for step in 0..able.len() {
            let endpoint = able[(self.turn + step) % able.len()];
            let path = format!("{}/blobs/{}", inner.reference.path(), self.descriptor.digest);
            let ask = Ask::new(Method::GET, endpoint.url(&path), "*/*").from(self.offset);
            let last = step + 1 == able.len();
            match inner.exchange(endpoint, ask, last).await {
                Ok(answer) if answer.status().is_success() => match self.accept(answer, endpoint.host()) {
                    Ok(()) => {
                        self.turn += step;
                        return Ok(());
                    }
                    Err(error) => failure = error,
                },
                Ok(answer) => failure = fail::status(&inner, endpoint, answer, STEP).await,
                Err(error) => failure = error,
            }
            if !last {
                tracing::warn!(host = endpoint.host(), error = %failure, "mirror failed, asking the next endpoint");
            }
        }
        if failure.fault() == Fault::NotFound {
            for url in self.descriptor.urls.clone() {
                match self.foreign(&url).await {
                    Ok(()) => return Ok(()),
                    Err(error) => failure = error,
                }
            }
        }
        Err(failure.at(STEP))
    }

    /// A layer that lives elsewhere: asked for over TLS, by nobody in particular (CVE-2020-15157).
    async fn foreign(&mut self, text: &str) -> Result<()> {
        let inner = self.repository.0.clone();
        let bad = |why: &str| {
            let shown: String = text.chars().take(200).collect();
            Error::new(Fault::Malformed, format!("foreign layer at {shown:?}: {why}"))
                .on(Kind::Layer, &self.descriptor.digest)
        };
        let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
            return Err(bad("only https without credentials is followed"));
        }
        let mut request = http::Request::get(url.as_str())
            .header(header::USER_AGENT, &inner.shared.config.user_agent)
            .header(header::ACCEPT_ENCODING, "identity");
        if self.offset > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.offset));
        }
        let request = request.body(Default::default()).map_err(|error| bad(&error.to_string()))?;
        let peer = host_name(&url);
        let client = inner.shared.client(&Tls::default()).await?;
        let answer = inner.patiently(&client, request, &peer, true).await?;
        if !answer.status().is_success() {
            return Err(bad(&format!("{peer} answered {}", answer.status().as_u16())));
        }
        self.accept(answer, &peer)
    }

    /// Checks the head of a successful answer against what was asked for.
    fn accept(&mut self, answer: Response<Incoming>, peer: &str) -> Result<()> {
        let size = self.descriptor.size;
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let told = text(header::CONTENT_RANGE).unwrap_or_default();
            let (start, total) = content_range(told)
                .ok_or_else(|| self.repository.0.bad(peer, format!("206 with Content-Range {told:?}")))?;
            if start != self.offset {
                return Err(self
                    .repository
                    .0
                    .bad(peer, format!("bytes from {start} where {} was asked for", self.offset)));
            }
            if total.is_some_and(|total| total != size) {
                return Err(self.wrong_size(format!("{peer} has {} bytes", total.unwrap_or_default())));
            }
            self.skip = 0;
        } else {
            if let Some(length) = text(header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok())
                && length != size
            {
                return Err(self.wrong_size(format!("{peer} has {length} bytes")));
            }
            self.skip = self.offset;
        }
        self.peer = peer.to_owned();
        self.opened_at = self.offset;
        self.body = Some(answer.into_body());
        Ok(())
    }

    fn wrong_size(&self, what: String) -> Error {
        Error::new(Fault::SizeMismatch, format!("{what}, the manifest announces {}", self.descriptor.size))
            .on(Kind::Content, &self.descriptor.digest)
            .at(STEP)
            .remedy_is("the registry or the image is broken: tell who pushed it")
    }
}

/// Start and total of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end): (u64, u64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (start <= end).then_some((start, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes 9-5/10", "bytes */10", "items 1-2/3", "bytes -1-2/3"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
