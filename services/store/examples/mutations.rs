//! Breaks the store on purpose, in a copy of the source, and has the torture catch it: `cargo run -p crated-store --example mutations`.
//! A mutation that is not caught means that the torture proves less than it says. Names on the command line choose some.

use std::path::Path;
use std::process::{Command, ExitCode};

/// A name, a file below `services/store/src`, what stands there, what shall stand there, the test that must fail.
const MUTATIONS: &[[&str; 5]] = &[
    ["no sync of the log", "metadata/active.rs", "self.file.sync_data()?;", "", "commit"],
    [
        "no sync of the log's folder",
        "metadata/active.rs",
        "sync_folder(folder)?;\n            Ok(file)",
        "Ok(file)",
        "commit",
    ],
    [
        "a snapshot named too new",
        "metadata/writer/upkeep.rs",
        "snapshot::write(&folder, id, revision,",
        "snapshot::write(&folder, id, Revision(revision.0 + 40),",
        "commit",
    ],
    [
        "frames without checksum",
        "metadata/frame.rs",
        "checksum(id, &head[4..8], bytes.get(at + 12..at + HEAD + length)?) != crc",
        "bytes.get(at + 12..at + HEAD + length)?.is_empty()",
        "damage",
    ],
    [
        "records without checksum",
        "metadata/seal.rs",
        "if checksum(key, revision, &value) == u32_at(sealed, 8) {",
        "if sealed.len() > 1 {",
        "damage",
    ],
    [
        "an index that is not added up",
        "metadata/index.rs",
        "if found != said {",
        "if found.count > said.count + 1000 {",
        "damage",
    ],
    [
        "damage inside the log is taken for a torn tail",
        "metadata/segment.rs",
        "self.later = Some(",
        "let _ = Some(",
        "damage",
    ],
    [
        "nobody asks how far the log reached",
        "metadata/recover.rs",
        "let tail = Tail::read(folder)?;",
        "let tail = Tail::read(folder)?.filter(|tail| tail.revision.0 == 0);",
        "damage",
    ],
    [
        "blobs renamed before they are synced",
        "content/disk.rs",
        "            file.sync_all()?;\n            std::fs::rename",
        "            std::fs::rename",
        "blob",
    ],
    [
        "blobs in a folder that is not synced",
        "content/disk.rs",
        "sync(&self.blobs(digest.algorithm()))\n        };\n        publish()",
        "Ok(())\n        };\n        publish()",
        "blob",
    ],
    [
        "ingests believed without their digest",
        "content/ingest.rs",
        "Some(wanted) if wanted != digest => {",
        "Some(wanted) if wanted != digest && wanted.hex().is_empty() => {",
        "blob",
    ],
];

fn run(command: &mut Command) -> std::io::Result<(bool, String)> {
    let output = command.output()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok((output.status.success(), text))
}

fn torture(copy: &Path, filter: &str) -> std::io::Result<(bool, String)> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(copy).args(["test", "--offline", "-p", "crated-store", "--test", "torture", filter]);
    cargo.env("RUST_BACKTRACE", "0");
    run(&mut cargo)
}

fn main() -> std::io::Result<ExitCode> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let home = tempfile::tempdir()?;
    let copy = home.path();
    let copied =
        "git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t \"$0\" 2>/dev/null; true";
    run(Command::new("sh").current_dir(&root).args(["-c", copied]).arg(copy))?;
    let mut missed = 0;
    for [name, file, from, to, filter] in MUTATIONS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let path = copy.join("services/store/src").join(file);
        let text = std::fs::read_to_string(&path)?;
        if !text.contains(from) {
            println!("{name}: {file} has changed, the mutation must follow");
            missed += 1;
            continue;
        }
        std::fs::write(&path, text.replacen(from, to, 1))?;
        let (passed, output) = torture(copy, filter)?;
        std::fs::write(&path, text)?;
        let verdict = match (passed, output.contains("could not compile")) {
            (_, true) => "does not compile",
            (true, _) => "NOT CAUGHT",
            (false, _) => "caught",
        };
        missed += u32::from(verdict != "caught");
        let tally = output.lines().find(|line| line.contains("\": ") && line.contains(": {")).unwrap_or_default();
        println!("{name}: {verdict} {tally}");
    }
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
