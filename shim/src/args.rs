//! The command line, in the way of Go's flag package: `-key value`, `-key=value`, `--key`, then the action.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Serve on the inherited socket, started by `start`.
    Serve,
    /// Serve on the inherited socket, started by crated's daemon.
    ServeOwn,
    /// Start a server, or find the one of the group; print its address.
    Start,
    /// Remove what a dead shim left.
    Delete,
    /// Print what this runtime can do.
    Info,
    /// Print the version.
    Version,
    /// Become a logging program (internal).
    Logger,
}

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// The daemon's gRPC socket.
    pub(crate) address: String,
    pub(crate) publish_binary: String,
    pub(crate) bundle: PathBuf,
    pub(crate) debug: bool,
    pub(crate) action: Action,
    /// Words after the action.
    pub(crate) rest: Vec<OsString>,
}

/// Why a command line is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Args {
    /// Parses what follows the program's name.
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, Refused> {
        let mut args = Self {
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: String::new(),
            bundle: PathBuf::new(),
            debug: false,
            action: Action::Serve,
            rest: Vec::new(),
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let text = word.to_str().ok_or_else(|| Refused(format!("{word:?} is not text")))?;
            let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
                args.action = action(text)?;
                args.rest = words.collect();
                break;
            };
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
            args.flag(name, value, &mut words)?;
        }
        Ok(args)
    }

    fn flag(
        &mut self,
        name: &str,
        value: Option<String>,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Refused> {
        match name {
            "debug" => self.debug = value.is_none_or(|value| value != "false"),
            "info" => self.action = Action::Info,
            "v" | "version" => self.action = Action::Version,
            "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" | "sched-core" => {
                let value = match value {
                    Some(value) => value,
                    None => words
                        .next()
                        .and_then(|word| word.into_string().ok())
                        .ok_or_else(|| Refused(format!("flag -{name} needs a value")))?,
                };
                match name {
                    "namespace" => self.namespace = value,
                    "id" => self.id = value,
                    "address" => self.address = value,
                    "publish-binary" => self.publish_binary = value,
                    "bundle" => self.bundle = value.into(),
                    _ => {}
                }
            }
            _ => return Err(Refused(format!("flag -{name} is not known"))),
        }
        Ok(())
    }
}

fn action(word: &str) -> Result<Action, Refused> {
    Ok(match word {
        "start" => Action::Start,
        "delete" => Action::Delete,
        "serve" => Action::ServeOwn,
        "logger" => Action::Logger,
        _ => return Err(Refused(format!("action {word:?} is not known: start, delete, serve"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, Refused> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_command_lines_are_understood() {
        let args = parse("-namespace ns -address /a.sock -publish-binary /bin/c -id c1 -debug start").unwrap();
        assert_eq!((args.namespace.as_str(), args.address.as_str(), args.id.as_str()), ("ns", "/a.sock", "c1"));
        assert_eq!((args.publish_binary.as_str(), args.debug, args.action), ("/bin/c", true, Action::Start));
        let args = parse("--namespace=ns -id=c1 -bundle /b delete").unwrap();
        assert_eq!((args.bundle, args.action), (PathBuf::from("/b"), Action::Delete));
        assert_eq!(parse("-namespace ns -id c").unwrap().action, Action::Serve);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(parse("-bogus").unwrap_err().to_string(), "flag -bogus is not known");
        assert_eq!(parse("-id").unwrap_err().to_string(), "flag -id needs a value");
        assert!(parse("stop").is_err());
    }
}
