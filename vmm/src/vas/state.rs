//! Everything a process has attached, behind one mutex, and its publication to the kernel.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::layout::{LOCK_REFS_BYTES, MAX_LOCK_PAGES};
use abi::objects::MAX_INSTANCES;
use abi::switch::{CR3_KEEP, CR3_TAG, InstanceEntry, LockRef};
use abi::{GuestPhys, PAGE_SIZE, Right, SegId};

use super::VasError;
use super::frames::Frames;
use super::instance::{Instance, LockList, Segments};
use super::lock_page::LockPage;
use super::segment::VmSegment;
use crate::store::{INSTANCES_OFFSET, Lease, LeaseInfo, Store, StoreError, VCPU_LINES_OFFSET};
use crate::vm::Machine;
use crate::vm::memory::FileMapping;

/// Segments kept with their tables after the last instance has given them up.
const UNUSED_MAX: usize = 256;
/// Bytes of the instance table that get disk space at first.
const ENTRIES_AHEAD: u64 = 4096;
/// Segments a process can have attached: rows of its lease's table.
const LEASE_SEGMENTS: u32 = 65536;
/// Tag of home; instances share the others.
const FIRST_TAG: u64 = 2;

/// Where a process's address spaces come from.
#[derive(Clone, Debug, Default)]
pub struct VasConfig {
    /// The store's directory; the user's own if `None`.
    pub store: Option<PathBuf>,
    /// What leases call the process.
    pub program: String,
}

/// The address spaces of a process.
#[derive(Debug)]
pub struct Vases {
    pub(super) machine: Arc<Machine>,
    config: VasConfig,
    /// Some instance was attached once: exits have to look.
    active: AtomicBool,
    state: Mutex<State>,
    pub(super) reload_waits: Arc<AtomicBool>,
    /// The program's thread on each vCPU that runs one.
    threads: Mutex<BTreeMap<u32, i32>>,
}

/// Tables of an instance that were replaced while vCPUs were running on them.
#[derive(Debug)]
pub(super) struct Retired {
    frames: Vec<GuestPhys>,
    vcpus: Vec<u32>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    store: Option<Arc<Store>>,
    lease: Option<Lease>,
    pub(super) segments: Segments,
    /// Segments without users, oldest first.
    pub(super) unused: VecDeque<SegId>,
    pub(super) instances: BTreeMap<u32, Instance>,
    pub(super) frames: Frames,
    pub(super) retired: Vec<Retired>,
    /// vCPUs that must load their instance's root anew.
    pub(super) reload: Vec<u32>,
    /// Whether there are any, for threads that look without taking the mutex.
    pub(super) reload_waits: Arc<AtomicBool>,
    /// Counts mapped extents.
    pub(super) clock: u64,
    /// The store's counter of changes as far as the kernel may rely on it.
    pub(super) seen: u64,
    /// Handles below the highest ever used that are free.
    free_handles: BTreeSet<u32>,
    highest: u32,
    /// Of the instance table in the lease.
    reserved_bytes: u64,
    /// Which segment's lock lies at which number.
    pub(super) locked_by_page: BTreeMap<u32, SegId>,
    /// Guest memory set aside for lock pages, by number.
    lock_memory: BTreeMap<u32, GuestPhys>,
    lock_refs: Rooms,
    /// Lists of locks that no instance has any more.
    stale_lists: Vec<(u32, Range<u32>)>,
    lock_pages: Rooms,
    lease_rows: Rooms,
}

/// Numbers handed out in runs: the lowest that fit.
#[derive(Debug, Default)]
struct Rooms {
    used: BTreeMap<u32, u32>,
}

impl Rooms {
    fn take(&mut self, count: u32, limit: u32) -> Option<u32> {
        let mut at = 0;
        for (&start, &len) in &self.used {
            if start - at >= count {
                break;
            }
            at = start + len;
        }
        let end = at.checked_add(count)?;
        (end <= limit).then(|| {
            if count > 0 {
                self.used.insert(at, count);
            }
            at
        })
    }

    fn give_back(&mut self, start: u32) {
        self.used.remove(&start);
    }
}

