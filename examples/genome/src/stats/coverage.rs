//! How many reads cover each position, in a ring of counters that goes along with reads in order, and depths of parts
//! of references by their GC content.

use crate::record::{Record, consumes_reference};

/// Positions that have more reads are counted together.
const DEPTH_MAX: usize = 1000;
/// A part of a reference that has a depth.
const PART_BASES: i64 = 20_000;

/// Reads of a part, and the sum of their GC contents.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Depth {
    pub(super) gc: f32,
    pub(super) reads: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Coverage {
    /// Whether reads have come in order so far. What comes later is not counted here.
    pub(super) is_sorted: bool,
    /// How many positions are covered by none, by 1, 2 and so on, and by more.
    pub(super) depths: Vec<u64>,
    /// The first is empty.
    pub(super) parts: Vec<Depth>,
    reference: i32,
    position: i64,
    part_begins: Option<i64>,
    ring: Vec<u32>,
    start: usize,
    ring_begins: i64,
}

impl Coverage {
    pub(super) fn new(size: usize) -> Coverage {
        Coverage {
            is_sorted: true,
            depths: vec![0; DEPTH_MAX + 2],
            parts: vec![Depth::default()],
            reference: -1,
            position: 0,
            part_begins: None,
            ring: vec![0; size],
            start: 0,
            ring_begins: 0,
        }
    }

    /// Makes the ring larger. samtools takes over as many bytes as the old one had counters, and so does this.
    pub(super) fn enlarge(&mut self, size: usize) {
        let mut ring = vec![0; size];
        let count = self.ring.len() - self.start;
        copy_bytes(&self.ring[self.start..], &mut ring, count);
        if self.start > 1 {
            copy_bytes(&self.ring, &mut ring[count..], self.start);
        }
        self.start = 0;
        self.ring = ring;
    }

    /// Adds a read with a place. `gc` is its GC content.
    pub(super) fn add(&mut self, record: &Record<'_>, gc: f32) {
        let (reference, position) = (record.core.reference, i64::from(record.core.position));
        if reference == self.reference && position < self.position {
            self.is_sorted = false;
        }
        self.position = position;
        if !self.is_sorted {
            return;
        }
        if self.reference == -1 || self.reference != reference {
            self.flush(None);
        }
        let is_in_part = self.part_begins.is_some_and(|begin| position - begin <= PART_BASES);
        if self.reference != reference || !is_in_part {
            self.reference = reference;
            self.part_begins = Some(position);
            self.parts.push(Depth::default());
        }
        if let Some(part) = self.parts.last_mut() {
            part.reads += 1;
            part.gc += gc;
        }
        self.flush(Some(position));
        let mut at = position;
        for (length, operator) in record.cigar() {
            if matches!(operator, 0 | 7 | 8) {
                self.cover(at, i64::from(length));
            }
            if consumes_reference(operator) {
                at += i64::from(length);
            }
        }
    }

    /// Where in the ring the position is.
    fn place(&self, position: i64) -> usize {
        let size = self.ring.len() as i64;
        let offset = (position - self.ring_begins) % size;
        ((self.start as i64 + offset) % size).unsigned_abs() as usize
    }

    fn cover(&mut self, from: i64, length: i64) {
        let (from, to) = (self.place(from), self.place(from + length));
        if from > to {
            self.ring[from..].iter_mut().for_each(|count| *count += 1);
            self.ring[..to].iter_mut().for_each(|count| *count += 1);
        } else {
            self.ring[from..to].iter_mut().for_each(|count| *count += 1);
        }
    }

    /// Counts the positions before this one, or all.
    pub(super) fn flush(&mut self, before: Option<i64>) {
        let new = before.unwrap_or(-1);
        if new == self.ring_begins {
            return;
        }
        let size = self.ring.len() as i64;
        let is_all = before.is_none() || new - self.ring_begins >= size;
        let behind = if is_all { self.ring_begins + size - 1 } else { new };
        let (from, last) = (self.start, self.place(behind - 1));
        let ranges = match from > last {
            true => [from..self.ring.len(), 0..last + 1],
            false => [from..last + 1, 0..0],
        };
        for place in ranges.into_iter().flatten() {
            let count = std::mem::take(&mut self.ring[place]) as usize;
            if count > 0 {
                self.depths[count.min(DEPTH_MAX + 1)] += 1;
            }
        }
        self.start = if before.is_none() { 0 } else { self.place(behind) };
        self.ring_begins = new;
    }
}

/// Copies so many bytes of numbers.
fn copy_bytes(from: &[u32], to: &mut [u32], bytes: usize) {
    for (index, (to, from)) in to.iter_mut().zip(from).take(bytes.div_ceil(4)).enumerate() {
        let mask = match bytes - 4 * index {
            1 => 0xff,
            2 => 0xffff,
            3 => 0xff_ffff,
            _ => u32::MAX,
        };
        *to = *from & mask;
    }
}
