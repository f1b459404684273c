//! Replies, written as RESP2 or RESP3.

use std::fmt::Display;
use std::io::Write;

/// Replies one after another, in the version of the protocol that the connection has chosen.
#[derive(Debug, Clone, Default)]
pub struct Out {
    /// What is to be sent.
    pub bytes: Vec<u8>,
    /// Whether it is RESP3.
    pub is_resp3: bool,
}

impl Out {
    fn line(&mut self, kind: char, content: impl Display) {
        // Writing to a vector does not fail.
        let _ = write!(self.bytes, "{kind}{content}\r\n");
    }

    /// `OK` and other words without line breaks.
    pub fn simple(&mut self, text: &str) {
        self.line('+', text);
    }

    /// `OK`.
    pub fn ok(&mut self) {
        self.simple("OK");
    }

    /// An error; its first word is its kind. Line breaks become blanks.
    pub fn error(&mut self, text: &str) {
        self.line('-', text.replace(['\r', '\n'], " "));
    }

    /// A whole number.
    pub fn int(&mut self, number: i64) {
        self.line(':', number);
    }

    /// A length.
    pub fn count(&mut self, number: usize) {
        self.line(':', number);
    }

    /// Bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.line('$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Bytes, or nothing.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// No value.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No list of values.
    pub fn null_array(&mut self) {
        self.bytes.extend_from_slice(if self.is_resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// So many replies follow.
    pub fn array(&mut self, len: usize) {
        self.line('*', len);
    }

    /// So many replies follow, in no order.
    pub fn set(&mut self, len: usize) {
        self.line(if self.is_resp3 { '~' } else { '*' }, len);
    }

    /// So many pairs of replies follow.
    pub fn map(&mut self, pairs: usize) {
        if self.is_resp3 { self.line('%', pairs) } else { self.line('*', pairs * 2) }
    }

    /// So many replies follow, which nobody asked for.
    pub fn push(&mut self, len: usize) {
        self.line(if self.is_resp3 { '>' } else { '*' }, len);
    }

    /// A number with a fraction.
    pub fn double(&mut self, number: f64) {
        let text = crate::number::seventeen(number);
        if self.is_resp3 { self.line(',', text) } else { self.bulk(text.as_bytes()) }
    }
}
