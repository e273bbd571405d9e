//! `cp`: files between a container and the host.
//!
//! The daemon speaks tar of a path. Here the archive is made from, or unpacked to, the host as docker does it: a target that
//! is a folder receives the source below its name; one that does not exist takes the source's place.

use crate::cmd::prelude::*;
use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Copy files.
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// Keep user and group
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link that the source is
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// CONTAINER:PATH, PATH, or - for a tar archive on standard input
    source: String,
    /// CONTAINER:PATH, PATH, or - for a tar archive on standard output
    target: String,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Container(String, String),
    Host(PathBuf),
    Stream,
}

impl Side {
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        // A path that begins with / or . is the host's, whatever colons it has.
        match text.split_once(':') {
            Some((container, path)) if !text.starts_with(['/', '.']) && !container.is_empty() => {
                Self::Container(container.into(), path.into())
            }
            _ => Self::Host(text.into()),
        }
    }
}

impl Copy {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        match (Side::parse(&self.source), Side::parse(&self.target)) {
            (Side::Container(container, path), Side::Host(target)) => {
                self.outward(client, container, path, Some(target)).await
            }
            (Side::Container(container, path), Side::Stream) => self.outward(client, container, path, None).await,
            (Side::Host(source), Side::Container(container, path)) => {
                self.inward(client, Some(source), container, path).await
            }
            (Side::Stream, Side::Container(container, path)) => self.inward(client, None, container, path).await,
            (Side::Container(..), Side::Container(..)) => {
                bail!("copying between containers is not offered: go over the host")
            }
            _ => bail!("one side must be CONTAINER:PATH"),
        }
    }

    async fn outward(&self, client: &Client, container: String, path: String, target: Option<PathBuf>) -> Result<u8> {
        let contents = path.ends_with("/.");
        let request = api::CopyFromRequest { container, path, follow_link: self.follow_link };
        let mut chunks = client.engine().copy_from(request).await?.into_inner();
        let first = chunks.next().await.context("the daemon sent nothing")??;
        let stat = first.stat.context("the daemon sent no stat")?;
        let (sender, receiver) = mpsc::channel::<Bytes>(8);
        let reader = ChannelReader { receiver, rest: first.data };
        let keep_owner = self.archive;
        let unpacking = tokio::task::spawn_blocking(move || match target {
            None => {
                let mut reader = reader;
                std::io::copy(&mut reader, &mut std::io::stdout().lock()).map(drop).map_err(Into::into)
            }
            Some(target) => unpack(reader, &stat, &target, contents, keep_owner),
        });
        while let Some(chunk) = chunks.next().await {
            if sender.send(chunk?.data).await.is_err() {
                break; // the unpacking side has failed and says why
            }
        }
        drop(sender);
        unpacking.await??;
        Ok(0)
    }

    async fn inward(&self, client: &Client, source: Option<PathBuf>, container: String, path: String) -> Result<u8> {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let (folder, name) = match &source {
            None => (path.clone(), None),
            Some(source) => self.place(client, &container, &path, source).await?,
        };
        let (sender, receiver) = mpsc::channel(8);
        let first = api::CopyToRequest {
            container,
            path: folder,
            copy_owner: self.archive,
            no_overwrite_dir_non_dir: true,
            data: Bytes::new(),
        };
        let follow = self.follow_link;
        let packing = tokio::task::spawn_blocking(move || {
            if sender.blocking_send(first).is_err() {
                return Ok(());
            }
            let mut writer = std::io::BufWriter::with_capacity(256 << 10, ChannelWriter { sender });
            match source {
                None => {
                    std::io::copy(&mut std::io::stdin().lock(), &mut writer).map(drop).map_err(anyhow::Error::from)?
                }
                Some(source) => pack(&mut writer, &source, name.as_deref(), follow)?,
            }
            writer.flush()?;
            Ok::<(), anyhow::Error>(())
        });
        let answer = client.engine().copy_to(ReceiverStream::new(receiver)).await;
        let packed = packing.await?;
        answer?;
        packed?;
        Ok(0)
    }

    /// The folder of the container that receives the archive, and the name of its entry (none: the contents alone).
    async fn place(
        &self,
        client: &Client,
        container: &str,
        path: &str,
        source: &Path,
    ) -> Result<(String, Option<String>)> {
        let from = std::fs::symlink_metadata(source).with_context(|| format!("cannot read {}", source.display()))?;
        let contents = source.as_os_str().as_encoded_bytes().ends_with(b"/.");
        let request = api::CopyFromRequest { container: container.into(), path: path.into(), follow_link: true };
        let stat = match client.engine().copy_from(request).await {
            Ok(answer) => answer.into_inner().next().await.transpose()?.and_then(|chunk| chunk.stat),
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => return Err(status.into()),
        };
        let trimmed = path.trim_end_matches('/');
        let (parent, last) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        let parent = if parent.is_empty() { "/".to_owned() } else { parent.to_owned() };
        let own_name = source.file_name().map(|name| name.to_string_lossy().into_owned());
        match stat {
            Some(stat) if is_folder(stat.mode) => {
                let folder = if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() };
                Ok((folder, if contents { None } else { own_name }))
            }
            Some(_) if from.is_dir() => bail!("{path} in the container is a file, {} a folder", source.display()),
            Some(_) => Ok((parent, Some(last.into()))),
            None if path.ends_with('/') && !from.is_dir() => bail!("folder {path} does not exist in the container"),
            None => Ok((parent, Some(last.into()))),
        }
    }
}

