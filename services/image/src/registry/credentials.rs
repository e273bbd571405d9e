//! Credentials: given by the caller, or those of docker's `config.json` and its helper programs.

use crated_types::{Error, Fault, Kind, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest config.json and longest answer of a helper, in bytes.
const FILE_MAX: u64 = 1 << 20;
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// What proves who we are to one registry. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// A name and a password.
    Basic {
        /// The user.
        username: String,
        /// The password or access token.
        password: String,
    },
    /// An OAuth2 refresh token (`identitytoken`).
    Identity(String),
    /// A bearer token that is sent as it is (`registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Self::Identity(_) => f.write_str("Identity(…)"),
            Self::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigFile {
    auths: Option<BTreeMap<String, Auth>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What docker's `config.json` at `path` holds for the repository `repository` (`library/bb`) of `host`, and where it came from.
///
/// # Errors
/// [`Fault::Malformed`] where the file or a helper's answer cannot be read; a missing file or entry is `None`.
pub(crate) async fn lookup(path: &Path, host: &str, repository: &str) -> Result<Option<(Credentials, String)>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let owned = path.to_owned();
    let bytes = match crate::blocking(move || crate::read_file(&owned, FILE_MAX)).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let file: ConfigFile = serde_json::from_slice(&bytes).map_err(|error| {
        // serde_json names line and column, never the text: secrets stay out of the message.
        bad_file(path, format!("not docker's config.json: {:?} at line {}", error.classify(), error.line()))
    })?;
    let mut wanted = vec![host];
    if matches!(host, "registry-1.docker.io" | "docker.io" | "index.docker.io") {
        wanted = vec!["index.docker.io", "docker.io", "registry-1.docker.io"];
    }
    for name in &wanted {
        let helper = file.cred_helpers.iter().flatten().find(|(key, _)| normal(key) == *name);
        if let Some((server, helper)) = helper
            && let Some(credentials) = run_helper(helper, server).await?
        {
            return Ok(Some((credentials, format!("credential helper {helper:?}"))));
        }
    }
    if let Some((key, auth)) = best(file.auths.as_ref(), &wanted, repository)
        && let Some(credentials) = auth.credentials().map_err(|why| bad_file(path, format!("entry {key:?}: {why}")))?
    {
        return Ok(Some((credentials, format!("{} (entry {key:?})", path.display()))));
    }
    if let Some(helper) = file.creds_store.as_deref().filter(|helper| !helper.is_empty()) {
        let server = if wanted.len() > 1 { "https://index.docker.io/v1/" } else { host };
        if let Some(credentials) = run_helper(helper, server).await? {
            return Ok(Some((credentials, format!("credential helper {helper:?}"))));
        }
    }
    Ok(None)
}

fn bad_file(path: &Path, why: String) -> Error {
    Error::new(Fault::Malformed, why).on(Kind::File, path.display()).remedy_is("`docker login` writes a good one")
}

/// The entry with the longest path in front of `repository`: `host` or, as podman writes them, `host/path`.
fn best<'a>(
    auths: Option<&'a BTreeMap<String, Auth>>,
    wanted: &[&str],
    repository: &str,
) -> Option<(&'a String, &'a Auth)> {
    let mut found: Option<(usize, &String, &Auth)> = None;
    for (key, auth) in auths.into_iter().flatten() {
        let normal = normal(key);
        let (host, path) = normal.split_once('/').unwrap_or((normal, ""));
        let fits = path.is_empty()
            || repository == path
            || repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        if wanted.contains(&host) && fits && found.is_none_or(|(length, ..)| path.len() > length) {
            found = Some((path.len(), key, auth));
        }
    }
    found.map(|(_, key, auth)| (key, auth))
}

/// A key without scheme, `/v1/` or `/v2/`.
fn normal(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

impl Auth {
    fn credentials(&self) -> Result<Option<Credentials>, &'static str> {
        use base64::Engine;
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Bearer(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok((!username.is_empty()).then_some(Credentials::Basic { username, password }));
        }
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).map_err(|_| "auth is not base64")?;
        let text = String::from_utf8(bytes).map_err(|_| "auth is not UTF-8")?;
        let (username, password) = text.split_once(':').ok_or("auth is not the base64 of name:password")?;
        let password = password.trim_end_matches('\0');
        Ok(Some(Credentials::Basic { username: username.into(), password: password.into() }))
    }
}

