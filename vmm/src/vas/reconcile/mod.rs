//! Which segments an instance has: `seg_attach` and `seg_detach` for this process, and keeping
//! up with what others do to the VAS in the store.
//!
//! A lockable segment joins or leaves an instance only while no thread of the process is
//! inside: what a thread holds is what its instance lists. A plain segment may join at any
//! time.

use std::ops::Range;

use abi::{Right, SegId, VasId};

use crate::store::{Store, VasRecord, VasSegment};
use crate::vas::VasError;
use crate::vas::residency::Look;
use crate::vas::state::{State, Vases};
use crate::vas::tables::instance::Member;

/// A segment that is to join an instance.
#[derive(Clone, Copy)]
pub(crate) struct NewMember {
    pub(crate) sid: SegId,
    pub(crate) right: Right,
    local: bool,
}

impl Vases {
    /// Attaches a segment to this process's instance only.
    ///
    /// # Errors
    /// [`VasError::Pinned`], [`VasError::Overlap`], [`VasError::ReadOnly`], [`VasError::Inside`] for a lockable
    /// segment while a thread is inside; then nothing has changed.
    pub fn attach_local(&self, vh: u64, sid: SegId, right: Right) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let store = self.open(state)?;
        let (vh, instance) = state.instance(vh)?;
        if instance.pinned {
            return Err(VasError::Pinned { vh });
        }
        let right = if instance.read_only { Right::Read } else { right };
        if instance.members.contains_key(&sid) {
            return Err(VasError::Overlap { sid, other: sid });
        }
        self.join(state, &store, vh, NewMember { sid, right, local: true }, None)
    }

    /// Takes a segment out of this process's instance.
    ///
    /// # Errors
    /// [`VasError::NotMember`] unless it was attached to the instance itself;
    /// [`VasError::Inside`] while a thread is inside.
    pub fn detach_local(&self, vh: u64, sid: SegId) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (vh, instance) = state.instance(vh)?;
        if !instance.members.get(&sid).is_some_and(|member| member.local) {
            return Err(VasError::NotMember { sid });
        }
        self.switch.clear_instance(vh)?;
        if instance.is_held() || self.is_occupied(vh)? {
            state.publish(vh, &self.switch)?;
            return Err(VasError::Inside { vh });
        }
        self.part(state, vh, &[sid])?;
        // A segment of the VAS that had to be left out because of this one can join now.
        if let Some(instance) = state.instances.get_mut(&vh) {
            instance.checked_at = instance.checked_at.wrapping_sub(1);
        }
        self.switch.clear_instance(vh)?;
        Ok(())
    }

    /// Brings this process's instances of a VAS up to the store, after a change made here.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn refresh(&self, vid: VasId) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.instances.is_empty() {
            return Ok(());
        }
        let store = self.open(state)?;
        let handles: Vec<u32> =
            state.instances.iter().filter(|(_, i)| i.vid == vid).map(|(&vh, _)| vh).collect();
        for vh in handles {
            self.catch_up(state, &store, vh)?;
        }
        Ok(())
    }

    /// Brings an instance up to the store, if the store has changed, as far as the threads
    /// that are inside permit.
    pub(crate) fn catch_up(
        &self,
        state: &mut State,
        store: &Store,
        vh: u32,
    ) -> Result<(), VasError> {
        let changes = self.switch.changes()?;
        self.close_if_changed(state, changes)?;
        let Some(instance) = state.instances.get(&vh) else { return Ok(()) };
        if instance.checked_at == changes {
            // Attached after the change, but hidden with the others when it was noticed.
            return if instance.shown { Ok(()) } else { state.publish(vh, &self.switch) };
        }
        let record = store.vas(instance.vid)?;
        if instance.pinned {
            return self.look_at_pinned(state, vh, &record, changes);
        }
        let complete = self.adopt(state, store, vh, &record)?;
        if let Some(instance) = state.instances.get_mut(&vh) {
            // Else it is looked at again at the next switch, which the kernel leaves to us.
            instance.checked_at = if complete { changes } else { changes.wrapping_sub(1) };
        }
        state.publish(vh, &self.switch)
    }

    /// A pinned instance gains and loses nothing: it can be entered as long as `record` has what
    /// it has. Else its entry stays closed, so that a switch comes to the VMM and is told.
    fn look_at_pinned(
        &self,
        state: &mut State,
        vh: u32,
        record: &VasRecord,
        changes: u64,
    ) -> Result<(), VasError> {
        if let Some(instance) = state.instances.get_mut(&vh) {
            let read_only = instance.read_only;
            let is_kept = |(sid, member): (&SegId, &Member)| {
                let wanted = record.segments.iter().find(|wanted| wanted.sid == *sid);
                wanted.is_some_and(|wanted| granted(wanted, read_only) == member.right)
            };
            instance.stale = !instance.members.iter().all(is_kept);
            instance.checked_at = if instance.stale { changes.wrapping_sub(1) } else { changes };
        }
        state.publish(vh, &self.switch)
    }

    /// When the store has changed, no entry may be used by the kernel before it was looked at.
    fn close_if_changed(&self, state: &mut State, changes: u64) -> Result<(), VasError> {
        if state.seen == changes {
            return Ok(());
        }
        for (&vh, instance) in &mut state.instances {
            instance.shown = false;
            self.switch.clear_instance(vh)?;
        }
        state.seen = changes;
        if !self.is_draining() {
            self.switch.set_seen(changes)?;
        }
        Ok(())
    }

    /// Makes an instance's members what `record` says. Returns whether all could be done.
    fn adopt(
        &self,
        state: &mut State,
        store: &Store,
        vh: u32,
        record: &VasRecord,
    ) -> Result<bool, VasError> {
        let Some(instance) = state.instances.get(&vh) else { return Ok(true) };
        let read_only = instance.read_only;
        // One that was taken out and put in again with another right goes, to join anew.
        let stays = |sid: &SegId, member: &Member| {
            record
                .segments
                .iter()
                .any(|wanted| wanted.sid == *sid && granted(wanted, read_only) == member.right)
        };
        let gone: Vec<SegId> = instance
            .members
            .iter()
            .filter(|(sid, member)| !member.local && !stays(sid, member))
            .map(|(&sid, _)| sid)
            .collect();
        let mut complete = true;
        if !gone.is_empty() {
            if !instance.is_held() && !self.is_occupied(vh)? {
                self.part(state, vh, &gone)?;
            } else {
                complete = false;
            }
        }
        for wanted in &record.segments {
            let has =
                |i: &crate::vas::tables::instance::Instance| i.members.contains_key(&wanted.sid);
            if state.instances.get(&vh).is_none_or(has) {
                continue;
            }
            let right = granted(wanted, read_only);
            let wanted_member = NewMember { sid: wanted.sid, right, local: false };
            match self.join(state, store, vh, wanted_member, None) {
                Ok(()) => {}
                Err(VasError::Inside { .. }) => complete = false,
                Err(error) => {
                    let why = crate::error::chain(&error);
                    tracing::warn!(
                        "segment {} of VAS {} is left out: {why}",
                        wanted.sid,
                        record.name
                    );
                }
            }
        }
        Ok(complete)
    }

    /// Lockable segments that an instance's VAS has and the instance has not.
    pub(crate) fn lockable_newcomers(
        &self,
        state: &mut State,
        store: &Store,
        vh: u32,
    ) -> Result<Vec<NewMember>, VasError> {
        let Some(instance) = state.instances.get(&vh).filter(|instance| !instance.pinned) else {
            return Ok(Vec::new());
        };
        let read_only = instance.read_only;
        let record = store.vas(instance.vid)?;
        let mut newcomers = Vec::new();
        for wanted in &record.segments {
            let right = granted(wanted, read_only);
            let Ok(look) = state.look_at(wanted.sid, right, store, &self.machine) else {
                continue;
            };
            let Some(instance) = state.instances.get(&vh) else { continue };
            if look.lockable && overlap(instance.members.iter(), &look.range).is_none() {
                newcomers.push(NewMember { sid: wanted.sid, right, local: false });
            }
        }
        Ok(newcomers)
    }

    /// Adds a member. `holder` is a vCPU whose thread may be inside, because it has the lock
    /// of the newcomer already. If it cannot join, nothing has been done to the segment.
    pub(crate) fn join(
        &self,
        state: &mut State,
        store: &Store,
        vh: u32,
        member: NewMember,
        holder: Option<u32>,
    ) -> Result<(), VasError> {
        let machine = &self.machine;
        let NewMember { sid, right, .. } = member;
        let look = state.look_at(sid, right, store, machine)?;
        let Some(instance) = state.instances.get(&vh) else { return Ok(()) };
        if let Some(other) = overlap(instance.members.iter(), &look.range) {
            return Err(VasError::Overlap { sid, other });
        }
        if look.lockable {
            let is_held = instance.is_held();
            self.switch.clear_instance(vh)?;
            if is_held || self.is_occupied_but_for(vh, holder)? {
                state.publish(vh, &self.switch)?;
                return Err(VasError::Inside { vh });
            }
        }
        let joined = state.use_segment(sid, right, store, &self.switch).and_then(|()| {
            let linked = self.link_member(state, vh, member, &look);
            if linked.is_err() {
                state.unuse_segment(sid, right, true, machine);
            }
            linked
        });
        joined.and(state.publish(vh, &self.switch))
    }

    /// Puts a segment that is in use in the VM into an instance's tables.
    fn link_member(
        &self,
        state: &mut State,
        vh: u32,
        NewMember { sid, right, local }: NewMember,
        look: &Look,
    ) -> Result<(), VasError> {
        let Some(segment) = state.segments.get(&sid) else { return Ok(()) };
        if segment.is_lockable() && !look.lockable {
            // Made so by somebody just now: who is inside was not asked for.
            return Err(VasError::Inside { vh });
        }
        let range = segment.reserve.clone();
        let Some(instance) = state.instances.get_mut(&vh) else { return Ok(()) };
        let in_place = instance.has_room_for(&range);
        instance.members.insert(sid, Member { right, local, range });
        if in_place {
            instance.link_segment(sid, &mut state.segments, &mut state.frames, &self.machine)?;
            Ok(())
        } else {
            self.renew(state, vh)
        }
    }

    /// Takes members away; no thread is inside.
    fn part(&self, state: &mut State, vh: u32, sids: &[SegId]) -> Result<(), VasError> {
        let mut rights = Vec::new();
        if let Some(instance) = state.instances.get_mut(&vh) {
            for sid in sids {
                rights.extend(instance.members.remove(sid).map(|member| (*sid, member.right)));
            }
        }
        self.renew(state, vh)?;
        state.publish(vh, &self.switch)?;
        for (sid, right) in rights {
            state.unuse_segment(sid, right, true, &self.machine);
        }
        Ok(())
    }

    /// Gives an instance a new root and generation.
    fn renew(&self, state: &mut State, vh: u32) -> Result<(), VasError> {
        let machine = &self.machine;
        let generation = self.switch.new_generation();
        let Some(instance) = state.instances.get_mut(&vh) else { return Ok(()) };
        let old = instance.rebuild(&mut state.segments, &mut state.frames, machine)?;
        instance.generation = generation;
        state.retire(vh, old, &self.switch)
    }
}

/// What an instance may do with a segment of its VAS.
fn granted(wanted: &VasSegment, read_only: bool) -> Right {
    if read_only { Right::Read } else { wanted.right }
}

fn overlap<'a>(
    members: impl Iterator<Item = (&'a SegId, &'a Member)>,
    range: &Range<u64>,
) -> Option<SegId> {
    let mut members = members;
    members
        .find(|(_, m)| m.range.start < range.end && range.start < m.range.end)
        .map(|(&sid, _)| sid)
}
