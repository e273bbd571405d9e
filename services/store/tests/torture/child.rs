//! Child processes: this program once more, with a role. A child that checks says its verdict in one line.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{content, metadata, unpack};

const ROLE: &str = "TORTURE_ROLE";
const FOLDER: &str = "TORTURE_FOLDER";
const ACKS: &str = "TORTURE_ACKS";
const VERDICT: &str = "VERDICT ";

/// How a check ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything that was acknowledged is there.
    Good(String),
    /// The store says that it is damaged.
    Refused(String),
    /// Anything else.
    Wrong(String),
}

/// The command of a child.
pub(crate) fn command(role: &str, folder: &Path, acks: &Path) -> Command {
    with_role(Command::new(std::env::current_exe().unwrap()), role, folder, acks)
}

/// The command of a child that runs under another program.
pub(crate) fn under(mut other: Command, role: &str, folder: &Path, acks: &Path) -> Command {
    other.arg(std::env::current_exe().unwrap());
    with_role(other, role, folder, acks)
}

fn with_role(mut command: Command, role: &str, folder: &Path, acks: &Path) -> Command {
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env(ROLE, role).env(FOLDER, folder).env(ACKS, acks);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a child that checks.
pub(crate) fn verdict(child: Child) -> Verdict {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().find_map(|line| line.split_once(VERDICT)).map(|(_, said)| said.to_owned());
    match said.as_deref().and_then(|said| said.split_once(' ')) {
        Some(("good", note)) if output.status.success() => Verdict::Good(note.into()),
        Some(("refused", why)) if output.status.success() => Verdict::Refused(why.into()),
        Some((_, why)) => Verdict::Wrong(why.into()),
        None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let end = errors.lines().find(|line| line.contains("panicked")).unwrap_or_default();
            Verdict::Wrong(format!("no verdict: {} {end}", output.status))
        }
    }
}

/// The child's `main`.
pub(crate) fn run() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let (folder, acks) = (path(FOLDER), path(ACKS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let watched = role.to_str().unwrap().starts_with("check");
    if watched {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(60));
            say("hung for a minute");
            std::process::exit(1);
        });
    }
    let verdict = match role.to_str().unwrap() {
        "write-metadata" => return runtime.block_on(metadata::write(&folder, &acks)),
        "write-images" => return runtime.block_on(unpack::write(&folder, &acks)),
        "write-content" => return runtime.block_on(content::write(&folder, &acks)),
        "check-metadata" | "check-damage" => runtime.block_on(metadata::check(&folder, &acks)),
        "check-images" => runtime.block_on(unpack::check(&folder, &acks)),
        "check-content" => runtime.block_on(content::check(&folder, &acks)),
        other => panic!("no role {other}"),
    };
    match verdict {
        Verdict::Good(note) => say(&format!("good {note}")),
        Verdict::Refused(why) => say(&format!("refused {why}")),
        Verdict::Wrong(why) => say(&format!("wrong {why}")),
    }
}

fn say(text: &str) {
    println!("\n{VERDICT}{}", text.replace('\n', " "));
}
