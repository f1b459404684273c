//! Replies as values, and as text for people: as `redis-cli` shows them.

use std::fmt::Write;

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A word.
    Simple(String),
    /// An error.
    Error(String),
    /// A whole number.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// No value.
    Null,
    /// A number with a fraction.
    Double(f64),
    /// Replies in order; those of a map are keys and values in turn.
    Array(Vec<Reply>),
}

impl Reply {
    /// The first reply of some bytes, and how many it has; `None` if it is not whole, or none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
        Reply::parse_within(bytes, 8)
    }

    fn parse_within(bytes: &[u8], depth: u32) -> Option<(Reply, usize)> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(bytes.get(1..end)?).ok();
        let number = || line.and_then(|line| line.parse::<i64>().ok());
        let after = end + 2;
        let text = || String::from_utf8_lossy(&bytes[1..end]).into_owned();
        let reply = match bytes[0] {
            b'+' => Reply::Simple(text()),
            b'-' => Reply::Error(text()),
            b':' => Reply::Int(number()?),
            b',' => Reply::Double(crate::number::float(line?.as_bytes())?),
            b'_' => Reply::Null,
            b'$' => {
                let Ok(length) = usize::try_from(number()?) else {
                    return Some((Reply::Null, after));
                };
                let content = bytes.get(after..after.checked_add(length)?)?;
                return Some((Reply::Bulk(content.to_vec()), after + length + 2));
            }
            b'*' | b'~' | b'%' | b'>' => {
                let Ok(count) = usize::try_from(number()?) else {
                    return Some((Reply::Null, after));
                };
                let count = if bytes[0] == b'%' { count.checked_mul(2)? } else { count };
                let (mut all, mut at) = (Vec::new(), after);
                for _ in 0..count {
                    let (reply, length) =
                        Reply::parse_within(bytes.get(at..)?, depth.checked_sub(1)?)?;
                    all.push(reply);
                    at += length;
                }
                return Some((Reply::Array(all), at));
            }
            _ => return None,
        };
        Some((reply, after))
    }

    /// As bytes to go on with: each value on a line.
    #[must_use]
    pub fn plain(&self) -> Vec<u8> {
        match self {
            Reply::Simple(text) | Reply::Error(text) => format!("{text}\n").into_bytes(),
            Reply::Int(number) => format!("{number}\n").into_bytes(),
            Reply::Double(number) => {
                format!("{}\n", crate::number::seventeen(*number)).into_bytes()
            }
            Reply::Bulk(bytes) => [bytes, &b"\n"[..]].concat(),
            Reply::Null => b"\n".to_vec(),
            Reply::Array(all) => all.iter().flat_map(Reply::plain).collect(),
        }
    }

    /// For people.
    #[must_use]
    pub fn pretty(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        text
    }

    fn write(&self, text: &mut String, indent: usize) {
        // Writing to a string does not fail.
        let _ = match self {
            Reply::Simple(word) => writeln!(text, "{word}"),
            Reply::Error(error) => writeln!(text, "(error) {error}"),
            Reply::Int(number) => writeln!(text, "(integer) {number}"),
            Reply::Double(number) => {
                writeln!(text, "(double) {}", crate::number::seventeen(*number))
            }
            Reply::Bulk(bytes) => writeln!(text, "\"{}\"", bytes.escape_ascii()),
            Reply::Null => writeln!(text, "(nil)"),
            Reply::Array(all) if all.is_empty() => writeln!(text, "(empty array)"),
            Reply::Array(all) => {
                let width = all.len().to_string().len();
                for (number, reply) in all.iter().enumerate() {
                    let indent = if number == 0 { 0 } else { indent };
                    let _ = write!(text, "{:indent$}{:>width$}) ", "", number + 1);
                    reply.write(text, indent + width + 2);
                }
                Ok(())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_parsed_and_shown() {
        let bytes = b"*4\r\n$1\r\na\r\n:-7\r\n_\r\n%1\r\n+k\r\n,1.5\r\n";
        let (reply, length) = Reply::parse(bytes).unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(reply.plain(), b"a\n-7\n\nk\n1.5\n");
        assert_eq!(
            reply.pretty(),
            "1) \"a\"\n2) (integer) -7\n3) (nil)\n4) 1) k\n   2) (double) 1.5\n"
        );
        for end in 0..bytes.len() {
            assert_eq!(Reply::parse(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Reply::parse(b"*1\r\n".repeat(100).as_slice()), None);
    }
}
