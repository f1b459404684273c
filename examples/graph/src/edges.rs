//! An edge list: text with one edge `FROM TO` per line, parsed into pairs of dense indexes.
//!
//! Numbers are separated by blanks, tabs or a comma; lines that are empty or begin with `#` or
//! `%` are skipped; a carriage return before the newline is ignored. Node numbers are below
//! 2^32 - 1 and need not be dense. Nothing is allocated per line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;
/// Largest number of a node.
const LARGEST: u64 = u32::MAX as u64 - 1;

/// Why a text is not an edge list.
#[derive(Debug)]
pub enum ParseError {
    /// It cannot be read.
    Read(io::Error),
    /// This line, counted from 1, is not two numbers.
    Line(u64),
    /// This line has a number that is too large.
    Number(u64),
    /// More edges than 32 bits count.
    Many,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ParseError::Read(_) => f.write_str("cannot read it"),
            ParseError::Line(line) => write!(f, "line {line}: expected two numbers"),
            ParseError::Number(line) => write!(f, "line {line}: a number above {LARGEST}"),
            ParseError::Many => f.write_str("more than 4294967294 edges"),
        }
    }
}

impl std::error::Error for ParseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ParseError::Read(err) => Some(err),
            _ => None,
        }
    }
}

/// A directed graph as pairs. Node numbers are replaced by their rank.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EdgeList {
    /// The nodes' numbers, ascending: those that occur in an edge.
    ids: Vec<u32>,
    /// Pairs of positions in `ids`, in the order of the text.
    pairs: Vec<(u32, u32)>,
}

impl EdgeList {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn read(path: &Path) -> Result<EdgeList, ParseError> {
        EdgeList::parse(File::open(path).map_err(ParseError::Read)?)
    }

