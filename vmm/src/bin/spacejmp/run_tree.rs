//! The processes of a run, from the first one's side: what they have in common, and their end.

use std::io::{self, PipeWriter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm::process::{Outcome, ProcessTree};
use vmm::process_tree::fork::{adopt_orphans, keep_children, signal};
use vmm::process_tree::registry::PROCESSES_MAX;
use vmm::process_tree::wait::wait;

use crate::ending;

/// How many processes a run may have unless told otherwise.
pub(crate) const PROCESSES: u32 = 256;
/// How long processes that are left may take to end by themselves: as long as threads that are
/// writing in an address space, and a little more.
const PATIENCE: Duration = Duration::from_millis(2500);

/// `--processes`.
pub(crate) fn parse_processes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=PROCESSES_MAX) => Ok(number),
        _ => Err(format!("give a number from 1 to {PROCESSES_MAX}; 1 is the program alone")),
    }
}

/// A run whose programs may start others.
pub(crate) struct Tree {
    /// What each process is given.
    pub(crate) shared: Arc<ProcessTree>,
    /// Closed when the run ends, by whatever ends this process.
    end: Option<PipeWriter>,
    detached: bool,
}

impl Tree {
    /// For so many processes. If they are `detached`, those that are left at the end go on.
    pub(crate) fn new(processes: u32, detached: bool) -> io::Result<Tree> {
        keep_children();
        let (read, write) = io::pipe()?;
        let read = (!detached).then_some(read);
        let tell = |name: &str, outcome: &Outcome| ending::tell(name, outcome, None);
        let shared = Arc::new(ProcessTree::new(processes, read, tell)?);
        if !detached {
            adopt_orphans();
        }
        Ok(Tree { shared, end: Some(write), detached })
    }

    /// Ends the processes that are left, and waits for them.
    pub(crate) fn end(mut self) {
        let registry = self.shared.registry().clone();
        registry.free(std::process::id().cast_signed());
        if self.detached {
            return;
        }
        drop(self.end.take());
        let limit = Instant::now() + PATIENCE;
        // Their parents being gone, all of them become children of this process.
        while !registry.pids().is_empty() && Instant::now() < limit + PATIENCE {
            let ended = wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
            if let Ok(Some(ended)) = ended {
                registry.free(ended.pid);
                let _ = wait(libc::P_PID, ended.pid, libc::WEXITED | libc::WNOHANG);
                continue;
            }
            if Instant::now() >= limit {
                for pid in registry.pids() {
                    let _ = signal(pid, libc::SIGKILL, None, || registry.contains(pid));
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
