//! `crated metadata`: the metadata store without its daemon, looked at, written out as JSON lines, read in, mended.
//!
//! ```text
//! {"crated_metadata":1,"schema":2,"revision":812,"records":2}
//! {"key":"blobs/default/sha256:…","revision":7,"value":"<base64>"}          key_base64 in place of key where it is no text
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use crated_core::{Revision, Stored};
use crated_store::metadata::offline::{self, Check, Header, State};
use crated_types::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::builtin::METADATA;
use crate::cli::{Flags, load};

/// The store is damaged and the daemon mends it.
const HEALS: u8 = 3;
/// The store is damaged and the daemon refuses it.
const DAMAGED: u8 = 4;
/// Version of the lines.
const FORMAT: u64 = 1;

/// What can be done.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "flattened flags have lines of their own")]
pub enum MetadataCommand {
    /// Look at every file of the store; nothing is changed. Exit status: 0 sound, 3 the daemon mends it, 4 it must be repaired
    Check {
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Write every record as a line of JSON; nothing is changed
    Export {
        #[command(flatten)]
        flags: Box<Flags>,
        /// File that is made [default: standard output]
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Make the store of a root that has none from an export
    Import {
        #[command(flatten)]
        flags: Box<Flags>,
        /// File of an export [default: standard input]
        #[arg(long, short)]
        input: Option<PathBuf>,
    },
    /// Mend the store: heal what can be, else keep every readable record and set the damaged files aside
    Repair {
        #[command(flatten)]
        flags: Box<Flags>,
    },
}

/// Runs a command on the store of the flags' root.
#[must_use]
pub fn run(command: &MetadataCommand) -> ExitCode {
    let (MetadataCommand::Check { flags }
    | MetadataCommand::Export { flags, .. }
    | MetadataCommand::Import { flags, .. }
    | MetadataCommand::Repair { flags }) = command;
    let folder = match load(flags) {
        Ok(config) => config.root.join(format!("{}.log", METADATA.name())),
        Err(error) => {
            eprintln!("crated: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match command {
        MetadataCommand::Check { .. } => offline::check(&folder).map(|check| show(&folder, &check)),
        MetadataCommand::Export { output, .. } => export(&folder, output.as_deref()).map(|()| ExitCode::SUCCESS),
        MetadataCommand::Import { input, .. } => import(&folder, input.as_deref()).map(|()| ExitCode::SUCCESS),
        MetadataCommand::Repair { .. } => repair(&folder).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("crated: {error}");
        if let Some(remedy) = error.remedy().filter(|remedy| !error.to_string().contains(*remedy)) {
            eprintln!("  {remedy}");
        }
        ExitCode::FAILURE
    })
}

fn show(folder: &Path, check: &Check) -> ExitCode {
    let torn = if check.torn { ", the last commit was never acknowledged and is dropped" } else { "" };
    let (revision, records) = (check.revision.0, check.records);
    match check.state {
        State::Damaged => println!("{}: damaged beyond what the daemon mends", folder.display()),
        _ => println!("{}: revision {revision}, {records} records, schema {}{torn}", folder.display(), check.schema),
    }
    check.problems.iter().for_each(|problem| println!("  {problem}"));
    match check.state {
        State::Sound => ExitCode::SUCCESS,
        State::Heals => {
            println!("no record is lost: the daemon mends this when it starts, or now: crated metadata repair");
            ExitCode::from(HEALS)
        }
        State::Damaged => {
            println!("the daemon will not start: copy the folder, then crated metadata repair");
            ExitCode::from(DAMAGED)
        }
    }
}

fn os(what: &str, path: Option<&Path>) -> impl Fn(std::io::Error) -> Error {
    let name = path.map_or_else(|| "the standard stream".to_owned(), |path| path.display().to_string());
    let operation = format!("{what} {name}");
    move |source| Error::os(operation.clone(), source)
}

fn export(folder: &Path, output: Option<&Path>) -> Result<()> {
    let failed = os("write", output);
    // made at the first line: a store that cannot be read leaves no file
    let out: std::cell::RefCell<Option<BufWriter<Box<dyn Write>>>> = std::cell::RefCell::default();
    let line = |line: &Value| match out.borrow_mut().as_mut() {
        Some(out) => writeln!(out, "{line}").map_err(&failed),
        None => Ok(()),
    };
    let begin = |header: Header| {
        let file: Box<dyn Write> = match output {
            Some(path) => Box::new(create(path).map_err(&failed)?),
            None => Box::new(std::io::stdout()),
        };
        *out.borrow_mut() = Some(BufWriter::new(file));
        let (revision, records) = (header.revision.0, header.records);
        line(&json!({"crated_metadata": FORMAT, "schema": header.schema, "revision": revision, "records": records}))
    };
    offline::export(folder, begin, |key, stored| {
        let value = STANDARD.encode(&stored.value);
        line(&match std::str::from_utf8(key) {
            Ok(key) => json!({"key": key, "revision": stored.revision.0, "value": value}),
            Err(_) => json!({"key_base64": STANDARD.encode(key), "revision": stored.revision.0, "value": value}),
        })
    })?;
    let mut out = out.into_inner();
    out.as_mut().map_or(Ok(()), Write::flush).map_err(&failed)
}

/// A new file for its owner alone: records hold secrets.
fn create(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn import(folder: &Path, input: Option<&Path>) -> Result<()> {
    let failed = os("read", input);
    let reader: Box<dyn BufRead> = match input {
        Some(path) => Box::new(BufReader::new(std::fs::File::open(path).map_err(&failed)?)),
        None => Box::new(BufReader::new(std::io::stdin())),
    };
    let mut lines = reader.lines().enumerate().map(|(number, line)| Ok((number + 1, line.map_err(&failed)?)));
    let (_, first) = lines.next().unwrap_or_else(|| Err(Error::invalid("export", "it is empty")))?;
    let header = header(&first).ok_or_else(|| Error::invalid("export", "line 1 is no header of an export"))?;
    offline::import(
        folder,
        header,
        lines.map(|line| {
            let (number, line) = line?;
            record(&line).ok_or_else(|| Error::invalid("export", format_args!("line {number} is no record")))
        }),
    )?;
    println!("{}: revision {}, {} records", folder.display(), header.revision.0, header.records);
    Ok(())
}

fn header(line: &str) -> Option<Header> {
    let value: Value = serde_json::from_str(line).ok()?;
    let number = |name: &str| value.get(name)?.as_u64();
    (number("crated_metadata")? == FORMAT).then_some(())?;
    let schema = number("schema")?.try_into().ok()?;
    Some(Header { schema, revision: Revision(number("revision")?), records: number("records")? })
}

fn record(line: &str) -> Option<(Vec<u8>, Stored)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let bytes = |name: &str| STANDARD.decode(value.get(name)?.as_str()?).ok();
    let key = match value.get("key") {
        Some(key) => key.as_str()?.as_bytes().to_vec(),
        None => bytes("key_base64")?,
    };
    let revision = Revision(value.get("revision")?.as_u64()?);
    Some((key, Stored { revision, value: bytes("value")?.into() }))
}

fn repair(folder: &Path) -> Result<()> {
    let repair = offline::repair(folder)?;
    match &repair.why {
        None => println!("{}: nothing is wrong", folder.display()),
        Some(why) => println!("{}: mended: {why}", folder.display()),
    }
    println!("  revision {}, {} records", repair.revision.0, repair.records);
    for (first, last) in &repair.lost {
        println!("  lost: what commits {first} to {last} changed; what they deleted may be back");
    }
    repair.aside.iter().for_each(|path| println!("  set aside: {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_imported_and_bad_lines_are_named() {
        let root = tempfile::tempdir().unwrap();
        let lines = [
            r#"{"crated_metadata":1,"schema":1,"revision":9,"records":2}"#,
            r#"{"key":"t/a","revision":3,"value":"AQI="}"#,
            r#"{"key_base64":"dC//","revision":9,"value":""}"#,
        ];
        let (file, back) = (root.path().join("export"), root.path().join("back"));
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        import(&root.path().join("one"), Some(&file)).unwrap();
        export(&root.path().join("one"), Some(&back)).unwrap();
        assert_eq!(std::fs::read_to_string(back).unwrap(), std::fs::read_to_string(&file).unwrap());
        for (text, wanted) in [
            (lines[1].to_owned(), "line 1 is no header"),
            (format!("{}\n{}\n{{}}", lines[0], lines[1]), "line 3 is no record"),
            (format!("{}\n{}", lines[0], lines[1]), "says 2 records, there are 1"),
            (lines[0].replace("\"schema\":1", "\"schema\":3"), "newer crated"),
            (String::new(), "it is empty"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = import(&root.path().join("two"), Some(&file)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
            assert!(!root.path().join("two/snap").exists());
        }
    }
}
