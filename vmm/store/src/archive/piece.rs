//! The pieces of an archive: written one after the other, and read back as untrusted input.
//!
//! ```text
//! kind u32 | 0 u32 | payload bytes u64 | payload | CRC-32 of number, head and payload u32
//! ```
//!
//! The number counts pieces from 0; it is not stored. Numbers are little-endian.

use std::io::{self, Read, Write};
use std::path::Path;

use crate::format::error::{StoreError, bad_field, io_error};
use crate::format::escape::show_bytes;
use crate::format::header::{HEADER_BYTES, Header};
use crate::format::manifest::{MAX_BYTES, Manifest};
use crate::format::name::Mode;

/// The beginning of an archive, version included.
pub(crate) const START: &[u8; 16] = b"SJMPVAS\n\x01\0\0\0\0\0\0\0";
/// Maximum content of one piece.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
const HEAD_BYTES: usize = 16;
/// Mode and flags before a segment's header.
const SEGMENT_BYTES: usize = 8 + HEADER_BYTES;
const INCONSISTENT: u32 = 1;

/// One piece.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The manifest and the permission bits.
    Vas(Manifest, Mode),
    /// A segment begins.
    Segment { header: Box<Header>, mode: Mode, inconsistent: bool },
    /// Content of the segment at an offset.
    Data(u64, Vec<u8>),
    /// The segment had this many bytes of content.
    End(u64),
    /// The archive had this many segments.
    Done(u64),
}

#[derive(Clone, Copy)]
enum PieceKind {
    Vas = 1,
    Segment,
    Data,
    End,
    Done,
}

/// Writes pieces.
pub(crate) struct Writer<W: Write> {
    to: W,
    number: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(mut to: W) -> io::Result<Writer<W>> {
        to.write_all(START)?;
        Ok(Writer { to, number: 0 })
    }

    pub(crate) fn vas(&mut self, manifest: &Manifest, mode: Mode) -> io::Result<()> {
        self.put(PieceKind::Vas, &mode.bits().to_le_bytes(), manifest.encode().as_bytes())
    }

    pub(crate) fn segment(&mut self, header: &Header, mode: Mode, bad: bool) -> io::Result<()> {
        let flags = if bad { INCONSISTENT } else { 0 };
        let mut head = mode.bits().to_le_bytes().to_vec();
        head.extend(flags.to_le_bytes());
        self.put(PieceKind::Segment, &head, &header.encode())
    }

    pub(crate) fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(PieceKind::Data, &offset.to_le_bytes(), bytes)
    }

    pub(crate) fn end(&mut self, data_bytes: u64) -> io::Result<()> {
        self.put(PieceKind::End, &data_bytes.to_le_bytes(), &[])
    }

    pub(crate) fn done(mut self, segments: u64) -> io::Result<W> {
        self.put(PieceKind::Done, &segments.to_le_bytes(), &[])?;
        Ok(self.to)
    }

    fn put(&mut self, kind: PieceKind, first: &[u8], rest: &[u8]) -> io::Result<()> {
        let mut head = (kind as u64).to_le_bytes().to_vec();
        head.extend(((first.len() + rest.len()) as u64).to_le_bytes());
        let sum = sum(self.number, &[&head, first, rest]);
        self.number += 1;
        for bytes in [&head, first, rest, &sum.to_le_bytes()] {
            self.to.write_all(bytes)?;
        }
        Ok(())
    }
}

fn sum(number: u64, pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

/// Reads pieces.
pub(crate) struct Reader<'a, R: Read> {
    from: R,
    path: &'a Path,
    number: u64,
}

impl<'a, R: Read> Reader<'a, R> {
    /// Checks the archive's beginning.
    pub(crate) fn new(from: R, path: &'a Path) -> Result<Self, StoreError> {
        let mut reader = Reader { from, path, number: 0 };
        let start = reader.bytes::<16>("its start")?;
        let (kind, version) = start.split_at(8);
        let (known_kind, known) = START.split_at(8);
        if kind != known_kind {
            return Err(not_an_archive(path, &start));
        }
        if version != known {
            let (found, known) = (word(version, 0).to_string(), word(known, 0).to_string());
            let file = path.to_owned();
            return Err(match word(version, 0) {
                0 => reader.bad("version", found, known),
                _ => StoreError::Newer { file, field: "version", found, known },
            });
        }
        Ok(reader)
    }

    pub(crate) fn bad(
        &self,
        field: &'static str,
        found: impl ToString,
        expected: impl ToString,
    ) -> StoreError {
        bad_field(self.path, field, found, expected)
    }

