//! One VAS attached in this process: its root table and what hangs below it.
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
//! Entries only ever turn from absent to present. Whenever anything would have to be taken
//! away or replaced, the tables of the instance's own are built anew under a new root, with a
//! new generation, and the old ones are parked: KVM's shadow tables do not see our stores, and
//! a processor's tagged TLB keeps what it has (docs/src/internals/vas.md).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use abi::layout::VAS_SLOTS;
use abi::switch::LockRef;
use abi::{Entry, GuestPhys, Level, PAGE_SIZE_1G, PAGE_SIZE_2M, Right, SegId, Table, VasId};

use crate::vas::residency::segment::VmSegment;
use crate::vas::tables::frames::Frames;
use crate::vas::tables::subtree::SLOT_BYTES;
use crate::vm::{Machine, MemoryError};

/// What the kernel needs to switch to an instance with locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LockList {
    pub(crate) refs: Vec<LockRef>,
    pub(crate) cr3: u64,
    pub(crate) generation: u64,
}

/// One segment of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) right: Right,
    /// Attached to this instance only, not to the VAS.
    pub(crate) local: bool,
    /// Its addresses.
    pub(crate) range: Range<u64>,
}

/// Segments of a VM by id.
pub(crate) type Segments = BTreeMap<SegId, VmSegment>;

/// Tables of the instance's own.
#[derive(Debug, Default)]
struct OwnTables {
    pdpts: BTreeMap<u64, GuestPhys>,
    directories: BTreeMap<u64, GuestPhys>,
}

#[derive(Debug, Default)]
struct InUse;

/// A thread's share of an instance: of one whose memory a system call is using, or to which it may
/// come from a switch that waits.
///
/// What the lease and the guest's own memory say of who is inside may be anything. This is in
/// memory of the VMM's, is made with the state locked, and goes by itself.
#[derive(Debug)]
pub(crate) struct Hold(#[expect(dead_code, reason = "it is there to be counted")] Arc<InUse>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) vid: VasId,
    pub(crate) name: String,
    /// Every segment read-only.
    pub(crate) read_only: bool,
    /// Detached by its owner only.
    pub(crate) owned: bool,
    /// Keeps the segments it was made with.
    pub(crate) pinned: bool,
    /// Pinned, and the VAS no longer has all of its segments as they were.
    pub(crate) stale: bool,
    pub(crate) tagged: bool,
    pub(crate) members: BTreeMap<SegId, Member>,
    pub(crate) root: GuestPhys,
    /// What its entry says for CR3.
    pub(crate) cr3: u64,
    pub(crate) generation: u64,
    /// The store's counter of changes when the VAS was last looked at.
    pub(crate) checked_at: u64,
    /// The kernel may enter it: its entry is filled in.
    pub(crate) shown: bool,
    in_use: Arc<InUse>,
    /// Where its lock references lie, and how many.
    pub(crate) locks: Range<u32>,
    /// What lies there.
    pub(crate) lock_list: Option<LockList>,
    own: OwnTables,
}

/// Gigabytes that have an address of `range`.
fn gibs(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_SIZE_1G..range.end.div_ceil(PAGE_SIZE_1G)
}

fn touches(range: &Range<u64>, start: u64, bytes: u64) -> bool {
    range.start < start + bytes && start < range.end
}

impl Instance {
    /// An instance without segments.
    pub(crate) fn new(
        vid: VasId,
        name: String,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<Instance, MemoryError> {
        Ok(Instance {
            vid,
            name,
            read_only: false,
            owned: false,
            pinned: false,
            stale: false,
            tagged: false,
            members: BTreeMap::new(),
            root: new_root(frames, machine)?,
            cr3: 0,
            generation: 0,
            checked_at: 0,
            shown: false,
            in_use: Arc::default(),
            locks: 0..0,
            lock_list: None,
            own: OwnTables::default(),
        })
    }

    /// Keeps the instance, and what it has, from being taken apart as long as the result.
    pub(crate) fn hold(&self) -> Hold {
        Hold(self.in_use.clone())
    }

    /// How many shares are held. None comes while the caller has the state; one may go.
    pub(crate) fn holds(&self) -> usize {
        Arc::strong_count(&self.in_use) - 1
    }

    /// Whether somebody holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.holds() > 0
    }

    /// The member that has `gva`.
    pub(crate) fn member_at(&self, gva: u64) -> Option<(SegId, &Member)> {
        let has = |(&sid, member): (&SegId, _)| (sid, member);
        self.members
            .iter()
            .map(has)
            .find(|(_, member): &(SegId, &Member)| member.range.contains(&gva))
    }

    fn in_slot(&self, slot: u64) -> usize {
        let at = slot * SLOT_BYTES;
        self.members.values().filter(|m| touches(&m.range, at, SLOT_BYTES)).count()
    }

    fn in_gib(&self, gib: u64) -> usize {
        let at = gib * PAGE_SIZE_1G;
        self.members.values().filter(|m| touches(&m.range, at, PAGE_SIZE_1G)).count()
    }

    /// Whether the tables as they are can take `range` in without replacing an entry.
    pub(crate) fn has_room_for(&self, range: &Range<u64>) -> bool {
        let slots = range.start / SLOT_BYTES..range.end.div_ceil(SLOT_BYTES);
        slots.into_iter().all(|slot| {
            self.in_slot(slot) == 0
                || (self.own.pdpts.contains_key(&slot)
                    && gibs(range).filter(|gib| gib / 512 == slot).all(|gib| {
                        self.in_gib(gib) == 0 || self.own.directories.contains_key(&gib)
                    }))
        })
    }

