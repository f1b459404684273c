//! Buffers onto the memory of a space, and threads that meet them.
//!
//! A thread is inside a space alone: to every other thread the memory of a buffer is not there. So there is a
//! *ground* below each buffer that shows memory of a space: an instance of the very version that the visit sees,
//! which no commit changes, at the same addresses. A thread that touches the memory without being inside
//! gets a fault, whose handler brings it to the ground, and the access is made again; it stays there, a
//! *guest*, until it begins a visit or the last buffer is gone, which sends it home by a signal. That holds for
//! threads of every kind, those of numeric libraries among them, and for the thread of the visit after its end.
//!
//! What makes this sound:
//! - A ground is only ever an instance of one version, read-only: what a buffer shows never changes.
//! - While there is a ground, no thread of the process is inside another version of the space, where it
//!   would find other bytes in the buffer without a fault: visits to read enter the ground itself, to write is
//!   refused ([`begin`]), and where other visits go on already, the buffer is a copy ([`below`]).
//! - A ground lives as long as a buffer or a visit needs it, and its instance until no guest is left.
//! - The handlers make SpaceJMP's calls and use atomics: nothing that a thread can be interrupted in.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use libc::{c_void, siginfo_t};
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use spacejmp::sys::{self, Errno, VasHandle, VasId};

use crate::array::HomeCopy;
use crate::opened::{self, Opened};

/// Grounds of a process at one time.
const GROUNDS: usize = 64;
/// Guests of a process at one time: threads.
const GUESTS: usize = 1024;
/// What sends a guest home. By default it is ignored.
const LEAVE: c_int = libc::SIGURG;
/// How long a guest may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// A ground as handlers see it.
struct Slot {
    /// First address; 0 for a free slot.
    start: AtomicU64,
    end: AtomicU64,
    vh: AtomicU64,
}

/// A thread that is at a ground.
struct Guest {
    /// Its number; 0 for a free place, [`LEAVING`] while it goes.
    tid: AtomicU32,
    slot: AtomicUsize,
    /// It was in a visit of its own, which is suspended.
    is_nested: AtomicBool,
}

const LEAVING: u32 = u32::MAX;

static SLOTS: [Slot; GROUNDS] =
    [const { Slot { start: AtomicU64::new(0), end: AtomicU64::new(0), vh: AtomicU64::new(0) } };
        GROUNDS];
static GUEST_LIST: [Guest; GUESTS] = [const {
    Guest { tid: AtomicU32::new(0), slot: AtomicUsize::new(0), is_nested: AtomicBool::new(false) }
}; GUESTS];
/// Places of the list that are taken, or were.
static GUEST_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether the handlers were installed.
static INSTALLED: Mutex<bool> = Mutex::new(false);
/// What was done with SIGSEGV before: the handler's address, and its flags.
static BEFORE_HANDLER: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static BEFORE_FLAGS: AtomicU32 = AtomicU32::new(0);

/// The content of a version: its stamp.
pub(crate) type Stamp = [u64; 2];

/// An instance of the version that buffers show.
#[derive(Debug)]
pub(crate) struct Ground {
    slot: usize,
    vh: VasHandle,
    base: u64,
    stamp: Stamp,
    /// The VAS that its buffers were got from: the space, or a tag of it, which lies at the same addresses.
    of: VasId,
}

/// Buffers of one visit.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    /// That are alive.
    pub(crate) alive: usize,
    /// What is below those that show the space's memory, or what the visit has entered; each has it, too.
    pub(crate) ground: Option<Arc<Ground>>,
    /// What buffers show that are none of the space's memory.
    pub(crate) copies: Vec<Arc<HomeCopy>>,
}

/// A visit that goes on, of any thread.
#[derive(Debug, Clone, Copy)]
struct Live {
    visit: u64,
    base: u64,
    /// `None` for one that writes, or is about to begin.
    stamp: Option<Stamp>,
}

/// The grounds and visits of the process.
#[derive(Debug, Default)]
struct Process {
    grounds: Vec<Weak<Ground>>,
    visits: Vec<Live>,
}

static PROCESS: Mutex<Process> = Mutex::new(Process { grounds: Vec::new(), visits: Vec::new() });

fn process() -> MutexGuard<'static, Process> {
    // Nothing panics while it is held.
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    fn ground_at(&self, base: u64) -> Option<Arc<Ground>> {
        self.grounds.iter().filter_map(Weak::upgrade).find(|ground| ground.base == base)
    }
}

impl Ground {
    pub(crate) fn handle(&self) -> VasHandle {
        self.vh
    }
}

/// A visit is about to begin. What it may enter: `None` is the space's own instance, something a ground.
pub(crate) fn begin(visit: u64, space: &Opened, writes: bool) -> PyResult<Option<Arc<Ground>>> {
    let mut process = process();
    let ground = process.ground_at(space.base);
    if ground.as_ref().is_some_and(|ground| writes || ground.of != space.vid) {
        return Err(PyBufferError::new_err(format!(
            "arrays or buffers of a visit that has read `{}`, or another version of it, are alive in this process: \
             `del` them, or copy what they show, before this visit",
            space.name
        )));
    }
    process.visits.push(Live { visit, base: space.base, stamp: None });
    Ok(ground)
}

