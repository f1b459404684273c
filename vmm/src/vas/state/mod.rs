//! Everything a process has attached, behind one mutex.
//!
//! - [`State`]: what is behind it, a part for each subject, so that a function can take what it
//!   changes: the [`instances`], the segments in use (`residency`), the frames of their tables
//!   (`tables`), what the kernel is shown ([`lock_lists`], `publish`)
//! - [`Vases`]: the mutex, and what is read without it

pub(crate) mod handles;
pub(crate) mod instances;
pub(crate) mod lock_lists;
mod publish;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use abi::{PAGE_SIZE, Right, SegId};

use self::handles::ENTRIES_AHEAD;
use self::instances::Instances;
use self::lock_lists::LockLists;
use crate::kernel::{Kernel, SwitchTables};
use crate::process_tree::disk_use::DiskUse;
use crate::store::{INSTANCES_OFFSET, Lease, LeaseInfo, Patience, Store, VCPU_STATUSES_OFFSET};
use crate::vas::VasError;
use crate::vas::error::warn_if_failed;
use crate::vas::granted::Granted;
use crate::vas::granted::charge::StoreCharge;
use crate::vas::granted::grants::{Grants, VasGrants};
use crate::vas::opened::Opened;
use crate::vas::residency::{Probe, Residency};
use crate::vas::tables::TableFrames;
use crate::vas::versioned::kernel_views::KernelViews;
use crate::vas::versioned::sync::Syncer;
use crate::vas::versioned::visits::Visits;
use crate::vm::Machine;
use crate::vm::host_range::own_number;
use crate::vm::memory::FileMapping;
use spacejmp_versions::disk::host::Growth;

/// Where a process's address spaces come from.
#[derive(Clone, Debug, Default)]
pub struct VasConfig {
    /// The store's directory; the user's own if `None`.
    pub store: Option<PathBuf>,
    /// Which part of it the program may use.
    pub grants: VasGrants,
    /// Permission bits that a store made for it does not get.
    pub umask: u32,
    /// The process's name in its lease.
    pub program: String,
    /// Who counts what is added to it.
    pub disk: Option<Arc<DiskUse>>,
}

/// The address spaces of a process.
#[derive(Debug)]
pub struct Vases {
    machine: Arc<Machine>,
    /// What the guest kernel reads of instances, and writes of threads.
    pub(crate) switch: Arc<SwitchTables>,
    config: VasConfig,
    /// How long threads wait for the store's lock.
    patience: Arc<Patience>,
    /// Some instance was attached once: exits have to check.
    active: AtomicBool,
    pub(crate) state: Mutex<State>,
    pub(crate) reload_waits: Arc<AtomicBool>,
    /// See `drain.rs`.
    pub(crate) draining: AtomicBool,
    /// Whether the event loop lets go of old versions.
    pub(crate) lets_go: AtomicBool,
    /// See [`Vases::takes_up_sharing`].
    shares: Arc<AtomicBool>,
    /// Threads that may write versioned segments.
    pub(crate) writing: Arc<AtomicU32>,
    /// Whether the kernel has ever been shown a view of a versioned segment.
    pub(crate) kernel_views: Arc<AtomicBool>,
    /// The program's thread on each vCPU that runs one.
    pub(crate) threads: Mutex<BTreeMap<u32, i32>>,
    /// The instance that each vCPU's thread waits to enter, of those that do.
    pub(crate) waiting: Mutex<BTreeMap<u32, u32>>,
}

/// What the mutex is for.
#[derive(Debug)]
pub(crate) struct State {
    store: Option<Arc<Store>>,
    opened: Option<Arc<Opened>>,
    pub(crate) grants: Arc<Grants>,
    charge: Arc<StoreCharge>,
    pub(crate) instances: Instances,
    pub(crate) residency: Residency,
    pub(crate) visits: Visits,
    pub(crate) kernel_views: KernelViews,
    pub(crate) syncer: Syncer,
    pub(crate) tables: TableFrames,
    pub(crate) lock_lists: LockLists,
    /// The store's counter of changes as far as the kernel may rely on it.
    pub(crate) seen: u64,
}

impl Vases {
    /// Nothing attached; store and lease are opened when they are needed.
    #[must_use]
    pub fn new(kernel: &Kernel, config: VasConfig) -> Vases {
        let (machine, switch) = (kernel.machine().clone(), kernel.switch.clone());
        let active = AtomicBool::new(false);
        let grants = Arc::new(Grants::new(config.grants.clone()));
        let is_private = config.store.as_deref().is_some_and(Store::is_private);
        // A private one is in memory.
        let disk = config.disk.clone().filter(|_| !is_private);
        let config = VasConfig { disk: disk.clone(), ..config };
        let charge = Arc::new(StoreCharge::new(is_private.then(|| machine.mem.ledger().clone())));
        let state = State {
            store: None,
            opened: None,
            grants,
            charge,
            instances: Instances::default(),
            residency: Residency::new(switch.clone(), disk),
            visits: Visits::new(machine.mem.ledger().clone()),
            kernel_views: KernelViews::new(switch.clone()),
            syncer: Syncer::default(),
            tables: TableFrames::new(machine.clone()),
            lock_lists: LockLists::default(),
            seen: 0,
        };
        let patience = Arc::default();
        let reload_waits = state.tables.reload_waits();
        let writing = state.visits.writing();
        let shares = state.residency.shares();
        let kernel_views = state.kernel_views.is_any();
        let (state, threads, waiting) = (Mutex::new(state), Mutex::default(), Mutex::default());
        let draining = AtomicBool::new(false);
        Vases {
            machine,
            switch,
            config,
            patience,
            active,
            state,
            reload_waits,
            draining,
            lets_go: AtomicBool::new(false),
            shares,
            writing,
            kernel_views,
            threads,
            waiting,
        }
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

    /// The program's name, as in the lease.
    pub(crate) fn program(&self) -> &str {
        &self.config.program
    }

    /// Whether the process has ever attached a VAS.
    #[must_use]
    pub fn is_active(&self) -> bool {
        // Acquire: a thread that sees it sees the mapped lease.
        self.active.load(Ordering::Acquire)
    }

    /// Whether a segment was attached since the last call in which other processes may wait for locks of this
    /// program's threads. A versioned one has none: what its writers change is theirs alone.
    #[must_use]
    pub fn takes_up_sharing(&self) -> bool {
        self.shares.load(Ordering::Acquire) && self.shares.swap(false, Ordering::AcqRel)
    }

    /// What the program may use of the store, which is made if it does not exist.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn granted(&self) -> Result<Granted, VasError> {
        let mut state = self.lock();
        let store = state.open_store(&self.config, &self.patience)?;
        let disk = self.config.disk.clone();
        Ok(Granted { store, grants: state.grants.clone(), charge: state.charge.clone(), disk })
    }

