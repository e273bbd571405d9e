//! A store without its daemon: checked, exported, imported, repaired. Each holds the store's lock as long as it runs.
//!
//! What is only looked at is copied first and recovered there, by the code that the daemon runs when it opens: the answer is what would
//! happen, and nothing is touched.

use crated_core::{Revision, Stored};
use crated_types::{Error, Fault, Kind};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::index::{Index, all_of};
use super::recover::{self, recover};
use super::seal::{Sealed, seal, unseal};
use super::{Hook, Options, prepare, salvage, schema, snapshot, tail};

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is wrong.
    Sound,
    /// Something is wrong; the daemon mends it when it opens, and no record is lost.
    Heals,
    /// The daemon refuses it.
    Damaged,
}

/// What a look at a store found.
#[derive(Clone, Debug)]
pub struct Check {
    /// See [`State`].
    pub state: State,
    /// Version of its records.
    pub schema: u32,
    /// The newest revision that can be read.
    pub revision: Revision,
    /// Records.
    pub records: u64,
    /// What is wrong, each with file and byte where one is known.
    pub problems: Vec<String>,
    /// The log ends in a commit that was never acknowledged: normal after a crash.
    pub torn: bool,
}

/// What an export begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the records.
    pub schema: u32,
    /// The newest revision.
    pub revision: Revision,
    /// Records.
    pub records: u64,
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The newest revision.
    pub revision: Revision,
    /// Records.
    pub records: u64,
    /// What was wrong; nothing where the store was sound.
    pub why: Option<String>,
    /// Revisions of which nothing could be read, first and last of each stretch.
    pub lost: Vec<(u64, u64)>,
    /// Where the damaged files are now.
    pub aside: Vec<PathBuf>,
}

/// A copy of a store, gone with this value. Records hold secrets: its folder is its owner's alone.
struct Copy(PathBuf);

impl Copy {
    fn of(folder: &Path) -> crated_types::Result<Self> {
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = std::env::temp_dir().join(format!("crated-metadata-{}-{stamp}", std::process::id()));
        let failed = |source| Error::os(format!("copy {} to {}", folder.display(), path.display()), source);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let copy = Self(path.clone());
        for part in ["log", "snap", "index"] {
            copy_files(&folder.join(part), &path.join(part)).map_err(failed)?;
        }
        if let Err(source) = std::fs::copy(tail::path(folder), tail::path(&path))
            && source.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed(source));
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    let entries = match std::fs::read_dir(from) {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => copy_files(&entry.path(), &target)?,
            kind if kind.is_file() => std::fs::copy(entry.path(), &target).map(drop)?,
            _ => {}
        }
    }
    Ok(())
}

/// The lock of a store that is only looked at; no file is made or changed.
fn hold(folder: &Path) -> crated_types::Result<Option<File>> {
    if !folder.join("log").is_dir() {
        let why = "there is no metadata store";
        return Err(Error::new(Fault::NotFound, why)
            .on(Kind::File, folder.display())
            .remedy_is("name the daemon's root with --root"));
    }
    schema::check(folder)?;
    let path = folder.join("lock");
    let Ok(mut file) = File::open(&path) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(StoreError::InUse(format!("{} is used by process {}", folder.display(), pid.trim())).into())
        }
        Err(TryLockError::Error(source)) => Err(Error::os(format!("lock {}", path.display()), source)),
    }
}

fn options() -> Options {
    Options::default()
}

