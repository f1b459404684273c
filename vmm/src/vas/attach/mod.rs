//! Instances come and go: `vas_attach`, `vas_detach`, the end of the process.

pub mod again;
pub mod kept;

use std::time::Duration;

use abi::objects::{attach, detach};
use abi::switch::InstanceEntry;
use abi::{Right, SegId, VasId};

use crate::store::{HeldForAll, Object, Store, StoreError, VasContent, VasSegment};
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::opened::Opened;
use crate::vas::residency::Release;
use crate::vas::state::instances::{Freshness, Instance, Traits};
use crate::vas::state::{State, Vases};
use crate::vas::tables::Member;

/// How long the end of a process may wait for the store's lock in all: segments are marked
/// clean only by a program that ended by itself.
const ORDERLY_END: Duration = Duration::from_secs(10);
const OTHER_END: Duration = Duration::from_secs(2);

/// Flags of `vas_attach`, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachFlags(u64);

impl AttachFlags {
    /// `None` for unknown bits.
    #[must_use]
    pub fn new(raw: u64) -> Option<AttachFlags> {
        (raw & !attach::ALL == 0).then_some(AttachFlags(raw))
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }
}

/// Flags of `vas_detach`, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DetachFlags(u64);

impl DetachFlags {
    /// `None` for unknown bits.
    #[must_use]
    pub fn new(raw: u64) -> Option<DetachFlags> {
        (raw & !detach::OWNED == 0).then_some(DetachFlags(raw))
    }

    fn by_owner(self) -> bool {
        self.0 & detach::OWNED != 0
    }
}

/// Names a listed segment that is not there; the VAS itself is.
fn lost(error: VasError, vas: &VasContent, wanted: &VasSegment) -> VasError {
    match error {
        VasError::Store(StoreError::NotFound(Object::Segment(sid))) => {
            VasError::Store(vas.lost(wanted, sid))
        }
        other => other,
    }
}

/// The store's lock for all that an attachment to write does with it, which needs it alone at its end: taken
/// once, others wait once. Where it cannot be had alone, each step takes what it needs.
fn hold(store: &Store, wanted: Right) -> Result<Option<HeldForAll>, StoreError> {
    if wanted == Right::Read {
        return Ok(None);
    }
    match store.hold_for_all() {
        Err(error @ StoreError::LockHeld { .. }) => Err(error),
        held => Ok(held.ok()),
    }
}

impl Vases {
    /// Makes an instance of a VAS for this process.
    ///
    /// # Errors
    /// [`VasError`]: no such VAS, no right, no handle; then nothing is attached. A VAS granted
    /// for reading can only be attached read-only.
    pub fn attach(&self, vid: VasId, flags: AttachFlags) -> Result<u32, VasError> {
        self.attach_as(vid, flags, None)
    }

