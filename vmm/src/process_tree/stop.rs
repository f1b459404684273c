//! Signals by which a terminal stops processes (SIGTSTP, SIGTTIN, SIGTTOU): what they do to this host process
//! is what the program has chosen for itself. So the host's kernel, which sends them, asks the right question
//! (is it ignored? blocked?), and stops the process where the program would stop.
//!
//! And what comes before that: signals that have reached the host process and not yet the program ([`is_underway`]).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

/// The signals.
pub const STOPS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What one does to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAction {
    /// Stops it.
    Default,
    /// Nothing.
    Ignore,
    /// It is told at the [`Bell`].
    Tell,
}

/// Where the handler rings: an event descriptor, or -1.
static BELL: AtomicI32 = AtomicI32::new(-1);
/// What has arrived: for each signal 0, or the sender's number and user, and a bit.
static TOLD: [AtomicU64; STOPS.len()] = [const { AtomicU64::new(0) }; STOPS.len()];
const ARRIVED: u64 = 1 << 63;
static ONE: u64 = 1;

extern "C" fn on_stop(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes the handler a valid structure, which stays until it returns.
    let info = unsafe { &*info };
    // SAFETY: reads bytes of the structure, of which any value is a number.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let uid = unsafe { info.si_uid() };
    let from = match info.si_code {
        libc::SI_USER => u64::from(pid.cast_unsigned()) | u64::from(uid) << 32,
        // The terminal.
        _ => 0,
    };
    for (of, told) in STOPS.iter().zip(&TOLD) {
        if *of == signal {
            told.store(from & !ARRIVED | ARRIVED, Ordering::Release);
        }
    }
    let fd = BELL.load(Ordering::Acquire);
    keeping_errno(|| {
        // SAFETY: reads eight bytes; async-signal-safe. Without a bell it is a bad descriptor.
        unsafe { libc::write(fd, (&raw const ONE).cast(), 8) };
    });
}

