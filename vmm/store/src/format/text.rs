//! The text files of the store: escaped names, lines of key and value, a checksum at the end.
//!
//! ```text
//! spacejmp KIND VERSION
//! key value
//! ...
//! checksum 0123abcd       CRC-32 (as in zlib) of everything before this line
//! ```
//!
//! Text, so that people and other tools can read it; the checksum detects damage.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::format::error::{StoreError, bad_field};
use crate::format::escape::{shorten, show_bytes};

/// The version in the first line of a text file, if it is later than the one that is known.
pub(crate) fn later(line: &str, start: &str, known: u32) -> Option<u32> {
    line.strip_prefix(start)?.parse().ok().filter(|version| *version > known)
}

/// Writes a text file line by line.
pub(crate) struct Writer(String);

impl Writer {
    pub(crate) fn new(kind: &str, version: u32) -> Writer {
        Writer(format!("spacejmp {kind} {version}\n"))
    }

    pub(crate) fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key} {value}");
    }

    pub(crate) fn finish(mut self) -> String {
        let sum = crc32fast::hash(self.0.as_bytes());
        self.line("checksum", format_args!("{sum:08x}"));
        self.0
    }
}

/// Reads what [`Writer`] wrote, line by line, in its order.
pub(crate) struct Reader<'a> {
    path: &'a Path,
    lines: std::iter::Peekable<std::str::Lines<'a>>,
}

impl<'a> Reader<'a> {
    /// Checks version and checksum; `known` is the latest version there is.
    pub(crate) fn new(
        path: &'a Path,
        bytes: &'a [u8],
        kind: &str,
        known: u32,
    ) -> Result<Self, StoreError> {
        let bad = |field, found: String, expected: String| bad_field(path, field, found, expected);
        let start = format!("spacejmp {kind} ");
        if !bytes.starts_with(start.as_bytes()) {
            let kind = match kind {
                "vas" => "a VAS's manifest",
                _ => "the lease of a VM",
            };
            let found = show_bytes(bytes);
            return Err(StoreError::NotA { file: PathBuf::from(path), kind, found });
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            bad("text", format!("a bad byte at {}", e.valid_up_to()), "UTF-8".into())
        })?;
        let first = text.lines().next().unwrap_or_default();
        let is_known = |version: u32| first == format!("{start}{version}");
        if !(1..=known).any(is_known) {
            return Err(match later(first, &start, known) {
                Some(found) => StoreError::Newer {
                    file: PathBuf::from(path),
                    field: "version",
                    found: found.to_string(),
                    known: known.to_string(),
                },
                None => bad("version", shorten(first), format!("{start}1")),
            });
        }
        let body = text.strip_suffix('\n').unwrap_or_default();
        let (body, last) = body.rsplit_once('\n').unwrap_or((body, ""));
        let Some(sum) = last.strip_prefix("checksum ") else {
            return Err(bad("checksum", "nothing in the last line".into(), "a checksum".into()));
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(body.as_bytes());
        hasher.update(b"\n");
        let expected = format!("{:08x}", hasher.finalize());
        if sum != expected {
            return Err(bad("checksum", shorten(sum), expected));
        }
        let mut lines = body.lines();
        lines.next();
        Ok(Reader { path, lines: lines.peekable() })
    }

    pub(crate) fn bad(&self, field: &'static str, found: &str, expected: &str) -> StoreError {
        bad_field(self.path, field, shorten(found), expected)
    }

    /// The value of the next line, which must have this key.
    pub(crate) fn value(&mut self, key: &'static str) -> Result<&'a str, StoreError> {
        let line = self.lines.next().unwrap_or_default();
        match line.split_once(' ') {
            Some((found, value)) if found == key => Ok(value),
            _ => Err(self.bad(key, line, "a line with this key")),
        }
    }

    /// As [`Reader::value`], if the next line has this key.
    pub(crate) fn optional(&mut self, key: &str) -> Option<&'a str> {
        let value = self.lines.peek()?.strip_prefix(key)?.strip_prefix(' ')?;
        self.lines.next();
        Some(value)
    }

    /// Checks that there are no more lines.
    pub(crate) fn end(mut self) -> Result<(), StoreError> {
        match self.lines.next() {
            Some(line) => Err(self.bad("line", line, "the end")),
            None => Ok(()),
        }
    }
}