/// A visit that reads is inside, and sees this.
pub(crate) fn sees(visit: u64, stamp: Stamp) {
    let mut process = process();
    let live = process.visits.iter_mut().filter(|live| live.visit == visit);
    live.for_each(|live| live.stamp = Some(stamp));
}

/// A visit has ended.
pub(crate) fn end(visit: u64) {
    process().visits.retain(|live| live.visit != visit);
}

/// The ground for buffers of `visit`, which reads the version with this stamp; `None` if they have to be copies.
pub(crate) fn below(visit: u64, space: &Opened, stamp: Stamp) -> Option<Arc<Ground>> {
    {
        let process = process();
        let others =
            process.visits.iter().filter(|live| live.base == space.base && live.visit != visit);
        // Another thread would see another version in the buffer, without a fault.
        if !others.into_iter().all(|live| live.stamp == Some(stamp)) {
            return None;
        }
        if let Some(ground) = process.ground_at(space.base) {
            return (ground.stamp == stamp).then_some(ground);
        }
    }
    let is_taken = SLOTS.iter().any(|slot| slot.start.load(Ordering::Acquire) == space.base);
    let slot = SLOTS.iter().position(|slot| slot.start.load(Ordering::Acquire) == 0)?;
    // One whose guests did not leave.
    if is_taken || !install() {
        return None;
    }
    let vh = instance_of(space, stamp)?;
    let place = &SLOTS[slot];
    place.end.store(space.base + space.reserve, Ordering::Relaxed);
    place.vh.store(vh.raw(), Ordering::Relaxed);
    place.start.store(space.base, Ordering::Release);
    let ground = Arc::new(Ground { slot, vh, base: space.base, stamp, of: space.vid });
    let mut process = process();
    process.grounds.retain(|ground| ground.strong_count() > 0);
    process.grounds.push(Arc::downgrade(&ground));
    Some(ground)
}

/// An instance of the version with this stamp: of the newest ones, or of the only one that `space` has.
fn instance_of(space: &Opened, stamp: Stamp) -> Option<VasHandle> {
    if space.is_one_version() {
        return attached(space, space.vid, stamp);
    }
    let newest = sys::vas_version(space.instance(false).ok()?).ok()?;
    (0..4).find_map(|back| {
        let vid = sys::vas_find(format!("{}@{}", space.name, newest.checked_sub(back)?)).ok()?;
        attached(space, vid, stamp)
    })
}

fn attached(space: &Opened, vid: sys::VasId, stamp: Stamp) -> Option<VasHandle> {
    let vh = opened::attach(vid, false).ok()?;
    if crate::visit::stamp_in(space, vh) == Some(stamp) {
        return Some(vh);
    }
    let _ = sys::vas_detach(vh);
    None
}

impl Drop for Ground {
    fn drop(&mut self) {
        come_back();
        if expel(self.slot) && sys::vas_detach(self.vh) != Err(Errno::EBUSY) {
            SLOTS[self.slot].start.store(0, Ordering::Release);
        }
        // Else a thread that takes no signals stays, the memory with it, and the slot is not used again.
    }
}

/// The calling thread's number.
fn own_tid() -> u32 {
    // SAFETY: it has no arguments, and cannot fail.
    unsafe { libc::gettid() }.unsigned_abs()
}

fn guests() -> &'static [Guest] {
    &GUEST_LIST[..GUEST_COUNT.load(Ordering::Acquire).min(GUESTS)]
}

/// Sends all guests of a ground home; whether they went.
fn expel(slot: usize) -> bool {
    let began = Instant::now();
    let is_here = |guest: &&Guest| {
        guest.slot.load(Ordering::Acquire) == slot && guest.tid.load(Ordering::Acquire) != 0
    };
    while let Some(guest) = guests().iter().find(is_here) {
        let tid = guest.tid.load(Ordering::Acquire);
        if tid != 0 && tid != LEAVING {
            // SAFETY: it has no arguments, and cannot fail.
            let pid = unsafe { libc::getpid() };
            // SAFETY: a signal that has a handler, or is ignored.
            let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, LEAVE) };
            if sent != 0 {
                // The thread has ended.
                let _ = guest.tid.compare_exchange(tid, 0, Ordering::AcqRel, Ordering::Acquire);
                continue;
            }
        }
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    true
}

/// Brings the calling thread back from a ground, if it is at one.
pub(crate) fn come_back() {
    if GUEST_COUNT.load(Ordering::Acquire) > 0 {
        go_home();
    }
}

/// The same, also in a handler.
fn go_home() {
    let tid = own_tid();
    let Some(guest) = guests().iter().find(|guest| guest.tid.load(Ordering::Acquire) == tid) else {
        return;
    };
    if guest.tid.compare_exchange(tid, LEAVING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return;
    }
    leave(guest);
    guest.tid.store(0, Ordering::Release);
}

