//! All threads of a process: numbers, start, end.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::thread::Thread;
use crate::vm::Vcpu;
use crate::vm::kick;

/// The threads of a process.
#[derive(Debug)]
pub struct ThreadTable {
    inner: Mutex<Inner>,
    changed: Condvar,
    next_tid: AtomicI32,
}

#[derive(Debug, Default)]
struct Inner {
    live: BTreeMap<i32, Arc<Thread>>,
    /// vCPUs whose thread has ended, for the next thread.
    idle: Vec<Vcpu>,
    started: u64,
    peak: usize,
    exits: u64,
    host: HashMap<i32, std::thread::JoinHandle<()>>,
}

/// The process's number as it sees it. There is one process in a VM; 1 would make programs
/// believe they are init.
pub const PID: i32 = 1000;

impl Default for ThreadTable {
    fn default() -> Self {
        ThreadTable {
            inner: Mutex::default(),
            changed: Condvar::new(),
            next_tid: AtomicI32::new(PID),
        }
    }
}

impl ThreadTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// A number no thread had yet.
    #[must_use]
    pub fn new_tid(&self) -> i32 {
        self.next_tid.fetch_add(1, Ordering::Relaxed)
    }

    /// A vCPU left by an ended thread.
    #[must_use]
    pub fn idle_vcpu(&self) -> Option<Vcpu> {
        self.lock().idle.pop()
    }

    /// Registers a thread that is about to run.
    pub fn add(&self, thread: Arc<Thread>) {
        let mut inner = self.lock();
        inner.live.insert(thread.tid, thread);
        inner.started += 1;
        inner.peak = inner.peak.max(inner.live.len());
    }

    /// Keeps the host thread's handle, so that the end of the process can wait for it.
    pub fn keep_handle(&self, tid: i32, handle: std::thread::JoinHandle<()>) {
        let mut inner = self.lock();
        inner.host.retain(|_, h| !h.is_finished());
        inner.host.insert(tid, handle);
    }

    /// Unregisters an ended thread and keeps its vCPU. Returns whether it was the last.
    pub fn remove(&self, tid: i32, vcpu: Option<Vcpu>) -> bool {
        let mut inner = self.lock();
        inner.live.remove(&tid);
        if let Some(vcpu) = vcpu {
            inner.exits += vcpu.exits;
            inner.idle.push(vcpu);
        }
        self.changed.notify_all();
        inner.live.is_empty()
    }

    /// The thread with this number.
    #[must_use]
    pub fn get(&self, tid: i32) -> Option<Arc<Thread>> {
        self.lock().live.get(&tid).cloned()
    }

    /// All live threads.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Thread>> {
        self.lock().live.values().cloned().collect()
    }

    /// Threads alive, most at one time, ever started.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, u64) {
        let inner = self.lock();
        (inner.live.len(), inner.peak, inner.started)
    }

    /// Gets every thread out of the guest or out of a blocking host call, once.
    pub fn kick_all(&self) {
        for thread in self.lock().live.values() {
            kick::kick(thread.host_tid());
        }
    }

    /// Kicks `thread`, again and again until it has looked at its signals: see
    /// [`ThreadTable::wait_until_empty`], which does the repeating.
    pub fn kick_until_heard(&self, thread: &Thread) {
        thread.mark_kicked();
        kick::kick(thread.host_tid());
        self.changed.notify_all();
    }

    /// Waits until no thread is left. While `stopping`, threads are kicked again and again:
    /// one that was just about to block would miss a single kick.
    pub fn wait_until_empty(&self, stopping: impl Fn() -> bool) {
        let mut inner = self.lock();
        while !inner.live.is_empty() {
            let all = stopping();
            let deaf = |thread: &&Arc<Thread>| all || thread.signals.is_kicked();
            let mut pause = Duration::from_secs(3600);
            for thread in inner.live.values().filter(deaf) {
                kick::kick(thread.host_tid());
                pause = Duration::from_millis(1);
            }
            inner = match self.changed.wait_timeout(inner, pause) {
                Ok((guard, _)) => guard,
                Err(poison) => poison.into_inner().0,
            };
        }
        let handles: Vec<_> = inner.host.drain().map(|(_, handle)| handle).collect();
        drop(inner);
        for handle in handles {
            let _ = handle.join();
        }
    }

    /// Wakes whoever waits for the end, to look again.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Drops the vCPUs kept for reuse; they hold the VM.
    pub fn drop_idle(&self) -> Vec<Vcpu> {
        std::mem::take(&mut self.lock().idle)
    }
}