/// Asks `docker-credential-<helper> get`.
async fn run_helper(helper: &str, server: &str) -> Result<Option<Credentials>> {
    let failed = |why: String| {
        Error::new(Fault::Unauthenticated, format!("credential helper {helper:?} for {server}: {why}"))
            .remedy_is(format!("run `echo {server} | docker-credential-{helper} get` as the daemon's user"))
    };
    if helper.is_empty() || !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(failed("its name may have letters, digits, '.', '_' and '-' only".into()));
    }
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let talk = async {
        let mut input = child.stdin.take().expect("stdin was asked for");
        let output = child.stdout.take().expect("stdout was asked for");
        let _ = input.write_all(server.as_bytes()).await; // a helper that does not read shows in its answer
        drop(input);
        let mut bytes = Vec::new();
        output.take(FILE_MAX).read_to_end(&mut bytes).await?;
        let status = child.wait().await?;
        Ok::<_, std::io::Error>((bytes, status))
    };
    let (bytes, status) = tokio::time::timeout(HELPER_TIMEOUT, talk)
        .await
        .map_err(|_| failed(format!("no answer in {} s", HELPER_TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("{status}")));
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let answer: Answer =
        serde_json::from_slice(&bytes).map_err(|_| failed("its answer is not the JSON that it should be".into()))?;
    Ok(match answer.username.as_str() {
        "" => None,
        "<token>" => Some(Credentials::Identity(answer.secret)),
        _ => Some(Credentials::Basic { username: answer.username, password: answer.secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find(text: &str, host: &str, repository: &str) -> Result<Option<Credentials>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Ok(lookup(file.path(), host, repository).await?.map(|(credentials, _)| credentials))
    }

    fn basic(username: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic { username: username.into(), password: password.into() })
    }

    #[tokio::test]
    async fn entries_are_found_by_host_and_path() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpwOnc="},
            "localhost:5000": {"username": "a", "password": "b"},
            "quay.io/team": {"username": "team", "password": "t"},
            "quay.io": {"identitytoken": "tok"},
            "http://x.test/v2/": {"registrytoken": "raw"},
            "empty.test": {}
        }}"#;
        assert_eq!(find(text, "registry-1.docker.io", "library/a").await.unwrap(), basic("u", "p:w"));
        assert_eq!(find(text, "localhost:5000", "a").await.unwrap(), basic("a", "b"));
        assert_eq!(find(text, "localhost", "a").await.unwrap(), None);
        assert_eq!(find(text, "quay.io", "team/x").await.unwrap(), basic("team", "t"));
        assert_eq!(find(text, "quay.io", "teamx").await.unwrap(), Some(Credentials::Identity("tok".into())));
        assert_eq!(find(text, "x.test", "y").await.unwrap(), Some(Credentials::Bearer("raw".into())));
        assert_eq!(find(text, "empty.test", "y").await.unwrap(), None);
        assert_eq!(lookup(Path::new("/nowhere/config.json"), "a", "b").await.unwrap(), None);
    }

    #[tokio::test]
    async fn secrets_stay_out_of_messages() {
        let error = find(r#"{"auths": {"a": {"auth": "c2VjcmV0"}}}"#, "a", "b").await.unwrap_err();
        assert!(!format!("{error:?}").contains("c2VjcmV0"), "{error}");
        let error = find(r#"{"auths": {"a": "hush""#, "a", "b").await.unwrap_err();
        assert!(!format!("{error:?}").contains("hush"), "{error}");
        assert!(!format!("{:?}", basic("u", "hush")).contains("hush"));
        let error = find(r#"{"credHelpers": {"a": "../x"}}"#, "a", "b").await.unwrap_err();
        assert_eq!(error.fault(), Fault::Unauthenticated);
    }
}
