//! Everything a process has attached, behind one mutex, and its publication to the kernel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use abi::layout::LOCK_REFS_BYTES;
use abi::objects::MAX_INSTANCES;
use abi::switch::{CR3_KEEP, CR3_TAG, InstanceEntry, LockRef};
use abi::{GuestPhys, PAGE_SIZE, Right, SegId};

use crate::kernel::{Kernel, SwitchTables};
use crate::store::{INSTANCES_OFFSET, Lease, LeaseInfo, Patience, Store, VCPU_LINES_OFFSET};
use crate::vas::VasError;
use crate::vas::granted::Granted;
use crate::vas::granted::charge::StoreCharge;
use crate::vas::granted::grants::{Grants, VasGrants};
use crate::vas::range_allocator::RangeAllocator;
use crate::vas::tables::frames::Frames;
use crate::vas::tables::instance::{Instance, LockList, Segments};
use crate::vm::Machine;
use crate::vm::memory::FileMapping;

/// Bytes of the instance table that get disk space at first.
const ENTRIES_AHEAD: u64 = 4096;
/// Tag of home; instances share the others.
const FIRST_TAG: u64 = 2;

/// Where a process's address spaces come from.
#[derive(Clone, Debug, Default)]
pub struct VasConfig {
    /// The store's directory; the user's own if `None`.
    pub store: Option<PathBuf>,
    /// What of it the program may use.
    pub grants: VasGrants,
    /// Permission bits that a store made for it does not get.
    pub umask: u32,
    /// What leases call the process.
    pub program: String,
}

/// The address spaces of a process.
#[derive(Debug)]
pub struct Vases {
    pub(crate) machine: Arc<Machine>,
    pub(crate) switch: Arc<SwitchTables>,
    config: VasConfig,
    /// How long threads wait for the store's lock.
    patience: Arc<Patience>,
    /// Some instance was attached once: exits have to look.
    active: AtomicBool,
    state: Mutex<State>,
    pub(crate) reload_waits: Arc<AtomicBool>,
    /// See `drain.rs`.
    pub(crate) draining: AtomicBool,
    /// The program's thread on each vCPU that runs one.
    pub(crate) threads: Mutex<BTreeMap<u32, i32>>,
}

/// Tables of an instance that were replaced while vCPUs were running on them.
#[derive(Debug)]
pub(crate) struct Retired {
    frames: Vec<GuestPhys>,
    vcpus: Vec<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) lease: Option<Lease>,
    pub(crate) grants: Arc<Grants>,
    charge: Arc<StoreCharge>,
    pub(crate) segments: Segments,
    /// Segments without users, oldest first.
    pub(crate) unused: VecDeque<SegId>,
    pub(crate) instances: BTreeMap<u32, Instance>,
    pub(crate) frames: Frames,
    pub(crate) retired: Vec<Retired>,
    /// vCPUs that must load their instance's root anew.
    pub(crate) reload: Vec<u32>,
    /// Whether there are any, for threads that look without taking the mutex.
    pub(crate) reload_waits: Arc<AtomicBool>,
    /// Counts mapped extents.
    pub(crate) clock: u64,
    /// The store's counter of changes as far as the kernel may rely on it.
    pub(crate) seen: u64,
    /// Handles below the highest ever used that are free.
    free_handles: BTreeSet<u32>,
    highest: u32,
    /// Of the instance table in the lease.
    reserved_bytes: u64,
    /// Which segment's lock lies at which number.
    pub(crate) locked_by_page: BTreeMap<u32, SegId>,
    /// Guest memory set aside for lock pages, by number.
    pub(crate) lock_memory: BTreeMap<u32, GuestPhys>,
    lock_refs: RangeAllocator,
    /// Lists of locks that no instance has any more.
    stale_lists: Vec<(u32, Range<u32>)>,
    pub(crate) lock_pages: RangeAllocator,
    pub(crate) lease_rows: RangeAllocator,
}

