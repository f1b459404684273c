//! What is stored: reads that point to their parts, in chunks as they were loaded, and an order, which is the
//! numbers of reads.
//!
//! ```text
//!  Genome { reads, columns, order, .. }     chunks:  [ Read { core, body }, Read, .. ]   [ Read, .. ]
//!                                                                     |
//!                                           bodies:  [ name CIGAR .. | name .. | .. ]
//!                                           order:   [ 17, 4, .. ]
//! ```
//!
//! What counting, sorting and making an index ask of a read is kept once more beside the reads, densely and in
//! columns: so they touch few pages, and a page that is touched first costs more than all that is done with it.

use std::ops::Range;

use spacejmp::{AllocError, At, In, Mode, Storable, VSlice, VVec, Write};

use crate::header::Header;
use crate::input::Problem;
use crate::record::{Batch, Core, Record};

spacejmp::brand! {
    /// The address space of a file's reads.
    pub Reads<'v> => Genome<'v>
}

/// Reads in a chunk.
const CHUNK_READS: usize = 1 << 16;
/// Places that are looked up at once.
const AT_ONCE: usize = 4096;
/// Reads in a chunk of columns.
const COLUMN_READS: usize = 1 << 20;

/// The root object.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
pub struct Genome<'v> {
    /// The header's lines.
    pub header: VVec<u8, Reads<'v>>,
    pub references: VVec<Reference<'v>, Reads<'v>>,
    chunks: VVec<Chunk<'v>, Reads<'v>>,
    columns: VVec<Columns<'v>, Reads<'v>>,
    pub count: u64,
    /// The numbers of all reads in another order than that of the file; empty if there is none.
    pub order: VVec<u32, Reads<'v>>,
    /// See [`crate::index`]; empty if there is none.
    pub index: VVec<Places<'v>, Reads<'v>>,
}

/// Reads that follow each other in the file: as many as in each other chunk but the last.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
struct Chunk<'v> {
    reads: VSlice<Read<'v>, Reads<'v>>,
}

/// What is asked of reads most often, each kind for itself.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
pub struct Columns<'v> {
    /// [`Core::mark`] of each.
    pub marks: VSlice<u16, Reads<'v>>,
    /// [`Core::place`] of each.
    pub places: VSlice<u64, Reads<'v>>,
    /// [`Record::span`] of each.
    pub spans: VSlice<u32, Reads<'v>>,
}

/// A sequence that reads are placed on.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
pub struct Reference<'v> {
    pub name: VVec<u8, Reads<'v>>,
    pub length: u32,
}

/// Where the reads of a reference are in the order.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
pub struct Places<'v> {
    pub first: u64,
    pub behind: u64,
    /// For each window of the reference, the first read of the order that reaches into it or begins behind.
    pub windows: VVec<u64, Reads<'v>>,
}

/// One read.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
pub struct Read<'v> {
    pub core: Core,
    body: VSlice<u8, Reads<'v>>,
}

impl<'v> Read<'v> {
    /// The read with its parts.
    #[inline]
    pub fn get<'a, M: Mode>(&'a self, v: &'a In<Reads<'v>, M>) -> Record<'a> {
        Record { core: &self.core, body: self.body.get(v) }
    }
}

impl<'v> Genome<'v> {
    /// Without reads.
    #[must_use]
    pub fn new() -> Genome<'v> {
        Genome {
            header: VVec::new(),
            references: VVec::new(),
            chunks: VVec::new(),
            columns: VVec::new(),
            count: 0,
            order: VVec::new(),
            index: VVec::new(),
        }
    }

    /// Takes over a header.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn set_header(
        &mut self,
        at: &At<Reads<'v>, Write>,
        header: &Header,
    ) -> Result<(), AllocError> {
        self.header = VVec::from_slice(at, &header.text)?;
        let references = header.references.iter().map(|reference| {
            let name = VVec::from_slice(at, &reference.name)?;
            Ok(Reference { name, length: reference.length })
        });
        self.references = VVec::try_collect(at, references)?;
        Ok(())
    }

    /// The read of this number, by the file.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn read<'a, M: Mode>(&'a self, v: &'a In<Reads<'v>, M>, number: u32) -> &'a Read<'v> {
        let number = number as usize;
        &self.chunks.at(v)[number / CHUNK_READS].reads.get(v)[number % CHUNK_READS]
    }

    /// The columns, one chunk after another.
    pub fn columns<'a, M: Mode>(&'a self, v: &'a In<Reads<'v>, M>) -> &'a [Columns<'v>] {
        self.columns.at(v)
    }

    /// Place and span of a read.
    ///
    /// # Panics
    /// If there is none of this number.
    #[inline]
    pub fn placed<M: Mode>(&self, v: &In<Reads<'v>, M>, number: u32) -> (u64, u32) {
        let number = number as usize;
        let columns = &self.columns.at(v)[number / COLUMN_READS];
        let at = number % COLUMN_READS;
        (columns.places.get(v)[at], columns.spans.get(v)[at])
    }

    /// Places and spans of all reads, in the order that they have now.
    pub fn all_placed<'a, M: Mode>(
        &'a self,
        v: &'a In<Reads<'v>, M>,
    ) -> impl Iterator<Item = (u64, u32)> + 'a {
        let ranks = (0..self.count).step_by(AT_ONCE);
        // They lie anywhere in memory: in loops that do nothing else the processor waits for several at a time.
        ranks.flat_map(move |rank| {
            let numbers: Vec<u32> = self.numbers_at(v, rank..rank + AT_ONCE as u64).collect();
            let placed: Vec<_> = numbers.iter().map(|number| self.placed(v, *number)).collect();
            placed
        })
    }

    /// The numbers of all reads, in the order that they have now.
    pub fn numbers<'a, M: Mode>(
        &'a self,
        v: &'a In<Reads<'v>, M>,
    ) -> impl Iterator<Item = u32> + 'a {
        self.numbers_at(v, 0..self.count)
    }

    /// Those at some places of the order.
    pub fn numbers_at<'a, M: Mode>(
        &'a self,
        v: &'a In<Reads<'v>, M>,
        ranks: Range<u64>,
    ) -> impl Iterator<Item = u32> + 'a {
        let order = self.order.at(v);
        // There are no more than numbers, as `Loader` sees to.
        let bounded = |rank: u64| rank.min(self.count) as usize;
        let ranks = bounded(ranks.start)..bounded(ranks.end);
        ranks.map(move |rank| order.get(rank).copied().unwrap_or(rank as u32))
    }

    /// All reads, in the order that they have now.
    pub fn reads<'a, M: Mode>(
        &'a self,
        v: &'a In<Reads<'v>, M>,
    ) -> impl Iterator<Item = &'a Read<'v>> {
        self.numbers(v).map(|number| self.read(v, number))
    }

    /// The order is that of the file again.
    pub fn forget_order(&mut self) {
        self.order = VVec::new();
        self.index = VVec::new();
    }

    /// The name of a reference.
    pub fn name<'a, M: Mode>(&'a self, at: &'a At<Reads<'v>, M>, reference: i32) -> &'a [u8] {
        let reference = usize::try_from(reference).ok();
        // Numbers are checked when reads are loaded.
        let found = reference.and_then(|number| self.references.at(at).get(number));
        found.map_or(b"*", |reference| reference.name.at(at))
    }
}