/// Runs a part of a handler; the interrupted code finds the `errno` it had.
fn keeping_errno(run: impl FnOnce()) {
    // SAFETY: returns the address of the thread's own `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    run();
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Held while actions change.
static ACTIONS: Mutex<()> = Mutex::new(());

/// Determines what one of the signals does from now on.
pub fn set_action(signal: i32, action: HostAction) {
    let _changing = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    set(signal, action);
}

fn set(signal: i32, action: HostAction) {
    let simple = match action {
        HostAction::Default => libc::SIG_DFL,
        HostAction::Ignore => libc::SIG_IGN,
        HostAction::Tell => {
            // It interrupts what a thread waits for, as the program's own handler would.
            let _ = register_signal_handler(signal, on_stop);
            return;
        }
    };
    // SAFETY: sets one of the two actions that are no handlers.
    unsafe { libc::signal(signal, simple) };
}

/// The host thread that is in [`without_stopping`], or 0, by which signal it is interrupted, and whether the one that
/// stops has come.
static ASKS: AtomicI32 = AtomicI32::new(0);
static INTERRUPTS: AtomicI32 = AtomicI32::new(0);
static CAME: AtomicBool = AtomicBool::new(false);

extern "C" fn on_answer(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CAME.store(true, Ordering::Release);
    let asks = ASKS.load(Ordering::Acquire);
    if asks != 0 {
        // The host may have chosen another thread for the handler: the one that asks must leave its call.
        keeping_errno(|| send_to_thread(asks, INTERRUPTS.load(Ordering::Acquire)));
    }
}

/// Runs `call`, during which `signal`, whose action is the default, does not stop this process, but interrupts the
/// call. Returns what the call returned, or `None` if the signal came: then the process is to be stopped
/// ([`stop_here`]). `interrupts` is a signal whose handler does nothing and makes no call go on.
///
/// The host's kernel makes a call again of itself that a stop has interrupted. So a process that reads a terminal in the
/// background would be stopped again as soon as it is continued, before the VMM sees the signals that came with it.
pub fn without_stopping<T>(signal: i32, interrupts: i32, call: impl FnOnce() -> T) -> Option<T> {
    let _changing = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    CAME.store(false, Ordering::Release);
    INTERRUPTS.store(interrupts, Ordering::Release);
    ASKS.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
    let _ = register_signal_handler(signal, on_answer);
    let result = call();
    set(signal, HostAction::Default);
    ASKS.store(0, Ordering::Release);
    (!CAME.load(Ordering::Acquire)).then_some(result)
}

/// Stops this process by `signal`, whose action is the default and which the calling thread does not block. Returns when
/// it has been continued.
pub fn stop_here(signal: i32) {
    send_to_thread(rustix::thread::gettid().as_raw_nonzero().get(), signal);
}

/// Sends a thread of this process a signal. Async-signal-safe.
fn send_to_thread(tid: i32, signal: i32) {
    // SAFETY: reads nothing and writes nothing of ours.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal) };
}

/// Which of the signals this process ignores, as a set: its parent's choice, unless it made its own.
#[must_use]
pub fn ignored() -> u64 {
    let is_ignored = |signal: &i32| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: reads the action without setting it; writes the structure.
        let done = unsafe { libc::sigaction(*signal, std::ptr::null(), action.as_mut_ptr()) };
        // SAFETY: zeroed, then written by the call; every bit pattern is valid.
        done == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
    };
    STOPS.into_iter().filter(is_ignored).fold(0, |set, signal| set | bit(signal))
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What the event loop listens to: at most one at a time is rung.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// Hangs it up.
    ///
    /// # Errors
    /// The host has no free descriptor.
    pub fn new() -> io::Result<Bell> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        BELL.store(event.as_raw_fd(), Ordering::Release);
        // What came while none was there, between two programs.
        if Bell::rings() {
            let _ = event.write(1);
        }
        Ok(Bell(event))
    }

    /// Whether one has arrived that was not taken.
    fn rings() -> bool {
        TOLD.iter().any(|told| told.load(Ordering::Acquire) != 0)
    }

    /// The signals that have arrived, each with its sender: number and user, or 0 for a terminal.
    #[must_use]
    pub fn take(&self) -> Vec<(i32, u64)> {
        // Non-blocking: the count itself has no meaning.
        let _ = self.0.read();
        let told = STOPS.iter().zip(&TOLD).map(|(of, told)| (*of, told.swap(0, Ordering::AcqRel)));
        told.filter(|(_, from)| *from != 0).map(|(of, from)| (of, from & !ARRIVED)).collect()
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        BELL.store(-1, Ordering::Release);
    }
}

/// Signals that the event loop reads and passes on to the program, as a set.
static PASSED_ON: AtomicU64 = AtomicU64::new(0);
/// Whether it is just doing so.
static PASSING: AtomicBool = AtomicBool::new(false);

/// From now on the event loop passes these signals on, besides the [`Bell`]'s.
pub fn note_passed_on(signals: &[i32]) {
    let set = signals.iter().fold(0, |set, signal| set | bit(*signal));
    PASSED_ON.store(set, Ordering::Release);
}

/// Runs `pass`, which takes signals from the host and gives them to the program.
pub fn passing<T>(pass: impl FnOnce() -> T) -> T {
    PASSING.store(true, Ordering::SeqCst);
    let result = pass();
    PASSING.store(false, Ordering::SeqCst);
    result
}

/// Whether signals have reached this process and not yet the program. A signal that came before is pending for the
/// program once this says no.
#[must_use]
pub fn is_underway() -> bool {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: writes the set.
    unsafe { libc::sigpending(set.as_mut_ptr()) };
    // SAFETY: zeroed, then written by the call; every bit pattern is valid.
    let set = unsafe { set.assume_init() };
    // SAFETY: reads the set; the numbers are signals'.
    let is_pending = |signal: i32| unsafe { libc::sigismember(&raw const set, signal) } == 1;
    let passed_on = PASSED_ON.load(Ordering::Acquire);
    // In this order: the event loop says that it passes one on before it takes it.
    (1..=64).any(|signal| passed_on & bit(signal) != 0 && is_pending(signal))
        || Bell::rings()
        || PASSING.load(Ordering::SeqCst)
}