    /// Reads text to its end.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn parse(mut text: impl Read) -> Result<EdgeList, ParseError> {
        let mut lines = Lines::default();
        // The beginning of a line whose end has not been read yet, then what was read.
        let mut buffer = Vec::new();
        loop {
            buffer.reserve(READ_BYTES);
            let read = text.by_ref().take(READ_BYTES as u64).read_to_end(&mut buffer);
            if read.map_err(ParseError::Read)? == 0 {
                lines.take(&buffer)?;
                return Ok(EdgeList::number(lines.pairs));
            }
            if let Some(newline) = buffer.iter().rposition(|&byte| byte == b'\n') {
                lines.take(&buffer[..=newline])?;
                buffer.drain(..=newline);
            }
        }
    }

    /// Replaces numbers by ranks: a bitmap of those that occur, and counts before each word.
    fn number(mut pairs: Vec<(u32, u32)>) -> EdgeList {
        let Some(largest) = pairs.iter().map(|&(from, to)| from.max(to)).max() else {
            return EdgeList::default();
        };
        let mut occurs = vec![0_u64; largest as usize / 64 + 1];
        for &(from, to) in &pairs {
            occurs[from as usize / 64] |= 1 << (from % 64);
            occurs[to as usize / 64] |= 1 << (to % 64);
        }
        let mut before = Vec::with_capacity(occurs.len());
        let mut ids = Vec::new();
        for (word, bits) in (0_u32..).zip(&occurs) {
            before.push(ids.len() as u32);
            let mut left = *bits;
            while left != 0 {
                ids.push(word * 64 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        let rank = |id: u32| {
            let word = id as usize / 64;
            let below = occurs[word] & ((1 << (id % 64)) - 1);
            before[word] + below.count_ones()
        };
        for pair in &mut pairs {
            *pair = (rank(pair.0), rank(pair.1));
        }
        EdgeList { ids, pairs }
    }

    /// The nodes' numbers, ascending.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Edges as positions in [`Self::ids`], in the order of the text.
    #[must_use]
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.pairs
    }

    /// Where each node's edges begin when all are sorted by their first node; one number more
    /// than there are nodes.
    #[must_use]
    pub fn starts(&self) -> Vec<u64> {
        let mut starts = vec![0; self.ids.len() + 1];
        for &(from, _) in &self.pairs {
            starts[from as usize + 1] += 1;
        }
        for node in 0..self.ids.len() {
            starts[node + 1] += starts[node];
        }
        starts
    }
}

/// Parses whole lines.
#[derive(Default)]
struct Lines {
    line: u64,
    pairs: Vec<(u32, u32)>,
}

impl Lines {
    fn take(&mut self, text: &[u8]) -> Result<(), ParseError> {
        let mut rest = text;
        while !rest.is_empty() {
            self.line += 1;
            let first = rest[0];
            if first.is_ascii_digit() {
                // The common case: two numbers, one pass.
                let (from, after) = self.digits(rest)?;
                let (to, after) = self.digits(skip_separators(after))?;
                self.push(from, to)?;
                rest = self.end_of_line(after)?;
            } else if first == b'#' || first == b'%' {
                let end = rest.iter().position(|&byte| byte == b'\n');
                rest = end.map_or(&[], |end| &rest[end + 1..]);
            } else {
                let trimmed = skip_separators(rest);
                let is_indented = trimmed.first().is_some_and(u8::is_ascii_digit);
                if is_indented {
                    self.line -= 1;
                    rest = trimmed;
                } else {
                    rest = self.end_of_line(trimmed)?;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, from: u32, to: u32) -> Result<(), ParseError> {
        if self.pairs.len() as u64 >= LARGEST {
            return Err(ParseError::Many);
        }
        self.pairs.push((from, to));
        Ok(())
    }

    /// A number and what follows it.
    fn digits<'a>(&self, text: &'a [u8]) -> Result<(u32, &'a [u8]), ParseError> {
        let (mut value, mut len) = (0_u64, 0);
        while let Some(digit) = text.get(len).map(|byte| byte.wrapping_sub(b'0')) {
            if digit > 9 {
                break;
            }
            value = value * 10 + u64::from(digit);
            if value > LARGEST {
                return Err(ParseError::Number(self.line));
            }
            len += 1;
        }
        if len == 0 { Err(ParseError::Line(self.line)) } else { Ok((value as u32, &text[len..])) }
    }

    /// What follows the newline; only separators may come before it.
    fn end_of_line<'a>(&self, text: &'a [u8]) -> Result<&'a [u8], ParseError> {
        match skip_separators(text) {
            [b'\n', rest @ ..] => Ok(rest),
            [] => Ok(&[]),
            _ => Err(ParseError::Line(self.line)),
        }
    }
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let is_separator = |byte: &u8| matches!(byte, b' ' | b'\t' | b',' | b'\r');
    let len = text.iter().position(|byte| !is_separator(byte)).unwrap_or(text.len());
    &text[len..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<EdgeList, ParseError> {
        EdgeList::parse(text.as_bytes())
    }

    fn line_of(text: &str) -> String {
        parse(text).expect_err("it is no edge list").to_string()
    }

    #[test]
    fn numbers_become_ranks_and_edges_keep_their_order() {
        let list = parse("# a comment\n7 3\n\n3\t1000000\r\n  7,7  \n% more\n1000000 3").unwrap();
        assert_eq!(list.ids(), [3, 7, 1_000_000]);
        assert_eq!(list.pairs(), [(1, 0), (0, 2), (1, 1), (2, 0)]);
        assert_eq!(list.starts(), [0, 1, 3, 4]);
        assert_eq!(parse("").unwrap(), EdgeList::default());
        assert_eq!(parse("\n \n#").unwrap(), EdgeList::default());
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(line_of("1 2\n\n3\n"), "line 3: expected two numbers");
        assert_eq!(line_of("1 2 3"), "line 1: expected two numbers");
        assert_eq!(line_of("1 2\na b"), "line 2: expected two numbers");
        assert_eq!(line_of("1 -2"), "line 1: expected two numbers");
        assert_eq!(line_of("1 4294967295"), "line 1: a number above 4294967294");
        assert_eq!(line_of("1 99999999999999999999999"), "line 1: a number above 4294967294");
    }

    /// Returns text in pieces of every size, with interruptions.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = (self.1 % 5 + 1).min(self.0.len()).min(buffer.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn it_does_not_matter_how_the_text_is_cut() {
        let text: String = (0..500).map(|n| format!("{} {}\n", n * 7 % 97, n * n % 89)).collect();
        let whole = parse(&text).unwrap();
        assert_eq!(EdgeList::parse(Pieces(text.as_bytes(), 0)).unwrap(), whole);
        let long = format!("#{}\n1 2\n", "x".repeat(3 << 20));
        assert_eq!(parse(&long).unwrap().pairs(), [(0, 1)]);
        assert_eq!(parse(&"10 20\n".repeat(500_000)).unwrap().pairs(), vec![(0, 1); 500_000]);
    }
}
