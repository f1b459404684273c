//! Other processes: how a program starts them, and what it knows of them.
//!
//! A new process is a VM of its own in a host process of its own, a child of this VMM's: number,
//! parent, group, session, status and what `wait` returns are the host kernel's. It is made by the
//! *starter*, a host process that was forked from this one before there was guest memory; this VMM,
//! which has threads and a program's memory, only sends it messages.
//!
//! - `fork`: a process with a copy of its parent's memory; [`forked`]: what it inherits
//! - [`vfork`]: a process that runs in its parent's memory until it starts a program
//! - [`exec`]: starting a program, in such a process or in place of this one
//! - `strings`: its arguments and environment, as the program has them in memory
//! - `signals`: signals between the processes of a run

pub mod exec;
mod fork;
pub mod forked;
pub(crate) mod signals;
pub mod strings;
pub mod vfork;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use abi::Errno;

pub use exec::{ChooseProgram, NewProgram};
pub(super) use fork::fork;
pub use forked::ForkedProcess;
pub use vfork::VforkChild;

use super::task::Process;
use crate::files::{Files, NameServer};
use crate::process_tree::{Channel, Member, fork as fork_process, sysv, wait};

/// The other processes that a program has to do with.
#[derive(Debug, Default)]
pub struct Children {
    /// None: this program cannot start any.
    starts: Option<Starts>,
    /// The children that have not been waited for.
    pids: Mutex<BTreeMap<i32, Child>>,
    /// Threads that wait for one in the host.
    waiting: AtomicUsize,
}

/// How a process comes to a starter in the session that it is in now.
pub trait MakeStarter: std::fmt::Debug + Send + Sync {
    /// Makes it: called by the event loop, while the program's one thread waits.
    ///
    /// # Errors
    /// The host's.
    fn make(&self, process: &Process) -> std::io::Result<Channel>;
}

#[derive(Debug)]
struct Starts {
    starter: Mutex<Channel>,
    /// The first one, if there is another: the run's first has the names of files in memory.
    earlier: Mutex<Option<Channel>>,
    /// The session that this process led when the starter was made, by its controlling terminal.
    made_in: Mutex<Option<i64>>,
    make_starter: Arc<dyn MakeStarter>,
    /// This process's own place in the run.
    member: Member,
    /// Who has the names of files in memory when there are several processes.
    names: Arc<dyn NameServer>,
    /// And who has System V objects.
    sysv: sysv::server::Client,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a child.
#[derive(Debug, Default)]
struct Child {
    /// It runs a program of its own.
    has_started: bool,
    /// The program has been told of its end.
    has_ended: bool,
}

/// A process that the starter has just made.
struct Made {
    pid: i32,
    member: Member,
    channel: Channel,
}

impl Children {
    /// Those of a process that can start others, by the starter at the other end.
    #[must_use]
    pub fn by(
        starter: Channel,
        member: Member,
        names: Arc<dyn NameServer>,
        sysv: sysv::server::Client,
        make_starter: Arc<dyn MakeStarter>,
    ) -> Children {
        let (starter, earlier) = (Mutex::new(starter), Mutex::default());
        let made_in = Mutex::new(fork_process::session_led());
        let starts = Starts { starter, earlier, made_in, make_starter, member, names, sysv };
        Children { starts: Some(starts), ..Children::default() }
    }

    /// Has other processes start in the session that `process` leads, with its terminal, if it has made it or has
    /// got another terminal since the last one was started.
    pub(super) fn follow_session(&self, process: &Arc<Process>) {
        let Some(starts) = &self.starts else { return };
        let led = fork_process::session_led();
        let mut made_in = locked(&starts.made_in);
        if led.is_none() || led == *made_in {
            return;
        }
        if process.threads.counts().0 > 1 {
            tracing::warn!(
                "the program has several threads: what it starts stays in its old session"
            );
            return;
        }
        let (make_starter, of) = (starts.make_starter.clone(), process.clone());
        match process.have_done(move || make_starter.make(&of)) {
            Ok(new) => {
                let before = std::mem::replace(&mut *locked(&starts.starter), new);
                locked(&starts.earlier).get_or_insert(before);
                *made_in = led;
            }
            Err(error) => {
                tracing::warn!(%error, "what the program starts stays in its old session");
            }
        }
    }

    /// This process's place in the run, if it is one in which processes start others.
    #[must_use]
    pub fn member(&self) -> Option<&Member> {
        self.starts.as_ref().map(|starts| &starts.member)
    }

    /// Who has the run's System V objects, if it is one in which processes start others.
    #[must_use]
    pub fn sysv(&self) -> Option<&sysv::server::Client> {
        self.starts.as_ref().map(|starts| &starts.sysv)
    }

    /// Whether a host process belongs to the same run.
    #[must_use]
    pub fn is_of_run(&self, pid: i32) -> bool {
        self.member().is_some_and(|member| member.registry().contains(pid))
    }

    /// Whether it is a child that has not been waited for.
    #[must_use]
    pub fn has(&self, pid: i32) -> bool {
        locked(&self.pids).contains_key(&pid)
    }

