//! Image references, normalised as docker does: `bb:1` is `docker.io/library/bb:1`.
//!
//! The grammar is the one of the distribution project: `[domain[:port]/]path[:tag][@digest]`. The first component is a domain
//! only where it holds a dot or a colon, is `localhost`, or has an upper-case letter; all else is a path on docker.io.

use crate::digest::Digest;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The domain of references that name none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of references that have neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest path, in bytes.
pub const PATH_MAX: usize = 255;
/// Longest tag, in bytes.
pub const TAG_MAX: usize = 128;
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library";
/// Longest text that is worth a look: domain, path, tag and a SHA-512 digest.
const TEXT_MAX: usize = 1024;

/// A whole image reference: domain, path, and a tag or a digest or both.
///
/// ```
/// # use crated_types::Reference;
/// let reference = Reference::parse("bb:1")?;
/// assert_eq!(reference.to_string(), "docker.io/library/bb:1");
/// assert_eq!(reference.name(), "docker.io/library/bb");
/// assert_eq!(reference.familiar(), "bb:1");
/// assert_eq!(Reference::parse("localhost:5000/a/b")?.to_string(), "localhost:5000/a/b:latest");
/// assert!(Reference::parse("Busy:1").is_err());
/// # Ok::<(), crated_types::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads what a person types. Where it has neither tag nor digest the tag is `latest`.
    ///
    /// # Errors
    /// [`crate::Fault::Invalid`] that says which part breaks which rule.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reference = Self::parse_bare(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.into());
        }
        Ok(reference)
    }

    /// As [`Reference::parse`], but without a default tag: for names of repositories and for prefixes.
    ///
    /// # Errors
    /// As [`Reference::parse`].
    pub fn parse_bare(text: &str) -> Result<Self> {
        let bad = |reason: String| {
            let shown: String = text.chars().take(128).collect();
            Error::invalid("reference", format_args!("{shown:?} is no image reference: {reason}"))
        };
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        if text.len() > TEXT_MAX {
            return Err(bad(format!("it has {} bytes, {TEXT_MAX} are the most", text.len())));
        }
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("64 hexadecimal digits are an image's id, not a name".into()));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => (
                rest,
                Some(digest.parse::<Digest>().map_err(|_| {
                    bad(format!("digest {digest:?} is not sha256:<64 hex digits> or sha512:<128 hex digits>"))
                })?),
            ),
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag {
            check_tag(tag).map_err(bad)?;
        }
        let (domain, path) = split_domain(name);
        check_domain(domain).map_err(bad)?;
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') && !path.is_empty() {
            format!("{OFFICIAL}/{path}")
        } else {
            path.to_owned()
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(bad(format!(
                "the repository's name must be lower case: did you mean {:?}?",
                lowered(text, name)
            )));
        }
        check_path(&path).map_err(bad)?;
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry's domain with its port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path on its registry: `library/bb`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/bb`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// What a registry is asked for: the digest where there is one, else the tag.
    #[must_use]
    pub fn object(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The shortest text that means the same: `bb:1` for `docker.io/library/bb:1`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.suffix(&mut text);
        text
    }

    /// The shortest name that means the same, without tag and digest.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        let short = match self.path.split_once('/') {
            Some((OFFICIAL, last)) if !last.contains('/') => last,
            _ => &self.path,
        };
        // `docker.io/a.b/c` must not become `a.b/c`, which is another registry.
        if split_domain(short).0 == DEFAULT_DOMAIN { short.to_owned() } else { self.name() }
    }

    /// The same name with `tag` and no digest.
    ///
    /// # Errors
    /// [`crate::Fault::Invalid`] where it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        check_tag(tag).map_err(|reason| Error::invalid("reference", reason))?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name and tag, pinned to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    fn suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.suffix(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Name and tag: the last colon starts a tag unless a slash follows it (then it starts a port).
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// Domain and path of a name, by docker's rule.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

/// `text` with its repository's name in lower case, but neither domain nor tag.
fn lowered(text: &str, name: &str) -> String {
    let (domain, _) = split_domain(name);
    let kept = if name.starts_with(domain) { domain.len() } else { 0 };
    format!("{}{}{}", &name[..kept], name[kept..].to_ascii_lowercase(), &text[name.len()..])
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if tag.is_empty() {
        return Err("the tag behind the colon is empty".into());
    }
    if tag.len() > TAG_MAX {
        return Err(format!("the tag has {} bytes, {TAG_MAX} are the most", tag.len()));
    }
    let bytes = tag.as_bytes();
    if !word(bytes[0]) || !bytes.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-')) {
        return Err(format!("tag {tag:?} must match [A-Za-z0-9_][A-Za-z0-9_.-]*"));
    }
    Ok(())
}