impl Vases {
    /// Nothing attached; store and lease are opened when they are needed.
    #[must_use]
    pub fn new(machine: Arc<Machine>, config: VasConfig) -> Vases {
        let active = AtomicBool::new(false);
        let state = State::default();
        let reload_waits = state.reload_waits.clone();
        let (state, threads) = (Mutex::new(state), Mutex::default());
        Vases { machine, config, active, state, reload_waits, threads }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
            warn_if_failed("note a thread", self.machine.set_line_thread(vcpu, number));
        }
    }

    /// Whether the process has ever attached a VAS.
    #[must_use]
    pub fn is_active(&self) -> bool {
        // Acquire: who sees it sees the mapped lease.
        self.active.load(Ordering::Acquire)
    }

    /// The store, made if it does not exist.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn store(&self) -> Result<Arc<Store>, VasError> {
        self.lock().store(&self.config)
    }

    /// Store and lease of a process that attaches something.
    pub(super) fn open(&self, state: &mut State) -> Result<Arc<Store>, VasError> {
        let store = state.store(&self.config)?;
        if state.lease.is_none() {
            let program = self.config.program.clone();
            let lease = Lease::create(&store, &LeaseInfo { program, pid: std::process::id() })?;
            self.share_tables(&lease, &store)?;
            state.seen = self.machine.live_word()?;
            self.machine.set_seen(state.seen)?;
            self.machine.start_switching()?;
            state.lease = Some(lease);
            let threads = self.threads.lock().unwrap_or_else(|poison| poison.into_inner());
            for (&vcpu, &thread) in &*threads {
                self.machine.set_line_thread(vcpu, thread as u64)?;
            }
            self.active.store(true, Ordering::Release);
        }
        Ok(store)
    }

    /// Lays the lease's tables and the store's counter over what the kernel reads.
    fn share_tables(&self, lease: &Lease, store: &Store) -> Result<(), VasError> {
        let machine = &self.machine;
        let shared = FileMapping::Shared;
        let (lines, bytes) = machine.vcpu_lines();
        machine.mem.map_file(lines, bytes, lease.fd(), VCPU_LINES_OFFSET, shared)?;
        let (table, bytes) = machine.instance_table();
        machine.mem.map_file(table, bytes, lease.fd(), INSTANCES_OFFSET, shared)?;
        machine.mem.map_file(machine.live_page(), PAGE_SIZE, store.live_fd(), 0, shared)?;
        Ok(())
    }
}