const FORMAT: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;

fn is_folder(mode: u32) -> bool {
    mode & FORMAT == FOLDER
}

/// Writes `source` as an archive whose root entry is `name`.
fn pack(writer: &mut impl Write, source: &Path, name: Option<&str>, follow: bool) -> Result<()> {
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    let source = if follow { source.canonicalize()? } else { source.to_path_buf() };
    let meta = std::fs::symlink_metadata(&source)?;
    match name {
        _ if !meta.is_dir() => {
            let name = name.map(PathBuf::from).or_else(|| source.file_name().map(PathBuf::from));
            archive.append_path_with_name(&source, name.context("the source has no name")?)?;
        }
        Some(name) => archive.append_dir_all(name, &source)?,
        None => archive.append_dir_all(".", &source)?,
    }
    Ok(archive.finish()?)
}

/// Unpacks an archive whose root entry is named as `stat` says, to `target`.
fn unpack(reader: impl Read, stat: &api::PathStat, target: &Path, contents: bool, keep_owner: bool) -> Result<()> {
    let exists = std::fs::metadata(target).ok();
    let folder_source = is_folder(stat.mode);
    let (base, rename) = match exists {
        Some(meta) if meta.is_dir() && contents => (target.to_path_buf(), Some(PathBuf::new())),
        Some(meta) if meta.is_dir() => (target.to_path_buf(), None),
        Some(_) if folder_source => bail!("{} is a file, the source a folder", target.display()),
        _ => {
            if target.as_os_str().as_encoded_bytes().ends_with(b"/") && !folder_source {
                bail!("folder {} does not exist", target.display());
            }
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if !parent.is_dir() {
                bail!("folder {} does not exist", parent.display());
            }
            (parent.to_path_buf(), Some(PathBuf::from(target.file_name().context("the target has no name")?)))
        }
    };
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(keep_owner);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let placed = match &rename {
            None => path,
            Some(name) => name.components().chain(path.components().skip(1)).collect(),
        };
        // The container wrote the archive's contents: it does not choose where on the host they go.
        if placed.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            bail!("the archive has an entry {placed:?}");
        }
        if placed.as_os_str().is_empty() {
            continue;
        }
        entry.set_preserve_permissions(true);
        let whole = base.join(&placed);
        refuse_links(&base, &placed)?;
        if entry.header().entry_type().is_hard_link() {
            let link = entry.link_name()?.context("a hard link without a target")?;
            let link = match &rename {
                None => link.into_owned(),
                Some(name) => name.join(link.components().skip(1).collect::<PathBuf>()),
            };
            refuse_links(&base, &link)?;
            let _ = std::fs::remove_file(&whole);
            std::fs::hard_link(base.join(&link), &whole).with_context(|| format!("cannot link {}", whole.display()))?;
            continue;
        }
        entry.unpack(&whole).with_context(|| format!("cannot write {}", whole.display()))?;
    }
    Ok(())
}

/// No folder on the way to an entry may be a link that the archive brought.
fn refuse_links(base: &Path, placed: &Path) -> Result<()> {
    let mut path = base.to_path_buf();
    let parts: Vec<_> = placed.components().collect();
    for part in parts.iter().take(parts.len().saturating_sub(1)) {
        path.push(part);
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
            bail!("the archive goes through the link {}", path.display());
        }
    }
    if placed.components().any(|part| matches!(part, Component::ParentDir | Component::RootDir)) {
        bail!("the archive has an entry {placed:?}");
    }
    Ok(())
}

struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(next) => self.rest = next,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

struct ChannelWriter {
    sender: mpsc::Sender<api::CopyToRequest>,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let data = Bytes::copy_from_slice(bytes);
        self.sender
            .blocking_send(api::CopyToRequest { data, ..Default::default() })
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(Side::parse("web:/etc"), Side::Container("web".into(), "/etc".into()));
        assert_eq!(Side::parse("./a:b"), Side::Host("./a:b".into()));
        assert_eq!(Side::parse("/a:b"), Side::Host("/a:b".into()));
        assert_eq!(Side::parse("-"), Side::Stream);
    }

    fn archive(entries: &[(&str, Option<&str>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            if let Some(link) = link {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, name, link).unwrap();
            } else {
                builder.append_data(&mut header, name, std::io::empty()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_cannot_leave_the_target_through_its_own_link() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let target = temp.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let bytes = archive(&[("d/link", Some(outside.to_str().unwrap())), ("d/link/file", None)]);
        std::fs::create_dir(target.join("d")).unwrap();
        let stat = api::PathStat { mode: FOLDER | 0o755, name: "d".into(), ..Default::default() };
        assert!(unpack(&bytes[..], &stat, &target, false, false).is_err());
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 0);
    }
}