    /// Waits for a process that is none of the program's, but that this VMM is the parent of, since
    /// its own has ended. Nothing happens if it is not there.
    pub(crate) fn bury_orphan(&self, pid: i32) {
        let look = libc::WEXITED | libc::WNOHANG;
        // One that a thread is about to take is known for as long as it is there.
        let children = locked(&self.pids);
        if children.contains_key(&pid)
            || !matches!(wait::wait(libc::P_PID, pid, look | libc::WNOWAIT), Ok(Some(_)))
        {
            return;
        }
        if let Some(member) = self.member() {
            member.registry().free(pid);
        }
        let _ = wait::wait(libc::P_PID, pid, look);
    }

    /// Waits for those that have ended, as far as the host shows them.
    pub(crate) fn bury_orphans(&self) {
        let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        while let Ok(Some(ended)) = wait::wait(libc::P_ALL, 0, look) {
            if self.has(ended.pid) {
                // The host shows the next one when the program has waited for this.
                break;
            }
            self.bury_orphan(ended.pid);
        }
    }

    /// The children that have ended since this was last asked.
    pub(crate) fn newly_ended(&self) -> Vec<wait::Changed> {
        let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let mut children = locked(&self.pids);
        let mut ended = Vec::new();
        for (pid, child) in children.iter_mut().filter(|(_, child)| !child.has_ended) {
            if let Ok(Some(changed)) = wait::wait(libc::P_PID, *pid, look) {
                child.has_ended = true;
                // Its memory is gone, however long the program lets its status wait.
                if let Some(member) = self.member() {
                    member.registry().release_ended(*pid);
                }
                ended.push(changed);
            }
        }
        ended
    }

    pub(super) fn all(&self) -> Vec<i32> {
        locked(&self.pids).keys().copied().collect()
    }

    /// Shares the names of files in memory with the other processes of the run: those of this process's first
    /// program, which until now had them alone, are made known to them if `publish`.
    pub fn share_names(&self, files: &Files, publish: bool) {
        if let Some(starts) = &self.starts {
            files.share_names(&starts.names, publish);
        }
    }

    /// Makes a process, a child of this one, that waits to be told what it does.
    fn make(&self, process: &Arc<Process>) -> Result<Made, Errno> {
        let starts = self.starts.as_ref().ok_or(Errno::ENOSYS)?;
        self.share_names(&process.files, true);
        self.follow_session(process);
        let registry = starts.member.registry();
        if !registry.has_room_for_files(process.files.open_count()) {
            tracing::warn!(
                "no new process for the program: the run has as many open files as --open-files allows"
            );
            return Err(Errno::EAGAIN);
        }
        let Some(member) = registry.take() else {
            tracing::warn!(
                "no new process for the program: the run has as many as --processes allows"
            );
            return Err(Errno::EAGAIN);
        };
        process.show_to_first();
        let made = starts.make(&member);
        match made {
            Ok((pid, channel)) => {
                member.set_pid(pid);
                locked(&self.pids).insert(pid, Child::default());
                Ok(Made { pid, member, channel })
            }
            Err(error) => {
                member.give_back();
                tracing::warn!(%error, "no new process for the program");
                Err(Errno::EAGAIN)
            }
        }
    }

    /// Records that a child runs a program of its own.
    fn note_started(&self, pid: i32) {
        if let Some(child) = locked(&self.pids).get_mut(&pid) {
            child.has_started = true;
        }
    }

    /// Whether a child runs a program of its own; `None` if it is none of this process's.
    pub(super) fn has_started(&self, pid: i32) -> Option<bool> {
        locked(&self.pids).get(&pid).map(|child| child.has_started)
    }

    /// Waits for a child that has ended: one thread does. `None` if it was another one. Its number may be used
    /// again after that.
    pub(crate) fn take(&self, pid: i32, options: i32) -> Option<wait::Changed> {
        // Until it is gone for the host, too: nobody else may take it for an orphan.
        let mut pids = locked(&self.pids);
        pids.remove(&pid)?;
        if let Some(starts) = &self.starts {
            starts.member.registry().free(pid);
        }
        wait::wait(libc::P_PID, pid, options | libc::WNOHANG).ok().flatten()
    }

    /// Runs `wait`, which waits in the host.
    pub(super) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let result = wait();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// Makes the threads that wait in the host look again for what: in the host's eyes there is
    /// always a child, the one that starts others.
    pub(crate) fn wake_waiting(&self, process: &Process) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            for thread in process.threads.all() {
                process.threads.kick_until_acknowledged(&thread);
            }
        }
    }
}

impl Starts {
    fn make(&self, member: &Member) -> std::io::Result<(i32, Channel)> {
        let (here, there) = Channel::pair()?;
        let starter = locked(&self.starter);
        starter.send(&member.place().to_le_bytes(), &[there.as_fd()])?;
        let gone = || std::io::Error::other("the process that starts others has ended");
        let answer = starter.receive()?.ok_or_else(gone)?;
        match answer.bytes.first_chunk().map(|word| i32::from_le_bytes(*word)) {
            Some(pid) if pid > 0 => {
                // It is in the starter's group, which this process may have left since. Done here and now,
                // so that what the program does about its child's group comes later. 0 is a group outside of the PID
                // namespace, which no process can enter: that is the starter's, too. (To `setpgid` it
                // is a group of the child's own.)
                match crate::host::process_group() {
                    0 => {}
                    group => drop(fork_process::set_group(pid, group)),
                }
                Ok((pid, here))
            }
            Some(error) => Err(std::io::Error::from_raw_os_error(error.saturating_neg())),
            None => Err(gone()),
        }
    }
}
