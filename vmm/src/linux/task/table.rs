//! All threads of a process: numbers, start, end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use super::thread::Thread;
use crate::vm::Vcpu;
use crate::vm::kick::{self, HostTid};

/// The threads of a process.
#[derive(Debug)]
pub struct ThreadTable {
    inner: Mutex<Inner>,
    /// Written when the event loop (`supervise.rs`) should check the table.
    attention: EventFd,
    /// Some thread has, or has had, another number than its host thread.
    renumbered: AtomicBool,
}

/// Whether the threads have acknowledged the kicks they were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KickState {
    /// There are no threads.
    NoThreads,
    /// All have checked their signals since.
    Acknowledged,
    /// Some thread has been kicked and has not checked its signals yet.
    Unacknowledged,
}

#[derive(Debug, Default)]
struct Inner {
    live: BTreeMap<i32, Arc<Thread>>,
    /// vCPUs whose thread has ended, for reuse by the next thread.
    idle: Vec<Vcpu>,
    started: u64,
    peak: usize,
    exits: u64,
    host: Vec<std::thread::JoinHandle<()>>,
}

impl ThreadTable {
    /// A table without threads.
    ///
    /// # Errors
    /// The host has no free file descriptor.
    pub fn new() -> std::io::Result<ThreadTable> {
        Ok(ThreadTable {
            inner: Mutex::default(),
            attention: EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?,
            renumbered: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// A vCPU left by an ended thread.
    #[must_use]
    pub fn idle_vcpu(&self) -> Option<Vcpu> {
        self.lock().idle.pop()
    }

    /// Keeps a vCPU that no thread runs.
    pub fn keep_vcpu(&self, vcpu: Vcpu) {
        self.lock().idle.push(vcpu);
    }

    /// Registers a thread that is about to run.
    pub fn add(&self, thread: Arc<Thread>) {
        if thread.tid != thread.host.raw() || thread.owner != thread.tid {
            self.renumbered.store(true, Ordering::Relaxed);
        }
        let mut inner = self.lock();
        inner.live.insert(thread.tid, thread);
        inner.started += 1;
        inner.peak = inner.peak.max(inner.live.len());
    }

    /// Keeps the host thread's handle, so that the end of the process can wait for it.
    pub fn keep_handle(&self, handle: std::thread::JoinHandle<()>) {
        let mut inner = self.lock();
        inner.host.retain(|h| !h.is_finished());
        inner.host.push(handle);
    }

    /// Unregisters an ended thread and keeps its vCPU. Returns whether it was the last.
    pub fn remove(&self, tid: i32, vcpu: Option<Vcpu>) -> bool {
        let mut inner = self.lock();
        inner.live.remove(&tid);
        if let Some(vcpu) = vcpu {
            inner.exits += vcpu.exits;
            inner.idle.push(vcpu);
        }
        let last = inner.live.is_empty();
        drop(inner);
        self.notify();
        last
    }

    /// The thread with this number, or the one that memory has under it as an owner of locks.
    #[must_use]
    pub fn get(&self, number: i32) -> Option<Arc<Thread>> {
        let inner = self.lock();
        let owner = || inner.live.values().find(|thread| thread.owner == number);
        let known = inner.live.get(&number);
        known.or_else(|| self.are_renumbered().then(owner).flatten()).cloned()
    }

    /// Whether the numbers that the program has for its threads are not all the host's: set before any of them runs.
    #[must_use]
    pub fn are_renumbered(&self) -> bool {
        self.renumbered.load(Ordering::Relaxed)
    }

    /// The thread that a host thread runs.
    #[must_use]
    pub fn run_by(&self, host: HostTid) -> Option<Arc<Thread>> {
        self.lock().live.values().find(|thread| thread.host == host).cloned()
    }

    /// All live threads.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Thread>> {
        self.lock().live.values().cloned().collect()
    }

    /// Threads alive, the peak number, and the number ever started.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, u64) {
        let inner = self.lock();
        (inner.live.len(), inner.peak, inner.started)
    }

    /// Gets every thread out of the guest or out of a blocking host call, once.
    pub fn kick_all(&self) {
        for thread in self.lock().live.values() {
            kick::kick(thread.host);
        }
    }

    /// Kicks `thread`; the event loop repeats it until the thread has checked its signals.
    pub fn kick_until_acknowledged(&self, thread: &Thread) {
        thread.signals.mark_kicked();
        kick::kick(thread.host);
        self.notify();
    }

    /// Whether a kick is unacknowledged. While the process is `stopping`, every thread counts as
    /// kicked.
    #[must_use]
    pub fn kick_state(&self, stopping: bool) -> KickState {
        let inner = self.lock();
        let unacknowledged = |thread: &Arc<Thread>| stopping || thread.signals.is_kicked();
        match inner.live.is_empty() {
            true => KickState::NoThreads,
            false if inner.live.values().any(unacknowledged) => KickState::Unacknowledged,
            false => KickState::Acknowledged,
        }
    }

    /// Kicks again the threads that have not acknowledged a kick.
    pub fn kick_again(&self, stopping: bool) {
        let inner = self.lock();
        for thread in inner.live.values().filter(|t| stopping || t.signals.is_kicked()) {
            kick::kick(thread.host);
        }
    }

    /// Joins the host threads of ended threads, which are about to end.
    pub fn join_ended(&self) {
        let handles = std::mem::take(&mut self.lock().host);
        for handle in handles {
            // Its panic was turned into an outcome where it happened.
            let _ = handle.join();
        }
    }

    /// Readable when the event loop should check the table.
    #[must_use]
    pub fn attention(&self) -> &EventFd {
        &self.attention
    }

    /// Wakes the event loop.
    pub fn notify(&self) {
        // Fails only when the counter is full: then it is readable anyway.
        let _ = self.attention.write(1);
    }

    /// Drops the vCPUs kept for reuse; they keep the VM alive.
    pub fn drop_idle(&self) -> Vec<Vcpu> {
        std::mem::take(&mut self.lock().idle)
    }
}