impl Vases {
    /// Nothing attached; store and lease are opened when they are needed.
    #[must_use]
    pub fn new(kernel: &Kernel, config: VasConfig) -> Vases {
        let (machine, switch) = (kernel.machine().clone(), kernel.switch.clone());
        let active = AtomicBool::new(false);
        let grants = Arc::new(Grants::new(config.grants.clone()));
        let is_private = config.store.as_deref().is_some_and(Store::is_private);
        let charge = Arc::new(StoreCharge::new(is_private.then(|| machine.mem.ledger().clone())));
        let state = State { grants, charge, ..State::default() };
        let patience = Arc::default();
        let reload_waits = state.reload_waits.clone();
        let (state, threads) = (Mutex::new(state), Mutex::default());
        let draining = AtomicBool::new(false);
        Vases { machine, switch, config, patience, active, state, reload_waits, draining, threads }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Notes which thread runs on a vCPU, or that none does: others see it in the lease.
    pub fn note_thread(&self, vcpu: u32, thread: Option<i32>) {
        let mut threads = self.threads.lock().unwrap_or_else(|poison| poison.into_inner());
        match thread {
            Some(thread) => threads.insert(vcpu, thread),
            None => threads.remove(&vcpu),
        };
        if self.is_active() {
            let number = thread.map_or(0, |thread| thread as u64);
            warn_if_failed("note a thread", self.switch.set_vcpu_thread(vcpu, number));
        }
    }

    /// Whether the process has ever attached a VAS.
    #[must_use]
    pub fn is_active(&self) -> bool {
        // Acquire: who sees it sees the mapped lease.
        self.active.load(Ordering::Acquire)
    }

    /// What the program may use of the store, which is made if it does not exist.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn granted(&self) -> Result<Granted, VasError> {
        let mut state = self.lock();
        let store = state.open_store(&self.config, &self.patience)?;
        Ok(Granted { store, grants: state.grants.clone(), charge: state.charge.clone() })
    }

    /// Where the store is, if the program has used it.
    #[must_use]
    pub fn store_path(&self) -> Option<PathBuf> {
        Some(self.lock().opened()?.path().to_owned())
    }

    /// The process is coming to its end: nobody waits for the store's lock beyond `rest`. Takes
    /// no lock of ours: who waits may have it.
    pub fn stop_waiting(&self, rest: Duration) {
        self.patience.ends_in(rest);
    }

    /// Store and lease of a process that attaches something.
    pub(crate) fn open(&self, state: &mut State) -> Result<Arc<Store>, VasError> {
        let store = state.open_store(&self.config, &self.patience)?;
        if state.lease.is_none() {
            let program = self.config.program.clone();
            let lease = Lease::create(&store, &LeaseInfo { program, pid: std::process::id() })?;
            self.share_tables(&lease, &store)?;
            state.seen = self.switch.changes()?;
            self.switch.set_seen(state.seen)?;
            self.switch.start_switching()?;
            state.lease = Some(lease);
            let threads = self.threads.lock().unwrap_or_else(|poison| poison.into_inner());
            for (&vcpu, &thread) in &*threads {
                self.switch.set_vcpu_thread(vcpu, thread as u64)?;
            }
            self.active.store(true, Ordering::Release);
        }
        Ok(store)
    }

    /// Lays the lease's tables and the store's counter over what the kernel reads.
    fn share_tables(&self, lease: &Lease, store: &Store) -> Result<(), VasError> {
        let (machine, switch) = (&self.machine, &self.switch);
        let shared = FileMapping::Shared;
        let (lines, bytes) = switch.vcpu_statuses();
        machine.mem.map_file(lines, bytes, lease.fd(), VCPU_LINES_OFFSET, shared)?;
        let (table, bytes) = switch.instance_table();
        machine.mem.map_file(table, bytes, lease.fd(), INSTANCES_OFFSET, shared)?;
        machine.mem.map_file(switch.changes_page(), PAGE_SIZE, store.live_fd(), 0, shared)?;
        Ok(())
    }
}

