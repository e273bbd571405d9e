//! Files of a container as a tar archive, walked by descriptors.

use bytes::Bytes;
use crated_api::crated::engine::v1::{CopyChunk, PathStat};
use crated_sys::fs::{self, Stat, split_dev};
use crated_sys::path::Root;
use crated_sys::{OFlag, xattr};
use crated_types::{Error, Fault, Kind, Result};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc::Sender;

/// Bytes of a chunk.
const CHUNK: usize = 64 << 10;
/// Folders within folders; each costs a descriptor.
const DEPTH_MAX: usize = 400;
/// Type bits of a mode.
const FORMAT: u32 = 0o170_000;
const SOCKET: u32 = 0o140_000;
/// The attribute that a program's rights are in: docker's `cp` keeps it, too.
const CAPABILITY: &str = "security.capability";

/// Finds a path; answers a handle and its stat.
pub(super) fn find(root: &Root, below: &Path, shown: &Path, follow: bool) -> Result<(OwnedFd, PathStat)> {
    let failed = |error: crated_sys::SysError| {
        if error.kind() == ErrorKind::NotFound {
            Error::not_found(Kind::File, shown.display())
        } else {
            Error::os(format!("open {}", shown.display()), error.into()).on(Kind::File, shown.display())
        }
    };
    let handle = if follow { root.resolve(below) } else { root.resolve_nofollow(below) }.map_err(failed)?;
    let stat = fs::stat(handle.as_fd()).map_err(failed)?;
    let link_target = if stat.is_symlink() {
        fs::read_link_at(handle.as_fd(), Path::new("")).map_err(failed)?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    let name = shown.file_name().map_or_else(|| ".".to_owned(), |name| name.to_string_lossy().into_owned());
    let told = PathStat {
        name,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: stat.mode,
        modified_at: Some(prost_types::Timestamp {
            seconds: stat.mtime.0,
            nanos: i32::try_from(stat.mtime.1).unwrap_or(0),
        }),
        link_target,
    };
    Ok((handle, told))
}

/// Writes the archive of what `handle` is, under `name`.
pub(super) fn pack(handle: OwnedFd, name: &str, answers: &Sender<Result<CopyChunk>>) -> Result<()> {
    let mut packer =
        Packer { archive: Builder::new(Chunks { answers, buffer: Vec::with_capacity(CHUNK) }), links: HashMap::new() };
    let packed = packer.one(handle.as_fd(), &mut PathBuf::from(name), 0).and_then(|()| {
        let mut chunks = packer.archive.into_inner()?;
        chunks.flush()
    });
    match packed {
        // The client went away: nothing to tell, and nobody to tell it.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::os(format!("archive {name}"), error).on(Kind::File, name)),
        Ok(()) => Ok(()),
    }
}

struct Packer<'a> {
    archive: Builder<Chunks<'a>>,
    /// First names of files with several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Packer<'_> {
    fn one(&mut self, handle: BorrowedFd<'_>, path: &mut PathBuf, depth: usize) -> io::Result<()> {
        let stat = fs::stat(handle)?;
        let mut header = header(&stat);
        if stat.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            // A trailing slash, as every tar writes it.
            self.archive.append_data(&mut header, path.join(""), io::empty())?;
            return self.below(handle, path, depth);
        }
        if stat.nlink > 1 && stat.is_file() {
            if let Some(first) = self.links.get(&(stat.dev, stat.ino)) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self.archive.append_link(&mut header, &*path, first.clone());
            }
            self.links.insert((stat.dev, stat.ino), path.clone());
        }
        if stat.is_file() {
            return self.file(handle, &mut header, path, &stat);
        }
        header.set_size(0);
        if stat.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link_at(handle, Path::new(""))?;
            return self.archive.append_link(&mut header, &*path, Path::new(&target));
        }
        let (major, minor) = split_dev(stat.rdev);
        header.set_entry_type(match stat.mode & FORMAT {
            SOCKET => return Ok(()), // a socket is nothing without its process
            0o010_000 => EntryType::Fifo,
            0o020_000 => EntryType::Char,
            _ => EntryType::Block,
        });
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.archive.append_data(&mut header, &*path, io::empty())
    }

    fn below(&mut self, handle: BorrowedFd<'_>, path: &mut PathBuf, depth: usize) -> io::Result<()> {
        if depth >= DEPTH_MAX {
            return Err(io::Error::other(Error::new(
                Fault::Malformed,
                format!("folders nested deeper than {DEPTH_MAX}"),
            )));
        }
        let folder = fs::open_at(handle, Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        let mut names = fs::list(folder.as_fd())?;
        names.sort_unstable();
        for name in names {
            let entry = match fs::open_at(folder.as_fd(), Path::new(&name), OFlag::O_PATH | OFlag::O_NOFOLLOW, 0) {
                Ok(entry) => entry,
                Err(error) if error.kind() == ErrorKind::NotFound => continue, // gone meanwhile
                Err(error) => return Err(error.into()),
            };
            path.push(&name);
            let done = self.one(entry.as_fd(), path, depth + 1);
            path.pop();
            done?;
        }
        Ok(())
    }

    fn file(&mut self, handle: BorrowedFd<'_>, header: &mut Header, path: &Path, stat: &Stat) -> io::Result<()> {
        // The handle is of a regular file, and this opens the very same: no FIFO can be slipped in.
        let file = fs::reopen(handle, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        if let Ok(Some(value)) = xattr::get(file.as_fd(), OsStr::new(CAPABILITY)) {
            let key = format!("SCHILY.xattr.{CAPABILITY}");
            self.archive.append_pax_extensions([(key.as_str(), value.as_slice())])?;
        }
        let exactly = Exactly { file: File::from(file), left: stat.size };
        self.archive.append_data(header, path, exactly)
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.mode & 0o7777);
    header.set_uid(stat.uid.into());
    header.set_gid(stat.gid.into());
    header.set_mtime(u64::try_from(stat.mtime.0).unwrap_or(0));
    header.set_size(stat.size);
    header
}

/// A file of the size that was promised: cut where it grew, filled with zeros where it shrank.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let mut got = self.file.read(&mut buffer[..most])?;
        if got == 0 {
            buffer[..most].fill(0);
            got = most;
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// Gathers small writes into chunks for a client.
struct Chunks<'a> {
    answers: &'a Sender<Result<CopyChunk>>,
    buffer: Vec<u8>,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK - self.buffer.len();
        let taken = room.min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)));
        self.answers.blocking_send(Ok(CopyChunk { stat: None, data })).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}
