//! What remains to be done when the VMM is killed: releasing the locks of the program's threads.
//!
//! Linux releases the robust locks of a killed process using the lists that its threads keep. Those
//! of a program in a VM are in the VM's memory, which the host kernel does not read. So there is a
//! *survivor*: a process with one thread that shares this process's memory and nothing else,
//! sleeps, and outlives it. The other end of its pipe closes when the last thread here is gone;
//! then it walks the lists, in their state at that moment, and ends. A copy of them could not be
//! accurate: the program changes a list without leaving the guest.
//!
//! It is created when the program first has memory that other processes can share, such as a raw segment;
//! before that no other process could wait for one of its locks. A versioned segment is no such memory: what
//! its writers change is theirs alone. Limits: it waits for a lock of the VMM's no
//! longer than `PATIENCE_SECONDS`, in case a killed thread held it; and what kills it along with
//! the VMM (a control group, the host kernel's OOM killer) has killed both.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::raw::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use rustix::pipe::PipeFlags;

use super::robust;
use super::task::Process;
use crate::process_tree::fork;

/// How long the survivor works at most.
const PATIENCE_SECONDS: u32 = 5;
const STACK_BYTES: usize = 256 << 10;

/// The survivor of a process, if it has one.
#[derive(Debug, Default)]
pub struct Survivor {
    state: Mutex<State>,
    /// The process has ended normally: there is nothing to do.
    is_done: AtomicBool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    NotNeeded,
    /// It sleeps until the descriptor is closed.
    Sleeps(OwnedFd, JoinHandle<()>),
    /// It could not be created, or has been told to end.
    Gone,
}

impl Survivor {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Creates it, if there is none. Called by a thread of a program that runs: the event loop creates it.
    pub(crate) fn make(process: &Arc<Process>) {
        Survivor::make_by(process, |process| {
            let process = process.clone();
            process.clone().have_done(move || start(&process))
        });
    }

    /// The same before the program runs.
    pub(crate) fn make_here(process: &Arc<Process>) {
        Survivor::make_by(process, start);
    }

    fn make_by(
        process: &Arc<Process>,
        start: impl FnOnce(&Arc<Process>) -> std::io::Result<State>,
    ) {
        let mut state = process.survivor.lock();
        if !matches!(*state, State::NotNeeded) {
            return;
        }
        *state = start(process).unwrap_or_else(|error| {
            tracing::warn!(%error, "robust locks will stay held if this process is killed");
            State::Gone
        });
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn end(&self) {
        // Release pairs with the survivor's load, which comes after its pipe has closed.
        self.is_done.store(true, Ordering::Release);
        let state = std::mem::replace(&mut *self.lock(), State::Gone);
        if let State::Sleeps(pipe, thread) = state {
            drop(pipe);
            // The thread catches its own panics.
            let _ = thread.join();
        }
    }
}

fn start(process: &Arc<Process>) -> std::io::Result<State> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let process = process.clone();
    let builder = std::thread::Builder::new().name("survivor".to_owned()).stack_size(64 << 10);
    let (ready, is_ready) = mpsc::sync_channel(1);
    let thread = builder.spawn(move || host(&process, &read, ready))?;
    // The program acquires no lock before the survivor is ready; without one, which has been
    // reported, it continues anyway.
    let _ = is_ready.recv();
    Ok(State::Sleeps(write, thread))
}

/// What the survivor needs to know.
struct Task<'a> {
    process: &'a Process,
    pipe: RawFd,
    ready: SyncSender<()>,
}

/// Starts the survivor and waits for its end. The survivor uses this thread's thread-local memory, which this
/// thread does not touch as long as the survivor runs. Not by `CLONE_VFORK`: the host kernel cannot stop a
/// process (Ctrl-Z) one of whose threads it has suspended.
fn host(process: &Process, pipe: &OwnedFd, ready: SyncSender<()>) {
    // Inherited: no signal sent to a process group ends the survivor.
    fork::block_all_signals();
    let task = Task { process, pipe: pipe.as_raw_fd(), ready };
    let mut stack = vec![0_u8; STACK_BYTES];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let argument = (&raw const task).cast_mut().cast::<c_void>();
    let flags = libc::CLONE_VM;
    // SAFETY: `top` is the end of memory that nothing else uses, aligned by the C library; the
    // task and the stack outlive the child, for which this function waits. Thread-local memory is this
    // thread's, which only waits meanwhile, as below.
    let child = unsafe { libc::clone(survive, top, flags, argument) };
    if child < 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "robust locks will stay held if this process is killed");
        return;
    }
    let none = std::ptr::null_mut::<c_int>();
    // SAFETY: asks for no status. It has no exit signal, which `__WALL` allows. Of thread-local memory the call
    // itself touches nothing unless it fails, and it cannot be interrupted: all signals are blocked, and the
    // kernel goes on with it after a stop.
    unsafe { libc::syscall(libc::SYS_wait4, child, none, libc::__WALL, 0) };
}

extern "C" fn survive(task: *mut c_void) -> c_int {
    // SAFETY: `host` passed its own task, and waits.
    let task = unsafe { &*task.cast::<Task<'_>>() };
    // Nothing may unwind into the C library.
    let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
    0
}

impl Task<'_> {
    fn run(&self) {
        // Neither Ctrl-C nor a kill of the process group is meant for it.
        let _ = rustix::process::setsid();
        // The descriptors are copies. Kept, they would keep the lease's lock, the program's pipes
        // and this pipe's other end.
        let pipe = self.pipe.cast_unsigned();
        let others = [pipe.checked_sub(1).map(|last| (0, last)), Some((pipe + 1, u32::MAX))];
        for (from, to) in others.into_iter().flatten() {
            // SAFETY: closes descriptors of this process alone, whose table is a copy; nothing
            // here uses one but the pipe.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
        // The channel holds one.
        let _ = self.ready.send(());
        let mut byte = 0_u8;
        // SAFETY: reads at most one byte into `byte`. Nothing is ever written: it returns at end of
        // file.
        unsafe { libc::read(self.pipe, (&raw mut byte).cast(), 1) };
        if self.process.survivor.is_done.load(Ordering::Acquire) {
            return;
        }
        limit_time();
        for thread in self.process.threads.all() {
            let vh = match self.process.vases.is_active() {
                true => self.process.kernel.switch.current_instance(thread.vcpu()).unwrap_or(0),
                false => 0,
            };
            robust::release(self.process, &thread, vh);
        }
    }
}

/// Makes SIGALRM end the survivor, in case it waits for a lock that a killed thread held.
fn limit_time() {
    // SAFETY: sets the default action, for this process alone.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    let _ = vmm_sys_util::signal::unblock_signal(libc::SIGALRM);
    // SAFETY: takes a number.
    unsafe { libc::alarm(PATIENCE_SECONDS) };
}
