//! One call of a plugin: its environment, its input, and bounds for its time and words (CNI specification §3, §5).

use super::list::check_owner;
use crated_types::{Error, Fault, Kind, Result};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Longest result, and longest complaint that is kept, in bytes.
const STDOUT_MAX: u64 = 1 << 20;
const STDERR_MAX: u64 = 16 << 10;
/// Characters of a complaint that go into an error.
const SAID_MAX: usize = 600;

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// A call.
#[derive(Debug)]
pub(super) struct Call<'c> {
    pub(super) program: &'c Path,
    pub(super) verb: Verb,
    /// `CNI_…` beside command and path.
    pub(super) env: Vec<(&'static str, String)>,
    pub(super) input: &'c Value,
    pub(super) folders: &'c [PathBuf],
    pub(super) deadline: Duration,
}

/// The program of a plugin: the first of the folders that has it; nobody but root may have written it.
pub(super) fn find(folders: &[PathBuf], kind: &str) -> Result<PathBuf> {
    let program = folders
        .iter()
        .map(|folder| folder.join(kind))
        .find(|program| program.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0));
    let Some(program) = program else {
        let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(Error::new(Fault::NotFound, format!("it is in none of {}", searched.join(", ")))
            .on(Kind::Plugin, kind)
            .remedy_is("install it (Debian: containernetworking-plugins), or set network.cni_plugin_dirs"));
    };
    check_owner(&program)?;
    if let Some(folder) = program.parent() {
        check_owner(folder)?;
    }
    Ok(program)
}

impl Call<'_> {
    /// Runs it to its end; its standard output, as JSON (null where it said nothing).
    pub(super) async fn run(self) -> Result<Value> {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let failed = |fault, what: String| {
            Error::new(fault, format!("CNI {}: {what}", self.verb.name())).on(Kind::Plugin, &name)
        };
        let paths: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        let mut command = Command::new(self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()))
            .env("CNI_COMMAND", self.verb.name())
            .env("CNI_PATH", paths.join(":"))
            .envs(self.env)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = spawn(&mut command)
            .await
            .map_err(|error| failed(Fault::Os, format!("start {}", self.program.display())).caused_by(error))?;
        let group = child.id();
        let input =
            serde_json::to_vec(self.input).map_err(|error| failed(Fault::Internal, "input".into()).caused_by(error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ended = timeout(self.deadline, async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    let _ = stdin.write_all(&input).await; // a plugin need not read it
                }
            };
            let ((), out, err) = tokio::join!(write, bounded(stdout, STDOUT_MAX), bounded(stderr, STDERR_MAX));
            (child.wait().await, out, err)
        })
        .await;
        let Ok((status, out, err)) = ended else {
            // Its own children, too: an IPAM plugin, iptables.
            if let Some(pid) = group.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
            let _ = child.wait().await;
            return Err(failed(Fault::TimedOut, format!("does not end within {:?}", self.deadline))
                .remedy_is("look what it waits for; it was killed"));
        };
        let status = status.map_err(|error| failed(Fault::Os, "wait".into()).caused_by(error))?;
        let said = String::from_utf8_lossy(&err.0);
        let said: String = said.trim().chars().take(SAID_MAX).collect();
        if out.1 {
            return Err(failed(Fault::Malformed, format!("its answer is longer than {STDOUT_MAX} bytes")));
        }
        if !status.success() {
            return Err(complaint(&out.0, &said, &failed, &status.to_string()));
        }
        if out.0.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&out.0)
            .map_err(|error| failed(Fault::Malformed, "its answer is no JSON".into()).caused_by(error))
    }
}

/// Starts it; a program that is being written at this moment is a moment later.
async fn spawn(command: &mut Command) -> std::io::Result<tokio::process::Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 20 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

/// Reads at most `limit` bytes and swallows the rest, so that the plugin can end; says whether there was more.
async fn bounded(from: Option<impl AsyncRead + Unpin>, limit: u64) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let Some(mut from) = from else { return (bytes, false) };
    let _ = (&mut from).take(limit).read_to_end(&mut bytes).await;
    let rest = tokio::io::copy(&mut from, &mut tokio::io::sink()).await.unwrap_or(0);
    (bytes, rest > 0)
}