    fn failed(&self, field: &'static str, error: io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated(field),
            // zstd's error for bytes that are not zstd data.
            io::ErrorKind::Other | io::ErrorKind::InvalidData => {
                self.bad("compression", error, "a whole zstd stream")
            }
            _ => io_error("read", self.path, error),
        }
    }

    fn truncated(&self, within: &'static str) -> StoreError {
        StoreError::Truncated { file: self.path.to_owned(), within }
    }

    fn bytes<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], StoreError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|e| self.failed(field, e))?;
        Ok(bytes)
    }

    /// The next piece, with its checksum verified.
    pub(crate) fn next(&mut self) -> Result<Piece, StoreError> {
        let head = self.bytes::<HEAD_BYTES>("a piece")?;
        let [kind, len] = [0, 8].map(|at| word(&head, at));
        let (kind, least, most) = match kind {
            1 => (PieceKind::Vas, 4, 4 + MAX_BYTES),
            2 => (PieceKind::Segment, SEGMENT_BYTES as u64, SEGMENT_BYTES as u64),
            3 => (PieceKind::Data, 9, 8 + CHUNK_BYTES as u64),
            4 => (PieceKind::End, 8, 8),
            5 => (PieceKind::Done, 8, 8),
            _ => return Err(self.bad("kind of a piece", kind, "1 to 5")),
        };
        if !(least..=most).contains(&len) {
            return Err(self.bad("length of a piece", len, format!("{least} to {most}")));
        }
        // Grows with the bytes that are there, not with the promised length.
        let mut payload = Vec::new();
        (&mut self.from)
            .take(len)
            .read_to_end(&mut payload)
            .map_err(|e| self.failed("a piece", e))?;
        if payload.len() as u64 != len {
            return Err(self.truncated("a piece"));
        }
        let found = u32::from_le_bytes(self.bytes::<4>("checksum of a piece")?);
        let expected = sum(self.number, &[&head, &payload]);
        if found != expected {
            let [found, expected] = [found, expected].map(|sum| format!("{sum:08x}"));
            return Err(self.bad("checksum of a piece", found, expected));
        }
        self.number += 1;
        self.decode(kind, payload)
    }

    fn decode(&self, kind: PieceKind, mut payload: Vec<u8>) -> Result<Piece, StoreError> {
        Ok(match kind {
            PieceKind::Vas => {
                let (mode, text) = payload.split_at_checked(4).unwrap_or_default();
                Piece::Vas(Manifest::decode(text, self.path)?, self.mode(mode)?)
            }
            PieceKind::Segment => {
                let (head, header) = payload.split_at_checked(8).unwrap_or_default();
                let (mode, flags) = head.split_at_checked(4).unwrap_or_default();
                let flags = u32::from_le_bytes(flags.try_into().unwrap_or_default());
                if flags & !INCONSISTENT != 0 {
                    return Err(self.bad("flags of a segment", flags, "0 or 1"));
                }
                let header = header.try_into().unwrap_or(&[0; HEADER_BYTES]);
                Piece::Segment {
                    header: Box::new(Header::decode(header, self.path)?),
                    mode: self.mode(mode)?,
                    inconsistent: flags & INCONSISTENT != 0,
                }
            }
            PieceKind::Data => {
                let offset = word(&payload, 0);
                payload.drain(..8);
                Piece::Data(offset, payload)
            }
            PieceKind::End => Piece::End(word(&payload, 0)),
            PieceKind::Done => Piece::Done(word(&payload, 0)),
        })
    }

    fn mode(&self, bytes: &[u8]) -> Result<Mode, StoreError> {
        let bits = u32::from_le_bytes(bytes.try_into().unwrap_or_default());
        Mode::new(bits).ok_or_else(|| self.bad("mode", format!("{bits:o}"), "0 to 777"))
    }

    /// Checks that nothing follows.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.bad("length", "more after the last piece", "the end of the file")),
            Err(error) => Err(self.failed("length", error)),
        }
    }
}

/// What every zstd frame begins with (RFC 8878, 3.1.1).
const ZSTD_MAGIC: &[u8; 4] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Decompresses what looks like an archive.
///
/// # Errors
/// [`StoreError::NotA`] for anything else.
pub(crate) fn decompress<'a, 'f: 'a>(
    mut from: &'a mut (dyn Read + 'f),
    path: &Path,
) -> Result<impl Read + 'a, StoreError> {
    let mut start = Vec::new();
    (&mut from).take(16).read_to_end(&mut start).map_err(|e| io_error("read", path, e))?;
    if !start.starts_with(ZSTD_MAGIC) {
        return Err(not_an_archive(path, &start));
    }
    let whole = io::Cursor::new(start).chain(from);
    zstd::Decoder::new(whole).map_err(|e| io_error("read", path, e))
}

fn not_an_archive(path: &Path, start: &[u8]) -> StoreError {
    let found = show_bytes(start);
    StoreError::NotA { file: path.to_owned(), kind: "an archive of spacejmp", found }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

/// Reads any bytes as an archive, uncompressed or not, and drops what it holds: for fuzzing.
pub(crate) fn read_any(bytes: &[u8], compressed: bool) -> Result<u64, StoreError> {
    let path = Path::new("archive");
    if compressed {
        let decoder = zstd::Decoder::new(bytes).map_err(|e| io_error("read", path, e))?;
        return drain(Reader::new(decoder, path)?);
    }
    drain(Reader::new(bytes, path)?)
}

fn drain<R: Read>(mut reader: Reader<'_, R>) -> Result<u64, StoreError> {
    let mut pieces = 0;
    loop {
        pieces += 1;
        if let Piece::Done(_) = reader.next()? {
            reader.finish()?;
            return Ok(pieces);
        }
    }
}
