//! The stream of `Content.Write`: one request, one answer, until a commit or the client's half-close.
//!
//! ```text
//! first message (ref) ─▶ ingest locked ─▶ STAT* / WRITE* ─▶ COMMIT ─▶ end          half-close: end, the ingest stays
//! ```
//! The lock of the reference goes with the stream, however that ends: the ingest is owned by it.

use super::convert::signed;
use crated_api::containerd::services::content::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use crated_api::convert::timestamp;
use crated_api::status::from_error;
use crated_core::content::IngestStatus;
use crated_core::{Commit, ContentStore, Expected, Ingest};
use crated_types::{Digest, Error, Fault, IngestRef, Kind, Scope};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use tonic::Status;

/// A write under way.
pub(super) struct Writer {
    content: Arc<dyn ContentStore>,
    scope: Scope,
    requests: BoxStream<'static, Result<WriteContentRequest, Status>>,
    state: State,
    expected: Expected,
}

enum State {
    /// Nothing came yet.
    Fresh,
    /// The reference is locked.
    Open(Box<dyn Ingest>),
    /// Committed: the stream ends.
    Done,
}

impl Writer {
    pub(super) fn new(
        content: Arc<dyn ContentStore>,
        scope: Scope,
        requests: BoxStream<'static, Result<WriteContentRequest, Status>>,
    ) -> Self {
        Self { content, scope, requests, state: State::Fresh, expected: Expected::default() }
    }

    /// Answers the next request.
    pub(super) async fn next(mut self) -> Result<Option<(WriteContentResponse, Self)>, Status> {
        if matches!(self.state, State::Done) {
            return Ok(None);
        }
        let Some(request) = self.requests.next().await.transpose()? else { return Ok(None) };
        let response = self.step(request).await.map_err(from_error)?;
        Ok(Some((response, self)))
    }

    async fn step(&mut self, request: WriteContentRequest) -> crated_types::Result<WriteContentResponse> {
        let mut ingest = match std::mem::replace(&mut self.state, State::Done) {
            State::Open(ingest) => self.expect(ingest, &request).await?,
            State::Fresh | State::Done => self.open(&request).await?,
        };
        let action = WriteAction::try_from(request.action)
            .map_err(|_| Error::invalid("action", format_args!("{} is none of STAT, WRITE, COMMIT", request.action)))?;
        if action != WriteAction::Stat {
            write(&mut *ingest, &request, action).await?;
        }
        if action == WriteAction::Commit {
            return self.commit(ingest, request).await;
        }
        let response = response(action, &ingest.status(), &ingest.digest());
        self.state = State::Open(ingest);
        Ok(response)
    }

    /// Locks the reference of the first message.
    async fn open(&mut self, request: &WriteContentRequest) -> crated_types::Result<Box<dyn Ingest>> {
        if request.r#ref.is_empty() {
            return Err(Error::invalid("ref", "first message must have a reference"));
        }
        self.learn(request)?;
        let reference = IngestRef::new(&request.r#ref)?;
        self.content.ingest(&self.scope, &reference, self.expected.clone()).await
    }

    /// Takes what a later message says of the whole; where its digest is a blob by now, the ingest is thrown away.
    async fn expect(
        &mut self,
        ingest: Box<dyn Ingest>,
        request: &WriteContentRequest,
    ) -> crated_types::Result<Box<dyn Ingest>> {
        let status = ingest.status();
        if !request.r#ref.is_empty() && request.r#ref != status.reference.as_str() {
            return Err(Error::invalid(
                "ref",
                format_args!("{:?} is not the stream's {}", request.r#ref, status.reference),
            ));
        }
        let known = self.expected.digest.clone();
        self.learn(request)?;
        if let Some(digest) = &self.expected.digest
            && !request.expected.is_empty()
            && known.as_ref() != Some(digest)
            && self.content.info(&self.scope, digest).await.is_ok()
        {
            drop(ingest);
            if let Err(error) = self.content.abort(&self.scope, &status.reference).await {
                tracing::warn!(%error, reference = %status.reference, "ingest of a known blob stays");
            }
            return Err(Error::already_exists(Kind::Content, digest));
        }
        Ok(ingest)
    }

    fn learn(&mut self, request: &WriteContentRequest) -> crated_types::Result<()> {
        if !request.expected.is_empty() {
            self.expected.digest = Some(request.expected.parse()?);
        }
        match u64::try_from(request.total) {
            Ok(0) => {}
            Ok(total) => self.expected.size = Some(total),
            Err(_) => return Err(Error::invalid("total", format_args!("{} is negative", request.total))),
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        ingest: Box<dyn Ingest>,
        request: WriteContentRequest,
    ) -> crated_types::Result<WriteContentResponse> {
        let mut status = ingest.status();
        let commit = Commit { expected: self.expected.clone(), labels: request.labels };
        let blob = ingest.commit(commit).await?;
        status.offset = u64::try_from(blob.size).unwrap_or(status.offset);
        let digest = blob.digest.parse()?;
        Ok(response(WriteAction::Commit, &status, &digest))
    }
}

/// Puts the bytes of a message where it says.
async fn write(
    ingest: &mut dyn Ingest,
    request: &WriteContentRequest,
    action: WriteAction,
) -> crated_types::Result<()> {
    let current = ingest.status().offset;
    if request.offset != 0 && u64::try_from(request.offset) != Ok(current) {
        let text = format!("write @{} must occur at current offset {current}", request.offset);
        return Err(Error::new(Fault::OutOfRange, text).on(Kind::Ingest, ingest.status().reference));
    }
    // A commit without bytes that names no offset takes what is there.
    if request.offset == 0 && current > 0 && (action == WriteAction::Write || !request.data.is_empty()) {
        ingest.truncate().await?;
    }
    if !request.data.is_empty() {
        ingest.write(request.data.clone()).await?;
    }
    Ok(())
}

fn response(action: WriteAction, status: &IngestStatus, digest: &Digest) -> WriteContentResponse {
    WriteContentResponse {
        action: action.into(),
        started_at: Some(timestamp(status.started_at)),
        updated_at: Some(timestamp(status.updated_at)),
        offset: signed(status.offset),
        total: signed(status.total),
        digest: digest.to_string(),
    }
}
