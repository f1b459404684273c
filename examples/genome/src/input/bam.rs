//! BAM: a header and records in compressed blocks.

use std::io::{BufRead, Read};
use std::num::NonZero;
use std::ops::RangeInclusive;

use super::{BATCH_BYTES, Batches, Problem, fill, parallel};
use crate::header::{Header, Reference};
use crate::record::{Batch, Core};
use crate::text::parse::cigar_covers;
use crate::text::tags::Tags;

/// How many bytes a record may have.
const RECORD_BYTES: RangeInclusive<u32> = 32..=i32::MAX as u32;

/// A stream that knows where it is.
struct Stream {
    input: Box<dyn BufRead + Send>,
    offset: u64,
}

impl Stream {
    /// Fills the buffer; `None` at the end of the file.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<Option<()>, Problem> {
        let count = fill(&mut self.input, buffer)?;
        self.offset += count as u64;
        match count {
            0 if !buffer.is_empty() => Ok(None),
            count if count == buffer.len() => Ok(Some(())),
            _ => Err(at_offset(self.offset, "the file ends in the middle of a record")),
        }
    }

    fn number(&mut self) -> Result<u32, Problem> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?.ok_or_else(|| at_offset(self.offset, "the header is cut off"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// So many bytes, without room for more than there are.
    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        (&mut self.input).take(length.into()).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        if bytes.len() < length as usize {
            return Err(at_offset(self.offset, "the header is cut off"));
        }
        Ok(bytes)
    }
}

/// Offsets are of the uncompressed data: so `bgzip -b` finds them.
fn at_offset(offset: u64, what: impl std::fmt::Display) -> Problem {
    format!("offset {offset} of the uncompressed data: {what}").into()
}

/// Reads the header, and prepares to read the records.
pub(super) fn open(
    input: Box<dyn BufRead + Send>,
    threads: NonZero<usize>,
) -> Result<(Header, Batches), Problem> {
    let mut stream = Stream { input, offset: 0 };
    stream.number()?;
    let length = stream.number()?;
    let mut text = stream.bytes(length)?;
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text.truncate(end);
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    let count = stream.number()?;
    let mut references = Vec::new();
    for _ in 0..count {
        let length = stream.number()?;
        let mut name = stream.bytes(length)?;
        if name.pop() != Some(0) || name.is_empty() || name.contains(&0) {
            return Err(at_offset(stream.offset, "the name of a reference is damaged"));
        }
        let length = stream.number()?;
        if length > i32::MAX as u32 {
            return Err(at_offset(stream.offset, "a reference is longer than 2147483647"));
        }
        references.push(Reference { name, length });
    }
    if !references.is_empty() && !text.starts_with(b"@SQ\t") && !find(&text, b"\n@SQ\t") {
        for Reference { name, length } in &references {
            text.extend_from_slice(b"@SQ\tSN:");
            text.extend_from_slice(name);
            text.extend_from_slice(format!("\tLN:{length}\n").as_bytes());
        }
    }
    let header = Header::new(text, references).map_err(|what| at_offset(stream.offset, what))?;
    let references = header.references.len();
    let Stream { input, offset } = stream;
    let chunks = Chunks { input, offset, rest: Vec::new(), is_done: false };
    let parse = move |chunk: Result<(u64, Vec<u8>), Problem>| {
        let (offset, bytes) = chunk?;
        batch(offset, &bytes, references)
    };
    Ok((header, parallel::map(chunks, parse, threads)))
}

/// Whole records, many together, and where they begin.
struct Chunks {
    input: Box<dyn BufRead + Send>,
    offset: u64,
    /// The begin of a record whose end comes later.
    rest: Vec<u8>,
    is_done: bool,
}

impl Iterator for Chunks {
    type Item = Result<(u64, Vec<u8>), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        // Not to be made larger step by step.
        let mut bytes = Vec::with_capacity(2 * BATCH_BYTES);
        bytes.append(&mut self.rest);
        let mut end = 0;
        while !self.is_done && end < BATCH_BYTES {
            match self.input.fill_buf() {
                Ok(available) => {
                    let count = available.len();
                    bytes.extend_from_slice(available);
                    self.input.consume(count);
                    self.is_done = count == 0;
                }
                Err(error) => {
                    self.is_done = true;
                    return Some(Err(error.into()));
                }
            }
            end = whole_records(&bytes, end);
        }
        // What is left at the end of the file is looked at with the rest, and is an error.
        if !self.is_done {
            self.rest.extend_from_slice(&bytes[end..]);
            bytes.truncate(end);
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        (!bytes.is_empty()).then_some(Ok((offset, bytes)))
    }
}

/// Where the last whole record ends; those up to `at` are known to be whole. One that cannot be ends with the bytes.
fn whole_records(bytes: &[u8], mut at: usize) -> usize {
    while let Some(size) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let size = u32::from_le_bytes(*size);
        if !RECORD_BYTES.contains(&size) {
            return bytes.len();
        }
        match at.checked_add(4 + size as usize) {
            Some(end) if end <= bytes.len() => at = end,
            _ => break,
        }
    }
    at
}