/// Leaves the ground. If that fails, the thread stays, and finds the same bytes there.
fn leave(guest: &Guest) {
    let _ = if guest.is_nested.load(Ordering::Acquire) {
        // SAFETY: what the thread accesses there, it does by addresses of buffers, and faults again elsewhere.
        unsafe { sys::vas_return() }.map(drop)
    } else {
        // SAFETY: as above.
        unsafe { sys::vas_switch(VasHandle::HOME) }
    };
}

/// In the handler of a fault: brings the calling thread to where the address is; false if that is nowhere.
fn join(address: u64) -> bool {
    let slot = SLOTS.iter().position(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start != 0 && (start..slot.end.load(Ordering::Relaxed)).contains(&address)
    });
    let tid = own_tid();
    let own = guests().iter().find(|guest| guest.tid.load(Ordering::Acquire) == tid);
    match (slot, own) {
        (None, None) => false,
        // The memory of the thread's own visit, or none.
        (None, Some(guest)) => {
            let was_nested = guest.is_nested.load(Ordering::Acquire);
            go_home();
            was_nested
        }
        (Some(slot), Some(guest)) => {
            if guest.slot.load(Ordering::Acquire) == slot {
                return false;
            }
            go_home();
            arrive(tid, slot)
        }
        (Some(slot), None) => arrive(tid, slot),
    }
}

/// Makes the calling thread a guest.
fn arrive(tid: u32, slot: usize) -> bool {
    let Ok(here) = sys::vas_current() else { return false };
    let is_nested = here != VasHandle::HOME;
    let free = |guest: &&Guest| {
        guest.tid.compare_exchange(0, tid, Ordering::AcqRel, Ordering::Acquire).is_ok()
    };
    let Some(index) = GUEST_LIST.iter().position(|guest| free(&guest)) else { return false };
    let guest = &GUEST_LIST[index];
    guest.slot.store(slot, Ordering::Release);
    guest.is_nested.store(is_nested, Ordering::Release);
    GUEST_COUNT.fetch_max(index + 1, Ordering::AcqRel);
    let vh = VasHandle::from_raw(SLOTS[slot].vh.load(Ordering::Acquire));
    let arrived = if is_nested {
        // SAFETY: the code that was interrupted accesses memory of spaces by addresses of buffers only: that of the
        // thread's own visit is accessed in `Visit::run`, which is given no address of a buffer's, and faults
        // back here otherwise.
        unsafe { sys::vas_nest(vh, None) }
    } else {
        // SAFETY: a thread at home has no references into a space.
        unsafe { sys::vas_switch(vh) }
    };
    if arrived.is_err() {
        guest.tid.store(0, Ordering::Release);
    }
    arrived.is_ok()
}

extern "C" fn on_leave(_signal: c_int) {
    keeping_errno(go_home);
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a structure of its own.
    let told = unsafe { &*info };
    // SAFETY: for SIGSEGV it has an address; for one that was sent, any number, which is at most looked up.
    let address = unsafe { told.si_addr() } as u64;
    if !keeping_errno(|| join(address)) {
        pass_on(signal, info, context);
    }
}

fn keeping_errno<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: gives the address of the thread's own `errno`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: valid as long as the thread lives.
    let errno = unsafe { place.read() };
    let result = work();
    // SAFETY: as above.
    unsafe { place.write(errno) };
    result
}

/// A fault that is none of ours.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let handler = BEFORE_HANDLER.load(Ordering::Acquire);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // The access is made again, and ends the process.
        // SAFETY: the default needs nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    } else if BEFORE_FLAGS.load(Ordering::Acquire) & libc::SA_SIGINFO as u32 != 0 {
        type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
        // SAFETY: `sigaction` has given this address with these flags.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: as above.
        let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
        handler(signal);
    }
}

fn action(handler: usize, flags: c_int) -> libc::sigaction {
    // SAFETY: zeros are a `sigaction`.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags | libc::SA_ONSTACK;
    // A guest is not sent home before it has arrived.
    // SAFETY: a set of the action's own.
    unsafe { libc::sigaddset(&raw mut action.sa_mask, LEAVE) };
    action
}

/// Installs the handlers, again if others have been installed since; whether that worked.
fn install() -> bool {
    let mut is_installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    let leave = action(on_leave as extern "C" fn(c_int) as usize, libc::SA_RESTART);
    let fault = action(ours, libc::SA_SIGINFO);
    // SAFETY: zeros are a `sigaction`.
    let mut found = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    // SAFETY: it is only asked for.
    if unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), &raw mut found) } != 0 {
        return false;
    }
    if *is_installed && found.sa_sigaction == ours {
        return true;
    }
    BEFORE_HANDLER.store(found.sa_sigaction, Ordering::Release);
    BEFORE_FLAGS.store(found.sa_flags as u32, Ordering::Release);
    *is_installed = true;
    // SAFETY: the handler does what a handler may do, and lives as long as the process: a module is not unloaded.
    let left = unsafe { libc::sigaction(LEAVE, &raw const leave, ptr::null_mut()) };
    // SAFETY: as above.
    let faulted = unsafe { libc::sigaction(libc::SIGSEGV, &raw const fault, ptr::null_mut()) };
    left == 0 && faulted == 0
}
