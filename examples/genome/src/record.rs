//! One read: its fields of fixed size, and its parts of any length as in BAM.

use spacejmp::Storable;

/// Set in a read of which several come from one molecule.
pub const PAIRED: u16 = 0x1;
/// Its pair lies as expected.
pub const PROPER_PAIR: u16 = 0x2;
/// It has no place.
pub const UNMAPPED: u16 = 0x4;
/// Its mate has none.
pub const MATE_UNMAPPED: u16 = 0x8;
/// It is the reverse complement of what was read.
pub const REVERSE: u16 = 0x10;
/// Its mate is.
pub const MATE_REVERSE: u16 = 0x20;
/// The first of a pair.
pub const FIRST: u16 = 0x40;
/// The last of a pair.
pub const LAST: u16 = 0x80;
/// Another place of a read that has a better one.
pub const SECONDARY: u16 = 0x100;
/// It failed a check of quality.
pub const QC_FAIL: u16 = 0x200;
/// A duplicate of another.
pub const DUPLICATE: u16 = 0x400;
/// A further part of a read that was divided.
pub const SUPPLEMENTARY: u16 = 0x800;

/// In a mark: the mate is on another reference.
pub const MATE_ELSEWHERE: u16 = 0x1000;
/// In a mark: the mapping quality is 5 or better.
pub const MAPPED_WELL: u16 = 0x2000;

/// The position of a [`Core::place`].
#[must_use]
pub fn position(place: u64) -> i64 {
    (place >> 1 & 0xffff_ffff).cast_signed() - 1
}

/// Its reference; `None` if it has none.
#[must_use]
pub fn reference(place: u64) -> Option<usize> {
    let number = place >> 33;
    if number == 0x7fff_ffff { None } else { usize::try_from(number).ok() }
}

/// The letters of CIGAR's operators, by their numbers.
pub const CIGAR_OPERATORS: &[u8; 9] = b"MIDNSHP=X";

/// What every read has, of fixed size. Positions are counted from 0; -1 is none, also of references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Storable)]
pub struct Core {
    pub reference: i32,
    pub position: i32,
    pub mate_reference: i32,
    pub mate_position: i32,
    pub template_length: i32,
    pub flags: u16,
    pub mapping_quality: u8,
    pub name_length: u8,
    pub cigar_length: u32,
    pub sequence_length: u32,
}

impl Core {
    /// Whether any of these flags is set.
    #[must_use]
    pub fn is(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// The flags, and what else is counted: [`MATE_ELSEWHERE`], [`MAPPED_WELL`].
    #[must_use]
    pub fn mark(&self) -> u16 {
        let elsewhere = if self.mate_reference == self.reference { 0 } else { MATE_ELSEWHERE };
        let well = if self.mapping_quality < 5 { 0 } else { MAPPED_WELL };
        self.flags & 0xfff | elsewhere | well
    }

    /// What decides about a place in coordinate order: reference, position, strand. References are below
    /// 2^31, and what has none is behind.
    #[must_use]
    pub fn place(&self) -> u64 {
        let reference = u64::from(self.reference.cast_unsigned() & 0x7fff_ffff);
        let position = (i64::from(self.position) + 1).cast_unsigned();
        reference << 33 | position << 1 | u64::from(self.is(REVERSE))
    }

    /// Where the parts of the body end: name, CIGAR, sequence, qualities. The tags are what follows.
    #[must_use]
    pub fn ends(&self) -> [usize; 4] {
        let bases = self.sequence_length as usize;
        let name = usize::from(self.name_length);
        let cigar = name + 4 * self.cigar_length as usize;
        let sequence = cigar + bases.div_ceil(2);
        [name, cigar, sequence, sequence + bases]
    }
}

/// Which reads are wanted; without anything said, all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Those with all these flags,
    pub all: u16,
    /// with none of these,
    pub none: u16,
    /// not with all of these, if there are any,
    pub not_all: u16,
    /// and of this mapping quality or better.
    pub quality: u8,
}

impl Filter {
    /// Whether a read is wanted.
    #[must_use]
    pub fn takes(&self, core: &Core) -> bool {
        core.flags & self.all == self.all
            && !core.is(self.none)
            && (self.not_all == 0 || core.flags & self.not_all != self.not_all)
            && core.mapping_quality >= self.quality
    }

    /// Whether all are.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.all | self.none | self.not_all == 0 && self.quality == 0
    }
}

/// A read, wherever it lies.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub core: &'a Core,
    /// Name, CIGAR, sequence, qualities and tags, one after another, encoded as in BAM; the name without its zero.
    pub body: &'a [u8],
}

impl<'a> Record<'a> {
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        &self.body[..self.core.ends()[0]]
    }

    /// The operators: their lengths, and indexes into [`CIGAR_OPERATORS`].
    pub fn cigar(&self) -> impl Iterator<Item = (u32, u8)> + use<'a> {
        let [name, cigar, ..] = self.core.ends();
        let (words, _) = self.body[name..cigar].as_chunks::<4>();
        words.iter().map(|word| {
            let word = u32::from_le_bytes(*word);
            (word >> 4, (word & 15) as u8)
        })
    }

    /// Two bases in a byte.
    #[must_use]
    pub fn sequence(&self) -> &'a [u8] {
        let [_, cigar, sequence, _] = self.core.ends();
        &self.body[cigar..sequence]
    }

    /// One byte for each base; the first is 0xff if there are none.
    #[must_use]
    pub fn qualities(&self) -> &'a [u8] {
        let [_, _, sequence, qualities] = self.core.ends();
        &self.body[sequence..qualities]
    }

    /// The tags, encoded.
    #[must_use]
    pub fn tags(&self) -> &'a [u8] {
        &self.body[self.core.ends()[3]..]
    }

    /// Bases of the reference that the CIGAR covers.
    #[must_use]
    pub fn reference_length(&self) -> u64 {
        let covers = self.cigar().filter(|(_, op)| consumes_reference(*op));
        covers.map(|(length, _)| u64::from(length)).sum()
    }

    /// How many positions it covers; one if none.
    #[must_use]
    pub fn span(&self) -> u32 {
        let length = if self.core.is(UNMAPPED) { 0 } else { self.reference_length() };
        u32::try_from(length.max(1)).unwrap_or(u32::MAX)
    }

    /// The position behind the read.
    #[must_use]
    pub fn end(&self) -> i64 {
        i64::from(self.core.position) + i64::from(self.span())
    }
}

/// Whether the operator of a CIGAR goes on in the reference: M, D, N, =, X.
#[must_use]
pub fn consumes_reference(operator: u8) -> bool {
    matches!(operator, 0 | 2 | 3 | 7 | 8)
}

/// Whether it goes on in the read: M, I, S, =, X.
#[must_use]
pub fn consumes_read(operator: u8) -> bool {
    matches!(operator, 0 | 1 | 4 | 7 | 8)
}

/// Reads on their way from a file into the space.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each with the length of its body.
    pub cores: Vec<(Core, usize)>,
    /// The bodies.
    pub bytes: Vec<u8>,
    /// Lines or bytes of the file that it was made of.
    pub consumed: u64,
}

impl Batch {
    /// The reads.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = &self.bytes[..];
        self.cores.iter().map(move |(core, length)| {
            let (body, others) = rest.split_at(*length);
            rest = others;
            Record { core, body }
        })
    }
}
