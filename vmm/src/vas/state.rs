//! Everything a process has attached, behind one mutex, and its publication to the kernel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use abi::layout::{LOCK_REFS_BYTES, MAX_LOCK_PAGES};
use abi::objects::MAX_INSTANCES;
use abi::switch::{CR3_KEEP, CR3_TAG, InstanceEntry, LockRef};
use abi::{GuestPhys, PAGE_SIZE, Right, SegId};

use super::VasError;
use super::frames::Frames;
use super::instance::{Instance, Segments};
use super::lock_page::LockPage;
use super::segment::VmSegment;
use crate::store::{LEASE_INSTANCES, LEASE_LINES, Lease, LeaseInfo, Store};
use crate::vm::Machine;
use crate::vm::memory::FileMapping;

/// Segments kept with their tables after the last instance has given them up.
const UNUSED_MAX: usize = 256;
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
    /// Counts mapped extents.
    pub(super) clock: u64,
    /// The store's counter of changes as far as the kernel may rely on it.
    pub(super) seen: u64,
    /// Handles below the highest ever used that are free.
    free_handles: BTreeSet<u32>,
    highest: u32,
    /// Which segment's lock lies at which number.
    pub(super) locked_by_page: BTreeMap<u32, SegId>,
    /// Guest memory set aside for lock pages, by number.
    lock_memory: BTreeMap<u32, GuestPhys>,
    lock_refs: Rooms,
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
        Vases { machine, config, active: AtomicBool::new(false), state: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
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
            self.active.store(true, Ordering::Release);
        }
        Ok(store)
    }

    /// Lays the lease's tables and the store's counter over what the kernel reads.
    fn share_tables(&self, lease: &Lease, store: &Store) -> Result<(), VasError> {
        let machine = &self.machine;
        let shared = FileMapping::Shared;
        let (lines, bytes) = machine.vcpu_lines();
        machine.mem.map_file(lines, bytes, lease.fd(), LEASE_LINES, shared)?;
        let (table, bytes) = machine.instance_table();
        machine.mem.map_file(table, bytes, lease.fd(), LEASE_INSTANCES, shared)?;
        machine.mem.map_file(machine.live_page(), PAGE_SIZE, store.live_fd(), 0, shared)?;
        Ok(())
    }
}

impl State {
    fn store(&mut self, config: &VasConfig) -> Result<Arc<Store>, VasError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let path = config.store.clone().unwrap_or_else(Store::default_path);
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

