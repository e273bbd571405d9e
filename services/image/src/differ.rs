//! The differ: [`crated_core::Differ`] over the content store and this crate's layer code.

use crate::layer::{self, ApplyOptions, Compression, DiffOptions, Written};
use async_trait::async_trait;
use bytes::Bytes;
use crated_core::{Apply, Commit, Compare, ContentStore, Differ, Expected, Ingest};
use crated_types::descriptor::media;
use crated_types::label::UNCOMPRESSED;
use crated_types::{Descriptor, Error, Fault, IngestRef, Kind, Result, Scope};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks between the thread that compares and the ingest.
const DEPTH: usize = 8;
const CHUNK: usize = 1 << 20;

/// Applies and compares layers of a content store; containerd calls it `walking`.
#[derive(Clone, Debug)]
pub struct LayerDiffer {
    content: Arc<dyn ContentStore>,
}

impl LayerDiffer {
    /// A differ over `content`.
    #[must_use]
    pub fn new(content: Arc<dyn ContentStore>) -> Self {
        Self { content }
    }

    async fn write(
        &self,
        mut ingest: Box<dyn Ingest>,
        request: Compare,
        kind: Compression,
    ) -> Result<(Written, Box<dyn Ingest>)> {
        let (sender, mut receiver) = mpsc::channel(DEPTH);
        let options = DiffOptions { compression: kind, source_date_epoch: request.source_date_epoch };
        let compare = crate::blocking(move || {
            let mut writer = Chunks { sender, buffer: Vec::new() };
            let written = layer::diff_mounts(&request.lower, &request.upper, &mut writer, &options)?;
            writer.flush().map_err(|error| Error::os("write the layer", error))?;
            Ok(written)
        });
        let store = async {
            let mut failure = None;
            while let Some(chunk) = receiver.recv().await {
                if let Err(error) = ingest.write(chunk).await {
                    failure = Some(error);
                    break;
                }
            }
            drop(receiver); // the thread's next write fails, and it ends
            failure.map_or(Ok(()), Err)
        };
        let (written, stored) = tokio::join!(compare, store);
        stored?;
        Ok((written?, ingest))
    }
}

struct Chunks {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.buffer);
        self.sender.blocking_send(chunk.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The compression of a wanted media type.
fn wanted(media_type: &str) -> Result<Compression> {
    match media_type {
        "" | media::OCI_LAYER_GZIP => Ok(Compression::Gzip),
        media::OCI_LAYER => Ok(Compression::None),
        media::OCI_LAYER_ZSTD => Ok(Compression::Zstd),
        other => Err(Error::new(Fault::Unsupported, format!("unsupported diff media type: {other}"))
            .remedy_is("ask for an OCI layer: tar, tar+gzip or tar+zstd")),
    }
}

#[async_trait]
impl Differ for LayerDiffer {
    async fn apply(&self, scope: &Scope, request: Apply) -> Result<Descriptor> {
        Compression::of_media_type(&request.layer.media_type)?;
        let file = self.content.open(scope, &request.layer.digest).await?.file()?;
        let options = ApplyOptions { sync: request.sync, ..ApplyOptions::default() };
        let digest = request.layer.digest.clone();
        let applied = crate::blocking(move || layer::apply_to_mounts(file, &request.mounts, &options))
            .await
            .map_err(|error| if error.object().is_some() { error } else { error.on(Kind::Layer, digest) })?;
        Ok(Descriptor {
            media_type: media::OCI_LAYER.into(),
            digest: applied.diff_id,
            size: applied.size,
            annotations: BTreeMap::new(),
        })
    }

    async fn compare(&self, scope: &Scope, request: Compare) -> Result<Descriptor> {
        let kind = wanted(&request.media_type)?;
        let reference = if request.reference.is_empty() {
            format!("diff-{:016x}", crate::unpack::random())
        } else {
            request.reference.clone()
        };
        let reference = IngestRef::new(&reference)?;
        let mut ingest = self.content.ingest(scope, &reference, Expected::default()).await?;
        if ingest.status().offset > 0 {
            ingest.truncate().await?;
        }
        let mut labels = request.labels.clone();
        let (written, ingest) = match self.write(ingest, request, kind).await {
            Ok(done) => done,
            Err(error) => {
                let _ = self.content.abort(scope, &reference).await; // gone with its lease at the latest
                return Err(error);
            }
        };
        if kind != Compression::None {
            labels.insert(UNCOMPRESSED.to_owned(), written.diff_id.to_string());
        }
        let expected = Expected { digest: Some(written.digest.clone()), size: Some(written.size) };
        match ingest.commit(Commit { expected, labels: labels.clone() }).await {
            Err(error) if error.is_already_exists() => {
                crate::labels::add(&*self.content, scope, &written.digest, labels).await?;
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        Ok(Descriptor {
            media_type: kind.media_type().into(),
            digest: written.digest,
            size: written.size,
            annotations: BTreeMap::new(),
        })
    }
}
