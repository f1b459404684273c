//! The address spaces of a running VM and where its threads are, for who looks at it from outside.
//!
//! Whoever asks must not wait: a thread may hold the state across a long call. Then nothing is told.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{PoisonError, TryLockError};

use abi::{LeaseId, PAGE_SIZE, Right, SegId};
use serde::Serialize;

use crate::vas::state::{State, Vases};
use crate::vas::switch::locks::locks_of;

/// What is attached, and by which locks threads are held up.
#[derive(Debug, Default)]
pub struct LiveSpaces {
    /// Attached VASes, by handle.
    pub vases: Vec<LiveVas>,
    /// Threads that wait to enter a VAS, by vCPU.
    pub waiting: BTreeMap<u32, LiveWait>,
}

/// An attached VAS.
#[derive(Clone, Debug, Serialize)]
pub struct LiveVas {
    /// Its handle in the VM.
    pub handle: u32,
    /// Its name.
    pub name: String,
    /// Its segments, by address.
    pub segments: Vec<LiveSegment>,
}

/// An attached segment.
#[derive(Clone, Debug, Serialize)]
pub struct LiveSegment {
    /// Its name.
    pub name: String,
    /// Its first address.
    pub base: u64,
    /// Bytes of addresses that have content.
    pub bytes: u64,
    /// Whether the VM may write it.
    pub writable: bool,
    /// Bytes of it that are mapped in the VM.
    pub mapped_bytes: u64,
    /// Of a versioned one: the newest version that a thread of this VM has seen or made.
    pub version: Option<u64>,
    /// Likewise: bytes of its logs; `None` while a commit has them.
    pub log_bytes: Option<u64>,
    /// Likewise: pages that visits have copies of, to change them.
    pub copied_pages: Option<usize>,
}

/// What a thread waits for that wants to enter a VAS.
#[derive(Clone, Debug, Serialize)]
pub struct LiveWait {
    /// The name of the VAS.
    pub vas: String,
    /// The locks that others hold.
    pub locks: Vec<LiveLock>,
}

/// A lock that others hold.
#[derive(Clone, Debug, Serialize)]
pub struct LiveLock {
    /// The name of the segment.
    pub segment: String,
    /// Whether it is held to write; else to read.
    pub exclusive: bool,
    /// The leases of the VMs whose threads hold it, this one's perhaps among them.
    pub held_by: Vec<String>,
}

impl Vases {
    /// What is attached now; `None` while another thread changes it.
    #[must_use]
    pub fn live(&self) -> Option<LiveSpaces> {
        if !self.is_active() {
            return Some(LiveSpaces::default());
        }
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poison)) => poison.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let mut vases: Vec<LiveVas> =
            state.instances.iter().map(|(vh, _)| vas(&state, vh)).collect();
        vases.sort_by_key(|vas| vas.handle);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let waiting = waiting.into_iter().map(|(vcpu, vh)| (vcpu, wait(&state, vh))).collect();
        Some(LiveSpaces { vases, waiting })
    }

    /// The handle of the VAS that a vCPU's thread is in; 0 is its own address space.
    #[must_use]
    pub fn handle_of(&self, vcpu: u32) -> u32 {
        if !self.is_active() {
            return 0;
        }
        self.switch.current_instance(vcpu).unwrap_or(0)
    }

    /// Does `work`, which waits for the locks of `vh` on behalf of the thread that runs `vcpu`.
    pub(crate) fn waiting_for<T>(&self, vcpu: u32, vh: u32, work: impl FnOnce() -> T) -> T {
        let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting().insert(vcpu, vh);
        let done = work();
        waiting().remove(&vcpu);
        done
    }
}

fn vas(state: &State, vh: u32) -> LiveVas {
    let instance = state.instances.known(vh);
    let mut segments: Vec<LiveSegment> = instance
        .members
        .iter()
        .map(|(sid, member)| {
            let segment = state.residency.of_member(sid);
            let end = segment.end.min(member.range.end);
            let bytes = end.saturating_sub(member.range.start);
            let versioned = segment.has_versions().then(|| segment.versioned());
            LiveSegment {
                name: segment.name.clone(),
                base: member.range.start,
                bytes,
                writable: member.right != Right::Read,
                mapped_bytes: segment.mapped_bytes().min(bytes.next_multiple_of(PAGE_SIZE)),
                version: versioned.map(|versioned| versioned.news.seen.0),
                log_bytes: versioned.and_then(|versioned| versioned.log_bytes()),
                copied_pages: versioned.map(|_| state.visits.copied_pages(sid)),
            }
        })
        .collect();
    segments.sort_by_key(|segment| segment.base);
    LiveVas { handle: vh, name: instance.name.clone(), segments }
}

fn wait(state: &State, vh: u32) -> LiveWait {
    let vas = match state.instances.get(vh) {
        Some(instance) => instance.name.clone(),
        None => format!("handle {vh}"),
    };
    let lock = |(sid, lock): (SegId, seg_lock::LockView)| {
        let held_by: Vec<String> = holders(&lock).iter().map(LeaseId::to_string).collect();
        let segment = state.residency.of_member(sid).name.clone();
        (!held_by.is_empty()).then_some(LiveLock {
            segment,
            exclusive: lock.owner.is_some(),
            held_by,
        })
    };
    let locks = locks_of(state, vh).into_locks();
    let locks = locks.map(|(sid, _, page)| (sid, page.inspect())).filter_map(lock).collect();
    LiveWait { vas, locks }
}

fn holders(lock: &seg_lock::LockView) -> Vec<LeaseId> {
    if let Some(owner) = lock.owner_lease() {
        return vec![owner];
    }
    let readers = lock.leases.iter().zip(lock.readers).filter(|(_, threads)| *threads > 0);
    readers.filter_map(|(lease, _)| *lease).collect()
}
