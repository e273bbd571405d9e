//! `WWW-Authenticate`: what a registry wants of a caller (RFC 9110 §11.6.1).

use std::collections::BTreeMap;

/// One challenge: a scheme in lower case, and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Challenge {
    /// Every challenge of a header; what cannot be read is skipped.
    pub(crate) fn parse(header: &str) -> Vec<Self> {
        let mut challenges: Vec<Self> = Vec::new();
        let mut rest = header.trim_start_matches([' ', ',', '\t']);
        while !rest.is_empty() {
            let word_end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(word_end);
            let trimmed = behind.trim_start();
            if let Some(value) = trimmed.strip_prefix('=')
                && let Some(challenge) = challenges.last_mut()
                && !word.is_empty()
            {
                let (value, behind) = parameter(value.trim_start());
                challenge.parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                rest = behind;
            } else if !word.is_empty() {
                challenges.push(Self { scheme: word.to_ascii_lowercase(), parameters: BTreeMap::new() });
                rest = behind;
            } else {
                rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
            }
            rest = rest.trim_start_matches([' ', ',', '\t']);
        }
        challenges
    }
}

/// A token or a quoted string, and what follows.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[index + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read() {
        let all = Challenge::parse(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push", Basic realm="x \"y\"""#,
        );
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].parameters["realm"], "https://auth.docker.io/token");
        assert_eq!(all[0].parameters["scope"], "repository:a/b:pull,push");
        assert_eq!(all[1].scheme, "basic");
        assert_eq!(all[1].parameters["realm"], r#"x "y""#);
        assert_eq!(Challenge::parse("Basic").len(), 1);
        assert_eq!(Challenge::parse("Bearer realm=http://x/t , service=s")[0].parameters["service"], "s");
        assert!(Challenge::parse(" , =").is_empty());
    }

    proptest! {
        #[test]
        fn any_header_ends(text in "\\PC{0,80}") {
            let _ = Challenge::parse(&text);
        }

        #[test]
        fn soup_ends(text in "[a=\", \\\\]{0,40}") {
            let _ = Challenge::parse(&text);
        }
    }
}
