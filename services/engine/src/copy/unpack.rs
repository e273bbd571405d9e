//! A tar archive into a folder of a container. Links that are there are never followed out of the container's root, and
//! an entry replaces a link instead of writing through it.

use bytes::{Buf, Bytes};
use crated_sys::fs::{self, makedev};
use crated_sys::path::Root;
use crated_sys::{Errno, OFlag, SysError, xattr};
use crated_types::{Error, Fault, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc::Receiver;

const FIFO: u32 = 0o010_000;
const CHAR: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
/// The one extended attribute that is taken from an archive.
const CAPABILITY: &str = "security.capability";

/// How entries become files.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Owners are those of the archive, else root.
    pub(super) keep_owner: bool,
    /// A folder never replaces a file, nor a file a folder.
    pub(super) keep_kinds: bool,
}

/// The archive's bytes as they come.
pub(super) struct Source {
    chunks: Receiver<Result<Bytes>>,
    rest: Bytes,
}

impl Source {
    pub(super) fn new(chunks: Receiver<Result<Bytes>>) -> Self {
        Self { chunks, rest: Bytes::new() }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Unpacks; times of folders are set last, since their contents change them.
pub(super) fn unpack(root: &Root, base: &Path, source: impl Read, how: How) -> Result<()> {
    match root.open(base, OFlag::O_PATH | OFlag::O_DIRECTORY, 0) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::not_found(Kind::File, base.display())),
        Err(error) if error.errno() == Errno::ENOTDIR => {
            return Err(Error::new(Fault::Precondition, "is no folder").on(Kind::File, base.display()));
        }
        Err(error) => return Err(Error::os(format!("open {}", base.display()), error.into())),
    }
    let mut archive = Archive::new(source);
    let mut folders = Vec::new();
    let malformed = |error: io::Error| Error::new(Fault::Malformed, "tar archive").caused_by(error);
    for entry in archive.entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        let path = entry.path().map_err(malformed)?.into_owned();
        let clean = clean(&path)?;
        if clean.as_os_str().is_empty() {
            continue;
        }
        let placed = base.join(&clean);
        write(root, base, &placed, &mut entry, how).map_err(|error| match error {
            Failure::Told(error) => error,
            Failure::Sys(error) => {
                Error::os(format!("write {}", placed.display()), error).on(Kind::File, placed.display())
            }
        })?;
        if entry.header().entry_type().is_dir() {
            folders.push((placed, entry.header().mtime().unwrap_or(0)));
        }
    }
    for (folder, time) in folders.into_iter().rev() {
        if let Ok(handle) = root.resolve_nofollow(&folder) {
            let time = (i64::try_from(time).unwrap_or(0), 0);
            let _ = fs::set_times_at(handle.as_fd(), Path::new(""), None, Some(time)); // replaced meanwhile: not ours to date
        }
    }
    Ok(())
}

/// The path of an entry without leading slashes and dots.
fn clean(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(Fault::Malformed, format!("the archive's entry {path:?} leads upwards")));
            }
        }
    }
    Ok(clean)
}

enum Failure {
    Told(Error),
    Sys(io::Error),
}