impl State {
    fn open_store(
        &mut self,
        config: &VasConfig,
        patience: &Arc<Patience>,
    ) -> Result<Arc<Store>, VasError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let path = match &config.store {
            Some(path) => path.clone(),
            None => Store::default_path()?,
        };
        let store = Arc::new(Store::open_or_create_with(&path, patience.clone(), config.umask)?);
        self.store = Some(store.clone());
        Ok(store)
    }

    pub(crate) fn opened(&self) -> Option<Arc<Store>> {
        self.store.clone()
    }

    /// Drops the lease: the process holds nothing any more.
    pub(crate) fn close(&mut self) {
        self.lease = None;
    }

    /// The instance behind a program's handle.
    pub(crate) fn instance(&self, vh: u64) -> Result<(u32, &Instance), VasError> {
        let index = handle(vh)?;
        self.instances.get(&index).map(|i| (index, i)).ok_or(VasError::NoInstance { vh })
    }

    /// The lowest free handle.
    pub(crate) fn free_handle(&self) -> Result<u32, VasError> {
        let limit = MAX_INSTANCES - 1;
        let fresh = self.highest + 1;
        match self.free_handles.first() {
            Some(&free) => Ok(free),
            None if fresh <= limit => Ok(fresh),
            None => Err(VasError::TooManyInstances { limit }),
        }
    }

    /// Sets disk space aside for a handle's entry: the guest kernel's memory must not meet a
    /// full disk.
    pub(crate) fn reserve_entry(&mut self, vh: u32) -> Result<(), VasError> {
        let needed = (u64::from(vh) + 1) * size_of::<InstanceEntry>() as u64;
        let Some(lease) = self.lease.as_ref().filter(|_| needed > self.reserved_bytes) else {
            return Ok(());
        };
        let more = ENTRIES_AHEAD.max(self.reserved_bytes);
        lease.reserve(INSTANCES_OFFSET + self.reserved_bytes, more)?;
        self.reserved_bytes += more;
        Ok(())
    }

    /// Gives a free handle to an instance.
    pub(crate) fn insert(&mut self, vh: u32, instance: Instance) {
        self.free_handles.remove(&vh);
        self.highest = self.highest.max(vh);
        self.instances.insert(vh, instance);
    }

    /// Takes an instance away and frees its handle.
    pub(crate) fn remove(&mut self, vh: u32) -> Option<Instance> {
        let instance = self.instances.remove(&vh)?;
        self.free_handles.insert(vh);
        Some(instance)
    }

    /// Shows an instance to the kernel as it is now, if it is up to the store: else switches to
    /// it stay the VMM's. Its locks must not be held by a thread inside, unless they are the
    /// same as before.
    pub(crate) fn publish(&mut self, vh: u32, switch: &SwitchTables) -> Result<(), VasError> {
        let Some(instance) = self.instances.get(&vh) else { return Ok(()) };
        let mut refs: Vec<LockRef> = Vec::new();
        for (sid, member) in &instance.members {
            let Some(lock) = self.segments.get(sid).and_then(|segment| segment.lock.as_ref())
            else {
                continue;
            };
            refs.push(lock.reference(member.right == Right::Write));
        }
        // The kernel compares by page (seg_lock).
        refs.sort_unstable_by_key(|lock| lock.page);
        let mut cr3 = instance.root.raw();
        if instance.tagged && switch.machine().has_pcid() {
            cr3 |= CR3_KEEP | (FIRST_TAG + u64::from(vh) % (CR3_TAG + 1 - FIRST_TAG));
        }
        let generation = instance.generation;
        let list = LockList { refs, cr3, generation };
        let locks = if instance.lock_list.as_ref() == Some(&list) {
            instance.locks.clone()
        } else {
            self.write_list(&list, switch)?
        };
        let Some(instance) = self.instances.get_mut(&vh) else { return Ok(()) };
        if instance.locks != locks {
            let old = std::mem::replace(&mut instance.locks, locks.clone());
            self.stale_lists.extend((!old.is_empty()).then_some((vh, old)));
        }
        instance.cr3 = cr3;
        let entry = InstanceEntry {
            cr3,
            generation,
            lock_count: list.refs.len() as u32,
            lock_first: locks.start,
            vid: instance.vid.raw(),
            ..InstanceEntry::default()
        };
        instance.lock_list = Some(list);
        // Counted from where the kernel looks: an instance may have been looked at later.
        instance.shown = instance.checked_at.wrapping_sub(self.seen).cast_signed() >= 0;
        if instance.shown {
            switch.set_instance(vh, &entry, true)?;
        } else {
            switch.clear_instance(vh)?;
        }
        Ok(())
    }

    /// Writes a list of locks where none has been, or none is used any more: nothing for a
    /// plain instance.
    fn write_list(
        &mut self,
        list: &LockList,
        switch: &SwitchTables,
    ) -> Result<Range<u32>, VasError> {
        let count = list.refs.len() as u32;
        if count == 0 {
            return Ok(0..0);
        }
        self.sweep_lists(switch)?;
        let limit = (LOCK_REFS_BYTES / 16) as u32 - 1;
        // One place more for the list's end; place 0 is not usable.
        let first = self
            .lock_refs
            .allocate(count + 1, limit)
            .ok_or(VasError::Full { what: "references to locks" })?
            + 1;
        switch.set_lock_list(first, &list.refs, list.cr3, list.generation)?;
        Ok(first..first + count)
    }

    /// Frees the places of lists that no entry names any more, unless a vCPU still holds locks
    /// by them, or is inside the instance and may be looking at its list.
    fn sweep_lists(&mut self, switch: &SwitchTables) -> Result<(), VasError> {
        if self.stale_lists.is_empty() {
            return Ok(());
        }
        let held = switch.all_held_locks()?;
        for (vh, list) in std::mem::take(&mut self.stale_lists) {
            let used = held.contains(&list.start) || !switch.vcpus_in(vh)?.is_empty();
            if used {
                self.stale_lists.push((vh, list));
            } else {
                self.lock_refs.free(list.start - 1);
            }
        }
        Ok(())
    }

    /// Takes an instance's entry away; no thread is inside.
    pub(crate) fn unpublish(
        &mut self,
        vh: u32,
        instance: &Instance,
        switch: &SwitchTables,
    ) -> Result<(), VasError> {
        switch.erase_instance(vh)?;
        if !instance.locks.is_empty() {
            self.stale_lists.push((vh, instance.locks.clone()));
        }
        Ok(())
    }

    /// Puts aside tables that instance `vh` has replaced, until no vCPU runs on them.
    pub(crate) fn retire(
        &mut self,
        vh: u32,
        frames: Vec<GuestPhys>,
        switch: &SwitchTables,
    ) -> Result<(), VasError> {
        let vcpus = switch.vcpus_in(vh)?;
        if vcpus.is_empty() {
            frames.into_iter().for_each(|frame| self.frames.park(frame));
            return Ok(());
        }
        self.reload.extend(&vcpus);
        // Read by threads that are kicked after this.
        self.reload_waits.store(true, Ordering::Release);
        self.retired.push(Retired { frames, vcpus });
        Ok(())
    }

    /// Notes that a vCPU has a root that is current.
    pub(crate) fn reloaded(&mut self, vcpu: u32) {
        self.reload.retain(|&waiting| waiting != vcpu);
        self.reload_waits.store(!self.reload.is_empty(), Ordering::Release);
        for retired in &mut self.retired {
            retired.vcpus.retain(|&on| on != vcpu);
        }
        let (done, pending) =
            std::mem::take(&mut self.retired).into_iter().partition(|r| r.vcpus.is_empty());
        self.retired = pending;
        let done: Vec<Retired> = done;
        done.into_iter().flat_map(|r| r.frames).for_each(|frame| self.frames.park(frame));
    }
}

/// A handle as the program gives it.
pub(crate) fn handle(vh: u64) -> Result<u32, VasError> {
    match u32::try_from(vh) {
        Ok(0) => Err(VasError::Home),
        Ok(index) if index < MAX_INSTANCES => Ok(index),
        _ => Err(VasError::NoInstance { vh }),
    }
}

/// For what cannot be told to anybody: the log says it.
pub(crate) fn warn_if_failed<E: std::error::Error>(doing: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!("cannot {doing}: {}", crate::error::chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_handle_is_given_out_and_then_no_more() {
        let last = MAX_INSTANCES - 1;
        let mut state = State { highest: last - 1, ..State::default() };
        assert_eq!(state.free_handle().unwrap(), last);
        state.highest = last;
        let error = state.free_handle().unwrap_err();
        assert_eq!(error.errno(), abi::Errno::EMFILE);
        state.free_handles.insert(7);
        assert_eq!(state.free_handle().unwrap(), 7);
    }
}