thread_local! {
    /// Which of the signals this host thread blocks for its program's; `None` if it runs none.
    static MIRRORED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on the calling thread blocks of these signals those that are in its program's `mask`.
pub fn mirror(mask: u64) {
    // Whatever it blocks now.
    MIRRORED.set(Some(u64::MAX));
    mask_changed(mask);
}

/// The program's thread has another mask: so has its host thread, if it mirrors it.
pub fn mask_changed(mask: u64) {
    let Some(before) = MIRRORED.get() else { return };
    let wanted = STOPS.into_iter().fold(0, |set, signal| set | mask & bit(signal));
    if wanted == before {
        return;
    }
    MIRRORED.set(Some(wanted));
    for signal in STOPS {
        // One that is as wanted already is an error of the call.
        let _ = match wanted & bit(signal) != 0 {
            true => vmm_sys_util::signal::block_signal(signal),
            false => vmm_sys_util::signal::unblock_signal(signal),
        };
    }
}

/// Leaves the signals to the threads that run a program.
pub fn block_here() {
    for signal in STOPS {
        let _ = vmm_sys_util::signal::block_signal(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Bell, HostAction, STOPS, block_here, ignored, is_underway, mask_changed, mirror,
        note_passed_on, passing, set_action, stop_here, without_stopping,
    };

    // One test: what it changes is the process's.
    #[test]
    fn a_signal_that_stops_is_ignored_told_or_blocked_as_the_program_chose() {
        set_action(libc::SIGTTIN, HostAction::Ignore);
        assert_eq!(ignored(), 1 << (libc::SIGTTIN - 1));
        set_action(libc::SIGTTIN, HostAction::Default);
        assert_eq!(ignored(), 0);
        let bell = Bell::new().unwrap();
        set_action(libc::SIGTSTP, HostAction::Tell);
        // SAFETY: sends this thread a signal that has a handler.
        unsafe { libc::raise(libc::SIGTSTP) };
        assert_eq!(
            bell.take().iter().map(|(signal, _)| *signal).collect::<Vec<_>>(),
            [libc::SIGTSTP]
        );
        assert!(bell.take().is_empty());
        set_action(libc::SIGTSTP, HostAction::Default);
        // SIGURG is ignored.
        assert_eq!(without_stopping(libc::SIGTTIN, libc::SIGURG, || 7), Some(7));
        // A process that it stopped here would stay so.
        assert_eq!(
            without_stopping(libc::SIGTTIN, libc::SIGURG, || stop_here(libc::SIGTTIN)),
            None
        );
        assert_eq!(without_stopping(libc::SIGTTOU, libc::SIGURG, || 8), Some(8));
        assert!(!is_underway());
        assert!(passing(is_underway));
        note_passed_on(&[libc::SIGUSR2]);
        vmm_sys_util::signal::block_signal(libc::SIGUSR2).unwrap();
        stop_here(libc::SIGUSR2);
        assert!(is_underway());
        note_passed_on(&[libc::SIGUSR1]);
        assert!(!is_underway(), "nobody passes that one on");
        vmm_sys_util::signal::clear_signal(libc::SIGUSR2).unwrap();
        vmm_sys_util::signal::unblock_signal(libc::SIGUSR2).unwrap();
        let blocked = || {
            let all = vmm_sys_util::signal::get_blocked_signals().unwrap();
            STOPS.into_iter().filter(|signal| all.contains(signal)).collect::<Vec<_>>()
        };
        // A thread that runs no program.
        mask_changed(!0);
        assert!(blocked().is_empty());
        mirror(1 << (libc::SIGTTOU - 1));
        assert_eq!(blocked(), [libc::SIGTTOU]);
        mask_changed(0);
        assert!(blocked().is_empty());
        block_here();
        assert_eq!(blocked(), STOPS);
    }
}
