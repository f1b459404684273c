//! Who asks the threads of a program where they are, so many times a second: a thread of its own in each VMM.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Profiler;
use crate::confine::{self, Kind, Policy};
use crate::linux::task::Process;
use crate::vm::kick;

/// The program that is asked now: another one after `execve`.
type Asked = Mutex<Option<Arc<Process>>>;

/// The thread that asks, until this is dropped.
#[derive(Debug)]
pub struct Sampler(Arc<Asked>);

impl Sampler {
    /// Starts it if a profile of time is asked for.
    ///
    /// # Errors
    /// The host cannot create another thread.
    pub fn start(profiler: &Profiler, policy: &Policy) -> io::Result<Option<Sampler>> {
        let Some((_, hz)) = profiler.time else { return Ok(None) };
        let period = Duration::from_secs(1) / hz.max(1);
        let asked = Arc::<Asked>::default();
        let (weak, policy) = (Arc::downgrade(&asked), *policy);
        let thread = std::thread::Builder::new().name("profile".to_owned());
        thread.spawn(move || match confine::enter(Kind::Watch, &policy) {
            Ok(()) => ask_until_dropped(&weak, period),
            Err(error) => tracing::warn!("there are no samples for --profile: {error}"),
        })?;
        Ok(Some(Sampler(asked)))
    }

    /// From now on this program is asked, or none. When this returns, another one is not asked any more.
    pub fn ask(&self, process: Option<&Arc<Process>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = process.cloned();
    }
}

fn ask_until_dropped(asked: &Weak<Asked>, period: Duration) {
    let mut due = Instant::now() + period;
    while let Some(asked) = asked.upgrade() {
        let late = Instant::now().saturating_duration_since(due);
        // Where this thread came late, all of the time counts for where the threads are now.
        let missed = late.as_nanos() / period.as_nanos().max(1);
        let ticks = u32::try_from(missed).unwrap_or(u32::MAX - 1) + 1;
        due += period.saturating_mul(ticks);
        // Locked while they are asked: the program's VM must not end here, by a thread that may not do that.
        if let Some(process) = &*asked.lock().unwrap_or_else(PoisonError::into_inner) {
            for thread in process.threads.all() {
                thread.seat.ask(ticks, || kick::kick(thread.host));
            }
        }
        drop(asked);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
