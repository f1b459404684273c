//! Reads like those of a machine, the same for the same seed: pairs and single reads, unmapped ones, duplicates,
//! places that crowd, operators and tags of all kinds.

use std::io::{self, Write};

/// What is generated.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub reads: u64,
    pub seed: u64,
    /// Bases of a read; some are shorter, and a few are long.
    pub length: u32,
}

/// The references, and how long they are.
const REFERENCES: [(&str, u32); 6] = [
    ("chr1", 8_000_000),
    ("chr2", 5_000_000),
    ("chr3", 3_000_000),
    ("chrX", 1_500_000),
    ("HLA:A*01:01", 40_000),
    ("chrM", 16_569),
];

/// Numbers by chance: splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Whether something happens that happens once in so many times.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Where a read lies.
#[derive(Clone, Copy)]
struct Place {
    reference: usize,
    /// Counted from 1.
    position: u64,
    is_reverse: bool,
}

/// Writes SAM.
///
/// # Errors
/// Those of the output.
pub fn generate(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "@HD\tVN:1.6\tSO:unsorted")?;
    for (name, length) in REFERENCES {
        writeln!(out, "@SQ\tSN:{name}\tLN:{length}")?;
    }
    writeln!(out, "@RG\tID:a\tSM:one\tLB:x\tPL:ILLUMINA")?;
    writeln!(out, "@RG\tID:b\tSM:one\tLB:y\tPL:ILLUMINA")?;
    writeln!(out, "@PG\tID:generate\tPN:generate\tVN:1")?;
    writeln!(out, "@CO\treads by chance, seed {}", plan.seed)?;
    let mut writer = Writer { plan, chance: Chance(plan.seed), line: Vec::new(), before: None };
    let mut written = 0;
    let mut number = 0;
    while written < plan.reads {
        let is_pair = plan.reads - written >= 2 && !writer.chance.one_in(8);
        let count = if is_pair { 2 } else { 1 };
        writer.template(number, is_pair);
        out.write_all(&writer.line)?;
        writer.line.clear();
        written += count;
        number += 1;
    }
    Ok(())
}

struct Writer<'a> {
    plan: &'a Plan,
    chance: Chance,
    line: Vec<u8>,
    /// The places of the last pair, for duplicates.
    before: Option<(Place, Place)>,
}

/// One read of a template.
struct End {
    place: Option<Place>,
    operators: Vec<(u64, u8)>,
    bases: usize,
}

impl End {
    fn covers(&self) -> u64 {
        self.operators
            .iter()
            .filter(|(_, op)| b"MDN=X".contains(op))
            .map(|(length, _)| length)
            .sum()
    }

    fn cigar(&self) -> String {
        if self.operators.is_empty() {
            return "*".to_owned();
        }
        let operators = self.operators.iter();
        operators.map(|(length, op)| format!("{length}{}", char::from(*op))).collect()
    }
}

