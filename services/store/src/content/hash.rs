//! Running digests.

use crated_types::Digest;
use crated_types::digest::Algorithm;
use sha2::{Digest as _, Sha256, Sha512};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are read at once when a file is hashed again.
const BLOCK: usize = 1 << 20;

/// A digest of the bytes so far.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Nothing hashed yet.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Its algorithm.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest so far; more bytes may follow.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::sha256(hasher.clone().finalize().into()),
            Self::Sha512(hasher) => Digest::sha512(hasher.clone().finalize().into()),
        }
    }

    /// Hashes the first `length` bytes of a file. Blocking.
    pub(crate) fn of_file(algorithm: Algorithm, file: &File, length: u64) -> io::Result<Self> {
        let mut hasher = Self::new(algorithm);
        let mut block = vec![0; BLOCK.min(usize::try_from(length).unwrap_or(BLOCK).max(1))];
        let mut at = 0;
        while at < length {
            let part = block.len().min(usize::try_from(length - at).unwrap_or(BLOCK));
            file.read_exact_at(&mut block[..part], at)?;
            hasher.update(&block[..part]);
            at += part as u64;
        }
        Ok(hasher)
    }
}
