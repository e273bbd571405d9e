//! Environment and arguments of a process.

use crated_types::{Error, Result};

/// `PATH` of an image that sets none (docker's).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
pub(crate) const HOME: &str = "HOME";

/// Puts `more` over `env`: a key that is there keeps its place and gets the new value, a bare `KEY` removes it.
///
/// # Errors
/// [`crated_types::Fault::Invalid`] for an empty key or a NUL.
pub fn merge_env(env: &mut Vec<String>, more: &[String]) -> Result<()> {
    for entry in more {
        let (key, value) = match entry.split_once('=') {
            Some((key, _)) => (key, true),
            None => (entry.as_str(), false),
        };
        if key.is_empty() || entry.contains('\0') {
            return Err(Error::invalid("env", format_args!("{entry:?} is not KEY=VALUE")));
        }
        let at = env.iter().position(|held| held.split_once('=').map_or(held.as_str(), |(key, _)| key) == key);
        match (at, value) {
            (Some(at), true) => env[at] = entry.clone(),
            (None, true) => env.push(entry.clone()),
            (Some(at), false) => drop(env.remove(at)),
            (None, false) => {}
        }
    }
    Ok(())
}

/// The command line: entrypoint then arguments, each the caller's where given, else the image's. A caller's entrypoint drops
/// the image's arguments (docker's rule).
///
/// # Errors
/// [`crated_types::Fault::Invalid`] where nothing is left to run.
pub fn resolve_args(
    image_entrypoint: &[String],
    image_cmd: &[String],
    entrypoint: Option<&[String]>,
    args: &[String],
) -> Result<Vec<String>> {
    let (first, default) = match entrypoint {
        // docker run --entrypoint "" clears it.
        Some([]) => (&[][..], &[][..]),
        Some([only]) if only.is_empty() => (&[][..], &[][..]),
        Some(entrypoint) => (entrypoint, &[][..]),
        None => (image_entrypoint, image_cmd),
    };
    let rest = if args.is_empty() { default } else { args };
    let line: Vec<String> = first.iter().chain(rest).cloned().collect();
    if line.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("args", "no command was given, and the image has none")
            .remedy_is("name a command behind the image"));
    }
    check_args(&line)?;
    Ok(line)
}

pub(crate) fn check_args(args: &[String]) -> Result<()> {
    match args.iter().find(|arg| arg.contains('\0')) {
        Some(arg) => Err(Error::invalid("args", format_args!("{arg:?} has a NUL inside"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn command_lines_are_merged_as_docker_does() {
        let line = |entrypoint: Option<&str>, args: &str| {
            let entrypoint = entrypoint.map(list);
            resolve_args(&list("/e -x"), &list("c d"), entrypoint.as_deref(), &list(args)).map(|line| line.join(" "))
        };
        assert_eq!(line(None, "").unwrap(), "/e -x c d");
        assert_eq!(line(None, "a").unwrap(), "/e -x a");
        assert_eq!(line(Some("/n"), "").unwrap(), "/n");
        assert_eq!(line(Some("/n"), "a b").unwrap(), "/n a b");
        assert_eq!(line(Some(""), "a").unwrap(), "a");
        assert!(line(Some(""), "").is_err());
        assert_eq!(resolve_args(&[], &[], Some(&[String::new()]), &list("a")).unwrap(), ["a"]);
        assert!(resolve_args(&[], &[], None, &[]).is_err());
        assert!(resolve_args(&[], &list("a"), None, &["x\0".into()]).is_err());
    }

    #[test]
    fn later_entries_win_in_place() {
        let mut env = list("A=1 B=2 C");
        merge_env(&mut env, &list("B=3 D=4 A C=5 Z")).unwrap();
        assert_eq!(env, ["B=3", "C=5", "D=4"]);
        assert!(merge_env(&mut env, &["=x".into()]).is_err());
        assert!(merge_env(&mut env, &["A=\0".into()]).is_err());
    }

    proptest! {
        #[test]
        fn each_key_is_there_once_with_its_last_value(entries in prop::collection::vec("[A-C]=[0-9]{0,2}", 0..12)) {
            let mut env = Vec::new();
            merge_env(&mut env, &entries).unwrap();
            let last: std::collections::BTreeMap<_, _> =
                entries.iter().map(|entry| (entry.split_once('=').unwrap().0, entry)).collect();
            prop_assert_eq!(env.len(), last.len());
            prop_assert!(last.values().all(|entry| env.contains(entry)));
        }
    }
}
