//! Instances come and go: `vas_attach`, `vas_detach`, the end of the process.

use std::time::Duration;

use abi::objects::{attach, detach};
use abi::switch::InstanceEntry;
use abi::{Right, SegId, VasId};

use crate::store::{Object, Store, StoreError, VasRecord, VasSegment};
use crate::vas::VasError;
use crate::vas::state::{State, Vases, warn_if_failed};
use crate::vas::tables::instance::{Instance, Member};

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
fn lost(error: VasError, vas: &VasRecord, wanted: &VasSegment) -> VasError {
    match error {
        VasError::Store(StoreError::NotFound(Object::Segment(sid))) => {
            VasError::Store(StoreError::lost(vas, wanted, sid))
        }
        other => other,
    }
}

impl Vases {
    /// Makes an instance of a VAS for this process.
    ///
    /// # Errors
    /// [`VasError`]: no such VAS, no right, no handle; then nothing is attached. A VAS granted
    /// for reading can only be attached read-only.
    pub fn attach(&self, vid: VasId, flags: AttachFlags) -> Result<u32, VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let store = self.open(state)?;
        let wanted = if flags.has(attach::READ_ONLY) { Right::Read } else { Right::Write };
        state.grants.check_vas(&store, vid, wanted)?;
        let vh = state.free_handle()?;
        // The intention is in the lease before the look at the store: who deletes the VAS
        // looks at leases with the store locked.
        state.reserve_entry(vh)?;
        let intent = InstanceEntry { vid: vid.raw(), ..InstanceEntry::default() };
        self.switch.set_instance(vh, &intent, false)?;
        match self.attach_announced(state, &store, vh, vid, flags) {
            Ok(()) => Ok(vh),
            Err(error) => {
                if let Some(instance) = state.remove(vh) {
                    self.drop_instance(state, vh, instance, true)?;
                }
                self.switch.erase_instance(vh)?;
                Err(error)
            }
        }
    }

    fn attach_announced(
        &self,
        state: &mut State,
        store: &Store,
        vh: u32,
        vid: VasId,
        flags: AttachFlags,
    ) -> Result<(), VasError> {
        let (machine, switch) = (&self.machine, &self.switch);
        let changes = switch.changes()?;
        let record = store.vas(vid)?;
        let granted = |right| if flags.has(attach::READ_ONLY) { Right::Read } else { right };
        // All of them, before the first comes into use: a call that fails changes nothing.
        for wanted in &record.segments {
            let look = state.look_at(wanted.sid, granted(wanted.right), store, machine);
            look.map_err(|error| lost(error, &record, wanted))?;
        }
        let name = record.name.as_str().to_owned();
        let mut instance = Instance::new(vid, name, &mut state.frames, machine)?;
        instance.read_only = flags.has(attach::READ_ONLY);
        instance.owned = flags.has(attach::OWNED);
        instance.pinned = flags.has(attach::PINNED);
        instance.tagged = record.tagged && !flags.has(attach::NO_TAG);
        instance.checked_at = changes;
        instance.generation = switch.new_generation();
        state.insert(vh, instance);
        for wanted in &record.segments {
            let right = granted(wanted.right);
            state.use_segment(wanted.sid, right, store, switch)?;
            let Some(range) = state.segments.get(&wanted.sid).map(|s| s.reserve.clone()) else {
                continue;
            };
            if let Some(instance) = state.instances.get_mut(&vh) {
                instance.members.insert(wanted.sid, Member { right, local: false, range });
            }
        }
        if flags.has(attach::POPULATE) {
            self.populate(state, vh)?;
        }
        if let Some(instance) = state.instances.get_mut(&vh) {
            instance.link_all(&mut state.segments, &mut state.frames, machine)?;
        }
        state.publish(vh, switch)
    }

    /// Drops an instance.
    ///
    /// # Errors
    /// [`VasError::NoInstance`]; [`VasError::Owned`] if it has an owner, who is not the caller;
    /// [`VasError::Invalid`] if the caller is the owner of something else;
    /// [`VasError::Inside`] while a thread is inside or a system call uses memory it found there.
    pub fn detach(&self, vh: u64, flags: DetachFlags) -> Result<(), VasError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let (vh, instance) = state.instance(vh)?;
        match (instance.owned, flags.by_owner()) {
            (true, false) => return Err(VasError::Owned { vh }),
            (false, true) => return Err(VasError::Invalid { what: "the flag of an owner" }),
            _ => {}
        }
        if instance.is_held() {
            return Err(VasError::Inside { vh });
        }
        // Closed first, then looked into: a switch announces itself, then reads the entry.
        self.switch.clear_instance(vh)?;
        if self.is_occupied(vh)? {
            state.publish(vh, &self.switch)?;
            return Err(VasError::Inside { vh });
        }
        if let Some(instance) = state.remove(vh) {
            self.drop_instance(state, vh, instance, true)?;
        }
        Ok(())
    }

    fn drop_instance(
        &self,
        state: &mut State,
        vh: u32,
        instance: Instance,
        orderly: bool,
    ) -> Result<(), VasError> {
        state.unpublish(vh, &instance, &self.switch)?;
        let members: Vec<(SegId, Right)> =
            instance.members.iter().map(|(&sid, member)| (sid, member.right)).collect();
        // Every vCPU is elsewhere: the frames can be parked at once.
        for frame in instance.into_frames() {
            state.frames.park(frame);
        }
        for (sid, right) in members {
            state.unuse_segment(sid, right, orderly, &self.machine);
        }
        Ok(())
    }

    /// Lets go of what was kept of a segment that is deleted: as long as its file is open, the
    /// host keeps its content.
    pub fn forget(&self, sid: SegId) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.is_unused(sid) {
            state.forget_segment(sid, &self.machine);
        }
    }

    /// Whether a segment that this VM has could have that size: of a volatile one, the content is
    /// memory, and counts.
    ///
    /// # Errors
    /// `MemoryError::OverLimit`.
    pub fn check_growth(&self, sid: SegId, size_bytes: u64) -> Result<(), VasError> {
        let state = self.lock();
        Ok(state.segments.get(&sid).map_or(Ok(()), |segment| segment.check_growth(size_bytes))?)
    }

    /// The end of the process: everything is given up. `orderly` is whether the program ended
    /// by itself; otherwise what it was writing stays marked dirty.
    pub fn close(&self, orderly: bool) {
        if !self.is_active() {
            return;
        }
        self.stop_waiting(if orderly { ORDERLY_END } else { OTHER_END });
        let mut guard = self.lock();
        let state = &mut *guard;
        let handles: Vec<u32> = state.instances.keys().copied().collect();
        for vh in handles {
            if let Some(instance) = state.remove(vh) {
                warn_if_failed(
                    "give up an instance",
                    self.drop_instance(state, vh, instance, orderly),
                );
            }
        }
        let unused: Vec<SegId> = state.segments.keys().copied().collect();
        for sid in unused {
            state.forget_segment(sid, &self.machine);
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
        let (vh, _) = state.instance(vh).map_err(|_| VasError::NoInstance { vh })?;
        self.switch.clear_instance(vh)?;
        let inside = self.is_occupied(vh)?;
        if !inside {
            let generation = self.switch.new_generation();
            if let Some(instance) = state.instances.get_mut(&vh) {
                instance.tagged = tagged;
                instance.generation = generation;
            }
        }
        warn_if_failed("publish an instance", state.publish(vh, &self.switch));
        if inside { Err(VasError::Inside { vh }) } else { Ok(()) }
    }
}