impl Writer<'_> {
    fn place(&mut self) -> Place {
        // References as large as they are, and a few places with a great many reads.
        let all: u64 = REFERENCES.iter().map(|(_, length)| u64::from(*length)).sum();
        let mut at = self.chance.below(all);
        if self.chance.one_in(4) {
            at = (at / 500_000) * 500_000 + self.chance.below(2000);
        }
        let mut reference = 0;
        while at >= u64::from(REFERENCES[reference].1) {
            at -= u64::from(REFERENCES[reference].1);
            reference += 1;
        }
        let room = u64::from(REFERENCES[reference].1);
        let position = at.min(room.saturating_sub(1500)) + 1;
        Place { reference, position, is_reverse: self.chance.one_in(2) }
    }

    fn end(&mut self, place: Option<Place>) -> End {
        let full = u64::from(self.plan.length);
        let bases = match self.chance.below(20) {
            0 => full / 2 + self.chance.below(full / 2 + 1),
            1 if self.chance.one_in(10) => full * 5,
            _ => full,
        }
        .max(8);
        let operators = match place {
            None => Vec::new(),
            Some(_) => self.operators(bases),
        };
        End { place, operators, bases: bases as usize }
    }

    fn operators(&mut self, bases: u64) -> Vec<(u64, u8)> {
        if !self.chance.one_in(5) {
            return vec![(bases, b'M')];
        }
        let third = bases / 4;
        let rest = bases - 2 * third;
        let small = 1 + self.chance.below(3);
        match self.chance.below(7) {
            0 => vec![(third, b'S'), (bases - third, b'M')],
            1 => vec![(bases - third, b'M'), (third, b'S')],
            2 => vec![(third, b'M'), (small, b'D'), (bases - third, b'M')],
            3 => vec![(third, b'M'), (small, b'I'), (bases - third - small, b'M')],
            4 => vec![(third, b'M'), (100 + small, b'N'), (bases - third, b'M')],
            5 => vec![(5, b'H'), (third, b'='), (1, b'X'), (rest - 1, b'='), (third, b'S')],
            _ => vec![
                (third, b'M'),
                (1, b'P'),
                (small, b'I'),
                (bases - third - small, b'M'),
                (3, b'H'),
            ],
        }
    }

    /// The reads of one molecule.
    fn template(&mut self, number: u64, is_pair: bool) {
        let name = format!(
            "M{:02}:{}:{}:{}",
            number % 7,
            1 + self.chance.below(8),
            1000 + self.chance.below(1200),
            number
        );
        if !is_pair {
            let place = if self.chance.one_in(10) { None } else { Some(self.place()) };
            let end = self.end(place);
            let flags = if place.is_none() { 4 } else { 0 };
            self.write(&name, flags, &end, None);
            return;
        }
        let (mut first, mut second) = match self.before {
            Some((first, second)) if self.chance.one_in(12) => (Some(first), Some(second)),
            _ => {
                let first = self.place();
                let second = if self.chance.one_in(30) {
                    self.place()
                } else {
                    let length = u64::from(REFERENCES[first.reference].1);
                    let position = (first.position + self.chance.below(400)).min(length - 1000);
                    Place { position: position.max(1), is_reverse: !first.is_reverse, ..first }
                };
                (Some(first), Some(second))
            }
        };
        self.before = first.zip(second);
        match self.chance.below(40) {
            0 => first = None,
            1 => second = None,
            2 => (first, second) = (None, None),
            _ => {}
        }
        let ends = [self.end(first), self.end(second)];
        let extra = self.chance.below(60);
        for (index, flag) in [(0, 0x40), (1, 0x80)] {
            let (own, mate) = (&ends[index], &ends[1 - index]);
            let mut flags = 1 | flag;
            flags |= if own.place.is_none() { 4 } else { 0 };
            flags |= if mate.place.is_none() { 8 } else { 0 };
            if let (Some(a), Some(b)) = (own.place, mate.place) {
                let is_proper = a.reference == b.reference && a.is_reverse != b.is_reverse;
                flags |= if is_proper { 2 } else { 0 };
            }
            // One read of some pairs is of another kind.
            if index == 1 && own.place.is_some() {
                flags |= match extra {
                    0 => 0x100,
                    1 => 0x800,
                    2 => 0x200,
                    3 => 0x400,
                    _ => 0,
                };
            }
            self.write(&name, flags, own, Some(mate));
        }
    }

    fn write(&mut self, name: &str, mut flags: u16, end: &End, mate: Option<&End>) {
        let reverse = |end: &End| end.place.is_some_and(|place| place.is_reverse);
        flags |= if reverse(end) { 0x10 } else { 0 };
        flags |= if mate.is_some_and(reverse) { 0x20 } else { 0 };
        // What has no place is shown beside its mate.
        let shown = end.place.or(mate.and_then(|mate| mate.place));
        let shown_mate = mate.and_then(|mate| mate.place.or(end.place));
        let (reference, position) =
            shown.map_or(("*", 0), |place| (REFERENCES[place.reference].0, place.position));
        let quality = if end.place.is_none() {
            0
        } else {
            [60, 60, 60, 27, 3, 0][self.chance.below(6) as usize]
        };
        let (mate_reference, mate_position) = match shown_mate {
            None => ("*", 0),
            Some(place) if Some(place.reference) == shown.map(|shown| shown.reference) => {
                ("=", place.position)
            }
            Some(place) => (REFERENCES[place.reference].0, place.position),
        };
        let template_length =
            match (end.place, mate.and_then(|mate| mate.place.map(|place| (mate, place)))) {
                (Some(own), Some((mate, other))) if own.reference == other.reference => {
                    let begin = own.position.min(other.position);
                    let behind = (own.position + end.covers()).max(other.position + mate.covers());
                    let length = (behind - begin) as i64;
                    let is_left = (own.position, flags & 0x80) < (other.position, flags & 0x40);
                    if is_left { length } else { -length }
                }
                _ => 0,
            };
        let cigar = end.cigar();
        let line = format!(
            "{name}\t{flags}\t{reference}\t{position}\t{quality}\t{cigar}\t{mate_reference}\t{mate_position}\t{template_length}\t"
        );
        self.line.extend_from_slice(line.as_bytes());
        self.bases(end.bases);
        self.tags(end, mate);
        self.line.push(b'\n');
    }

    fn bases(&mut self, bases: usize) {
        let has_none = self.chance.one_in(2000);
        if has_none {
            self.line.extend_from_slice(b"*\t*");
            return;
        }
        let mut bits = 0;
        for index in 0..bases {
            if index % 32 == 0 {
                bits = self.chance.next();
            }
            let letter = b"ACGT"[(bits & 3) as usize];
            bits >>= 2;
            self.line.push(if self.chance.0 % 977 == index as u64 { b'N' } else { letter });
        }
        self.line.push(b'\t');
        if self.chance.one_in(500) {
            self.line.push(b'*');
            return;
        }
        // As machines have them: falling towards the end, in a few steps.
        let mut steps = self.chance.next();
        let mut level = 37;
        for index in 0..bases {
            if index % 16 == 0 {
                steps = steps.rotate_left(7) ^ self.chance.0;
                level = [37, 37, 37, 25, 25, 11, 2, 37][(steps & 7) as usize];
            }
            self.line.push(b'!' + level);
        }
    }

    fn tags(&mut self, end: &End, mate: Option<&End>) {
        let mut tags = String::new();
        if end.place.is_some() {
            tags += &format!("\tNM:i:{}\tMD:Z:{}", self.chance.below(6), end.bases);
            tags += &format!("\tAS:i:{}", end.bases as i64 - self.chance.below(300) as i64);
        }
        if let Some(mate) = mate.filter(|mate| mate.place.is_some()) {
            tags += &format!(
                "\tMC:Z:{}\tms:i:{}",
                mate.cigar(),
                20 * mate.bases + self.chance.below(3000) as usize
            );
        }
        tags += if self.chance.one_in(3) { "\tRG:Z:b" } else { "\tRG:Z:a" };
        if self.chance.one_in(50) {
            let number = self.chance.below(2_000_000) as f64 / 7919.0;
            tags += &format!(
                "\tXA:A:{}\tXF:f:{number:.4}",
                char::from(b'a' + self.chance.below(26) as u8)
            );
            tags += &format!("\tXI:i:{}", self.chance.next() as i32);
            tags += "\tXH:H:1AE301\tXB:B:c,-1,0,127\tXS:B:S,1,65535\tXE:B:f,0.5,-1e10,3";
        }
        self.line.extend_from_slice(tags.as_bytes());
    }
}
