//! Addresses of standard streams: a path, `file://`, `binary://`, `binary-v2://`, or our own `crated://`.

use crated_types::{Error, Fault, Result};
use std::time::Duration;

/// What an address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/dev/null`.
    Null,
    /// A FIFO that the client made (or any file).
    Path(String),
    /// A file, appended to; both streams.
    File(String),
    /// A logging program.
    Binary(Program),
    /// The shim's own log and attach socket.
    Own(Own),
}

/// A logging program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: String,
    pub(crate) arguments: Vec<String>,
    /// It writes a byte when it is ready; the first version may just close the pipe.
    pub(crate) says_ready: bool,
}

/// What `crated://PATH?max-size=10m&max-file=3&stdin=once&hold=5000` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// The log; empty for none.
    pub(crate) log: String,
    /// Bytes of one log file; 0 without a limit.
    pub(crate) max_size: u64,
    /// Log files, the live one too; at least 1.
    pub(crate) max_files: u32,
    pub(crate) stdin: Stdin,
    /// How long output may wait for a first client before it is taken without one (given in milliseconds).
    pub(crate) hold: Duration,
}

/// When standard input ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// When a client closes it.
    #[default]
    Open,
    /// Also when the client that wrote it goes.
    Once,
    /// At once: `/dev/null`.
    None,
}

impl Target {
    /// Understands an address.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a value that is none, [`Fault::Unsupported`] for an unknown scheme.
    pub(crate) fn parse(address: &str) -> Result<Self> {
        let Some((scheme, rest)) = address.split_once("://") else {
            return Ok(if address.is_empty() { Self::Null } else { Self::Path(address.to_owned()) });
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path)?;
        let pairs = || -> Result<Vec<(String, String)>> {
            let pairs = query.split('&').filter(|pair| !pair.is_empty());
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Ok((decode(key)?, decode(value)?))
                })
                .collect()
        };
        match scheme {
            "fifo" => Ok(Self::Path(path)),
            "file" => Ok(Self::File(path)),
            "binary" | "binary-v2" => {
                let mut arguments = Vec::new();
                for (key, value) in pairs()? {
                    arguments.push(key);
                    if !value.is_empty() {
                        arguments.push(value);
                    }
                }
                Ok(Self::Binary(Program { path, arguments, says_ready: scheme == "binary-v2" }))
            }
            "crated" => {
                let mut own = Own { log: path, max_files: 1, ..Own::default() };
                for (key, value) in pairs()? {
                    own.set(&key, &value)?;
                }
                Ok(Self::Own(own))
            }
            _ => Err(Error::new(Fault::Unsupported, format!("standard streams: unknown scheme {scheme:?}"))),
        }
    }
}

impl Own {
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let bad = || Error::invalid("stdout", format_args!("{key}={value:?} is not understood"));
        match key {
            "max-size" => self.max_size = bytes(value).ok_or_else(bad)?,
            "hold" => self.hold = value.parse().map(Duration::from_millis).map_err(|_| bad())?,
            "max-file" => self.max_files = value.parse().ok().filter(|files| *files > 0).ok_or_else(bad)?,
            "stdin" => {
                self.stdin = match value {
                    "open" | "" => Stdin::Open,
                    "once" => Stdin::Once,
                    "none" => Stdin::None,
                    _ => return Err(bad()),
                }
            }
            _ => return Err(bad()),
        }
        Ok(())
    }
}

/// `10m`, `512k`, `1g`, `4096`, `-1` and nothing for no limit.
fn bytes(text: &str) -> Option<u64> {
    if text.is_empty() || text == "-1" {
        return Some(0);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, unit) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1 << 10),
        b'm' => (&lower[..lower.len() - 1], 1 << 20),
        b'g' => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Takes percent escapes out.
fn decode(text: &str) -> Result<String> {
    let bad = || Error::invalid("stdio", format_args!("{text:?} has a broken % escape"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| (byte as char).to_digit(16));
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood() {
        assert_eq!(Target::parse("").unwrap(), Target::Null);
        assert_eq!(Target::parse("/run/f").unwrap(), Target::Path("/run/f".into()));
        assert_eq!(Target::parse("file:///a%20b").unwrap(), Target::File("/a b".into()));
        let program =
            Program { path: "/p".into(), arguments: ["k", "v", "x"].map(String::from).into(), says_ready: false };
        assert_eq!(Target::parse("binary:///p?k=v&x").unwrap(), Target::Binary(program));
        let hold = Duration::from_millis(1500);
        let own = Own { log: "/l".into(), max_size: 10 << 20, max_files: 3, stdin: Stdin::Once, hold };
        let address = "crated:///l?stdin=once&max-size=10m&max-file=3&hold=1500";
        assert_eq!(Target::parse(address).unwrap(), Target::Own(own));
        let none = Own { max_files: 1, ..Own::default() };
        assert_eq!(Target::parse("crated://").unwrap(), Target::Own(none));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for bad in [
            "http://x",
            "crated:///l?max-size=x",
            "crated:///l?max-file=0",
            "crated:///l?y=1",
            "crated:///l?hold=-1",
            "file:///%g",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, value) in [("1", 1), ("2k", 2048), ("3MB", 3 << 20), ("1g", 1 << 30), ("-1", 0)] {
            assert_eq!(bytes(text), Some(value), "{text}");
        }
        assert_eq!((bytes("x"), bytes("k"), bytes("-2")), (None, None, None));
    }
}
