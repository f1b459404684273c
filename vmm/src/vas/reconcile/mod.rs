//! Which segments an instance has: `seg_attach` and `seg_detach` for this process, and keeping
//! up with what others do to the VAS in the store.
//!
//! A lockable segment joins or leaves an instance only while no thread of the process is
//! inside: what a thread holds is what its instance lists. A plain segment may join at any
//! time. `late` is for what a thread inside touches before that.

mod late;

use abi::{Right, SegId, VasId};

use crate::store::VasRecord;
use crate::vas::VasError;
use crate::vas::opened::Opened;
use crate::vas::residency::Release;
use crate::vas::state::instances::Freshness;
use crate::vas::state::{State, Vases};
use crate::vas::tables::Member;

/// A segment that is to join an instance.
#[derive(Clone, Copy)]
pub(crate) struct NewMember {
    sid: SegId,
    right: Right,
    local: bool,
}

impl Vases {
    /// Attaches a segment to this process's instance only.
    ///
    /// # Errors
    /// [`VasError::Pinned`], [`VasError::Overlap`], [`VasError::ReadOnly`], [`VasError::Inside`] for
    /// a lockable segment while a thread is inside; then nothing has changed.
    pub fn attach_local(&self, vh: u64, sid: SegId, right: Right) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let opened = self.open(state, right)?;
        let (vh, instance) = state.instances.named(vh)?;
        if instance.traits.pinned {
            return Err(VasError::Pinned { vh });
        }
        let right = if instance.traits.read_only { Right::Read } else { right };
        if instance.members.contains(sid) {
            return Err(VasError::Overlap { sid, other: sid });
        }
        self.add_member(state, &opened, vh, NewMember { sid, right, local: true }, None)
    }

    /// Takes a segment out of this process's instance.
    ///
    /// # Errors
    /// [`VasError::NotMember`] unless it was attached to the instance itself;
    /// [`VasError::Inside`] while a thread is inside.
    pub fn detach_local(&self, vh: u64, sid: SegId) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (vh, instance) = state.instances.named(vh)?;
        if !instance.members.get(sid).is_some_and(|member| member.local) {
            return Err(VasError::NotMember { sid });
        }
        self.hide_unused(state, vh, None)?;
        // A segment of the VAS that had to be left out because of this one can join now.
        state.instances.known_mut(vh).freshness = Freshness::Incomplete;
        self.remove_members(state, vh, &[sid])
    }

    /// Brings this process's instances of a VAS up to date with the store, after a change made
    /// here.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn refresh(&self, vid: VasId) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let of_vas = state.instances.iter().filter(|(_, instance)| instance.vid == vid);
        for vh in of_vas.map(|(vh, _)| vh).collect::<Vec<_>>() {
            self.reconcile(state, vh)?;
        }
        Ok(())
    }

    /// Brings an instance up to date with the store, if that has changed, as far as the threads
    /// inside permit.
    pub(crate) fn reconcile(&self, state: &mut State, vh: u32) -> Result<(), VasError> {
        let changes = self.switch.changes()?;
        self.hide_all_if_changed(state, changes)?;
        let instance = state.instances.known(vh);
        if instance.freshness.is_current(changes) {
            // Attached after the change, but hidden with the others when it was noticed.
            return if instance.shown.open { Ok(()) } else { state.publish(vh, &self.switch) };
        }
        let is_pinned = instance.traits.pinned;
        let opened = state.attached();
        let record = opened.store.vas(instance.vid)?;
        let is_done = if is_pinned {
            state.has_kept(vh, &record)
        } else {
            self.reconcile_with(state, &opened, vh, &record)?
        };
        state.instances.known_mut(vh).note_numbering(&record.segments, record.numbers_after);
        // Otherwise it is reconciled again at the next switch, which the kernel leaves to us.
        state.instances.known_mut(vh).freshness = match (is_done, is_pinned) {
            (true, _) => Freshness::Current { at: changes },
            (false, true) => Freshness::Stale,
            (false, false) => Freshness::Incomplete,
        };
        state.publish(vh, &self.switch)
    }

    /// When the store has changed, the kernel may use no entry that was not reconciled.
    fn hide_all_if_changed(&self, state: &mut State, changes: u64) -> Result<(), VasError> {
        if state.seen == changes {
            return Ok(());
        }
        for (vh, instance) in state.instances.iter_mut() {
            instance.shown.open = false;
            self.switch.clear_instance(vh)?;
        }
        state.seen = changes;
        if !self.is_draining() {
            self.switch.set_seen(changes)?;
        }
        Ok(())
    }

    /// Makes an instance's members match `record`. Returns whether that was possible for all.
    fn reconcile_with(
        &self,
        state: &mut State,
        opened: &Opened,
        vh: u32,
        record: &VasRecord,
    ) -> Result<bool, VasError> {
        let traits = state.instances.known(vh).traits;
        // One that was detached and attached again with another right is removed and joins anew.
        let stays = |sid: SegId, right: Right| {
            let mut listed = record.segments.iter();
            listed.any(|wanted| wanted.sid == sid && traits.right_on(wanted) == right)
        };
        let members = state.instances.known(vh).members.iter();
        let gone: Vec<SegId> = members
            .filter(|&(sid, member)| !member.local && !stays(sid, member.right))
            .map(|(sid, _)| sid)
            .collect();
        let mut is_complete = true;
        if !gone.is_empty() {
            if !state.instances.known(vh).is_held() && !self.is_occupied(vh, None)? {
                self.remove_members(state, vh, &gone)?;
            } else {
                is_complete = false;
            }
        }
        for wanted in &record.segments {
            if state.instances.known(vh).members.contains(wanted.sid) {
                continue;
            }
            let right = traits.right_on(wanted);
            let member = NewMember { sid: wanted.sid, right, local: false };
            match self.add_member(state, opened, vh, member, None) {
                Ok(()) => {}
                Err(VasError::Inside { .. }) => is_complete = false,
                Err(error) => {
                    let (sid, name) = (wanted.sid, &record.name);
                    let why = crate::error::chain(&error);
                    tracing::warn!("segment {sid} of VAS {name} is left out: {why}");
                }
            }
        }
        Ok(is_complete)
    }

    /// Adds a member. `holder` is a vCPU whose thread may be inside, because it has the new
    /// member's lock already. If it cannot join, it is as if nothing had been done.
    fn add_member(
        &self,
        state: &mut State,
        opened: &Opened,
        vh: u32,
        member: NewMember,
        holder: Option<u32>,
    ) -> Result<(), VasError> {
        let NewMember { sid, right, .. } = member;
        let probe = state.probe(sid, right, &opened.store)?;
        if let Some(other) = state.instances.known(vh).members.overlapping(&probe.range) {
            return Err(VasError::Overlap { sid, other });
        }
        if probe.lockable || state.is_versioned(vh) {
            self.hide_unused(state, vh, holder)?;
        }
        state.drop_views(vh);
        state.visits.drop_idle(&mut state.tables, |tables| tables.vh == vh);
        let was_lockable = probe.lockable;
        let acquired = state.residency.acquire(sid, right, probe, opened, &mut state.tables);
        let added =
            acquired.and_then(|()| self.link_member(state, opened, vh, member, was_lockable));
        added.and(state.publish(vh, &self.switch))
    }

    /// Makes a segment that is in use in the VM a member, or releases it.
    fn link_member(
        &self,
        state: &mut State,
        opened: &Opened,
        vh: u32,
        NewMember { sid, right, local }: NewMember,
        was_lockable: bool,
    ) -> Result<(), VasError> {
        let segment = state.residency.of_member(sid);
        let range = segment.reserve.clone();
        // It became lockable just now, after the check that decided whether threads inside matter.
        let needs_another_look = segment.is_lockable() && !was_lockable;
        let instance = state.instances.known_mut(vh);
        let in_place = instance.tables.has_room_for(&instance.members, &range);
        let linked = if needs_another_look {
            Err(VasError::Inside { vh })
        } else {
            instance.members.insert(sid, Member { right, local, range });
            if in_place {
                let linked = instance.link(sid, &mut state.residency, &mut state.tables);
                linked.map_err(VasError::from)
            } else {
                self.renew(state, vh)
            }
        };
        if linked.is_err() {
            let instance = state.instances.known_mut(vh);
            let was_member = instance.members.remove(sid).is_some();
            if was_member && in_place {
                // Threads may be inside, on tables that link to some of the segment's.
                instance.tables.spoil();
                instance.linked.push((sid, right));
            } else {
                state.residency.release(sid, right, Release::Orderly, opened, &mut state.tables);
            }
        }
        linked
    }

    /// Takes members away; no thread is inside.
    fn remove_members(&self, state: &mut State, vh: u32, sids: &[SegId]) -> Result<(), VasError> {
        let opened = state.attached();
        state.drop_views(vh);
        state.visits.drop_idle(&mut state.tables, |tables| tables.vh == vh);
        let members = &mut state.instances.known_mut(vh).members;
        let removed: Vec<(SegId, Member)> =
            sids.iter().filter_map(|&sid| Some((sid, members.remove(sid)?))).collect();
        if let Err(error) = self.renew(state, vh) {
            let members = &mut state.instances.known_mut(vh).members;
            removed.into_iter().for_each(|(sid, member)| members.insert(sid, member));
            return Err(error);
        }
        let published = state.publish(vh, &self.switch);
        let linked = std::mem::take(&mut state.instances.known_mut(vh).linked);
        let removed = removed.into_iter().map(|(sid, member)| (sid, member.right));
        for (sid, right) in removed.chain(linked) {
            state.residency.release(sid, right, Release::Orderly, &opened, &mut state.tables);
        }
        published
    }

    /// Gives an instance a new root and generation.
    fn renew(&self, state: &mut State, vh: u32) -> Result<(), VasError> {
        // First, so that no thread enters by the old root without being seen.
        self.switch.clear_instance(vh)?;
        let vcpus = self.switch.vcpus_in(vh)?;
        let instance = state.instances.known_mut(vh);
        let old = instance.rebuild(&mut state.residency, &mut state.tables)?;
        instance.generation = self.switch.new_generation();
        state.tables.retire(old, vcpus);
        Ok(())
    }

    /// Keeps the kernel from switching to an instance in which no thread is, except the one on
    /// `but_for`. If another is inside, the entry is published as it was.
    ///
    /// # Errors
    /// [`VasError::Inside`].
    pub(crate) fn hide_unoccupied(
        &self,
        state: &mut State,
        vh: u32,
        but_for: Option<u32>,
    ) -> Result<(), VasError> {
        // Closed first, then checked: a switch announces itself, then reads the entry.
        self.switch.clear_instance(vh)?;
        if self.is_occupied(vh, but_for)? {
            state.publish(vh, &self.switch)?;
            return Err(VasError::Inside { vh });
        }
        Ok(())
    }

    /// The same, for an instance that no system call and no waiting switch needs either.
    pub(crate) fn hide_unused(
        &self,
        state: &mut State,
        vh: u32,
        but_for: Option<u32>,
    ) -> Result<(), VasError> {
        if state.instances.known(vh).is_held() || state.visits.is_inside(vh) {
            return Err(VasError::Inside { vh });
        }
        self.hide_unoccupied(state, vh, but_for)
    }
}

impl State {
    /// Whether `record` has all that a pinned instance has, with the same rights: the instance
    /// gains and loses nothing. Otherwise its entry stays closed, so that a switch exits to the VMM
    /// and gets the error.
    fn has_kept(&self, vh: u32, record: &VasRecord) -> bool {
        let instance = self.instances.known(vh);
        instance.members.iter().all(|(sid, member)| {
            let wanted = record.segments.iter().find(|wanted| wanted.sid == sid);
            wanted.is_some_and(|wanted| instance.traits.right_on(wanted) == member.right)
        })
    }
}
