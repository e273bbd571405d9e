//! Compression of layers: media types, first bytes, readers and writers.

use crated_types::{Code, Error, Result};
use std::io::{self, BufRead, Read, Write};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip, possibly of several members.
    Gzip,
    /// Zstandard, possibly of several frames.
    Zstd,
}

impl Compression {
    /// What a layer's media type says; nothing where only its first bytes tell (docker's `rootfs.diff.tar`).
    ///
    /// # Errors
    /// Code `Unknown`, as containerd's clients expect, for a type that is no layer.
    pub fn of_media_type(media_type: &str) -> Result<Option<Self>> {
        let unknown = || Error::peer(Code::Unknown, format!("no processor for media-type {media_type:?}"));
        let base = media_type.split(';').next().unwrap_or_default().trim();
        let suffix = |rest: &str| match rest {
            "" => Ok(Some(Self::None)),
            "+gzip" => Ok(Some(Self::Gzip)),
            "+zstd" => Ok(Some(Self::Zstd)),
            _ => Err(unknown()),
        };
        for oci in ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar"]
        {
            if let Some(rest) = base.strip_prefix(oci) {
                return suffix(rest);
            }
        }
        for docker in
            ["application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar"]
        {
            match base.strip_prefix(docker) {
                Some("") => return Ok(None),
                Some(".gzip") => return Ok(Some(Self::Gzip)),
                Some(".zstd") => return Ok(Some(Self::Zstd)),
                _ => {}
            }
        }
        Err(unknown())
    }

    /// The OCI media type of a layer compressed so.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// What the first bytes of a layer say.
    #[must_use]
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd, // a skippable frame
            _ => Self::None,
        }
    }
}

/// Reads what `reader` holds, decompressed as its first bytes say.
///
/// # Errors
/// The reader's, or those of a damaged stream once it is read.
pub fn decompress<'a>(mut reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::with_capacity(4);
    while start.len() < 4 {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            break;
        }
        let taken = available.len().min(4 - start.len());
        start.extend_from_slice(&available[..taken]);
        reader.consume(taken);
    }
    let kind = Compression::sniff(&start);
    let whole = io::Cursor::new(start).chain(reader);
    Ok(match kind {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
    })
}

/// Compresses what is written to it; [`Compressor::finish`] writes the end.
pub(super) enum Compressor<W: Write> {
    None(W),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(kind: Compression, writer: W) -> io::Result<Self> {
        Ok(match kind {
            Compression::None => Self::None(writer),
            // Level and header are fixed, the header has no time: the same tar gives the same bytes.
            Compression::Gzip => {
                Self::Gzip(Box::new(flate2::write::GzEncoder::new(writer, flate2::Compression::new(6))))
            }
            Compression::Zstd => Self::Zstd(Box::new(zstd::stream::write::Encoder::new(writer, 3)?)),
        })
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::None(mut writer) => writer.flush().map(|()| writer),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(writer) => writer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(writer) => writer.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_known() {
        let of = |text| Compression::of_media_type(text).ok();
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar"), Some(Some(Compression::None)));
        assert_eq!(of("application/vnd.oci.image.layer.v1.tar+zstd"), Some(Some(Compression::Zstd)));
        assert_eq!(of("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), Some(Some(Compression::Gzip)));
        assert_eq!(of("application/vnd.docker.image.rootfs.diff.tar.gzip"), Some(Some(Compression::Gzip)));
        assert_eq!(of("application/vnd.docker.image.rootfs.foreign.diff.tar"), Some(None));
        assert_eq!(Compression::of_media_type("text/plain").unwrap_err().code(), Code::Unknown);
    }

    #[test]
    fn several_gzip_members_are_one_stream() {
        let mut bytes = Vec::new();
        for part in [&b"one "[..], b"two"] {
            let mut encoder = Compressor::new(Compression::Gzip, Vec::new()).unwrap();
            encoder.write_all(part).unwrap();
            bytes.extend(encoder.finish().unwrap());
        }
        let mut text = String::new();
        decompress(&bytes[..]).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }

    #[test]
    fn short_input_is_plain() {
        let mut bytes = Vec::new();
        decompress(&b"ab"[..]).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"ab");
    }
}
