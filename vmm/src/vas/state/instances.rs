//! Instances: VASes attached in this process.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use abi::objects::MAX_INSTANCES;
use abi::switch::LockRef;
use abi::{GuestPhys, Right, SegId, VasId};

use super::handles::Handles;
use crate::store::VasSegment;
use crate::vas::VasError;
use crate::vas::residency::Residency;
use crate::vas::tables::{InstanceTables, Members, TableFrames};
use crate::vm::MemoryError;

#[derive(Debug, Default)]
struct InUse;

/// A reference to an instance whose memory a system call is using, or to which a waiting switch may
/// return or go.
///
/// What the lease and the guest's own memory say of the threads inside is untrusted. This is in the
/// VMM's memory, is created with the state locked, and is dropped without it.
#[derive(Debug)]
pub(crate) struct Hold(#[expect(dead_code, reason = "it is there to be counted")] Arc<InUse>);

/// How up to date an instance is with its VAS in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freshness {
    /// It has what the VAS had when the store's counter of changes said this.
    Current {
        /// The counter.
        at: u64,
    },
    /// Something was to join or leave and could not yet.
    Incomplete,
    /// It is pinned, and the VAS no longer has all of its segments as they were.
    Stale,
}

impl Freshness {
    /// Whether nothing has changed since, now that the counter says `changes`.
    pub(crate) fn is_current(self, changes: u64) -> bool {
        self == Freshness::Current { at: changes }
    }

    /// Whether it is at least as new as what the kernel relies on: an instance may have been
    /// reconciled later.
    pub(crate) fn is_as_new_as(self, seen: u64) -> bool {
        matches!(self, Freshness::Current { at } if at.wrapping_sub(seen).cast_signed() >= 0)
    }
}

/// A list of locks as the kernel needs it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LockList {
    pub(crate) refs: Vec<LockRef>,
    pub(crate) cr3: u64,
    pub(crate) generation: u64,
}

/// What the kernel is shown of an instance.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// It may enter without the VMM: the entry is filled in.
    pub(crate) open: bool,
    /// What the entry says for CR3.
    pub(crate) cr3: u64,
    /// Where the lock references lie, and how many.
    pub(crate) locks: Range<u32>,
    /// What lies there.
    pub(crate) list: Option<LockList>,
}

/// What an instance was attached as, by its flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// Every segment read-only.
    pub(crate) read_only: bool,
    /// Detached by its owner only.
    pub(crate) owned: bool,
    /// Keeps the segments it was made with.
    pub(crate) pinned: bool,
}

impl Traits {
    /// What the instance may do with a segment of its VAS.
    pub(crate) fn right_on(self, wanted: &VasSegment) -> Right {
        if self.read_only { Right::Read } else { wanted.right }
    }
}

/// Whether, and from where on, commits through an instance have numbers of its VAS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Numbering {
    /// They have none: it does not have all segments of the VAS, so a thread inside does not have the lock
    /// of each that another one may have who gives such a number.
    #[default]
    None,
    /// Each has one, higher than this.
    After(u64),
}

/// One VAS attached in this process.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) vid: VasId,
    pub(crate) name: String,
    pub(crate) traits: Traits,
    pub(crate) tagged: bool,
    pub(crate) members: Members,
    pub(crate) tables: InstanceTables,
    pub(crate) generation: u64,
    pub(crate) freshness: Freshness,
    pub(crate) numbering: Numbering,
    pub(crate) shown: Shown,
    /// It is there for threads that a snapshot had in the instance with this handle, and is an old version of
    /// that: the program does not know it.
    pub(crate) stands_for: Option<u32>,
    /// Segments that are no members, but that its tables may link to.
    pub(crate) linked: Vec<(SegId, Right)>,
    in_use: Arc<InUse>,
}

impl Instance {
    /// An instance without segments, to be reconciled with the VAS.
    pub(crate) fn new(
        vid: VasId,
        name: String,
        traits: Traits,
        frames: &mut TableFrames,
    ) -> Result<Instance, MemoryError> {
        Ok(Instance {
            vid,
            name,
            traits,
            tagged: false,
            members: Members::default(),
            tables: InstanceTables::new(frames)?,
            generation: 0,
            freshness: Freshness::Incomplete,
            numbering: Numbering::None,
            shown: Shown::default(),
            stands_for: None,
            linked: Vec::new(),
            in_use: Arc::default(),
        })
    }

    /// Whether it has a segment to write.
    pub(crate) fn writes(&self) -> bool {
        self.members.iter().any(|(_, member)| member.right == Right::Write)
    }

    /// Takes note of what the VAS says of numbers, now that the members are what they are.
    pub(crate) fn note_numbering(&mut self, listed: &[VasSegment], after: u64) {
        let has = |wanted: &VasSegment| {
            let member = self.members.get(wanted.sid);
            member.is_some_and(|it| !it.local && it.right == self.traits.right_on(wanted))
        };
        self.numbering = match listed.iter().all(has) {
            true => Numbering::After(after),
            false => Numbering::None,
        };
    }

