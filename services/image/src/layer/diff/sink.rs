//! Where a layer's bytes go: hashed, compressed, hashed again, written.

use super::super::Written;
use super::super::compress::{Compression, Compressor};
use crated_types::Digest;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufWriter, Write};

/// Hashes and counts what passes.
struct Counted<W> {
    out: W,
    hasher: Sha256,
    size: u64,
}

impl<W> Counted<W> {
    fn new(out: W) -> Self {
        Self { out, hasher: Sha256::new(), size: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Takes the tar.
pub(super) struct Sink<W: Write> {
    buffer: BufWriter<Counted<Compressor<BufWriter<Counted<W>>>>>,
}

/// Digests and sizes of both sides.
pub(super) struct Sums {
    outer: (Digest, u64),
    inner: (Digest, u64),
}

impl<W: Write> Sink<W> {
    pub(super) fn new(compression: Compression, writer: W) -> io::Result<Self> {
        let outer = BufWriter::with_capacity(256 << 10, Counted::new(writer));
        let inner = Counted::new(Compressor::new(compression, outer)?);
        Ok(Self { buffer: BufWriter::with_capacity(256 << 10, inner) })
    }

    /// Writes the end of everything.
    pub(super) fn finish(self) -> io::Result<Sums> {
        let inner = self.buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
        let outer = inner.out.finish()?;
        let mut outer = outer.into_inner().map_err(io::IntoInnerError::into_error)?;
        outer.flush()?;
        let sum = |hasher: Sha256| Digest::sha256(hasher.finalize().into());
        Ok(Sums { outer: (sum(outer.hasher), outer.size), inner: (sum(inner.hasher), inner.size) })
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush()
    }
}

impl Sums {
    pub(super) fn written(self, entries: u64) -> Written {
        let ((digest, size), (diff_id, diff_size)) = (self.outer, self.inner);
        Written { digest, size, diff_id, diff_size, entries }
    }
}