fn find(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The reads of a chunk that begins at `offset`.
fn batch(offset: u64, bytes: &[u8], references: usize) -> Result<Batch, Problem> {
    let mut batch = Batch { bytes: Vec::with_capacity(bytes.len()), ..Batch::default() };
    let mut rest = bytes;
    while !rest.is_empty() {
        let begin = offset + (bytes.len() - rest.len()) as u64;
        let cut_off = |at| at_offset(at, "the file ends in the middle of a record");
        let Some((size, behind)) = rest.split_first_chunk::<4>() else {
            return Err(cut_off(offset + bytes.len() as u64));
        };
        let size = u32::from_le_bytes(*size);
        if !RECORD_BYTES.contains(&size) {
            return Err(at_offset(begin, format!("a record of {size} bytes cannot be")));
        }
        let (record, behind) =
            behind.split_at_checked(size as usize).ok_or_else(|| cut_off(begin))?;
        append(record, references, &mut batch).map_err(|what| at_offset(begin, what))?;
        rest = behind;
    }
    Ok(batch)
}

/// Checks a record and appends it, so that nothing that is loaded can be damaged.
fn append(bytes: &[u8], references: usize, batch: &mut Batch) -> Result<(), &'static str> {
    let (fixed, rest) = bytes.split_first_chunk::<32>().ok_or("a record is too short")?;
    let word =
        |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let half = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
    let name_length = usize::from(fixed[8]);
    let mut core = Core {
        reference: word(0).cast_signed(),
        position: word(4).cast_signed(),
        mate_reference: word(20).cast_signed(),
        mate_position: word(24).cast_signed(),
        template_length: word(28).cast_signed(),
        flags: half(14),
        mapping_quality: fixed[9],
        name_length: 0,
        cigar_length: half(12).into(),
        sequence_length: word(16),
    };
    let is_reference = |number: i32| {
        number == -1 || usize::try_from(number).is_ok_and(|number| number < references)
    };
    if !is_reference(core.reference) || !is_reference(core.mate_reference) {
        return Err("a record is on a reference that the header does not have");
    }
    if core.position < -1 || core.mate_position < -1 {
        return Err("a position is negative");
    }
    if core.sequence_length > i32::MAX as u32 {
        return Err("the length of a sequence is negative");
    }
    let (name, rest) = rest.split_at_checked(name_length).ok_or("a name is cut off")?;
    let end = name.iter().position(|&byte| byte == 0).ok_or("a name has no end")?;
    core.name_length = end as u8;
    let name = &name[..end];
    // All of it has to be there before a part is looked at.
    let ends = core.ends();
    if ends[3] - end > rest.len() {
        return Err("a record is shorter than its parts");
    }
    let (parts, tags) = rest.split_at(ends[3] - end);
    let (cigar, sequence) = parts.split_at(ends[1] - end);
    if cigar.iter().step_by(4).any(|byte| byte & 15 > 8) {
        return Err("a CIGAR has an operator that is none of MIDNSHP=X");
    }
    let bases = u64::from(core.sequence_length);
    let mut long = None;
    for tag in Tags(tags) {
        let (tag, kind, value) = tag?;
        if tag == *b"CG" && kind == b'B' && matches!(value[0], b'I' | b'i') {
            long = Some(&value[5..]);
        }
    }
    let is_placeholder = core.cigar_length > 0
        && core.reference >= 0
        && core.position >= 0
        && u32::from_le_bytes([cigar[0], cigar[1], cigar[2], cigar[3]])
            == (core.sequence_length << 4 | 4);
    let begin = batch.bytes.len();
    batch.bytes.extend_from_slice(name);
    match long.filter(|_| is_placeholder) {
        // More operators than the field has room for are in a tag.
        Some(long) => {
            if long.iter().step_by(4).any(|byte| byte & 15 > 8) {
                return Err("a CIGAR has an operator that is none of MIDNSHP=X");
            }
            core.cigar_length = (long.len() / 4) as u32;
            batch.bytes.extend_from_slice(long);
            batch.bytes.extend_from_slice(sequence);
            let mut rest = tags;
            for tag in Tags(tags) {
                let (name, kind, value) = tag?;
                let (this, others) = rest.split_at(3 + value.len());
                rest = others;
                if !(name == *b"CG" && kind == b'B') {
                    batch.bytes.extend_from_slice(this);
                }
            }
        }
        None => batch.bytes.extend_from_slice(rest),
    }
    let covers = cigar_covers(&batch.bytes[begin + end..][..4 * core.cigar_length as usize]);
    if core.cigar_length > 0 && bases > 0 && covers != bases {
        return Err("CIGAR and SEQ are of different length");
    }
    batch.cores.push((core, batch.bytes.len() - begin));
    Ok(())
}
