//! Open blobs.

use async_trait::async_trait;
use bytes::Bytes;
use crated_core::BlobReader;
use crated_types::{Digest, Error, Fault, Kind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::disk::reopen;
use crate::blocking;

/// An open blob; it can be read to its end even where it is removed meanwhile.
#[derive(Debug)]
pub(crate) struct Reader {
    /// What it is.
    pub digest: Digest,
    /// Its file.
    pub file: Arc<File>,
    /// Bytes.
    pub size: u64,
}

#[async_trait]
impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        if offset > self.size {
            let why = format!("offset {offset} is past its end at {}", self.size);
            return Err(Error::new(Fault::OutOfRange, why).on(Kind::Content, &self.digest));
        }
        let length = length.min(usize::try_from(self.size - offset).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(Bytes::new());
        }
        let file = Arc::clone(&self.file);
        let read = blocking::run(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        });
        match read.await? {
            Ok(bytes) => Ok(bytes.into()),
            Err(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(Error::new(Fault::Corrupt, format!("its file has fewer than {} bytes", self.size))
                    .on(Kind::Content, &self.digest))
            }
            Err(source) => Err(Error::os(format!("read at {offset}"), source).on(Kind::Content, &self.digest)),
        }
    }

    fn file(&self) -> Result<File> {
        reopen(&self.file)
    }
}
