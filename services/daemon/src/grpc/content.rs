//! `containerd.services.content.v1.Content`; the write stream is in `write.rs`.

use super::write::Writer;
use super::{Answer, answer, convert, filters, mask, scope};
use crated_api::containerd::services::content::v1 as wire;
use crated_api::containerd::services::content::v1::content_server::Content;
use crated_api::status::from_error;
use crated_core::{BlobReader, ContentStore};
use crated_types::{Digest, Error, Fault, IngestRef, Kind};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Infos in one message of a list.
const PAGE: usize = 100;
/// Bytes in one message of a read.
const CHUNK: u64 = 1 << 20;

/// Over the port of content.
#[derive(Clone, Debug)]
pub struct ContentAdapter(pub Arc<dyn ContentStore>);

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(from_error)
}

fn reference(text: &str) -> Result<IngestRef, Status> {
    IngestRef::new(text).map_err(from_error)
}

/// Where a read starts and how many bytes it gives: a size of 0 or past the end is to the end.
fn span(digest: &Digest, length: u64, offset: i64, size: i64) -> Result<(u64, u64), Status> {
    let offset = u64::try_from(offset).unwrap_or(0);
    let Some(rest) = length.checked_sub(offset) else {
        let text = format!("read past object length {length} bytes");
        return Err(from_error(Error::new(Fault::OutOfRange, text).on(Kind::Content, digest)));
    };
    Ok((offset, u64::try_from(size).ok().filter(|size| *size > 0).map_or(rest, |size| size.min(rest))))
}

/// A read under way: `sent` of `size` bytes from `offset` are sent.
struct Reading {
    blob: Arc<dyn BlobReader>,
    offset: u64,
    size: u64,
    sent: u64,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(wire::ReadContentResponse, Self)>, Status> {
        if self.sent == self.size {
            return Ok(None);
        }
        let length = usize::try_from((self.size - self.sent).min(CHUNK)).unwrap_or(CHUNK as usize);
        let data = self.blob.read_at(self.offset + self.sent, length).await.map_err(from_error)?;
        if data.is_empty() {
            return Err(from_error(Error::new(Fault::Corrupt, "blob ends before its size")));
        }
        let offset = convert::signed(self.sent);
        self.sent += data.len() as u64;
        Ok(Some((wire::ReadContentResponse { offset, data }, self)))
    }
}

#[async_trait]
impl Content for ContentAdapter {
    async fn info(&self, request: Request<wire::InfoRequest>) -> Answer<wire::InfoResponse> {
        let scope = scope(&request)?;
        let found = self.0.info(&scope, &digest(&request.get_ref().digest)?).await.map_err(from_error)?;
        Ok(Response::new(wire::InfoResponse { info: Some(convert::blob(found)) }))
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Answer<wire::UpdateResponse> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let asked = request.info.unwrap_or_default();
        let (digest, mask) = (digest(&asked.digest)?, mask(request.update_mask));
        let found = self.0.update(&scope, &digest, &asked.labels, &mask).await.map_err(from_error)?;
        Ok(Response::new(wire::UpdateResponse { info: Some(convert::blob(found)) }))
    }

    type ListStream = BoxStream<'static, Result<wire::ListContentResponse, Status>>;

    async fn list(&self, request: Request<wire::ListContentRequest>) -> Answer<Self::ListStream> {
        let (scope, filters) = (scope(&request)?, filters(&request.get_ref().filters)?);
        let all = self.0.list(&scope, &filters).await.map_err(from_error)?;
        let infos: Vec<_> = all.into_iter().map(convert::blob).collect();
        let pages: Vec<_> =
            infos.chunks(PAGE).map(|page| Ok(wire::ListContentResponse { info: page.to_vec() })).collect();
        Ok(Response::new(futures::stream::iter(pages).boxed()))
    }

    async fn delete(&self, request: Request<wire::DeleteContentRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.delete(&scope, &digest(&request.get_ref().digest)?).await)
    }

    type ReadStream = BoxStream<'static, Result<wire::ReadContentResponse, Status>>;

    async fn read(&self, request: Request<wire::ReadContentRequest>) -> Answer<Self::ReadStream> {
        let scope = scope(&request)?;
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let blob = self.0.open(&scope, &digest).await.map_err(from_error)?;
        let (offset, size) = span(&digest, blob.size(), request.offset, request.size)?;
        let reading = Reading { blob, offset, size, sent: 0 };
        Ok(Response::new(futures::stream::try_unfold(reading, Reading::next).boxed()))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<wire::StatusResponse> {
        let scope = scope(&request)?;
        let found = self.0.status(&scope, &reference(&request.get_ref().r#ref)?).await.map_err(from_error)?;
        Ok(Response::new(wire::StatusResponse { status: Some(convert::status(found)) }))
    }

    async fn list_statuses(&self, request: Request<wire::ListStatusesRequest>) -> Answer<wire::ListStatusesResponse> {
        let (scope, filters) = (scope(&request)?, filters(&request.get_ref().filters)?);
        let all = self.0.statuses(&scope, &filters).await.map_err(from_error)?;
        Ok(Response::new(wire::ListStatusesResponse { statuses: all.into_iter().map(convert::status).collect() }))
    }

    type WriteStream = BoxStream<'static, Result<wire::WriteContentResponse, Status>>;

    async fn write(&self, request: Request<Streaming<wire::WriteContentRequest>>) -> Answer<Self::WriteStream> {
        let scope = scope(&request)?;
        let requests = request.into_inner().map(|request| request).boxed();
        let writer = Writer::new(Arc::clone(&self.0), scope, requests);
        Ok(Response::new(futures::stream::try_unfold(writer, Writer::next).boxed()))
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.abort(&scope, &reference(&request.get_ref().r#ref)?).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_at_the_end() {
        let digest = Digest::sha256([0; 32]);
        let span = |offset, size| span(&digest, 10, offset, size).map_err(|status| status.code());
        assert_eq!(span(0, 0), Ok((0, 10)));
        assert_eq!(span(3, 100), Ok((3, 7)));
        assert_eq!(span(3, 2), Ok((3, 2)));
        assert_eq!(span(10, 0), Ok((10, 0)));
        assert_eq!(span(-1, -1), Ok((0, 10)));
        assert_eq!(span(11, 0), Err(tonic::Code::OutOfRange));
    }
}