impl Default for Genome<'_> {
    fn default() -> Self {
        Genome::new()
    }
}

/// Puts reads into a space: what is dense there is collected here first, to lie in one piece.
#[derive(Debug, Default)]
pub struct Loader<'v> {
    reads: Vec<Read<'v>>,
    marks: Vec<u16>,
    places: Vec<u64>,
    spans: Vec<u32>,
}

impl<'v> Loader<'v> {
    /// Appends reads.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room; if there are more reads than numbers for them.
    pub fn append(
        &mut self,
        root: &mut Genome<'v>,
        at: &At<Reads<'v>, Write>,
        batch: &Batch,
    ) -> Result<(), Problem> {
        root.count += batch.cores.len() as u64;
        if root.count > u32::MAX.into() {
            return Err("an address space has 4294967295 reads at most".into());
        }
        let bodies = VVec::from_slice(at, &batch.bytes)?.share();
        let mut begin = 0;
        for (record, (core, length)) in batch.records().zip(&batch.cores) {
            let body = bodies.part(begin..begin + length);
            begin += length;
            self.reads.push(Read { core: *core, body });
            self.marks.push(core.mark());
            self.places.push(core.place());
            self.spans.push(record.span());
            if self.reads.len() == CHUNK_READS {
                self.store_chunk(root, at)?;
            }
            if self.marks.len() == COLUMN_READS {
                self.store_columns(root, at)?;
            }
        }
        Ok(())
    }

    /// Stores what is left.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn finish(
        mut self,
        root: &mut Genome<'v>,
        at: &At<Reads<'v>, Write>,
    ) -> Result<(), AllocError> {
        if !self.reads.is_empty() {
            self.store_chunk(root, at)?;
        }
        if !self.marks.is_empty() {
            self.store_columns(root, at)?;
        }
        Ok(())
    }

    fn store_chunk(
        &mut self,
        root: &mut Genome<'v>,
        at: &At<Reads<'v>, Write>,
    ) -> Result<(), AllocError> {
        let reads = VVec::collect(at, self.reads.drain(..))?.share();
        root.chunks.at_mut(at).push(Chunk { reads })
    }

    fn store_columns(
        &mut self,
        root: &mut Genome<'v>,
        at: &At<Reads<'v>, Write>,
    ) -> Result<(), AllocError> {
        let columns = Columns {
            marks: VVec::from_slice(at, &self.marks)?.share(),
            places: VVec::from_slice(at, &self.places)?.share(),
            spans: VVec::from_slice(at, &self.spans)?.share(),
        };
        self.marks.clear();
        self.places.clear();
        self.spans.clear();
        root.columns.at_mut(at).push(columns)
    }
}

/// Sets a flag of reads, given by their numbers; returns how many reads have it then.
pub fn set_flag<'v>(v: &mut In<Reads<'v>, Write>, numbers: &[u32], flag: u16) -> u64 {
    let root = v.root();
    let chunks: Vec<_> = root.chunks.at(v).iter().map(|chunk| chunk.reads).collect();
    let marks: Vec<_> = root.columns.at(v).iter().map(|columns| columns.marks).collect();
    for number in numbers {
        let number = *number as usize;
        chunks[number / CHUNK_READS].get_mut(v)[number % CHUNK_READS].core.flags |= flag;
        marks[number / COLUMN_READS].get_mut(v)[number % COLUMN_READS] |= flag;
    }
    let has = |marks: &[u16]| marks.iter().filter(|mark| **mark & flag != 0).count() as u64;
    marks.iter().map(|marks| has(marks.get(v))).sum()
}
