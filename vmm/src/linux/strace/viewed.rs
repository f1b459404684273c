//! `spacejmp trace VM`: whether somebody looks at the calls of a program that runs already.
//!
//! While nobody does, a call costs one more load, and nothing is collected. A thread that has not seen the viewer when its call began
//! has stored the call's number before it looked. So the event loop finds the number there a moment later, when the processor has
//! written it out: a fence in each call, to find it at once, would cost all who are never looked at.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::{Sink, Tracer};
use crate::linux::task::{Process, ThreadTable};
use crate::stats::names;

/// Far longer than a store takes until all processors see it.
const SETTLED: Duration = Duration::from_millis(20);

/// Who looks at a process's calls: one at a time.
#[derive(Debug, Default)]
pub struct Viewed {
    is_on: AtomicBool,
    /// The calls that had begun before are not told yet.
    is_new: AtomicBool,
    by: Mutex<Option<Arc<Tracer>>>,
}

impl Viewed {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Tracer>>> {
        self.by.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Whether somebody looks.
    #[must_use]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// What writes the calls, if somebody looks.
    pub(super) fn tracer(&self) -> Option<Arc<Tracer>> {
        if self.is_on() { self.lock().clone() } else { None }
    }

    /// Nobody looks any more.
    pub(crate) fn end(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        *self.lock() = None;
    }

    /// Calls that last are told as far as they are known, and what was left out is.
    pub(crate) fn tell_long_calls(&self, threads: &ThreadTable) {
        if let Some(tracer) = self.tracer() {
            if tracer.began.elapsed() >= SETTLED && self.is_new.swap(false, Ordering::Relaxed) {
                tell_earlier_calls(&tracer, threads);
            }
            tracer.tell_long_calls();
            tracer.tell("");
        }
    }
}

/// What threads are in that the viewer came too late for. The arguments are not known any more.
fn tell_earlier_calls(tracer: &Tracer, threads: &ThreadTable) {
    for thread in threads.all() {
        let Some(number) = thread.call() else { continue };
        // What begins later is told by its own thread.
        if !tracer.pending().contains_key(&thread.tid) {
            let name = names::name(number).unwrap_or("?");
            let prefix = tracer.prefix(thread.tid, tracer.began);
            tracer.tell(&format!("{prefix}{name}(... <unfinished ...>\n"));
        }
    }
}

impl Process {
    /// What writes its calls, if they are asked for.
    pub(crate) fn tracer(&self) -> Option<Arc<Tracer>> {
        self.traced.clone().or_else(|| self.viewed.tracer())
    }

    /// From now on its calls are written to `socket`, as far as the other side takes them in time; `false` if they
    /// are written already.
    pub(crate) fn view(&self, socket: UnixStream) -> bool {
        let mut by = self.viewed.lock();
        if self.traced.is_some() || by.is_some() {
            return false;
        }
        let tracer = Tracer::to_sink(Sink::viewer(socket));
        tracer.tell("tracing\n");
        *by = Some(tracer);
        self.viewed.is_new.store(true, Ordering::Relaxed);
        self.viewed.is_on.store(true, Ordering::Relaxed);
        true
    }
}