    /// The same under a handle that is free.
    fn attach_as(
        &self,
        vid: VasId,
        flags: AttachFlags,
        handle: Option<u32>,
    ) -> Result<u32, VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let wanted = if flags.has(attach::READ_ONLY) { Right::Read } else { Right::Write };
        let store = self.open_store(state)?;
        let held = hold(&store, wanted)?;
        let opened = self.open(state, wanted)?;
        state.grants.check_vas(&opened.store, vid, wanted)?;
        let handles = &mut state.instances.handles;
        let vh = match handle {
            Some(vh) => handles.claim(vh)?,
            None => handles.lowest_free()?,
        };
        // The intention is in the lease before the store is read: deleting a VAS reads the leases
        // with the store locked.
        handles.reserve_entry(vh, &opened.lease)?;
        opened.lease.note_vas(vh, vid, &opened.store)?;
        let intent = InstanceEntry { vid: vid.raw(), ..InstanceEntry::default() };
        self.switch.set_instance(vh, &intent, false)?;
        match self.attach_announced(state, &opened, held, vh, vid, flags) {
            Ok(()) => Ok(vh),
            Err(error) => {
                if let Some(instance) = state.instances.remove(vh) {
                    self.drop_instance(state, vh, instance, Release::Orderly)?;
                }
                self.switch.erase_instance(vh)?;
                opened.lease.forget_vas(vh);
                Err(error)
            }
        }
    }

    fn attach_announced(
        &self,
        state: &mut State,
        opened: &Opened,
        held: Option<HeldForAll>,
        vh: u32,
        vid: VasId,
        flags: AttachFlags,
    ) -> Result<(), VasError> {
        let switch = &self.switch;
        let changes = switch.changes()?;
        let record = opened.store.vas_content(vid)?;
        let traits = Traits {
            read_only: flags.has(attach::READ_ONLY),
            owned: flags.has(attach::OWNED),
            pinned: flags.has(attach::PINNED),
        };
        // All of them, before the first is used: a call that fails changes nothing.
        let probes = record.segments.iter().map(|wanted| {
            let probe = state.probe(wanted.sid, traits.right_on(wanted), &opened.store);
            probe.map_err(|error| lost(error, &record, wanted))
        });
        let probes = probes.collect::<Result<Vec<_>, _>>()?;
        let name = record.name.as_str().to_owned();
        let mut instance = Instance::new(vid, name, traits, &mut state.tables)?;
        instance.tagged = record.tagged && !flags.has(attach::NO_TAG);
        instance.freshness = Freshness::Current { at: changes };
        instance.generation = switch.new_generation();
        state.instances.insert(vh, instance);
        for (wanted, probe) in record.segments.iter().zip(probes) {
            let right = traits.right_on(wanted);
            state.residency.acquire(wanted.sid, right, probe, opened, &mut state.tables)?;
            let range = state.residency.of_member(wanted.sid).reserve.clone();
            let member = Member { right, local: false, range };
            state.instances.known_mut(vh).members.insert(wanted.sid, member);
        }
        state.instances.known_mut(vh).note_numbering(&record.segments, record.numbers_after);
        drop(held);
        if flags.has(attach::POPULATE) {
            state.populate(vh)?;
        }
        let instance = state.instances.known_mut(vh);
        for wanted in &record.segments {
            instance.link(wanted.sid, &mut state.residency, &mut state.tables)?;
        }
        state.publish(vh, switch)
    }

    /// Drops an instance.
    ///
    /// # Errors
    /// [`VasError::NoInstance`]; [`VasError::Owned`] if it has an owner, which is not the caller;
    /// [`VasError::Invalid`] if the caller is the owner of something else;
    /// [`VasError::Inside`] while a thread is inside or a system call uses memory it found there.
    pub fn detach(&self, vh: u64, flags: DetachFlags) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (vh, instance) = state.instances.named(vh)?;
        match (instance.traits.owned, flags.by_owner()) {
            (true, false) => return Err(VasError::Owned { vh }),
            (false, true) => return Err(VasError::Invalid { what: "the flag of an owner" }),
            _ => {}
        }
        self.hide_unused(state, vh, None)?;
        self.drop_stand_ins(state);
        if state.instances.iter().any(|(_, other)| other.stands_for == Some(vh)) {
            state.publish(vh, &self.switch)?;
            return Err(VasError::Inside { vh });
        }
        if let Some(instance) = state.instances.remove(vh) {
            self.drop_instance(state, vh, instance, Release::Orderly)?;
        }
        Ok(())
    }

    fn drop_instance(
        &self,
        state: &mut State,
        vh: u32,
        instance: Instance,
        how: Release,
    ) -> Result<(), VasError> {
        let opened = state.attached();
        state.drop_views(vh);
        state.visits.drop_instance(vh, &mut state.tables);
        state.unpublish(vh, &instance, &self.switch)?;
        opened.lease.forget_vas(vh);
        let Instance { members, tables, linked, .. } = instance;
        // Every vCPU is elsewhere: the frames can be parked immediately.
        state.tables.park(tables.into_frames());
        let members = members.iter().map(|(sid, member)| (sid, member.right));
        for (sid, right) in members.chain(linked) {
            state.residency.release(sid, right, how, &opened, &mut state.tables);
            if state.residency.get(sid).is_none() {
                state.syncer.forget(sid);
            }
        }
        Ok(())
    }

    /// Drops what was kept of a segment that is deleted: as long as its file is open, the host
    /// keeps its content.
    pub fn forget(&self, sid: SegId) {
        self.lock().forget_unused(sid);
    }

    /// Whether a segment that this VM has could have that size: of a volatile one, the content is
    /// memory, and counts.
    ///
    /// # Errors
    /// `MemoryError::OverLimit`.
    pub fn check_growth(&self, sid: SegId, size_bytes: u64) -> Result<(), VasError> {
        let state = self.lock();
        Ok(state.residency.get(sid).map_or(Ok(()), |segment| segment.check_growth(size_bytes))?)
    }

    /// The end of the process: everything is released. What a terminated program was writing stays
    /// marked dirty.
    pub fn close(&self, how: Release) {
        if !self.is_active() {
            return;
        }
        self.stop_waiting(match how {
            Release::Orderly => ORDERLY_END,
            Release::Abandoned => OTHER_END,
        });
        let mut guard = self.lock();
        let state = &mut *guard;
        // Those that write last: whoever is the last to have a segment brings its logs to a layer, and may only
        // do so if it could write.
        let mut instances = state.instances.in_use();
        instances.sort_by_key(|&vh| state.instances.known(vh).writes());
        for vh in instances {
            if let Some(instance) = state.instances.remove(vh) {
                warn_if_failed("give up an instance", self.drop_instance(state, vh, instance, how));
            }
        }
        state.close();
    }

    /// Switches an instance's tag on or off.
    ///
    /// # Errors
    /// [`VasError::NoInstance`], for home too: `vas_ctl` takes ids and handles, and home is
    /// the handle of nothing that has a tag to change; [`VasError::Inside`].
    pub fn set_tagged(&self, vh: u64, tagged: bool) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (vh, _) = state.instances.named(vh).map_err(|_| VasError::NoInstance { vh })?;
        self.hide_unoccupied(state, vh, None)?;
        let instance = state.instances.known_mut(vh);
        instance.tagged = tagged;
        instance.generation = self.switch.new_generation();
        state.publish(vh, &self.switch)
    }
}
