//! The person's terminal: raw mode with its way back, size, and the keys that detach.

use crate::cmd::prelude::*;
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{IsTerminal, stdin, stdout};

/// Raw mode, until it is dropped.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Makes the terminal raw; does nothing where standard input is none.
    pub(crate) fn new() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self { before: None });
        }
        let before = termios::tcgetattr(stdin()).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin(), OptionalActions::Drain, &raw).map_err(std::io::Error::from)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Columns and rows of the terminal; none where there is none.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(stdout()).or_else(|_| termios::tcgetwinsize(stdin())).ok()?;
    (size.ws_col != 0).then_some((size.ws_col, size.ws_row))
}

/// Finds the keys that detach in what a person types.
#[derive(Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    seen: usize,
}

impl DetachKeys {
    /// Reads docker's notation: `ctrl-p,ctrl-q`, single characters, `ctrl-` with a letter or `@[\]^_`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for key in text.split(',').filter(|key| !key.is_empty()) {
            let bytes = key.as_bytes();
            keys.push(match (key.strip_prefix("ctrl-").map(str::as_bytes), bytes) {
                (Some([letter]), _) if letter.is_ascii_alphabetic() => letter.to_ascii_lowercase() - b'a' + 1,
                (Some([sign]), _) if (b'@'..=b'_').contains(sign) => sign - b'@',
                (None, [single]) => *single,
                _ => bail!("detach key {key:?} is not a character or ctrl- with a letter"),
            });
        }
        Ok(Self { keys, seen: 0 })
    }

    /// What of `typed` goes to the process, and whether the keys are complete.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            // What looked like the start of the sequence was not: it goes through.
            passed.extend(&self.keys[..self.seen]);
            self.seen = usize::from(self.keys.first() == Some(byte));
            if self.seen == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_across_reads_and_swallowed() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (Vec::new(), false));
        assert_eq!(keys.filter(b"\x11rest"), (Vec::new(), true));
    }

    #[test]
    fn bad_keys_are_named() {
        assert!(DetachKeys::parse("ctrl-é").unwrap_err().to_string().contains("ctrl-é"));
        assert!(DetachKeys::parse("").unwrap().keys.is_empty());
    }
}