/// Looks at a store as the daemon would, and at every file of it; nothing is changed.
///
/// # Errors
/// [`Fault::InUse`] with the pid of its daemon; [`Fault::NotFound`]; the disk's.
pub fn check(folder: &Path) -> crated_types::Result<Check> {
    let _lock = hold(folder)?;
    let copy = Copy::of(folder)?;
    let found = recover::survey(&copy.0)?;
    let shown =
        |error: &StoreError| error.to_string().replace(&copy.0.display().to_string(), &folder.display().to_string());
    let mut check = Check {
        state: State::Sound,
        schema: schema::of_records(folder)?,
        revision: Revision::default(),
        records: 0,
        problems: found.iter().map(shown).collect(),
        torn: false,
    };
    match recover(&copy.0, options()) {
        Ok((writer, report)) => {
            let tally = writer.shared.index().tally();
            (check.revision, check.records, check.torn) = (tally.applied, tally.count, report.torn);
            check.problems.extend(report.rebuilt.map(|why| format!("{}: {why}", folder.join("index").display())));
            if check.problems.is_empty() {
                check.problems.extend(report.healed);
            }
            if !check.problems.is_empty() {
                check.state = State::Heals;
            }
        }
        Err(error @ StoreError::Corrupt { .. }) => {
            check.state = State::Damaged;
            let why = shown(&error);
            if !check.problems.contains(&why) {
                check.problems.push(why);
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(check)
}

/// Gives out every record in key order, behind a header. Nothing is changed.
///
/// # Errors
/// Those of [`check`]; [`Fault::Corrupt`] for a store that must be repaired first; those of `each`.
pub fn export(
    folder: &Path,
    begin: impl FnOnce(Header) -> crated_types::Result<()>,
    mut each: impl FnMut(&[u8], Stored) -> crated_types::Result<()>,
) -> crated_types::Result<()> {
    let _lock = hold(folder)?;
    let copy = Copy::of(folder)?;
    let (writer, _) = recover(&copy.0, options())
        .map_err(|error| Error::from(error).remedy_is("repair the store first: crated metadata repair"))?;
    let index = writer.shared.index();
    let tally = index.tally();
    begin(Header { schema: schema::of_records(folder)?, revision: tally.applied, records: tally.count })?;
    let mut fault = None;
    index.scan(b"", b"", |key, sealed| {
        match unseal(key, &sealed).map_err(Error::from).and_then(|stored| each(key, stored)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    fault.map_or(Ok(()), Err)
}

/// Makes a store of exported records in a folder that has none. Revisions stay what they were.
///
/// # Errors
/// [`Fault::AlreadyExists`] where the folder has a store; [`Fault::Invalid`] for records that do not fit their header.
pub fn import(
    folder: &Path,
    header: Header,
    records: impl IntoIterator<Item = crated_types::Result<(Vec<u8>, Stored)>>,
) -> crated_types::Result<()> {
    if header.schema > schema::SCHEMA {
        return Err(StoreError::Newer { folder: "the export".into(), found: header.schema }.into());
    }
    let empty = |part: &str| std::fs::read_dir(folder.join(part)).map_or(true, |mut files| files.next().is_none());
    if !(empty("log") && empty("snap") && empty("index")) {
        return Err(Error::new(Fault::AlreadyExists, "there is a metadata store already")
            .on(Kind::File, folder.display())
            .remedy_is("import into a new root, or move the old folder away"));
    }
    let mut sealed = Sealed::new();
    for record in records {
        let (key, stored) = record?;
        if stored.revision > header.revision
            || stored.revision == Revision::ABSENT
            || key.first().is_none_or(|byte| *byte == 0)
        {
            return Err(Error::invalid("record", format_args!("{}", super::error::shown(&key))));
        }
        let value = seal(&key, stored.revision, &stored.value);
        sealed.push((key, value));
    }
    sealed.sort();
    sealed.dedup_by(|one, other| one.0 == other.0);
    if sealed.len() as u64 != header.records {
        let why = format!("the header says {} records, there are {}", header.records, sealed.len());
        return Err(Error::invalid("export", why));
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::os(format!("create {}", folder.display()), source))?;
    let lock = prepare(folder)?;
    let index = Index::memory();
    index.load(header.revision, &|| {}, &all_of(&sealed))?;
    schema::note(folder, header.schema);
    snapshot::write(&folder.join("snap"), recover::new_id()?, header.revision, &index, &Hook::default())?;
    let _ = lock.unlock();
    Ok(())
}

/// Mends a store: what the daemon would heal is healed; else every record that can still be read anywhere is put into a new store at
/// the same place, its damaged files beside it. Records deleted in a lost stretch of the log may come back.
///
/// # Errors
/// Those of [`check`].
pub fn repair(folder: &Path) -> crated_types::Result<Repair> {
    drop(hold(folder)?);
    let lock = prepare(folder)?;
    let done = mend(folder);
    let _ = lock.unlock();
    done
}

fn mend(folder: &Path) -> crated_types::Result<Repair> {
    // what the daemon's own recovery throws away may still hold something
    let copy = Copy::of(folder)?;
    let mut repair = match recover(folder, options()) {
        Ok((_, report)) => {
            let aside = report.healed.as_ref().map(|_| folder.join("log.bad"));
            Repair { why: report.healed.or(report.rebuilt), aside: aside.into_iter().collect(), ..Repair::default() }
        }
        Err(error @ StoreError::Corrupt { .. }) => {
            Repair { why: Some(error.to_string()), ..salvage::salvage(folder, &copy.0)? }
        }
        Err(error) => return Err(error.into()),
    };
    let (writer, _) = recover(folder, options())?;
    let tally = writer.shared.index().tally();
    (repair.revision, repair.records) = (tally.applied, tally.count);
    Ok(repair)
}
