//! Compressed files: blocks that are inflated independently, a few dozen at a time.

use std::io::{self, BufRead, Read};
use std::num::NonZero;

use noodles_bgzf as bgzf;

use super::{BATCH_BYTES, fill, parallel};

/// How the header of a block begins, up to the size of the block.
const HEADER_BYTES: usize = 18;
/// Blocks are inflated so many bytes at a time, as they are in the file.
const PIECE_BYTES: usize = BATCH_BYTES / 4;

/// The inflated content of a file.
pub(super) fn open(input: impl Read + Send + 'static, threads: NonZero<usize>) -> Inflated {
    let pieces = Pieces { input: Box::new(input), offset: 0, is_done: false };
    let inflate = |piece: io::Result<(u64, Vec<u8>)>| {
        let (offset, piece) = piece?;
        let mut inflated = Vec::with_capacity(4 * piece.len());
        let mut reader = bgzf::io::Reader::new(&piece[..]);
        reader.read_to_end(&mut inflated).map_err(|error| {
            wrong(offset + reader.position(), format!("a block cannot be inflated: {error}"))
        })?;
        Ok(inflated)
    };
    Inflated { pieces: parallel::map(pieces, inflate, threads), piece: Vec::new(), at: 0 }
}

fn wrong(offset: u64, what: impl std::fmt::Display) -> io::Error {
    let what = format!("offset {offset} of the file: {what}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whole blocks, many together, and where they begin.
struct Pieces {
    input: Box<dyn Read + Send>,
    offset: u64,
    is_done: bool,
}

impl Pieces {
    /// Appends a block; `false` at the end of the file.
    fn block(&mut self, piece: &mut Vec<u8>) -> io::Result<bool> {
        let begin = piece.len();
        piece.resize(begin + HEADER_BYTES, 0);
        let count = fill(&mut self.input, &mut piece[begin..])?;
        if count == 0 {
            piece.truncate(begin);
            return Ok(false);
        }
        let size = match piece[begin..] {
            _ if count < HEADER_BYTES => return Err(wrong(self.offset, "the file is cut off")),
            [0x1f, 0x8b, 8, 4, _, _, _, _, _, _, 6, 0, b'B', b'C', 2, 0, low, high] => {
                usize::from(u16::from_le_bytes([low, high])) + 1
            }
            _ => return Err(wrong(self.offset, "there is no block of compressed data")),
        };
        if size <= HEADER_BYTES {
            return Err(wrong(self.offset, format!("a block of {size} bytes cannot be")));
        }
        piece.resize(begin + size, 0);
        if fill(&mut self.input, &mut piece[begin + HEADER_BYTES..])? < size - HEADER_BYTES {
            return Err(wrong(self.offset, "the file is cut off"));
        }
        self.offset += size as u64;
        Ok(true)
    }
}

impl Iterator for Pieces {
    type Item = io::Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (offset, mut piece) = (self.offset, Vec::with_capacity(PIECE_BYTES + (1 << 16)));
        while piece.len() < PIECE_BYTES && !self.is_done {
            match self.block(&mut piece) {
                Ok(is_there) => self.is_done = !is_there,
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error));
                }
            }
        }
        (!piece.is_empty()).then_some(Ok((offset, piece)))
    }
}

/// One piece after another.
pub(super) struct Inflated {
    pieces: Box<dyn Iterator<Item = io::Result<Vec<u8>>> + Send>,
    piece: Vec<u8>,
    at: usize,
}

impl BufRead for Inflated {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.piece.len() {
            let Some(piece) = self.pieces.next() else { break };
            (self.piece, self.at) = (piece?, 0);
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