    /// Links everything that is built of all members.
    pub(crate) fn link_all(
        &mut self,
        segments: &mut Segments,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<(), MemoryError> {
        let sids: Vec<SegId> = self.members.keys().copied().collect();
        for sid in sids {
            self.link_segment(sid, segments, frames, machine)?;
        }
        Ok(())
    }

    /// Links what is built of one member.
    pub(crate) fn link_segment(
        &mut self,
        sid: SegId,
        segments: &mut Segments,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<(), MemoryError> {
        let Some(member) = self.members.get(&sid).cloned() else { return Ok(()) };
        let slots = member.range.start / SLOT_BYTES..member.range.end.div_ceil(SLOT_BYTES);
        for slot in slots {
            let alone = self.in_slot(slot) == 1 && !self.own.pdpts.contains_key(&slot);
            if alone {
                let Some(segment) = segments.get_mut(&sid) else { continue };
                let pdpt = segment.subtree_mut(member.right).pdpt(slot, frames, machine)?;
                self.link_root(slot, pdpt, machine)?;
                continue;
            }
            let first = slot * 512;
            let wanted = gibs(&member.range);
            for gib in wanted.start.max(first)..wanted.end.min(first + 512) {
                self.link_gib(sid, member.right, gib, segments, frames, machine)?;
            }
        }
        Ok(())
    }

    /// Links the piece of one gigabyte, if it is built, where the instance has tables of its
    /// own; elsewhere the segment's table is linked already.
    pub(crate) fn link_gib(
        &mut self,
        sid: SegId,
        right: Right,
        gib: u64,
        segments: &Segments,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<(), MemoryError> {
        let slot = gib / 512;
        if self.in_slot(slot) == 1 && !self.own.pdpts.contains_key(&slot) {
            return Ok(());
        }
        let pdpt = match self.own.pdpts.get(&slot) {
            Some(&pdpt) => pdpt,
            None => {
                let pdpt = frames.alloc(machine)?;
                self.own.pdpts.insert(slot, pdpt);
                self.link_root(slot, pdpt, machine)?;
                pdpt
            }
        };
        let pdpt = Table::new(pdpt, Level::Pointer);
        let Some(subtree) = segments.get(&sid).map(|segment| segment.subtree(right)) else {
            return Ok(());
        };
        let Some(entry) = subtree.entry(gib) else { return Ok(()) };
        if self.in_gib(gib) == 1 && !self.own.directories.contains_key(&gib) {
            return pdpt.set(&machine.mem, gib * PAGE_SIZE_1G, entry);
        }
        let directory = match self.own.directories.get(&gib) {
            Some(&directory) => directory,
            None => {
                let directory = frames.alloc(machine)?;
                self.own.directories.insert(gib, directory);
                pdpt.set(&machine.mem, gib * PAGE_SIZE_1G, Entry::Table(directory))?;
                directory
            }
        };
        // Bases are 2 MiB-aligned: segments never share an entry of a directory.
        let Some(theirs) = subtree.directory(gib) else { return Ok(()) };
        let Some(range) = segments.get(&sid).map(|segment| segment.reserve.clone()) else {
            return Ok(());
        };
        let from = range.start.max(gib * PAGE_SIZE_1G) / PAGE_SIZE_2M;
        let to = range.end.min((gib + 1) * PAGE_SIZE_1G).div_ceil(PAGE_SIZE_2M);
        let directory = Table::new(directory, Level::Directory);
        (from..to).try_for_each(|n| directory.copy_from(&machine.mem, theirs, n * PAGE_SIZE_2M))
    }

    /// Unlinks a gigabyte from tables of the instance's own, because its extent goes.
    pub(crate) fn unlink_gib(
        &mut self,
        gib: u64,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<(), MemoryError> {
        if let Some(&pdpt) = self.own.pdpts.get(&(gib / 512)) {
            let pdpt = Table::new(pdpt, Level::Pointer);
            pdpt.set(&machine.mem, gib * PAGE_SIZE_1G, Entry::Empty)?;
        }
        if let Some(directory) = self.own.directories.remove(&gib) {
            frames.park(directory);
        }
        Ok(())
    }

    /// Builds all tables of the instance's own anew. Returns the old ones, which must be parked
    /// when no vCPU has the old root any more.
    pub(crate) fn rebuild(
        &mut self,
        segments: &mut Segments,
        frames: &mut Frames,
        machine: &Machine,
    ) -> Result<Vec<GuestPhys>, MemoryError> {
        let root = new_root(frames, machine)?;
        let old = std::mem::take(&mut self.own);
        let old_root = std::mem::replace(&mut self.root, root);
        self.link_all(segments, frames, machine)?;
        Ok(old.pdpts.into_values().chain(old.directories.into_values()).chain([old_root]).collect())
    }

    /// All frames of the instance's own, when it goes.
    pub(crate) fn into_frames(self) -> Vec<GuestPhys> {
        let own = self.own;
        own.pdpts.into_values().chain(own.directories.into_values()).chain([self.root]).collect()
    }

    fn link_root(&self, slot: u64, pdpt: GuestPhys, machine: &Machine) -> Result<(), MemoryError> {
        debug_assert!(VAS_SLOTS.contains(&(slot as usize)));
        let root = Table::new(self.root, Level::Root);
        root.set(&machine.mem, slot * SLOT_BYTES, Entry::Table(pdpt))
    }
}

/// A root with the private region and the kernel in it, as home has them: those entries never
/// change in the life of a VM.
fn new_root(frames: &mut Frames, machine: &Machine) -> Result<GuestPhys, MemoryError> {
    let root = frames.alloc(machine)?;
    machine.fill_root(root)?;
    Ok(root)
}
