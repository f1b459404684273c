//! SAM: lines of text.

use std::io::BufRead;
use std::num::NonZero;
use std::sync::{Arc, Mutex};

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
    let blocks = Blocks { input, rest: Vec::new(), spare: Spare::default(), is_done: false };
    let spare = blocks.spare.clone();
    let parse = move |block: Result<Block, std::io::Error>| match block {
        Ok(block) => {
            let batch = parse_block(block.lines(), &known);
            spare.give(block.bytes);
            batch
        }
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
struct Block {
    bytes: Vec<u8>,
    /// Where the lines end; what is behind is of no use.
    end: usize,
}

impl Block {
    fn lines(&self) -> &[u8] {
        &self.bytes[..self.end]
    }
}

/// Buffers whose content is of no use any more: new ones would have to be filled with zeros first.
#[derive(Clone, Default)]
struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.0.lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        if let Ok(mut spare) = self.0.lock() {
            spare.push(buffer);
        }
    }
}

struct Blocks {
    input: Box<dyn BufRead + Send>,
    /// The begin of a line whose end is in the next block.
    rest: Vec<u8>,
    spare: Spare,
    is_done: bool,
}

impl Iterator for Blocks {
    type Item = Result<Block, std::io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = self.spare.take();
        let mut end = self.rest.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[..end].copy_from_slice(&self.rest);
        self.rest.clear();
        while !self.is_done {
            if bytes.len() < end + BATCH_BYTES {
                bytes.resize(end + BATCH_BYTES, 0);
            }
            match fill(&mut self.input, &mut bytes[end..end + BATCH_BYTES]) {
                Ok(count) => {
                    self.is_done = count < BATCH_BYTES;
                    end += count;
                }
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error));
                }
            }
            if let Some(last) = memchr::memrchr(b'\n', &bytes[..end]) {
                self.rest.extend_from_slice(&bytes[last + 1..end]);
                return Some(Ok(Block { bytes, end: last + 1 }));
            }
        }
        (end > 0).then_some(Ok(Block { bytes, end }))
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