impl State {
    fn store(&mut self, config: &VasConfig) -> Result<Arc<Store>, VasError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let path = match &config.store {
            Some(path) => path.clone(),
            None => Store::default_path()?,
        };
        let store = Arc::new(Store::open_or_create(&path)?);
        self.store = Some(store.clone());
        Ok(store)
    }

    pub(super) fn opened(&self) -> Option<Arc<Store>> {
        self.store.clone()
    }

    /// Drops the lease: the process holds nothing any more.
    pub(super) fn close(&mut self) {
        self.lease = None;
    }

    /// The instance behind a program's handle.
    pub(super) fn instance(&self, vh: u64) -> Result<(u32, &Instance), VasError> {
        let index = handle(vh)?;
        self.instances.get(&index).map(|i| (index, i)).ok_or(VasError::NoInstance { vh })
    }

    /// The lowest free handle.
    pub(super) fn free_handle(&self) -> Result<u32, VasError> {
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
    pub(super) fn reserve_entry(&mut self, vh: u32) -> Result<(), VasError> {
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
    pub(super) fn insert(&mut self, vh: u32, instance: Instance) {
        self.free_handles.remove(&vh);
        self.highest = self.highest.max(vh);
        self.instances.insert(vh, instance);
    }

    /// Takes an instance away and frees its handle.
    pub(super) fn remove(&mut self, vh: u32) -> Option<Instance> {
        let instance = self.instances.remove(&vh)?;
        self.free_handles.insert(vh);
        Some(instance)
    }

    /// Shows an instance to the kernel as it is now. Its locks must not be held by a thread
    /// inside, unless they are the same as before.
    pub(super) fn publish(&mut self, vh: u32, machine: &Machine) -> Result<(), VasError> {
        let Some(instance) = self.instances.get(&vh) else { return Ok(()) };
        let mut refs: Vec<LockRef> = Vec::new();
        for (sid, member) in &instance.members {
            let Some(lock) = self.segments.get(sid).and_then(|segment| segment.lock.as_ref())
            else {
                continue;
            };
            refs.push(lock.reference(member.right == Right::Write));
        }
        // The kernel compares by page (abi::lock).
        refs.sort_unstable_by_key(|lock| lock.page);
        let mut cr3 = instance.root.raw();
        if instance.tagged && machine.has_pcid() {
            cr3 |= CR3_KEEP | (FIRST_TAG + u64::from(vh) % (CR3_TAG + 1 - FIRST_TAG));
        }
        let generation = instance.generation;
        let list = LockList { refs, cr3, generation };
        let locks = if instance.lock_list.as_ref() == Some(&list) {
            instance.locks.clone()
        } else {
            self.write_list(&list, machine)?
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
        machine.set_instance(vh, &entry, true)?;
        instance.shown = true;
        Ok(())
    }

    /// Writes a list of locks where none has been, or none is used any more: nothing for a
    /// plain instance.
    fn write_list(&mut self, list: &LockList, machine: &Machine) -> Result<Range<u32>, VasError> {
        let count = list.refs.len() as u32;
        if count == 0 {
            return Ok(0..0);
        }
        self.sweep_lists(machine)?;
        let limit = (LOCK_REFS_BYTES / 16) as u32 - 1;
        // One place more for the list's end; place 0 is not usable.
        let first = self
            .lock_refs
            .take(count + 1, limit)
            .ok_or(VasError::Full { what: "references to locks" })?
            + 1;
        machine.set_lock_list(first, &list.refs, list.cr3, list.generation)?;
        Ok(first..first + count)
    }

    /// Frees the places of lists that no entry names any more, unless a vCPU still holds locks
    /// by them, or is inside the instance and may be looking at its list.
    fn sweep_lists(&mut self, machine: &Machine) -> Result<(), VasError> {
        if self.stale_lists.is_empty() {
            return Ok(());
        }
        let held = machine.all_held_locks()?;
        for (vh, list) in std::mem::take(&mut self.stale_lists) {
            let used = held.contains(&list.start) || !machine.vcpus_in(vh)?.is_empty();
            if used {
                self.stale_lists.push((vh, list));
            } else {
                self.lock_refs.give_back(list.start - 1);
            }
        }
        Ok(())
    }

    /// Takes an instance's entry away; no thread is inside.
    pub(super) fn unpublish(
        &mut self,
        vh: u32,
        instance: &Instance,
        machine: &Machine,
    ) -> Result<(), VasError> {
        machine.erase_instance(vh)?;
        if !instance.locks.is_empty() {
            self.stale_lists.push((vh, instance.locks.clone()));
        }
        Ok(())
    }

    /// Notes that an instance has a segment: at the first one in the VM, and at the first
    /// writable one, the lease and the segment say so, and a lockable segment's lock comes
    /// into reach.
    pub(super) fn use_segment(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        machine: &Machine,
    ) -> Result<(), VasError> {
        let kept = self.segments.contains_key(&sid);
        match self.join(sid, right, store, machine) {
            // What was kept from an earlier attachment may be a deleted segment's.
            Err(VasError::Store(StoreError::NotFound(_))) if kept && self.is_unused(sid) => {
                self.forget_segment(sid, machine);
                self.join(sid, right, store, machine)
            }
            joined => joined,
        }
    }

    fn is_unused(&self, sid: SegId) -> bool {
        self.segments.get(&sid).is_some_and(|segment| segment.user_count() == 0)
    }

    fn join(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        machine: &Machine,
    ) -> Result<(), VasError> {
        if let Entry::Vacant(place) = self.segments.entry(sid) {
            place.insert(VmSegment::new(store.open_segment(sid)?));
        }
        let joined = self.join_open(sid, right, store, machine);
        if joined.is_err() && self.is_unused(sid) && !self.unused.contains(&sid) {
            self.unused.push_back(sid);
        }
        joined
    }

    fn join_open(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        machine: &Machine,
    ) -> Result<(), VasError> {
        let (Some(segment), Some(lease)) = (self.segments.get_mut(&sid), self.lease.as_ref())
        else {
            return Ok(());
        };
        if right == Right::Write && segment.file.right() == Right::Read {
            return Err(VasError::ReadOnly { sid });
        }
        let had = segment.users.keys().next_back().copied();
        if had.is_none_or(|had| had < right) {
            let row = match segment.lease_index {
                Some(row) => row,
                None => self
                    .lease_rows
                    .take(1, LEASE_SEGMENTS)
                    .ok_or(VasError::Full { what: "segments in a process" })?,
            };
            if let Err(error) = store.join(&mut segment.file, lease, row, right) {
                if segment.lease_index.is_none() {
                    self.lease_rows.give_back(row);
                }
                return Err(error.into());
            }
            segment.lease_index = Some(row);
            segment.set_size(segment.file.header().size_bytes);
        }
        if segment.is_lockable() && segment.lock.is_none() {
            let locked = self.map_lock(sid, store, machine);
            if locked.is_err() && had.is_none() {
                self.leave_segment(sid);
            }
            locked?;
        }
        if let Some(segment) = self.segments.get_mut(&sid) {
            *segment.users.entry(right).or_insert(0) += 1;
        }
        self.unused.retain(|&unused| unused != sid);
        Ok(())
    }

    fn map_lock(&mut self, sid: SegId, store: &Store, machine: &Machine) -> Result<(), VasError> {
        let (Some(segment), Some(lease)) = (self.segments.get_mut(&sid), self.lease.as_ref())
        else {
            return Ok(());
        };
        // Taking a lock is a write, also to share it.
        if segment.file.right() == Right::Read {
            return Err(VasError::ReadOnly { sid });
        }
        let index =
            self.lock_pages.take(1, MAX_LOCK_PAGES).ok_or(VasError::Full { what: "lock pages" })?;
        let memory = match self.lock_memory.get(&index) {
            Some(&gpa) => Ok(gpa),
            None => machine.map_lock_page(index).map_err(VasError::from),
        };
        let mapped = memory.and_then(|gpa| {
            self.lock_memory.insert(index, gpa);
            LockPage::map(index, gpa, &segment.file, lease.id(), store, machine)
        });
        match mapped {
            Ok(lock) => {
                self.locked_by_page.insert(index, sid);
                segment.lock = Some(lock);
                Ok(())
            }
            Err(error) => {
                self.lock_pages.give_back(index);
                Err(error)
            }
        }
    }

    /// Tells the store that the VM no longer has a segment.
    fn leave_segment(&mut self, sid: SegId) {
        let Some(segment) = self.segments.get_mut(&sid) else { return };
        let Some(row) = segment.lease_index.take() else { return };
        if let (Some(store), Some(lease)) = (&self.store, &self.lease) {
            warn_if_failed("leave a segment", store.leave(&segment.file, lease, row));
        }
        self.lease_rows.give_back(row);
    }

    /// Undoes [`State::use_segment`]. Of a segment that nobody in the VM has any more, tables
    /// and windows are kept for the next attach, until there is pressure. Unless `orderly`,
    /// what was being written stays marked dirty.
    pub(super) fn unuse_segment(
        &mut self,
        sid: SegId,
        right: Right,
        orderly: bool,
        machine: &Machine,
    ) {
        let store = self.store.clone();
        let Some(segment) = self.segments.get_mut(&sid) else { return };
        if let Some(count) = segment.users.get_mut(&right) {
            *count -= 1;
            if *count == 0 {
                segment.users.remove(&right);
            }
        }
        let still = segment.users.keys().next_back().copied();
        let (Some(store), Some(lease)) = (store, &self.lease) else { return };
        if still == Some(Right::Read)
            && right == Right::Write
            && let Some(row) = segment.lease_index
        {
            let reads = lease.set_segment(row, Some((sid, Right::Read)));
            let clean = reads.and_then(|()| store.mark_clean(&segment.file, lease.id()));
            warn_if_failed("mark a segment clean", clean);
        }
        if still.is_some() {
            return;
        }
        if let Some(lock) = segment.lock.take() {
            let index = lock.index();
            self.lock_pages.give_back(index);
            self.locked_by_page.remove(&index);
            warn_if_failed("give up a lock", lock.give_up(&store, machine));
        }
        let volatile = segment.is_volatile();
        if orderly || volatile {
            self.leave_segment(sid);
        }
        if volatile {
            self.forget_segment(sid, machine);
            return;
        }
        self.unused.push_back(sid);
        if self.unused.len() > UNUSED_MAX
            && let Some(oldest) = self.unused.pop_front()
        {
            self.forget_segment(oldest, machine);
        }
    }

    /// Drops all the VM has of a segment that no instance has.
    pub(super) fn forget_segment(&mut self, sid: SegId, machine: &Machine) {
        self.unused.retain(|&unused| unused != sid);
        let Some(segment) = self.segments.remove(&sid) else { return };
        let (_, windows) = segment.dissolve(&mut self.frames);
        if !windows.is_empty() {
            machine.windows.unmap(windows);
            self.frames.all_is_forgotten();
        }
    }

    /// Puts aside tables that instance `vh` has replaced, until no vCPU runs on them.
    pub(super) fn retire(
        &mut self,
        vh: u32,
        frames: Vec<GuestPhys>,
        machine: &Machine,
    ) -> Result<(), VasError> {
        let vcpus = machine.vcpus_in(vh)?;
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
    pub(super) fn reloaded(&mut self, vcpu: u32) {
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
pub(super) fn handle(vh: u64) -> Result<u32, VasError> {
    match u32::try_from(vh) {
        Ok(0) => Err(VasError::Home),
        Ok(index) if index < MAX_INSTANCES => Ok(index),
        _ => Err(VasError::NoInstance { vh }),
    }
}

/// For what cannot be told to anybody: the log says it.
pub(super) fn warn_if_failed<E: std::error::Error>(doing: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!("cannot {doing}: {}", crate::error::chain(&error));
    }
}