    /// Where the store is, if the program has used it.
    #[must_use]
    pub fn store_path(&self) -> Option<PathBuf> {
        Some(self.lock().store.as_ref()?.path().to_owned())
    }

    /// The process is ending: no thread waits for the store's lock beyond `rest`. Takes no lock of
    /// ours: a thread that waits may hold it.
    pub fn stop_waiting(&self, rest: Duration) {
        self.patience.ends_in(rest);
    }

    /// Store and lease of a process that attaches something. One that only reads does without a lease that others
    /// can find where there can be none; then it cannot write either, until it has ended.
    pub(crate) fn open(&self, state: &mut State, right: Right) -> Result<Arc<Opened>, VasError> {
        if let Some(opened) = &state.opened {
            return Ok(opened.clone());
        }
        let store = state.open_store(&self.config, &self.patience)?;
        let program = self.config.program.clone();
        let pid = own_number().cast_unsigned();
        let info = LeaseInfo { program, pid };
        let lease = match right {
            Right::Read => {
                let lease = Lease::create_to_read(&store, &info, ENTRIES_AHEAD)?;
                state.instances.handles.have_reserved(ENTRIES_AHEAD);
                lease
            }
            Right::Write => {
                store.check_counters_writable()?;
                Lease::create(&store, &info)?
            }
        };
        self.share_tables(&lease, &store)?;
        state.seen = self.switch.changes()?;
        self.switch.set_seen(state.seen)?;
        self.switch.start_switching()?;
        let threads = self.threads.lock().unwrap_or_else(|poison| poison.into_inner());
        for (&vcpu, &thread) in &*threads {
            self.switch.set_vcpu_thread(vcpu, thread as u64)?;
        }
        let opened = Arc::new(Opened { store, lease });
        state.opened = Some(opened.clone());
        self.active.store(true, Ordering::Release);
        Ok(opened)
    }

    /// The store, open.
    pub(crate) fn open_store(&self, state: &mut State) -> Result<Arc<Store>, VasError> {
        match &state.opened {
            Some(opened) => Ok(opened.store.clone()),
            None => state.open_store(&self.config, &self.patience),
        }
    }

    /// Maps the lease's tables and the store's counter over what the kernel reads.
    fn share_tables(&self, lease: &Lease, store: &Store) -> Result<(), VasError> {
        let (machine, switch) = (&self.machine, &self.switch);
        let shared = FileMapping::Shared;
        let (lines, bytes) = switch.vcpu_statuses();
        machine.mem.map_file(lines, bytes, lease.fd(), VCPU_STATUSES_OFFSET, shared)?;
        let (table, bytes) = switch.instance_table();
        machine.mem.map_file(table, bytes, lease.fd(), INSTANCES_OFFSET, shared)?;
        let counters = match store.counters_right() {
            Right::Read => FileMapping::SharedReadOnly,
            Right::Write => shared,
        };
        machine.mem.map_file(switch.changes_page(), PAGE_SIZE, store.counters_fd(), 0, counters)?;
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
        let store = Store::open_or_create_with(&path, patience.clone(), config.umask)?;
        let growth = config.disk.clone().map(|disk| disk as Arc<dyn Growth>);
        let store = Arc::new(store.counted_by(growth));
        self.store = Some(store.clone());
        Ok(store)
    }

    /// Store and lease, if something was ever attached. Not to be kept without the state locked:
    /// the lease goes with the last of them.
    pub(crate) fn opened(&self) -> Option<Arc<Opened>> {
        self.opened.clone()
    }

    /// The same where something is attached.
    pub(crate) fn attached(&self) -> Arc<Opened> {
        self.opened.clone().expect("whoever has an instance has a lease")
    }

    /// Drops the lease: the process holds nothing any more.
    pub(crate) fn close(&mut self) {
        self.residency.forget_all(&mut self.tables);
        self.syncer = Syncer::default();
        self.opened = None;
    }

    /// [`Residency::probe`], as far as the program was granted.
    pub(crate) fn probe(
        &mut self,
        sid: SegId,
        right: Right,
        store: &Store,
    ) -> Result<Probe, VasError> {
        self.residency.probe(sid, right, &self.grants, store, &mut self.tables)
    }

    /// Drops what is kept of a segment that no instance has, if any.
    pub(crate) fn forget_unused(&mut self, sid: SegId) {
        if self.residency.is_unused(sid) {
            self.residency.forget(sid, &mut self.tables);
        }
    }
}
