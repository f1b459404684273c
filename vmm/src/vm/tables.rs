//! The frames that page tables live in.
//!
//! Allocated from guest memory 2 MiB at a time and handed out 4 KiB at a time. They are freed only
//! when no vCPU can still use them as tables: see `abi::walk` for why a table stays where it was
//! linked.

use abi::table::EntryMem;
use abi::walk::TableMem;
use abi::{GuestPhys, PAGE_SIZE, PAGE_SIZE_2M, Pte};

use super::ledger::MemoryKind;
use super::memory::{GuestMem, MemoryError};

/// A source of zeroed 4 KiB frames.
#[derive(Debug, Default)]
pub struct FramePool {
    next: u64,
    end: u64,
    /// Freed frames: zero, and not resident.
    free: Vec<GuestPhys>,
    frames: u64,
}

impl FramePool {
    /// Allocates one zeroed frame. The ledger records it, but cannot refuse it: removing rights may
    /// need a table even at the limit. Code that wants more memory checks first.
    ///
    /// # Errors
    /// As [`GuestMem::alloc`].
    pub fn frame(&mut self, mem: &GuestMem) -> Result<GuestPhys, MemoryError> {
        let gpa = match self.free.pop() {
            Some(frame) => frame,
            None => self.fresh(mem)?,
        };
        self.frames += 1;
        mem.ledger().note(MemoryKind::Tables, PAGE_SIZE);
        Ok(gpa)
    }

    fn fresh(&mut self, mem: &GuestMem) -> Result<GuestPhys, MemoryError> {
        if self.next == self.end {
            let block = mem.alloc(PAGE_SIZE_2M)?.raw();
            self.next = block;
            self.end = block + PAGE_SIZE_2M;
        }
        let gpa = GuestPhys::literal(self.next);
        self.next += PAGE_SIZE;
        Ok(gpa)
    }

    /// Frees frames that were tables, that no table links to, and that no vCPU can still use
    /// (`Windows::forget_everything` after the last link was removed). Their memory is returned to
    /// the host.
    pub fn give_back(&mut self, mem: &GuestMem, mut frames: Vec<GuestPhys>) {
        frames.sort_unstable();
        // Adjacent ones together; what the host cannot empty is not reused.
        for run in frames.chunk_by(|a, b| a.raw() + PAGE_SIZE == b.raw()) {
            let Some(&first) = run.first() else { continue };
            let bytes = run.len() as u64 * PAGE_SIZE;
            if mem.discard(first, bytes).is_ok() {
                mem.ledger().release(MemoryKind::Tables, bytes);
                self.frames -= run.len() as u64;
                self.free.extend(run.iter().rev());
            }
        }
    }

    /// Number of frames handed out and not freed.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }
}

/// One session of table edits: borrows the pool and the memory together.
#[derive(Debug)]
pub struct Tables<'a> {
    /// Where new tables come from.
    pub pool: &'a mut FramePool,
    /// Where they lie.
    pub mem: &'a GuestMem,
}

impl EntryMem for GuestMem {
    type Error = MemoryError;

    fn read(&self, place: GuestPhys) -> Result<Pte, MemoryError> {
        self.load(place).map(Pte::from_raw)
    }

    fn write(&self, place: GuestPhys, pte: Pte) -> Result<(), MemoryError> {
        self.store(place, pte.raw())
    }

    fn write_run(&self, place: GuestPhys, run: &[Pte]) -> Result<(), MemoryError> {
        let bytes: Vec<u8> = run.iter().flat_map(|pte| pte.raw().to_le_bytes()).collect();
        GuestMem::write(self, place, &bytes)
    }
}

impl EntryMem for Tables<'_> {
    type Error = MemoryError;

    fn read(&self, place: GuestPhys) -> Result<Pte, MemoryError> {
        EntryMem::read(self.mem, place)
    }

    fn write(&self, place: GuestPhys, pte: Pte) -> Result<(), MemoryError> {
        EntryMem::write(self.mem, place, pte)
    }

    fn write_run(&self, place: GuestPhys, run: &[Pte]) -> Result<(), MemoryError> {
        self.mem.write_run(place, run)
    }
}

impl TableMem for Tables<'_> {
    fn alloc_table(&mut self) -> Result<GuestPhys, MemoryError> {
        self.pool.frame(self.mem)
    }
}
