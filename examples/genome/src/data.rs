//! What is stored: reads that point to their parts, in blocks as they were loaded, and an order of
//! pointers to them.
//!
//! ```text
//!  Genome { blocks, order, .. }     blocks:  [ Read { core, body }, Read, .. ]   [ Read, .. ]
//!                                                            |         ^             ^
//!                                   bodies:  [ name CIGAR .. | name .. | ]           |
//!                                   order:   [ ptr, ptr, .. ]----------+-------------+
//! ```
//!
//! What counting, sorting and making an index ask of a read is kept once more beside the reads, densely: so they touch
//! few pages, and a page that is touched first costs more than all that is done with it.

use spacejmp::{AllocError, At, In, Mode, Storable, VPtr, VSlice, VVec, Write};

use crate::header::Header;
use crate::record::{Batch, Core, Record};

spacejmp::brand! {
    /// The address space of a file's reads.
    pub Reads<'v> => Genome<'v>
}

/// The root object.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
pub struct Genome<'v> {
    /// The header's lines.
    pub header: VVec<u8, Reads<'v>>,
    pub references: VVec<Reference<'v>, Reads<'v>>,
    pub blocks: VVec<Block<'v>, Reads<'v>>,
    pub count: u64,
    /// All reads in another order than that of the blocks; empty if there is none.
    pub order: VVec<VPtr<Read<'v>, Reads<'v>>, Reads<'v>>,
    /// Of a coordinate order: the reads' places in that order.
    pub places: VVec<u64, Reads<'v>>,
    /// And how many positions each covers.
    pub spans: VVec<u32, Reads<'v>>,
    /// See [`crate::index`]; empty if there is none.
    pub index: VVec<Places<'v>, Reads<'v>>,
}

/// Reads as they were loaded together.
#[derive(Debug, Storable)]
#[storable(vas = Reads<'v>)]
pub struct Block<'v> {
    pub reads: VSlice<Read<'v>, Reads<'v>>,
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
            blocks: VVec::new(),
            count: 0,
            order: VVec::new(),
            places: VVec::new(),
            spans: VVec::new(),
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

    /// Appends reads.
    ///
    /// # Errors
    /// [`AllocError`] when there is no room.
    pub fn append(&mut self, at: &At<Reads<'v>, Write>, batch: &Batch) -> Result<(), AllocError> {
        let bodies = VVec::from_slice(at, &batch.bytes)?.share();
        let mut begin = 0;
        let reads = batch.cores.iter().map(|(core, length)| {
            let body = bodies.part(begin..begin + length);
            begin += length;
            Read { core: *core, body }
        });
        let block = Block {
            reads: VVec::collect(at, reads)?.share(),
            marks: VVec::collect(at, batch.cores.iter().map(|(core, _)| core.mark()))?.share(),
            places: VVec::collect(at, batch.cores.iter().map(|(core, _)| core.place()))?.share(),
            spans: VVec::collect(at, batch.records().map(|record| record.span()))?.share(),
        };
        self.blocks.at_mut(at).push(block)?;
        self.count += batch.cores.len() as u64;
        Ok(())
    }

    /// All reads, in the order that they have now.
    pub fn reads<'a, M: Mode>(
        &'a self,
        v: &'a In<Reads<'v>, M>,
    ) -> impl Iterator<Item = &'a Read<'v>> {
        let order = self.order.at(v);
        let loaded = if order.is_empty() { usize::MAX } else { 0 };
        self.loaded(v).take(loaded).chain(order.iter().map(|read| read.get(v)))
    }

    /// All reads, in the order of the file that they were loaded from.
    pub fn loaded<'a, M: Mode>(
        &'a self,
        v: &'a In<Reads<'v>, M>,
    ) -> impl Iterator<Item = &'a Read<'v>> {
        self.blocks.at(v).iter().flat_map(|block| block.reads.get(v))
    }

    /// The order is that of the file again.
    pub fn forget_order(&mut self) {
        self.order = VVec::new();
        self.places = VVec::new();
        self.spans = VVec::new();
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

/// Brings the marks up to date with the reads' flags.
pub fn mark_anew<'v>(v: &mut In<Reads<'v>, Write>) {
    let blocks = v.root().blocks.at(v).iter();
    let slices: Vec<_> = blocks.map(|block| (block.reads, block.marks)).collect();
    for (reads, marks) in slices {
        let new: Vec<u16> = reads.get(v).iter().map(|read| read.core.mark()).collect();
        // Pages of which nothing changes stay as they are.
        for (mark, new) in marks.get_mut(v).iter_mut().zip(new).filter(|(mark, new)| **mark != *new)
        {
            *mark = new;
        }
    }
}

impl Default for Genome<'_> {
    fn default() -> Self {
        Genome::new()
    }
}