    /// Has the lease's readers look at a handle.
    pub(super) fn cover_handle(&mut self, vh: u32) -> Result<(), VasError> {
        self.lease.as_mut().map_or(Ok(()), |lease| lease.cover_handle(vh)).map_err(VasError::from)
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
        let count = refs.len() as u32;
        let old = (instance.locks.clone(), instance.lock_refs == refs);
        let locks = match old {
            (locks, true) => locks,
            (old, false) => {
                let limit = (LOCK_REFS_BYTES / 16) as u32;
                let first = self
                    .lock_refs
                    .take(count, limit)
                    .ok_or(VasError::Full { what: "references to locks" })?;
                machine.set_lock_refs(first, &refs)?;
                // No thread is inside, so nobody holds what is listed there.
                if !old.is_empty() {
                    self.lock_refs.give_back(old.start);
                }
                first..first + count
            }
        };
        let Some(instance) = self.instances.get_mut(&vh) else { return Ok(()) };
        instance.locks = locks.clone();
        instance.lock_refs = refs;
        let mut cr3 = instance.root.raw();
        if instance.tagged && machine.has_pcid() {
            cr3 |= CR3_KEEP | (FIRST_TAG + u64::from(vh) % (CR3_TAG + 1 - FIRST_TAG));
        }
        instance.cr3 = cr3;
        let entry = InstanceEntry {
            plain_cr3: if count == 0 { cr3 } else { 0 },
            cr3,
            generation: instance.generation,
            lock_count: count,
            lock_first: locks.start,
            vid: instance.vid.raw(),
            reserved: [0; 3],
        };
        machine.set_instance(vh, &entry)?;
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
            self.lock_refs.give_back(instance.locks.start);
        }
        Ok(())
    }

    /// Notes that an instance has a segment: at the first one the lease says so, at the first
    /// writable one the segment's header too, and a lockable segment's lock comes into reach.
    pub(super) fn use_segment(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
        machine: &Machine,
    ) -> Result<(), VasError> {
        let cached = match self.segments.get(&sid) {
            Some(segment) => segment.user_count() > 0 || segment.file.is_current(store)?,
            None => false,
        };
        if !cached {
            self.forget_segment(sid, machine);
        }
        // First the lease, then the look at the store: who deletes looks the other way round.
        let row = match self.segments.get(&sid).and_then(|segment| segment.lease_index) {
            Some(row) => row,
            None => self
                .lease_rows
                .take(1, crate::store::LEASE_SEGMENTS)
                .ok_or(VasError::Full { what: "segments in a process" })?,
        };
        let result = self.use_with_row(sid, right, row, store, machine);
        let keeps = self.segments.get(&sid).is_some_and(|segment| segment.user_count() > 0);
        if !keeps {
            if let Some(lease) = self.lease.as_mut() {
                lease.set_segment(row, None)?;
            }
            self.lease_rows.give_back(row);
        }
        result
    }

    fn use_with_row(
        &mut self,
        sid: SegId,
        right: Right,
        row: u32,
        store: &Store,
        machine: &Machine,
    ) -> Result<(), VasError> {
        let strongest = self
            .segments
            .get(&sid)
            .and_then(|segment| segment.users.keys().next_back().copied())
            .map_or(right, |had| had.max(right));
        if let Some(lease) = self.lease.as_mut() {
            lease.set_segment(row, Some((sid, strongest)))?;
        }
        let fresh = match self.segments.get(&sid) {
            Some(_) => None,
            None => Some(VmSegment::new(store.open_segment(sid)?)),
        };
        if let Some(fresh) = fresh {
            self.segments.insert(sid, fresh);
        }
        let Some(segment) = self.segments.get_mut(&sid) else { return Ok(()) };
        if right == Right::Write && segment.file.right() == Right::Read {
            return Err(VasError::ReadOnly { sid });
        }
        if segment.is_lockable() && segment.lock.is_none() {
            let Some(lease) = self.lease.as_ref().map(Lease::id) else { return Ok(()) };
            let index = self
                .lock_pages
                .take(1, MAX_LOCK_PAGES)
                .ok_or(VasError::Full { what: "lock pages" })?;
            let gpa = match self.lock_memory.get(&index) {
                Some(&gpa) => gpa,
                None => {
                    let gpa = machine.map_lock_page(index)?;
                    self.lock_memory.insert(index, gpa);
                    gpa
                }
            };
            match LockPage::map(index, gpa, &segment.file, lease, store, machine) {
                Ok(lock) => {
                    self.locked_by_page.insert(index, sid);
                    segment.lock = Some(lock);
                }
                Err(error) => {
                    self.lock_pages.give_back(index);
                    return Err(error);
                }
            }
        }
        if right == Right::Write && !segment.marked_dirty {
            if let Some(lease) = self.lease.as_ref() {
                store.mark_dirty(&segment.file, lease.id())?;
            }
            segment.marked_dirty = true;
        }
        segment.lease_index = Some(row);
        *segment.users.entry(right).or_insert(0) += 1;
        self.unused.retain(|&unused| unused != sid);
        Ok(())
    }

    /// Undoes [`State::use_segment`]. Of a segment that nobody in the VM has any more, tables
    /// and windows are kept for the next attach, until there is pressure.
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
        let row = segment.lease_index;
        if still != Some(Right::Write) && segment.marked_dirty && orderly {
            segment.marked_dirty = false;
            if let (Some(store), Some(lease)) = (&store, &self.lease) {
                warn_if_failed("mark a segment clean", store.mark_clean(&segment.file, lease.id()));
            }
        }
        if still.is_none() {
            segment.lease_index = None;
            if let Some(lock) = segment.lock.take() {
                let index = lock.index();
                self.lock_pages.give_back(index);
                self.locked_by_page.remove(&index);
                if let Some(store) = &store {
                    warn_if_failed("give up a lock", lock.give_up(store, machine));
                }
            }
        }
        let volatile = segment.is_volatile();
        if let (Some(lease), Some(row)) = (self.lease.as_mut(), row) {
            warn_if_failed(
                "update the lease",
                lease.set_segment(row, still.map(|right| (sid, right))),
            );
        }
        if still.is_some() {
            return;
        }
        if let Some(row) = row {
            self.lease_rows.give_back(row);
        }
        if volatile {
            self.forget_segment(sid, machine);
            if let Some(store) = &store {
                warn_if_failed("drop a volatile segment", store.segment_left(sid));
            }
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
        self.retired.push(Retired { frames, vcpus });
        Ok(())
    }

    /// Notes that a vCPU has a root that is current.
    pub(super) fn reloaded(&mut self, vcpu: u32) {
        self.reload.retain(|&waiting| waiting != vcpu);
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
