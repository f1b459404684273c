//! Host threads for the threads that a program starts, and the one tie between the calls and the
//! layer above them.
//!
//! Starting a thread is a call, served here below the run loop; what the new host thread then does
//! is the run loop. So [`RunThread`] is passed down when the process is created. Nothing else in
//! `linux` depends on `process`.

use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use super::{Process, Thread};
use crate::vm::Vcpu;
use crate::vm::kick::HostTid;

/// Runs a thread of the program, which is in the table and has the calling host thread's number,
/// to its end: `process::thread::run`.
pub type RunThread = fn(&Arc<Process>, &Arc<Thread>, Vcpu);

/// A host thread that waits to be told which of the program's threads it runs. It ends when this is
/// dropped.
///
/// It exists before the program's thread does because it determines that thread's number, which has
/// to be in the program's memory before the first instruction.
#[derive(Debug)]
pub struct Prepared {
    tid: HostTid,
    go: SyncSender<(Arc<Thread>, Vcpu)>,
}

impl Prepared {
    /// Starts a host thread whose number is not that of another thread of the program.
    ///
    /// # Errors
    /// The host cannot create another thread.
    pub fn new(process: &Arc<Process>) -> std::io::Result<Prepared> {
        let mut prepared = Prepared::any(process)?;
        let mut passed_over = Vec::new();
        // In a copy from a snapshot, the program may have the number for another thread. As long as the host's
        // thread waits, its number comes for no other.
        while process.threads.get(prepared.tid.raw()).is_some() {
            passed_over.push(std::mem::replace(&mut prepared, Prepared::any(process)?));
        }
        Ok(prepared)
    }

    fn any(process: &Arc<Process>) -> std::io::Result<Prepared> {
        let (tell, told) = mpsc::sync_channel(1);
        let (go, start) = mpsc::sync_channel(1);
        let owner = process.clone();
        let handle = std::thread::Builder::new().name("vcpu".to_owned()).stack_size(256 << 10);
        let handle = handle.spawn(move || {
            // If the process is gone, nothing waits for the number, and nothing starts the thread.
            let _ = tell.send(HostTid::own());
            if let Ok((thread, vcpu)) = start.recv() {
                (owner.run_thread)(&owner, &thread, vcpu);
            }
        })?;
        process.threads.keep_handle(handle);
        let tid = told.recv().map_err(std::io::Error::other)?;
        Ok(Prepared { tid, go })
    }

    /// Its number.
    #[must_use]
    pub fn tid(&self) -> HostTid {
        self.tid
    }

    /// Makes it run `thread`, whose host thread it must be, on `vcpu`.
    pub fn run(self, process: &Process, thread: Arc<Thread>, vcpu: Vcpu) {
        process.threads.add(thread.clone());
        self.run_known(thread, vcpu);
    }

    /// The same, of one that is in the table.
    pub fn run_known(self, thread: Arc<Thread>, vcpu: Vcpu) {
        assert_eq!(thread.host, self.tid, "a thread runs on the host thread that is its own");
        let told = self.go.send((thread, vcpu));
        assert!(told.is_ok(), "the host thread waits for its thread until this is dropped");
    }
}
