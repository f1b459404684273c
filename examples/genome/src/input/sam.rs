//! SAM: lines of text.

use std::io::BufRead;
use std::num::NonZero;
use std::sync::Arc;

use super::{BATCH_BYTES, Batches, Problem, fill, parallel};
use crate::header::Header;
use crate::record::Batch;
use crate::text;

/// Reads the header, and prepares to read the rest.
pub(super) fn open(
    mut input: Box<dyn BufRead + Send>,
    threads: NonZero<usize>,
) -> Result<(Header, Batches), Problem> {
    let mut text = Vec::new();
    let mut lines = 0;
    loop {
        let first = input.fill_buf().map_err(|error| at_line(lines + 1, error))?.first();
        if first != Some(&b'@') {
            break;
        }
        input.read_until(b'\n', &mut text).map_err(|error| at_line(lines + 1, error))?;
        lines += 1;
    }
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    let header = Header::parse(text).map_err(|(line, what)| at_line(line, what))?;
    let known = Arc::new(Header::new(Vec::new(), header.references.clone())?);
    let blocks = Blocks { input, rest: Vec::new(), is_done: false };
    let parse = move |block: Result<Vec<u8>, std::io::Error>| match block {
        Ok(block) => parse_block(&block, &known),
        Err(error) => Err((1, error.to_string())),
    };
    let batches = parallel::map(blocks, parse, threads);
    let mut before = lines;
    let numbered = batches.map(move |parsed| {
        let batch = parsed.map_err(|(line, what)| at_line(before + line, what))?;
        before += batch.consumed;
        Ok(batch)
    });
    Ok((header, Box::new(numbered)))
}

fn at_line(line: u64, what: impl std::fmt::Display) -> Problem {
    match line {
        0 => what.to_string().into(),
        line => format!("line {line}: {what}").into(),
    }
}

/// Whole lines, many together.
struct Blocks {
    input: Box<dyn BufRead + Send>,
    /// The begin of a line whose end is in the next block.
    rest: Vec<u8>,
    is_done: bool,
}

impl Iterator for Blocks {
    type Item = Result<Vec<u8>, std::io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut block = std::mem::take(&mut self.rest);
        while !self.is_done {
            let begin = block.len();
            block.resize(begin + BATCH_BYTES, 0);
            match fill(&mut self.input, &mut block[begin..]) {
                Ok(count) => {
                    self.is_done = count < BATCH_BYTES;
                    block.truncate(begin + count);
                }
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error));
                }
            }
            if let Some(end) = memchr::memrchr(b'\n', &block) {
                self.rest = block.split_off(end + 1);
                return Some(Ok(block));
            }
        }
        (!block.is_empty()).then_some(Ok(block))
    }
}

/// The reads of a block; else what is wrong, and in which of its lines.
fn parse_block(block: &[u8], header: &Header) -> Result<Batch, (u64, String)> {
    let mut batch = Batch { bytes: Vec::with_capacity(block.len()), ..Batch::default() };
    let mut rest = block;
    while !rest.is_empty() {
        batch.consumed += 1;
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or(&[]);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        text::parse(line, header, &mut batch).map_err(|what| (batch.consumed, what.to_owned()))?;
    }
    Ok(batch)
}
