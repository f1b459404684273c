//! What is stored: reads that point to their parts, in blocks as they were loaded, and an order of
//! pointers to them.
//!
//! ```text
//!  Genome { blocks, order, .. }     blocks:  [ Read { core, body }, Read, .. ]   [ Read, .. ]
//!                                                            |         ^             ^
//!                                   bodies:  [ name CIGAR .. | name .. | ]           |
//!                                   order:   [ ptr, ptr, .. ]----------+-------------+
//! ```

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
    pub blocks: VVec<VSlice<Read<'v>, Reads<'v>>, Reads<'v>>,
    pub count: u64,
    /// All reads in another order than that of the blocks; empty if there is none.
    pub order: VVec<VPtr<Read<'v>, Reads<'v>>, Reads<'v>>,
    /// See [`crate::index`]; empty if there is none.
    pub index: VVec<Places<'v>, Reads<'v>>,
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
        let block = VVec::collect(at, reads)?.share();
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
        let blocks = if order.is_empty() { self.blocks.at(v) } else { &[] };
        let loaded = blocks.iter().flat_map(|block| block.get(v));
        loaded.chain(order.iter().map(|read| read.get(v)))
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
