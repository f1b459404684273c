//! What a thread that serves the program may not do itself (`confine`), it has the event loop do: making
//! processes.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Process;

/// How often who waits looks whether the process is ending, and its event loop may have.
const LOOK: Duration = Duration::from_millis(10);

type Errand = Box<dyn FnOnce() + Send>;

/// What is to be done.
#[derive(Default)]
pub(crate) struct Errands(Mutex<Vec<Errand>>);

impl fmt::Debug for Errands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errands").finish_non_exhaustive()
    }
}

impl Errands {
    /// Does it: called by the event loop.
    pub(crate) fn run(&self) {
        let errands = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        errands.into_iter().for_each(|errand| errand());
    }
}

impl Process {
    /// Has the event loop do something, and waits until it has.
    ///
    /// # Errors
    /// The errand's; or the process is ending, and it may be done or not.
    pub(crate) fn have_done<T: Send + 'static>(
        &self,
        errand: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (tell, told) = mpsc::sync_channel(1);
        let errand = move || {
            // Who has given up does not receive it.
            let _ = tell.send(errand());
        };
        let mut errands = self.errands.0.lock().unwrap_or_else(PoisonError::into_inner);
        errands.push(Box::new(errand));
        drop(errands);
        self.threads.notify();
        loop {
            match told.recv_timeout(LOOK) {
                Ok(done) => return done,
                Err(RecvTimeoutError::Timeout) if !self.is_stopping() => {}
                Err(_) => return Err(io::Error::other("the program is ending")),
            }
        }
    }
}