impl From<SysError> for Failure {
    fn from(error: SysError) -> Self {
        Self::Sys(error.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Sys(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

fn write<R: Read>(root: &Root, base: &Path, placed: &Path, entry: &mut Entry<'_, R>, how: How) -> Result<(), Failure> {
    let (dir, name) = root.parent(placed, Some(0o755))?;
    let place = Place { dir: dir.as_fd(), name: Path::new(&name) };
    let kind = entry.header().entry_type();
    let mode = entry.header().mode()? & 0o7777;
    match kind {
        EntryType::Directory => return folder(root, placed, place, entry, mode, how),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            return file(place, placed, entry, mode, how);
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?.into_owned();
            place.clear(placed, how)?;
            fs::symlink_at(target.as_os_str(), place.dir, place.name)?;
        }
        EntryType::Link => {
            let first = clean(&entry.link_name()?.ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?)?;
            let (old, old_name) = root.parent(&base.join(first), None)?;
            place.clear(placed, how)?;
            return Ok(fs::link_at(old.as_fd(), Path::new(&old_name), place.dir, place.name)?);
        }
        EntryType::Fifo | EntryType::Char | EntryType::Block => {
            let device = match (entry.header().device_major()?, entry.header().device_minor()?) {
                (Some(major), Some(minor)) if kind != EntryType::Fifo => makedev(major, minor),
                _ => 0,
            };
            let bits = match kind {
                EntryType::Fifo => FIFO,
                EntryType::Char => CHAR,
                _ => BLOCK,
            };
            place.clear(placed, how)?;
            fs::mknod_at(place.dir, place.name, bits | mode, device)?;
        }
        _ => return Ok(()), // global headers and the like make no file
    }
    let (uid, gid) = owner(entry, how)?;
    fs::chown_at(place.dir, place.name, Some(uid), Some(gid))?;
    Ok(fs::set_times_at(place.dir, place.name, None, Some(modified(entry)))?)
}

/// A name in an open folder.
#[derive(Clone, Copy)]
struct Place<'a> {
    dir: BorrowedFd<'a>,
    name: &'a Path,
}

impl Place<'_> {
    /// Makes room: what is there goes, unless it is a folder that must not.
    fn clear(self, placed: &Path, how: How) -> Result<(), Failure> {
        match fs::stat_at(self.dir, self.name) {
            Ok(stat) if stat.is_dir() && how.keep_kinds => {
                Err(Error::new(Fault::Precondition, "is a folder, the archive has a file")
                    .on(Kind::File, placed.display())
                    .into())
            }
            Ok(stat) if stat.is_dir() => Ok(fs::remove_all_at(self.dir, self.name)?),
            Ok(_) => Ok(fs::unlink_at(self.dir, self.name)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn folder<R: Read>(
    root: &Root,
    placed: &Path,
    place: Place<'_>,
    entry: &mut Entry<'_, R>,
    mode: u32,
    how: How,
) -> Result<(), Failure> {
    match fs::mkdir_at(place.dir, place.name, mode) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // A link to a folder stays and is gone through, inside the root.
            let there = root.open(placed, OFlag::O_PATH | OFlag::O_DIRECTORY, 0);
            if there.is_ok() {
                return Ok(());
            }
            if how.keep_kinds {
                return Err(Error::new(Fault::Precondition, "is no folder, the archive has one")
                    .on(Kind::File, placed.display())
                    .into());
            }
            fs::unlink_at(place.dir, place.name)?;
            fs::mkdir_at(place.dir, place.name, mode)?;
        }
        Err(error) => return Err(error.into()),
    }
    let made = fs::open_at(place.dir, place.name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, 0)?;
    dress(made.as_fd(), entry, mode, how)
}

fn file<R: Read>(
    place: Place<'_>,
    placed: &Path,
    entry: &mut Entry<'_, R>,
    mode: u32,
    how: How,
) -> Result<(), Failure> {
    let made = match place.clear(placed, how) {
        Ok(()) => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            fs::open_at(place.dir, place.name, flags, 0o600)?
        }
        // A file that is mounted there (/etc/hosts) cannot be replaced; it is written.
        Err(Failure::Sys(error)) if error.kind() == ErrorKind::ResourceBusy => mounted_file(place)?,
        Err(failure) => return Err(failure),
    };
    let capability = capability(entry);
    let mut to = File::from(made);
    io::copy(entry, &mut to)?;
    dress(to.as_fd(), entry, mode, how)?;
    if let Some(value) = capability {
        xattr::set(to.as_fd(), OsStr::new(CAPABILITY), &value)?;
    }
    Ok(fs::set_times_at(place.dir, place.name, None, Some(modified(entry)))?)
}

fn mounted_file(place: Place<'_>) -> Result<OwnedFd, Failure> {
    let there = fs::open_at(place.dir, place.name, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
    if !fs::stat(there.as_fd())?.is_file() {
        return Err(io::Error::from(ErrorKind::ResourceBusy).into());
    }
    Ok(fs::reopen(there.as_fd(), OFlag::O_WRONLY | OFlag::O_TRUNC)?)
}

/// Owner first, since a change of owner takes set-user-ID bits away.
fn dress<R: Read>(made: BorrowedFd<'_>, entry: &Entry<'_, R>, mode: u32, how: How) -> Result<(), Failure> {
    let (uid, gid) = owner(entry, how)?;
    fs::chown_at(made, Path::new(""), Some(uid), Some(gid))?;
    Ok(fs::chmod(made, mode)?)
}

fn owner<R: Read>(entry: &Entry<'_, R>, how: How) -> io::Result<(u32, u32)> {
    if !how.keep_owner {
        return Ok((0, 0));
    }
    let number = |number: u64| u32::try_from(number).map_err(|_| io::Error::from(ErrorKind::InvalidData));
    Ok((number(entry.header().uid()?)?, number(entry.header().gid()?)?))
}

fn modified<R: Read>(entry: &Entry<'_, R>) -> (i64, i64) {
    (i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0), 0)
}

fn capability<R: Read>(entry: &mut Entry<'_, R>) -> Option<Vec<u8>> {
    let extensions = entry.pax_extensions().ok()??;
    let wanted = OsString::from(format!("SCHILY.xattr.{CAPABILITY}"));
    extensions
        .flatten()
        .find(|extension| extension.key_bytes() == wanted.as_encoded_bytes())
        .map(|extension| extension.value_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::pack;
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use tar::{Builder, Header};

    const PLAIN: How = How { keep_owner: false, keep_kinds: true };

    fn entry(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o640);
        header.set_size(size);
        header.set_mtime(1_000_000);
        header
    }

    fn archive(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    /// As a hostile client writes it: the crate itself refuses such names.
    fn raw_name(mut header: Header, name: &[u8]) -> Header {
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
        header
    }

    #[tokio::test]
    async fn what_is_packed_is_unpacked() {
        let from = tempfile::tempdir().unwrap();
        let source = from.path().join("a");
        std::fs::create_dir_all(source.join("sub")).unwrap();
        std::fs::write(source.join("sub/file"), vec![7; 200_000]).unwrap();
        std::fs::set_permissions(source.join("sub/file"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        std::fs::hard_link(source.join("sub/file"), source.join("linked")).unwrap();
        symlink("/etc/passwd", source.join("soft")).unwrap();
        let long = "n".repeat(180);
        std::fs::write(source.join(&long), "long").unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
        let root = Root::at(from.path()).unwrap();
        let packing = tokio::task::spawn_blocking(move || {
            let (handle, stat) = pack::find(&root, Path::new("/a"), Path::new("/a"), false).unwrap();
            pack::pack(handle, &stat.name, &sender).unwrap();
        });
        let mut bytes = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            bytes.extend_from_slice(&chunk.unwrap().data);
        }
        packing.await.unwrap();
        let to = tempfile::tempdir().unwrap();
        unpack(&Root::at(to.path()).unwrap(), Path::new("/"), &bytes[..], PLAIN).unwrap();
        let made = to.path().join("a");
        assert_eq!(std::fs::read(made.join("sub/file")).unwrap(), vec![7; 200_000]);
        let (one, two) = (made.join("sub/file").metadata().unwrap(), made.join("linked").metadata().unwrap());
        assert_eq!((one.ino(), one.mode() & 0o7777), (two.ino(), 0o4755));
        assert_eq!(std::fs::read_link(made.join("soft")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(std::fs::read(made.join(long)).unwrap(), b"long");
    }

    #[test]
    fn an_archive_cannot_leave_the_root() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("keep"), "safe").unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink(outside.path().join("keep"), inside.path().join("link")).unwrap();
        let root = Root::at(inside.path()).unwrap();
        let upwards =
            archive(|builder| builder.append(&raw_name(entry(EntryType::Regular, 1), b"../x"), &b"x"[..]).unwrap());
        assert_eq!(unpack(&root, Path::new("/"), &upwards[..], PLAIN).unwrap_err().fault(), Fault::Malformed);
        let through = archive(|builder| {
            builder.append_data(&mut entry(EntryType::Regular, 1), "out/new", &b"x"[..]).unwrap();
            builder.append_data(&mut entry(EntryType::Regular, 1), "link", &b"x"[..]).unwrap();
            builder.append(&raw_name(entry(EntryType::Regular, 1), b"/absolute"), &b"x"[..]).unwrap();
        });
        unpack(&root, Path::new("/"), &through[..], PLAIN).unwrap();
        assert_eq!(std::fs::read_to_string(outside.path().join("keep")).unwrap(), "safe");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        assert!(inside.path().join("absolute").is_file());
        assert!(inside.path().join("link").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn kinds_are_kept_where_asked() {
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(inside.path().join("d/full")).unwrap();
        let root = Root::at(inside.path()).unwrap();
        let bytes = archive(|builder| builder.append_data(&mut entry(EntryType::Regular, 1), "d", &b"x"[..]).unwrap());
        assert_eq!(unpack(&root, Path::new("/"), &bytes[..], PLAIN).unwrap_err().fault(), Fault::Precondition);
        unpack(&root, Path::new("/"), &bytes[..], How { keep_kinds: false, ..PLAIN }).unwrap();
        assert!(inside.path().join("d").is_file());
        assert_eq!(unpack(&root, Path::new("/none"), &bytes[..], PLAIN).unwrap_err().fault(), Fault::NotFound);
        assert_eq!(unpack(&root, Path::new("/d"), &bytes[..], PLAIN).unwrap_err().fault(), Fault::Precondition);
    }

    #[test]
    fn a_torn_archive_is_an_error() {
        let inside = tempfile::tempdir().unwrap();
        let bytes =
            archive(|builder| builder.append_data(&mut entry(EntryType::Regular, 4000), "f", &[1; 4000][..]).unwrap());
        assert!(unpack(&Root::at(inside.path()).unwrap(), Path::new("/"), &bytes[..2000], PLAIN).is_err());
    }
}
