//! The processes of a run, from the first one's side: what they have in common, and their end.

use std::io::{self, PipeWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm::files::Grant;
use vmm::process::private_tmp::GUEST_PATH;
use vmm::process::{Outcome, PrivateTmp, ProcessTree};
use vmm::process_tree::fork::{adopt_orphans, keep_children, signal};
use vmm::process_tree::registry::PROCESSES_MAX;
use vmm::process_tree::wait::wait;

use crate::ending;
use crate::errors::Failure;

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

/// `/tmp` of a tree, unless something is granted there: at most half as much as `--memory`, beside it,
/// as Linux allows a tmpfs half of the machine's.
pub(crate) fn private_tmp(
    has_root: bool,
    grants: &[Grant],
    memory_bytes: u64,
    outlives_run: bool,
) -> Result<Option<Arc<PrivateTmp>>, Failure> {
    let guest = Path::new(GUEST_PATH);
    if !has_root || grants.iter().any(|grant| grant.guest == guest) {
        return Ok(None);
    }
    let make = || {
        let tmp = PrivateTmp::create(memory_bytes / 2, outlives_run)?;
        grants.iter().try_for_each(|grant| tmp.make_way(&grant.guest))?;
        Ok(Arc::new(tmp))
    };
    let cannot = |error: io::Error| {
        Failure::new("make a private /tmp", error)
            .help(Some("grant a directory for it: --dir DIR:/tmp".to_owned()))
    };
    make().map(Some).map_err(cannot)
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
    /// For so many processes and open files. If they are `detached`, those that are left at the end go on.
    pub(crate) fn new(
        (processes, open_files): (u32, u64),
        detached: bool,
        tmp: Option<&PrivateTmp>,
    ) -> io::Result<Tree> {
        keep_children();
        let (read, write) = io::pipe()?;
        let read = (!detached).then_some(read);
        let tell = |name: &str, outcome: &Outcome| ending::tell(name, outcome, None);
        let kept = tmp.map(PrivateTmp::kept).transpose()?.unwrap_or_default();
        let shared = Arc::new(ProcessTree::new(processes, open_files, read, tell)?.keeping(kept));
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