fn check_domain(domain: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("registry {domain:?} {why}"));
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((inside, rest)) = rest.split_once(']') else { return bad("has no ]") };
        if inside.parse::<std::net::Ipv6Addr>().is_err() {
            return bad("is no IPv6 address in brackets");
        }
        match rest {
            "" => ("", None),
            _ => match rest.strip_prefix(':') {
                Some(port) => ("", Some(port)),
                None => return bad("has something other than a port behind ]"),
            },
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    if let Some(port) = port
        && (!port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return bad("has a port that is no number from 0 to 65535");
    }
    if domain.starts_with('[') {
        return Ok(());
    }
    if host.len() > 253 {
        return bad("is longer than 253 bytes");
    }
    for part in host.split('.') {
        let bytes = part.as_bytes();
        let good = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes.first().is_some_and(|byte| *byte != b'-')
            && bytes.last().is_some_and(|byte| *byte != b'-');
        if !good {
            return bad("must be letters, digits, inner dashes and single dots");
        }
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the repository name is empty".into());
    }
    if path.len() > PATH_MAX {
        return Err(format!("the repository name has {} bytes, {PATH_MAX} are the most", path.len()));
    }
    if let Some(part) = path.split('/').find(|part| !is_component(part)) {
        return Err(format!(
            "part {part:?} of repository name {path:?} must be lower-case letters and digits, joined by '.', '_', '__' or dashes"
        ));
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|byte| plain(*byte)) || !bytes.last().is_some_and(|byte| plain(*byte)) {
        return false;
    }
    bytes
        .split(|byte| plain(*byte))
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{HEX}");
        for (text, full, familiar) in [
            ("bb", "docker.io/library/bb:latest", "bb:latest"),
            ("bb:1", "docker.io/library/bb:1", "bb:1"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("docker.io/bb", "docker.io/library/bb:latest", "bb:latest"),
            ("index.docker.io/bb", "docker.io/library/bb:latest", "bb:latest"),
            ("docker.io/library/bb:2", "docker.io/library/bb:2", "bb:2"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("localhost:5000/a:x_Y-1.z", "localhost:5000/a:x_Y-1.z", "localhost:5000/a:x_Y-1.z"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("127.0.0.1:80/a/b__c/d--e", "127.0.0.1:80/a/b__c/d--e:latest", "127.0.0.1:80/a/b__c/d--e:latest"),
            ("UPPER/a", "UPPER/a:latest", "UPPER/a:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("a:5000", "docker.io/library/a:5000", "a:5000"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
        }
        let pinned = Reference::parse(&format!("a@{digest}")).unwrap();
        assert_eq!((pinned.tag(), pinned.object()), (None, digest.as_str()));
        let both = Reference::parse(&format!("a:1@{digest}")).unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/a:1@{digest}"));
        assert_eq!(both.object(), digest);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let long = "a".repeat(300);
        let tag = format!("a:{}", "t".repeat(129));
        for (text, part) in [
            ("", "empty"),
            (HEX, "id"),
            ("Busy:V1", r#"did you mean "busy:V1""#),
            ("HOST/a/B", r#"did you mean "HOST/a/b""#),
            (&long, "255"),
            (&tag, "128"),
            ("a:", "tag"),
            ("a:-x", "tag"),
            ("a@sha256:12", "digest"),
            ("a@md5:0", "digest"),
            ("a//b", "part \"\""),
            ("/a", "part \"\""),
            ("a/", "part \"\""),
            ("a..b", "part"),
            ("a___b", "part"),
            ("-a", "part"),
            ("../x", "registry"),
            ("a b", "part"),
            ("localhost:99999/a", "port"),
            ("-x.y/a", "registry"),
            ("[::g]/a", "IPv6"),
            ("https://a.b/c", "registry"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_again(text in "\\PC{0,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn likely_names_too(text in "([a-zA-Z0-9.:-]{1,8}/)?[a-z0-9._/-]{1,20}(:[a-zA-Z0-9_.-]{1,8})?") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}
