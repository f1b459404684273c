//! Statistics of reads, as `samtools stats` makes them.
//!
//! - `coverage`: how many reads cover positions, and depth by GC content; `show`: the text
//!
//! What samtools counts in a peculiar way is counted in the same way here, so that the text is the same.

mod coverage;
mod show;

use crate::record::{
    DUPLICATE, FIRST, LAST, MATE_REVERSE, MATE_UNMAPPED, PAIRED, PROPER_PAIR, QC_FAIL, REVERSE,
    Record, SECONDARY, SUPPLEMENTARY, UNMAPPED,
};
use crate::text::tags::{Tags, integer};

use self::coverage::Coverage;

/// Larger insert sizes count as this one.
const INSERT_SIZE_MAX: usize = 8000;
/// Steps of GC content.
const GC_STEPS: usize = 200;
/// Longer insertions and deletions are not counted by their length.
const INDEL_MAX: usize = 300;

/// Counts of bases at a cycle: A, C, G, T, N, others.
type Bases = [u64; 6];

/// What is counted of the first reads of pairs, or of the last.
#[derive(Debug, Default)]
struct Part {
    reads: u64,
    bases: u64,
    longest: usize,
    /// By length.
    lengths: Vec<u64>,
    /// By quality and cycle.
    qualities: Vec<Vec<u64>>,
    gc: Vec<u64>,
    cycles: Vec<Bases>,
    insertions: Vec<u64>,
    deletions: Vec<u64>,
}

/// Which read of a pair it is. Both of a pair, or in between, is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Last,
    Neither,
}

/// Of pairs with an insert size: inward, outward, others.
type Directions = [u64; 3];

/// What was counted.
#[derive(Debug)]
pub struct Stats {
    checksums: [u32; 3],
    first: Part,
    last: Part,
    others: u64,
    secondary: u64,
    supplementary: u64,
    duplicates: u64,
    bases_duplicated: u64,
    failed: u64,
    paired: u64,
    unmapped: u64,
    mapped_alone: u64,
    mapped_in_pairs: u64,
    proper: u64,
    elsewhere: u64,
    without_quality: u64,
    bases: u64,
    bases_mapped: u64,
    bases_aligned: u64,
    mismatches: u64,
    quality_sum: u64,
    best_quality: usize,
    longest: usize,
    /// So many cycles are prepared for, as in samtools, where it shows.
    cycles: usize,
    /// Of all, by length.
    lengths: Vec<u64>,
    /// As the reads were read, on whichever strand they lie.
    as_read: Vec<[u64; 4]>,
    insert_sizes: Vec<Directions>,
    /// Insertions and deletions, by length.
    indels: Vec<[u64; 2]>,
    coverage: Coverage,
}

/// Adds one at an index, wherever the list ends.
fn count<T: Default + Clone>(list: &mut Vec<T>, index: usize) -> &mut T {
    if index >= list.len() {
        list.resize(index + 1, T::default());
    }
    &mut list[index]
}

impl Default for Stats {
    fn default() -> Self {
        let part = || Part { gc: vec![0; GC_STEPS], ..Part::default() };
        Stats {
            checksums: [0; 3],
            first: part(),
            last: part(),
            others: 0,
            secondary: 0,
            supplementary: 0,
            duplicates: 0,
            bases_duplicated: 0,
            failed: 0,
            paired: 0,
            unmapped: 0,
            mapped_alone: 0,
            mapped_in_pairs: 0,
            proper: 0,
            elsewhere: 0,
            without_quality: 0,
            bases: 0,
            bases_mapped: 0,
            bases_aligned: 0,
            mismatches: 0,
            quality_sum: 0,
            best_quality: 0,
            longest: 0,
            cycles: 300,
            lengths: Vec::new(),
            as_read: Vec::new(),
            insert_sizes: vec![[0; 3]; INSERT_SIZE_MAX + 1],
            indels: vec![[0; 2]; INDEL_MAX],
            coverage: Coverage::new(5 * 300),
        }
    }
}

impl Stats {
    /// Counts a read.
    pub fn add(&mut self, record: &Record<'_>) {
        let core = record.core;
        let bases = core.sequence_length as usize;
        let mut sum = |which: usize, bytes: &[u8]| {
            self.checksums[which] = self.checksums[which].wrapping_add(crc32fast::hash(bytes));
        };
        sum(0, record.name());
        if bases > 0 {
            sum(1, record.sequence());
            // As many bytes as the sequence has, not all.
            sum(2, &record.qualities()[..record.sequence().len()]);
        }
        if core.is(SECONDARY) {
            self.secondary += 1;
            return;
        }
        self.supplementary += u64::from(core.is(SUPPLEMENTARY));
        if bases == 0 {
            return;
        }
        if core.is(DUPLICATE) {
            self.bases_duplicated += bases as u64;
            self.duplicates += 1;
        }
        let which = match (core.is(PAIRED), core.is(FIRST), core.is(LAST)) {
            (false, ..) | (true, true, false) => Which::First,
            (true, false, true) => Which::Last,
            _ => Which::Neither,
        };
        let clipped = record.cigar().filter(|(_, operator)| *operator == 5);
        let length = bases + clipped.map(|(length, _)| length as usize).sum::<usize>();
        if length >= self.cycles {
            self.cycles += 2 * (1 + length - self.cycles);
            self.coverage.enlarge(5 * length);
        }
        self.longest = self.longest.max(length);
        if let Some(part) = self.part(which) {
            part.longest = part.longest.max(length);
        }
        let mut gc = 0;
        if !core.is(SUPPLEMENTARY) {
            *count(&mut self.lengths, length) += 1;
            if let Some(part) = self.part(which) {
                *count(&mut part.lengths, length) += 1;
            }
            gc = self.add_original(record, which);
        }
        if core.is(UNMAPPED) {
            return;
        }
        self.add_indels(record, which);
        if core.is(PAIRED) && !core.is(MATE_UNMAPPED | SUPPLEMENTARY) {
            self.add_pair(record);
        }
        let mismatches = Tags(record.tags()).flatten().find(|(name, ..)| name == b"NM");
        let mismatches = mismatches.and_then(|(_, kind, value)| integer(kind, value));
        self.mismatches = self.mismatches.wrapping_add_signed(mismatches.unwrap_or(0));
        let aligned = record.cigar().filter(|(_, operator)| matches!(operator, 0 | 1 | 7 | 8));
        self.bases_aligned += aligned.map(|(length, _)| u64::from(length)).sum::<u64>();
        self.coverage.add(record, gc as f32 / bases as f32);
    }

