//! Breaks the store on purpose, in a copy of the source, and has the torture catch it: `cargo run -p crated-store --example mutations`.
//! A mutation that is not caught means that the torture proves less than it says. Names on the command line choose some.

use std::path::Path;
use std::process::{Command, ExitCode};

/// A break of the code, and the test that must notice it.
struct Mutation {
    name: &'static str,
    /// A file below `services/store/src`, what stands there, what shall stand there.
    edits: &'static [[&'static str; 3]],
    /// A part of the test's name.
    test: &'static str,
}

const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "no sync of the log",
        edits: &[["metadata/active.rs", "self.file.sync_data()?;", ""]],
        test: "commit",
    },
    Mutation {
        name: "no sync of the log's folder",
        edits: &[["metadata/active.rs", "sync_folder(folder)?;\n            let beside", "let beside"]],
        test: "commit",
    },
    Mutation {
        name: "a snapshot named too new",
        edits: &[[
            "metadata/writer/upkeep.rs",
            "snapshot::write(&folder, id, revision,",
            "snapshot::write(&folder, id, Revision(revision.0 + 40),",
        ]],
        test: "commit",
    },
    Mutation {
        name: "frames without checksum",
        edits: &[[
            "metadata/frame.rs",
            "checksum(id, &head[4..8], bytes.get(at + 12..at + format.head() + length)?) != crc",
            "bytes.get(at + 12..at + format.head() + length)?.is_empty()",
        ]],
        test: "damage",
    },
    Mutation {
        name: "records without checksum",
        edits: &[[
            "metadata/seal.rs",
            "if checksum(key, revision, &value) == u32_at(sealed, 8) {",
            "if sealed.len() > 1 {",
        ]],
        test: "damage",
    },
    Mutation {
        name: "an index that is not added up",
        edits: &[["metadata/index.rs", "if found != said {", "if found.count > said.count + 1000 {"]],
        test: "damage",
    },
    Mutation {
        name: "damage inside the log is taken for a torn tail",
        edits: &[["metadata/segment.rs", "self.later = Some(", "let _ = Some("]],
        test: "damage",
    },
    Mutation {
        name: "a frame says that all before it was synced",
        edits: &[[
            "metadata/writer.rs",
            "lag: u32::try_from(behind).unwrap_or(u32::MAX)",
            "lag: u32::try_from(behind & 0).unwrap_or(u32::MAX)",
        ]],
        test: "commit",
    },
    Mutation {
        name: "a segment begins before the last one is synced",
        edits: &[[
            "metadata/writer.rs",
            "if let Err(source) = self.shared.sync() {",
            "if let Err(source) = Ok::<(), std::io::Error>(()) {",
        ]],
        test: "commit",
    },
    Mutation {
        name: "layers are not synced",
        edits: &[
            [
                "../../../snapshotters/src/places.rs",
                "rustix::fs::syncfs(&folder)",
                "rustix::fs::fstat(&folder).map(drop)",
            ],
            ["../../image/src/layer/apply.rs", "if options.sync {", "if options.sync && options.limits.bytes == 1 {"],
        ],
        test: "snapshot",
    },
    Mutation {
        name: "nobody asks how far the log reached",
        edits: &[[
            "metadata/recover.rs",
            "let tail = Tail::read(folder)?;",
            "let tail = Tail::read(folder)?.filter(|tail| tail.revision.0 == 0);",
        ]],
        test: "damage",
    },
    Mutation {
        name: "blobs renamed before they are synced",
        edits: &[[
            "content/disk.rs",
            "            file.sync_all()?;\n            std::fs::rename",
            "            std::fs::rename",
        ]],
        test: "blob",
    },
    Mutation {
        name: "blobs in a folder that is not synced",
        edits: &[[
            "content/disk.rs",
            "sync(&self.blobs(digest.algorithm()))\n        };\n        publish()",
            "Ok(())\n        };\n        publish()",
        ]],
        test: "blob",
    },
    Mutation {
        name: "ingests believed without their digest",
        edits: &[[
            "content/ingest.rs",
            "Some(wanted) if wanted != digest => {",
            "Some(wanted) if wanted != digest && wanted.hex().is_empty() => {",
        ]],
        test: "blob",
    },
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
    for Mutation { name, edits, test } in MUTATIONS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let mut whole = Vec::new();
        for [file, from, to] in *edits {
            let path = copy.join("services/store/src").join(file);
            let text = std::fs::read_to_string(&path)?;
            if !text.contains(from) {
                println!("{name}: {file} has changed, the mutation must follow");
                missed += 1;
            }
            std::fs::write(&path, text.replace(from, to))?;
            whole.push((path, text));
        }
        let (passed, output) = torture(copy, test)?;
        for (path, text) in whole {
            std::fs::write(&path, text)?;
        }
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