/// What a plugin that failed says: JSON with code, msg and details (§5), else its standard error.
fn complaint(out: &[u8], said: &str, failed: &dyn Fn(Fault, String) -> Error, status: &str) -> Error {
    let Ok(Value::Object(answer)) = serde_json::from_slice(out) else {
        let words = if said.is_empty() {
            String::from_utf8_lossy(out).trim().chars().take(SAID_MAX).collect()
        } else {
            said.to_owned()
        };
        return failed(Fault::Runtime, format!("ended with {status}: {words}"));
    };
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().trim();
    let code = answer.get("code").and_then(Value::as_u64).unwrap_or(0);
    let fault = match code {
        1 | 2 => Fault::Unsupported,
        3 => Fault::NotFound,
        4 | 6 | 7 => Fault::Invalid,
        11 | 50 | 51 => Fault::NotReady,
        _ => Fault::Runtime,
    };
    let mut words = text("msg").to_owned();
    for more in [text("details"), said] {
        if !more.is_empty() && !words.contains(more) {
            words = format!("{words}: {more}");
        }
    }
    let words: String = words.chars().take(2 * SAID_MAX).collect();
    let error = failed(fault, format!("{words} (code {code})"));
    match code {
        11 => error.remedy_is("try again in a moment"),
        50 | 51 => error.remedy_is("the network is not ready; look at its plugins and their daemons"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(folder: &Path, text: &str) -> PathBuf {
        let program = folder.join("plugin");
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    async fn call(text: &str, deadline: Duration) -> Result<Value> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        plugin(folder.path(), text);
        let folders = [folder.path().to_owned()];
        let program = find(&folders, "plugin")?;
        let input = serde_json::json!({"name": "n"});
        let env = vec![("CNI_CONTAINERID", "c".to_owned())];
        Call { program: &program, verb: Verb::Add, env, input: &input, folders: &folders, deadline }.run().await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_plugin_sees_command_and_input_and_nothing_else() {
        let answer = call(
            r#"printf '{"in":%s,"env":"%s %s %s"}' "$(cat)" "$CNI_COMMAND" "$CNI_CONTAINERID" "$CARGO_MANIFEST_DIR""#,
            LONG,
        );
        assert_eq!(answer.await.unwrap(), serde_json::json!({"in": {"name": "n"}, "env": "ADD c "}));
        assert_eq!(call("cat >/dev/null", LONG).await.unwrap(), Value::Null);
        assert_eq!(call("exec 0<&-; printf 7", LONG).await.unwrap(), serde_json::json!(7), "one that does not read");
    }

    #[tokio::test]
    async fn its_failure_is_told_with_its_words() {
        let error = call(r#"echo oops >&2; echo '{"code":7,"msg":"bad config","details":"no bridge"}'; exit 1"#, LONG)
            .await
            .unwrap_err();
        assert_eq!(error.fault(), Fault::Invalid);
        for word in ["plugin", "ADD", "bad config", "no bridge", "oops", "code 7"] {
            assert!(error.to_string().contains(word), "{word} in {error}");
        }
        let error = call("echo died >&2; exit 3", LONG).await.unwrap_err();
        assert!(error.fault() == Fault::Runtime && error.to_string().contains("died"), "{error}");
        assert_eq!(call("echo nonsense", LONG).await.unwrap_err().fault(), Fault::Malformed);
        assert_eq!(
            call(r#"echo '{"code":11,"msg":"later"}'; exit 1"#, LONG).await.unwrap_err().fault(),
            Fault::NotReady
        );
    }

    #[tokio::test]
    async fn its_time_and_its_words_have_bounds() {
        let error = call("sleep 1000 & sleep 1000", Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(error.fault(), Fault::TimedOut);
        assert_eq!(call("yes", Duration::from_millis(300)).await.unwrap_err().fault(), Fault::TimedOut);
        assert_eq!(call("head -c 3000000 /dev/zero", LONG).await.unwrap_err().fault(), Fault::Malformed);
    }

    #[test]
    fn a_program_that_others_may_write_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let folders = [folder.path().to_owned()];
        assert_eq!(find(&folders, "plugin").unwrap_err().fault(), Fault::NotFound);
        let program = plugin(folder.path(), "");
        assert_eq!(find(&folders, "plugin").unwrap(), program);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o757)).unwrap();
        assert_eq!(find(&folders, "plugin").unwrap_err().fault(), Fault::Denied);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(find(&folders, "plugin").unwrap_err().fault(), Fault::Denied);
    }
}