    fn part(&mut self, which: Which) -> Option<&mut Part> {
        match which {
            Which::First => Some(&mut self.first),
            Which::Last => Some(&mut self.last),
            Which::Neither => None,
        }
    }

    /// What is counted of a read once, however many parts it was divided in; returns how many bases are G or C.
    fn add_original(&mut self, record: &Record<'_>, which: Which) -> usize {
        let core = record.core;
        let bases = core.sequence_length as usize;
        self.bases += bases as u64;
        self.failed += u64::from(core.is(QC_FAIL));
        self.paired += u64::from(core.is(PAIRED));
        let is_reverse = core.is(REVERSE);
        let mut gc = 0;
        let (mut quality_sum, mut best) = (0, self.best_quality);
        let as_read = &mut self.as_read;
        let part = match which {
            Which::First => Some(&mut self.first),
            Which::Last => Some(&mut self.last),
            Which::Neither => None,
        };
        if let Some(part) = part {
            if part.cycles.len() < bases {
                part.cycles.resize(bases, [0; 6]);
            }
            if as_read.len() < bases {
                as_read.resize(bases, [0; 4]);
            }
            let packed = record.sequence();
            for index in 0..bases {
                let cycle = if is_reverse { bases - index - 1 } else { index };
                let kind = match packed[index / 2] >> (4 * (1 - index % 2)) & 15 {
                    1 => 0,
                    2 => 1,
                    4 => 2,
                    8 => 3,
                    15 => 4,
                    _ => 5,
                };
                part.cycles[cycle][kind] += 1;
                gc += usize::from(kind == 1 || kind == 2);
                if kind < 4 {
                    as_read[cycle][if is_reverse { 3 - kind } else { kind }] += 1;
                }
            }
            part.reads += 1;
            part.bases += bases as u64;
            let step = |gc: usize| gc * (GC_STEPS - 1) / bases;
            let steps = step(gc)..step(gc + 1).min(GC_STEPS - 1);
            part.gc.get_mut(steps).into_iter().flatten().for_each(|count| *count += 1);
            for (index, quality) in record.qualities().iter().enumerate() {
                let cycle = if is_reverse { bases - index - 1 } else { index };
                let quality = usize::from(*quality);
                *count(count(&mut part.qualities, quality), cycle) += 1;
                best = best.max(quality);
                quality_sum += quality as u64;
            }
        } else {
            self.others += 1;
        }
        self.quality_sum += quality_sum;
        self.best_quality = best;
        if core.is(UNMAPPED) {
            self.unmapped += 1;
            return gc;
        }
        self.bases_mapped += bases as u64;
        self.without_quality += u64::from(core.mapping_quality == 0);
        if core.is(PAIRED) && !core.is(MATE_UNMAPPED) {
            self.mapped_in_pairs += 1;
            self.proper += u64::from(core.is(PROPER_PAIR));
            self.elsewhere += u64::from(core.reference != core.mate_reference);
        } else {
            self.mapped_alone += 1;
        }
        gc
    }

    fn add_indels(&mut self, record: &Record<'_>, which: Which) {
        let is_reverse = record.core.is(REVERSE);
        let bases = record.core.sequence_length as usize;
        let mut cycle = 0;
        for (length, operator) in record.cigar().filter(|(length, _)| *length > 0) {
            let length = length as usize;
            let (is_deletion, at) = match operator {
                1 if is_reverse => (false, bases.checked_sub(cycle + length)),
                1 => (false, Some(cycle)),
                2 if is_reverse => (true, bases.checked_sub(cycle + 1)),
                2 => (true, cycle.checked_sub(1)),
                3 | 5 | 6 => continue,
                _ => {
                    cycle += length;
                    continue;
                }
            };
            cycle += if is_deletion { 0 } else { length };
            let Some(at) = at else { continue };
            if let Some(part) = self.part(which) {
                let list = if is_deletion { &mut part.deletions } else { &mut part.insertions };
                *count(list, at) += 1;
            }
            if let Some(counts) = self.indels.get_mut(length - 1) {
                counts[usize::from(is_deletion)] += 1;
            }
        }
    }

    fn add_pair(&mut self, record: &Record<'_>) {
        let core = record.core;
        let size = core.template_length.unsigned_abs() as usize;
        if size == 0 && core.reference != core.mate_reference {
            return;
        }
        let (is_forward, is_mate_forward) = (!core.is(REVERSE), !core.is(MATE_REVERSE));
        let offset = i64::from(core.mate_position) - i64::from(core.position);
        // As seen from the first read of the pair.
        let lies_left = if core.is(FIRST) { offset } else { -offset };
        let is_as_first = core.is(FIRST) == is_forward;
        let direction = match (is_forward == is_mate_forward, lies_left) {
            (true, _) => 2,
            (false, 0..) => usize::from(!is_as_first),
            (false, _) => usize::from(is_as_first),
        };
        self.insert_sizes[size.min(INSERT_SIZE_MAX)][direction] += 1;
    }
}
