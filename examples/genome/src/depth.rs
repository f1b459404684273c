//! How many reads cover each position, as `samtools depth` says it: deletions and skips count for
//! nothing, but their positions are shown; reads without a place, secondary ones, duplicates and those that failed a
//! check are left out.

use std::collections::VecDeque;
use std::io::{self, Write};

use crate::record::{DUPLICATE, QC_FAIL, Record, SECONDARY, UNMAPPED, consumes_reference};

/// How much text is collected before it is written.
const TEXT_BYTES: usize = 1 << 18;

/// Reads in the order of their places become lines.
pub struct Depth<'n, W: Write> {
    out: W,
    text: Vec<u8>,
    /// The reference and its name.
    at: (i32, &'n [u8]),
    /// The position of the first of `counts`.
    begin: i64,
    /// Of the positions that reads may still come for.
    counts: VecDeque<u32>,
    /// Only positions from the first to before the second are written.
    range: (i64, i64),
    /// If positions without reads are to be written: how long the references are.
    lengths: Option<Vec<i64>>,
}

impl<'n, W: Write> Depth<'n, W> {
    /// For the positions of a range, counted from 0.
    pub fn new(out: W, range: (i64, i64)) -> Depth<'n, W> {
        let text = Vec::with_capacity(TEXT_BYTES + 64);
        Depth { out, text, at: (-1, b"*"), begin: 0, counts: VecDeque::new(), range, lengths: None }
    }

    /// Has positions written that no read covers, on references that have any. These are their lengths.
    pub fn show_all(&mut self, lengths: Vec<i64>) {
        self.lengths = Some(lengths);
    }

    /// Adds a read. Those before it on the same reference begin no later.
    ///
    /// # Errors
    /// Those of the output; [`io::ErrorKind::InvalidData`] if a read before it begins later.
    pub fn add(&mut self, record: &Record<'_>, name: impl Fn(i32) -> &'n [u8]) -> io::Result<()> {
        let core = record.core;
        let position = i64::from(core.position);
        if core.reference < 0 || core.is(UNMAPPED | SECONDARY | QC_FAIL | DUPLICATE) {
            return Ok(());
        }
        if core.reference != self.at.0 {
            self.flush(i64::MAX)?;
            if core.reference < self.at.0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.at = (core.reference, name(core.reference));
            self.begin = if self.lengths.is_some() { 0 } else { position };
        }
        if position < self.begin {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.flush(position)?;
        let span = record.span() as usize;
        if self.counts.len() < span {
            self.counts.resize(span, 0);
        }
        let mut from = 0;
        for (length, operator) in record.cigar().filter(|(_, op)| consumes_reference(*op)) {
            let behind = from + length as usize;
            if !matches!(operator, 2 | 3) {
                self.counts.range_mut(from..behind).for_each(|count| *count += 1);
            }
            from = behind;
        }
        Ok(())
    }

    /// Has a reference written even if no read is on it.
    pub fn begin(&mut self, reference: i32, name: &'n [u8]) {
        self.at = (reference, name);
    }

    /// How long the reference is, if all of it is to be written.
    fn length(&self) -> Option<i64> {
        let reference = usize::try_from(self.at.0).ok()?;
        self.lengths.as_ref()?.get(reference).copied()
    }

    /// Writes the positions before this one.
    fn flush(&mut self, before: i64) -> io::Result<()> {
        while self.begin < before {
            let is_shown = |length: i64| self.begin < length.min(self.range.1);
            let count = match self.counts.pop_front() {
                Some(count) => count,
                None if self.length().is_some_and(is_shown) => 0,
                None => {
                    self.begin = before;
                    break;
                }
            };
            if (self.range.0..self.range.1).contains(&self.begin) {
                self.text.extend_from_slice(self.at.1);
                self.text.push(b'\t');
                crate::text::push(&mut self.text, self.begin + 1);
                self.text.push(b'\t');
                crate::text::push(&mut self.text, count.into());
                self.text.push(b'\n');
                if self.text.len() >= TEXT_BYTES {
                    self.out.write_all(&self.text)?;
                    self.text.clear();
                }
            }
            self.begin += 1;
        }
        Ok(())
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush(i64::MAX)?;
        self.out.write_all(&self.text)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::{Header, Reference};
    use crate::record::Batch;

    #[test]
    fn operators_cover_what_they_align_and_later_reads_come_in_order() {
        let references = vec![Reference { name: b"a".to_vec(), length: 100 }];
        let header = Header::new(Vec::new(), references).expect("one name");
        let mut batch = Batch::default();
        for line in ["r\t0\ta\t3\t9\t1M2D1M\t*\t0\t0\tAC\tII", "r\t0\ta\t6\t9\t2M\t*\t0\t0\tAC\tII"]
        {
            crate::text::parse(line.as_bytes(), &header, &mut batch).expect("a right line");
        }
        let mut out = Vec::new();
        let mut depth = Depth::new(&mut out, (0, i64::MAX));
        for record in batch.records() {
            depth.add(&record, |_| b"a").expect("in order");
        }
        let first = batch.records().next().expect("two reads");
        let error = depth.add(&first, |_| b"a").expect_err("it begins before the other");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        depth.finish().expect("written to memory");
        assert_eq!(String::from_utf8_lossy(&out), "a\t3\t1\na\t4\t0\na\t5\t0\na\t6\t2\na\t7\t1\n");
    }
}