    /// Links what is built of one member.
    pub(crate) fn link(
        &mut self,
        sid: SegId,
        residency: &mut Residency,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        let Instance { members, tables, .. } = self;
        let member = members.known(sid);
        let subtree = residency.of_member_mut(sid).subtree_mut(member.right);
        tables.link(members, member, subtree, frames)
    }

    /// Links what is built of a gigabyte of one member.
    pub(crate) fn link_gib(
        &mut self,
        sid: SegId,
        gib: u64,
        residency: &Residency,
        frames: &mut TableFrames,
    ) -> Result<(), MemoryError> {
        let Instance { members, tables, .. } = self;
        let member = members.known(sid);
        let subtree = residency.of_member(sid).subtree(member.right);
        tables.link_gib(members, member, subtree, gib, frames)
    }

    /// Builds the instance's own tables anew, with all members linked, and returns the frames of
    /// the old ones, to be retired. On failure nothing has changed.
    pub(crate) fn rebuild(
        &mut self,
        residency: &mut Residency,
        frames: &mut TableFrames,
    ) -> Result<Vec<GuestPhys>, MemoryError> {
        let mut tables = InstanceTables::new(frames)?;
        let linked = self.members.iter().try_for_each(|(sid, member)| {
            let subtree = residency.of_member_mut(sid).subtree_mut(member.right);
            tables.link(&self.members, member, subtree, frames)
        });
        if let Err(error) = linked {
            // No vCPU has ever used it as its root.
            frames.park(tables.into_frames());
            return Err(error);
        }
        Ok(std::mem::replace(&mut self.tables, tables).into_frames())
    }

    /// Keeps the instance, and what it has, from being dismantled as long as the result lives.
    pub(crate) fn hold(&self) -> Hold {
        Hold(self.in_use.clone())
    }

    /// How many references are held. None is added while the caller has the state locked; one may
    /// be dropped.
    pub(crate) fn holds(&self) -> usize {
        Arc::strong_count(&self.in_use) - 1
    }

    /// Whether any reference is held.
    pub(crate) fn is_held(&self) -> bool {
        self.holds() > 0
    }
}

/// All instances of a process, by handle.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    by_handle: BTreeMap<u32, Instance>,
    pub(crate) handles: Handles,
}

impl Instances {
    /// The instance behind a handle of the program's.
    pub(crate) fn named(&self, vh: u64) -> Result<(u32, &Instance), VasError> {
        let handle = match u32::try_from(vh) {
            Ok(0) => return Err(VasError::Home),
            Ok(handle) if handle < MAX_INSTANCES => handle,
            _ => return Err(VasError::NoInstance { vh }),
        };
        let instance = self.get(handle).filter(|instance| instance.stands_for.is_none());
        instance.map(|instance| (handle, instance)).ok_or(VasError::NoInstance { vh })
    }

    /// The instance behind a handle that the guest may control, if there is one.
    pub(crate) fn get(&self, vh: u32) -> Option<&Instance> {
        self.by_handle.get(&vh)
    }

    /// An instance that the caller has found since it locked the state.
    pub(crate) fn known(&self, vh: u32) -> &Instance {
        self.by_handle.get(&vh).expect("an instance stays while the state is locked")
    }

    /// The same, to be changed.
    pub(crate) fn known_mut(&mut self, vh: u32) -> &mut Instance {
        self.by_handle.get_mut(&vh).expect("an instance stays while the state is locked")
    }

    /// Gives a free handle to an instance.
    pub(crate) fn insert(&mut self, vh: u32, instance: Instance) {
        self.handles.take(vh);
        self.by_handle.insert(vh, instance);
    }

    /// Takes an instance away and frees its handle.
    pub(crate) fn remove(&mut self, vh: u32) -> Option<Instance> {
        let instance = self.by_handle.remove(&vh)?;
        self.handles.give_back(vh);
        Some(instance)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Instance)> {
        self.by_handle.iter().map(|(&vh, instance)| (vh, instance))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Instance)> {
        self.by_handle.iter_mut().map(|(&vh, instance)| (vh, instance))
    }

    /// The handles that are in use.
    pub(crate) fn in_use(&self) -> Vec<u32> {
        self.by_handle.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_handle.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Freshness;

    #[test]
    fn an_instance_is_shown_if_it_is_as_new_as_what_the_kernel_relies_on() {
        for (at, seen, open) in [(5, 5, true), (6, 5, true), (4, 5, false), (0, u64::MAX, true)] {
            assert_eq!(Freshness::Current { at }.is_as_new_as(seen), open, "{at} {seen}");
        }
        for never in [Freshness::Incomplete, Freshness::Stale] {
            assert!(!never.is_as_new_as(0) && !never.is_current(0));
        }
    }
}
