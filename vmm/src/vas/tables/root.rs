//! The tables of one instance: its root and what hangs below it.
//!
//! ```text
//!  root   slots 0-31    home's own tables: the private region, the same in every instance
//!         slots 32-255  one segment in the slot:  that segment's PDPT, linked
//!                       several:  a PDPT of the instance's own, whose gigabytes are
//!                                 one segment's piece, linked, or a directory of its own
//!                                 with a copy of the pieces' entries
//!         slots 256-511 the kernel
//! ```
//!
//! Entries only ever turn from absent to present. Whenever anything would have to be removed or
//! replaced, the instance's own tables are rebuilt under a new root, with a new generation, and the
//! old ones are parked: KVM's shadow tables do not see our stores, and a processor's tagged TLB
//! keeps what it has (docs/src/internals/vas.md).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

use abi::layout::VAS_SLOTS;
use abi::{Entry, GuestPhys, Level, PAGE_SIZE_1G, PAGE_SIZE_2M, Table};

use super::{Member, Members, SLOT_BYTES, SegmentTables, TableFrames};
use crate::vm::MemoryError;

/// See the module.
#[derive(Debug)]
pub(crate) struct InstanceTables {
    root: GuestPhys,
    /// By number of the 512 GiB slot.
    pdpts: BTreeMap<u64, GuestPhys>,
    /// By number of the gigabyte.
    directories: BTreeMap<u64, GuestPhys>,
    /// Something was partly linked and is no longer a member: see [`InstanceTables::spoil`].
    spoilt: bool,
}

/// Gigabytes that have an address of `range`.
fn gibs(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_SIZE_1G..range.end.div_ceil(PAGE_SIZE_1G)
}

/// 512 GiB slots that have an address of `range`.
fn slots(range: &Range<u64>) -> Range<u64> {
    range.start / SLOT_BYTES..range.end.div_ceil(SLOT_BYTES)
}

impl InstanceTables {
    /// A root with the private region and the kernel in it, as home has them, and no segments:
    /// those entries never change during the life of a VM.
    pub(crate) fn new(frames: &mut TableFrames) -> Result<InstanceTables, MemoryError> {
        let root = frames.alloc()?;
        frames.machine().fill_root(root)?;
        let (pdpts, directories) = Default::default();
        Ok(InstanceTables { root, pdpts, directories, spoilt: false })
    }

    pub(crate) fn root(&self) -> GuestPhys {
        self.root
    }

    /// Whether the tables as they are can take `range` in without replacing an entry.
    pub(crate) fn has_room_for(&self, members: &Members, range: &Range<u64>) -> bool {
        !self.spoilt
            && slots(range).all(|slot| {
                members.in_slot(slot) == 0
                    || (self.pdpts.contains_key(&slot)
                        && gibs(range).filter(|gib| gib / 512 == slot).all(|gib| {
                            members.in_gib(gib) == 0 || self.directories.contains_key(&gib)
                        }))
            })
    }

    /// To be called when linking a member has failed half-way and it is not to be a member: its
    /// tables may be linked, so they must stay as long as these, and the next member needs a new
    /// root.
    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// Links what is built of `member`, one of `members`, whose tables are `subtree`.
    pub(crate) fn link(
        &mut self,
        members: &Members,
        member: &Member,
        subtree: &mut impl SegmentTables,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        for slot in slots(&member.range) {
            if self.is_alone(members, slot) {
                let pdpt = subtree.pdpt(slot, frames)?;
                self.link_slot(slot, pdpt, frames)?;
                continue;
            }
            let first = slot * 512;
            let wanted = gibs(&member.range);
            for gib in wanted.start.max(first)..wanted.end.min(first + 512) {
                self.link_gib(members, member, subtree, gib, frames)?;
            }
        }
        Ok(())
    }

    /// Whether a slot is one member's, whose own table is linked there.
    fn is_alone(&self, members: &Members, slot: u64) -> bool {
        members.in_slot(slot) == 1 && !self.pdpts.contains_key(&slot)
    }

    fn link_slot(
        &self,
        slot: u64,
        pdpt: GuestPhys,
        frames: &TableFrames,
    ) -> Result<(), MemoryError> {
        debug_assert!(VAS_SLOTS.contains(&(slot as usize)));
        let root = Table::new(self.root, Level::Root);
        root.set(frames.mem(), slot * SLOT_BYTES, Entry::Table(pdpt))
    }

    /// Links the piece of one gigabyte, if it is built, where the instance has tables of its
    /// own; elsewhere the segment's table is linked already.
    pub(crate) fn link_gib(
        &mut self,
        members: &Members,
        member: &Member,
        subtree: &impl SegmentTables,
        gib: u64,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        let slot = gib / 512;
        if self.is_alone(members, slot) {
            return Ok(());
        }
        let pdpt = match self.pdpts.get(&slot) {
            Some(&pdpt) => pdpt,
            None => {
                let pdpt = frames.alloc()?;
                self.pdpts.insert(slot, pdpt);
                self.link_slot(slot, pdpt, frames)?;
                pdpt
            }
        };
        let pdpt = Table::new(pdpt, Level::Pointer);
        // Not built: a fault builds it and calls this again.
        let Some(entry) = subtree.entry(gib) else { return Ok(()) };
        if members.in_gib(gib) == 1 && !self.directories.contains_key(&gib) {
            return pdpt.set(frames.mem(), gib * PAGE_SIZE_1G, entry);
        }
        let directory = match self.directories.get(&gib) {
            Some(&directory) => directory,
            None => {
                let directory = frames.alloc()?;
                self.directories.insert(gib, directory);
                pdpt.set(frames.mem(), gib * PAGE_SIZE_1G, Entry::Table(directory))?;
                directory
            }
        };
        // A page of a gigabyte is all one segment's: then it is alone there.
        let theirs =
            subtree.directory(gib).expect("segments that share a gigabyte have directories");
        // Bases are 2 MiB-aligned: segments never share an entry of a directory.
        let from = member.range.start.max(gib * PAGE_SIZE_1G) / PAGE_SIZE_2M;
        let to = member.range.end.min((gib + 1) * PAGE_SIZE_1G).div_ceil(PAGE_SIZE_2M);
        let directory = Table::new(directory, Level::Directory);
        (from..to).try_for_each(|n| directory.copy_from(frames.mem(), theirs, n * PAGE_SIZE_2M))
    }

    /// Unlinks a gigabyte from tables of the instance's own, because its extent is evicted.
    pub(crate) fn unlink_gib(
        &mut self,
        gib: u64,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        if let Some(&pdpt) = self.pdpts.get(&(gib / 512)) {
            let pdpt = Table::new(pdpt, Level::Pointer);
            pdpt.set(frames.mem(), gib * PAGE_SIZE_1G, Entry::Empty)?;
        }
        frames.park(self.directories.remove(&gib));
        Ok(())
    }

    /// All frames of the instance's own, to be parked when no vCPU has its root any more.
    pub(crate) fn into_frames(self) -> Vec<GuestPhys> {
        let own = self.pdpts.into_values().chain(self.directories.into_values());
        own.chain([self.root]).collect()
    }
}
