//! Flags as Go programs take them: `--name value`, `--name=value`, `-name`, one-letter names.

use crate::error::{OciError, Result};

/// A flag that a command knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    name: &'static str,
    letter: Option<char>,
    takes_value: bool,
}

impl Flag {
    pub(crate) const fn value(name: &'static str) -> Flag {
        Flag { name, letter: None, takes_value: true }
    }
    pub(crate) const fn value_short(name: &'static str, letter: char) -> Flag {
        Flag { name, letter: Some(letter), takes_value: true }
    }
    pub(crate) const fn switch(name: &'static str) -> Flag {
        Flag { name, letter: None, takes_value: false }
    }
    pub(crate) const fn short(name: &'static str, letter: char) -> Flag {
        Flag { name, letter: Some(letter), takes_value: false }
    }
}

/// Where flags end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// At the first word that is none.
    AtFirst,
    /// At `--` only.
    AtDashes,
    /// Behind this many words that are none.
    After(usize),
}

/// Flags and words.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    flags: Vec<(&'static str, String)>,
    pub(crate) rest: Vec<String>,
}

impl Parsed {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != "false")
    }
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(n, _)| *n == name).map(|(_, v)| v.as_str())
    }
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |v: &str| v.parse().map_err(|_| OciError::spec(format!("--{name}"), format!("{v:?} is no number")));
        self.get(name).map(parse).transpose()
    }
}

/// Parses words against the flags of a command.
pub(crate) fn parse(words: &[String], flags: &[Flag], stop: Stop) -> Result<Parsed> {
    let mut parsed = Parsed::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.rest.extend(words.cloned());
            break;
        }
        let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|n| !n.is_empty()) else {
            parsed.rest.push(word.clone());
            if stop == Stop::AtFirst || matches!(stop, Stop::After(n) if parsed.rest.len() >= n) {
                parsed.rest.extend(words.cloned());
                break;
            }
            continue;
        };
        let (name, given) = name.split_once('=').map_or((name, None), |(n, v)| (n, Some(v.to_owned())));
        let letter = |f: &&Flag| f.letter.is_some_and(|l| name.len() == 1 && name.starts_with(l));
        let flag = flags.iter().find(|f| f.name == name).or_else(|| flags.iter().find(letter));
        let flag = flag.ok_or_else(|| OciError::spec(word.clone(), "unknown flag; see crated-oci --help"))?;
        let value = match given {
            Some(value) => value,
            None if flag.takes_value => {
                words.next().cloned().ok_or_else(|| OciError::spec(word.clone(), "a value is missing"))?
            }
            None => "true".to_owned(),
        };
        parsed.flags.push((flag.name, value));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[Flag::value_short("bundle", 'b'), Flag::short("all", 'a'), Flag::value("env")];

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn all_spellings() {
        for text in ["--bundle /b -a id", "-b /b --all id", "--bundle=/b -all id", "id -bundle /b --all=true"] {
            let p = parse(&words(text), FLAGS, Stop::AtDashes).unwrap();
            assert_eq!(
                (p.get("bundle"), p.has("all"), p.rest.as_slice()),
                (Some("/b"), true, ["id".to_owned()].as_slice()),
                "{text}"
            );
        }
        let p = parse(&words("--env A=1 --env B=2 id sh -b x"), FLAGS, Stop::AtFirst).unwrap();
        assert_eq!(p.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(p.rest, ["id", "sh", "-b", "x"]);
        assert!(
            parse(&words("--nope"), FLAGS, Stop::AtFirst).is_err()
                && parse(&words("--bundle"), FLAGS, Stop::AtFirst).is_err()
        );
        assert!(!parse(&words("--all=false"), FLAGS, Stop::AtFirst).unwrap().has("all"));
    }
}
