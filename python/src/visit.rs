//! Visits: a thread goes into a space, works there, and goes home.
//!
//! Why no object of Python's reaches memory that is not there: all of them (`Dict`, `List`, ...) have a
//! [`Visit`] and an address, and go through [`Visit::run`], which asks first whether the visit is the innermost
//! one of the calling thread, by a list that each thread has of its own. Only then is there a [`Memory`], and only
//! until the operation ends. An operation is never left in the middle for the end of its visit: whatever
//! Python code runs meanwhile (a destructor that the garbage collector calls) finds the visit taken, and gets
//! an exception.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use spacejmp::sys::{self, Errno, SegRoot, VasHandle};

use crate::error::Failure;
use crate::ground;
use crate::memory::{Fault, Memory};
use crate::opened::Opened;
use crate::stored::{self, CELL, Cell, Kind, STAMP};

/// Why an operation ended early.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The space's memory.
    Fault(Fault),
    /// An exception.
    Python(PyErr),
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        Problem::Fault(fault)
    }
}

impl From<PyErr> for Problem {
    fn from(error: PyErr) -> Problem {
        Problem::Python(error)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Python(failure.into())
    }
}

/// What an operation gives.
pub(crate) type Outcome<R> = Result<R, Problem>;

thread_local! {
    /// The visits that the thread is in, the outermost first.
    static VISITS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Whether the thread is in a visit, which is not the same as being inside.
pub(crate) fn is_in_a_visit() -> bool {
    VISITS.with_borrow(|visits| !visits.is_empty())
}

/// Where a visit is in the list of the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Innermost,
    Suspended,
    Elsewhere,
}

fn place_of(visit: u64) -> Place {
    VISITS.with_borrow(|visits| match visits.iter().rposition(|it| *it == visit) {
        Some(index) if index + 1 == visits.len() => Place::Innermost,
        Some(_) => Place::Suspended,
        None => Place::Elsewhere,
    })
}

/// The life of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Open,
    Ended,
}

/// What a visit has done.
#[derive(Debug)]
pub(crate) struct State {
    phase: Phase,
    /// Headers that were freed, and how often: an object that was made before is of no use any more.
    freed: HashMap<u64, u64>,
    /// Whether something was changed.
    changed: bool,
}

/// A visit, open or not.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) space: Arc<Opened>,
    pub(crate) writes: bool,
    message: Option<String>,
    id: u64,
    state: Mutex<State>,
    /// Buffers of the visit that are alive.
    pub(crate) exports: Mutex<ground::Exports>,
}

/// The space during one operation.
#[derive(Debug)]
pub(crate) struct Here<'a> {
    pub(crate) memory: Memory,
    state: &'a mut State,
    root: SegRoot,
}

impl Here<'_> {
    /// The cell of the root dict.
    pub(crate) fn root(&self) -> Result<Cell, Fault> {
        let cell = Cell::load(&self.memory, self.root.address)?;
        if cell.kind == Kind::Dict {
            Ok(cell)
        } else {
            Err(Fault::Damaged("no root object", self.root.address))
        }
    }

    /// How often the header at an address was freed so far.
    pub(crate) fn age(&self, at: u64) -> u64 {
        self.state.freed.get(&at).copied().unwrap_or(0)
    }

    /// Frees what a cell owns.
    pub(crate) fn free(&mut self, cell: Cell) -> Result<(), Fault> {
        let freed = &mut self.state.freed;
        stored::free(&mut self.memory, cell, &mut |at| *freed.entry(at).or_default() += 1)
    }

    /// The stamp of what is there.
    pub(crate) fn stamp(&self) -> Result<ground::Stamp, Fault> {
        stamp_of(&self.memory, self.root)
    }
}

/// The random number that the last visit to write has left: the same one means the same content.
fn stamp_of(memory: &Memory, root: SegRoot) -> Result<ground::Stamp, Fault> {
    memory.words(root.address + STAMP + 8)
}

/// The stamp of what an instance of the space shows, which is entered for that, from the visit that the thread is in.
pub(crate) fn stamp_in(space: &Opened, vh: VasHandle) -> Option<ground::Stamp> {
    // SAFETY: the caller is not in `Visit::run`, so there is no `Memory`; a buffer's address is followed by no
    // code here.
    unsafe { sys::vas_nest(vh, None) }.ok()?;
    let Opened { base, root, .. } = *space;
    // SAFETY: the thread is inside an old version of the segment, which has the addresses of the segment.
    let memory = unsafe { Memory::here(base, space.sid, false) };
    let stamp = memory
        .ok()
        .filter(|memory| memory.notes(&root))
        .and_then(|memory| stamp_of(&memory, root).ok());
    // SAFETY: the `Memory` is gone.
    unsafe { sys::vas_return() }.ok()?;
    stamp
}

/// A number that nobody guesses.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// How long a lock is waited for before Python's handlers of signals are asked again.
const SLICE: Duration = Duration::from_millis(100);
/// How long a thread in a visit waits for the lock of another one: others may wait for what it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// Enters an instance, from home or from the visit that the thread is in.
///
/// # Safety
/// No reference into where the thread is now is used until it is back.
unsafe fn go_in(py: Python<'_>, vh: VasHandle) -> PyResult<Result<(), Errno>> {
    let (nested, began) = (is_in_a_visit(), Instant::now());
    loop {
        let entered = py.detach(|| match nested {
            // SAFETY: the caller's promise.
            true => unsafe { sys::vas_nest(vh, Some(SLICE)) },
            // SAFETY: the caller's promise.
            false => unsafe { sys::vas_switch_timeout(vh, SLICE) },
        });
        match entered {
            // A signal may have gone to another thread.
            Err(Errno::EINTR | Errno::ETIMEDOUT | Errno::EAGAIN) => py.check_signals()?,
            entered => return Ok(entered),
        }
        if nested && began.elapsed() > PATIENCE {
            return Ok(Err(Errno::EDEADLK));
        }
    }
}

/// Goes back to where `go_in` came from; what was changed is committed.
///
/// # Safety
/// As for `go_in`.
unsafe fn go_back(py: Python<'_>, nested: bool) -> PyResult<Result<(), Errno>> {
    py.detach(|| {
        Ok(match nested {
            // SAFETY: the caller's promise.
            true => unsafe { sys::vas_return() }.map(drop),
            // SAFETY: the caller's promise.
            false => unsafe { sys::vas_switch(VasHandle::HOME) },
        })
    })
}

impl Visit {
    pub(crate) fn new(space: Arc<Opened>, writes: bool, message: Option<String>) -> Visit {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = State { phase: Phase::New, freed: HashMap::new(), changed: false };
        Visit {
            space,
            writes,
            message,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(state),
            exports: Mutex::default(),
        }
    }

    fn name(&self) -> &str {
        &self.space.name
    }

    fn failure(&self, why: &str) -> Failure {
        Failure::Visit(format!("this is of a visit to space `{}` {why}", self.name()))
    }

    /// The exception for a fault.
    fn failed(&self, fault: Fault) -> Failure {
        let space = self.name().to_owned();
        match fault {
            Fault::Damaged(what, at) => Failure::Damaged { space, what, at },
            Fault::NoRoom(bytes, errno) => Failure::NoRoom { space, bytes, errno },
            Fault::ReadOnly => Failure::ReadOnly { space },
        }
    }

    fn exception(&self, problem: Problem) -> PyErr {
        match problem {
            Problem::Fault(fault) => self.failed(fault).into(),
            Problem::Python(error) => error,
        }
    }

    fn take(&self) -> Result<MutexGuard<'_, State>, Failure> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(self.failure("that is in the middle of an operation: a destructor or another thread came between"))
            }
        }
    }

    /// Whether its objects can be used here and now.
    fn check(&self, state: &State) -> Result<(), Failure> {
        match (state.phase, place_of(self.id)) {
            (Phase::New, _) => Err(self.failure("that has not begun: use it in `with`")),
            (Phase::Ended, _) => Err(self.failure("that has ended: copy what is to be kept (`copy()`)")),
            (Phase::Open, Place::Innermost) => Ok(()),
            (Phase::Open, Place::Suspended) => {
                Err(self.failure("that waits for the visit in it to end: copy what that one needs before"))
            }
            (Phase::Open, Place::Elsewhere) => {
                Err(self.failure("of another thread, which alone is inside: begin one in this thread, or pass a copy"))
            }
        }
    }

    /// Whether the calling thread can use it.
    pub(crate) fn is_usable(&self) -> bool {
        self.take().is_ok_and(|state| self.check(&state).is_ok())
    }

    /// Does something inside.
    pub(crate) fn run<R>(&self, work: impl FnOnce(&mut Here<'_>) -> Outcome<R>) -> PyResult<R> {
        let mut state = self.take()?;
        self.check(&state)?;
        ground::come_back();
        let Opened { base, sid, root, .. } = *self.space;
        // SAFETY: the thread's list says that this is its innermost visit, so it is inside, with the right to write
        // if it writes, until `leave` takes the visit off the list, for which it needs `state`. That is held
        // here, so there is one `Memory` at a time. `enter` has found a heap.
        let memory = unsafe { Memory::again(base, sid, self.writes) };
        let mut here = Here { memory, state: &mut state, root };
        work(&mut here).map_err(|problem| self.exception(problem))
    }

    /// The same to change something.
    pub(crate) fn change<R>(&self, work: impl FnOnce(&mut Here<'_>) -> Outcome<R>) -> PyResult<R> {
        self.run(|here| {
            if !self.writes {
                return Err(Fault::ReadOnly.into());
            }
            here.state.changed = true;
            work(here)
        })
    }

    /// The same; `work` says whether it has changed something.
    pub(crate) fn change_quietly(
        &self,
        work: impl FnOnce(&mut Here<'_>) -> Outcome<bool>,
    ) -> PyResult<()> {
        self.run(|here| {
            here.state.changed |= work(here)?;
            Ok(())
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// A buffer is released.
    pub(crate) fn release(&self) {
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.alive = exports.alive.saturating_sub(1);
    }

    /// Goes in.
    pub(crate) fn enter(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.take()?;
        match state.phase {
            Phase::New => {}
            Phase::Open => return Err(self.failure("that goes on").into()),
            Phase::Ended => return Err(self.failure("that has ended: begin another").into()),
        }
        if self.writes && !self.space.may_write() {
            return Err(Failure::ReadOnly { space: self.name().to_owned() }.into());
        }
        ground::come_back();
        let below = ground::begin(self.id, &self.space, self.writes)?;
        let entered = self.go_in(py, below.as_ref());
        match entered {
            Ok(stamp) if !self.writes => ground::sees(self.id, stamp),
            Ok(_) => {}
            Err(error) => {
                ground::end(self.id);
                return Err(error);
            }
        }
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).ground = below;
        state.phase = Phase::Open;
        Ok(())
    }

    /// Goes in; returns the stamp of what is there.
    fn go_in(
        &self,
        py: Python<'_>,
        below: Option<&Arc<ground::Ground>>,
    ) -> PyResult<ground::Stamp> {
        let vh = match below {
            Some(ground) => ground.handle(),
            None => self.space.instance(self.writes)?,
        };
        let nested = is_in_a_visit();
        // SAFETY: no `Memory` of an outer visit lives, since those are in `run`, which calls nothing that enters.
        let entered = unsafe { go_in(py, vh) }?;
        entered.map_err(|errno| match errno {
            Errno::ESTALE => Failure::Changed { space: self.name().to_owned() },
            errno => Failure::call("enter", self.name())(errno),
        })?;
        match self.look() {
            Ok(stamp) => {
                VISITS.with_borrow_mut(|visits| visits.push(self.id));
                Ok(stamp)
            }
            Err(failure) => {
                // SAFETY: the `Memory` of `look` is gone.
                unsafe { go_back(py, nested) }?.map_err(Failure::call("leave", self.name()))?;
                Err(failure.into())
            }
        }
    }

    /// Inside: whether the root object is the one that the space was opened with; the stamp of what is there.
    fn look(&self) -> Result<ground::Stamp, Failure> {
        let Opened { base, sid, root, .. } = *self.space;
        let changed = || Failure::Changed { space: self.name().to_owned() };
        // SAFETY: the thread has just entered, and no other `Memory` is there; a segment with a root object has
        // held a heap.
        let memory = unsafe { Memory::here(base, sid, self.writes) }.map_err(|_| changed())?;
        if !memory.notes(&root) && sys::seg_root_get(sid) != Ok(root) {
            return Err(changed());
        }
        stamp_of(&memory, root).map_err(|fault| self.failed(fault))
    }

    /// Goes home, or to the visit around; what was changed stays if `keep`.
    pub(crate) fn leave(&self, py: Python<'_>, keep: bool) -> PyResult<()> {
        let mut state = self.take()?;
        self.check(&state)?;
        ground::come_back();
        let nested = VISITS.with_borrow(|visits| visits.len() > 1);
        let mut result = Ok(());
        if self.writes && keep && state.changed {
            drop(state);
            result = self.finish();
            state = self.take()?;
        }
        if self.writes && (!keep || result.is_err()) {
            // SAFETY: there is no `Memory`; objects hold addresses, which nothing follows any more.
            unsafe { sys::vas_abort() }
                .map_err(Failure::call("take back the changes to", self.name()))?;
        }
        // SAFETY: there is no `Memory`.
        if let Err(errno) = unsafe { go_back(py, nested) }? {
            let space = self.name().to_owned();
            // SAFETY: as above.
            unsafe { sys::vas_abort() }
                .map_err(Failure::call("take back the changes to", &space))?;
            // SAFETY: as above.
            unsafe { go_back(py, nested) }?.map_err(Failure::call("leave", &space))?;
            result = result.and(Err(Failure::NotCommitted { space, errno }.into()));
        }
        VISITS.with_borrow_mut(|visits| visits.pop());
        ground::end(self.id);
        state.phase = Phase::Ended;
        state.freed = HashMap::new();
        drop(state);
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.copies.clear();
        let ground = exports.ground.take();
        drop(exports);
        // Perhaps nobody needs it any more: guests are sent home.
        drop(ground);
        result
    }

    /// The last thing of a visit that has changed something: its stamp and message.
    fn finish(&self) -> PyResult<()> {
        self.run(|here| {
            let at = here.root.address + STAMP;
            let visits = here.memory.word(at)?;
            here.memory.set_words(at, [visits.wrapping_add(1), random(), random()])?;
            Ok(())
        })?;
        match &self.message {
            Some(message) => Ok(sys::vas_message(message)
                .map_err(Failure::call("describe a change to", self.name()))?),
            None => Ok(()),
        }
    }
}

impl Drop for Visit {
    /// A visit that nothing refers to any more was left without `__exit__`: in a generator that was given up, perhaps.
    fn drop(&mut self) {
        let is_open = self.state.get_mut().is_ok_and(|state| state.phase == Phase::Open);
        if !is_open {
            return;
        }
        ground::end(self.id);
        // Only the thread that is inside can leave; if this is another one, that stays there until it ends.
        if place_of(self.id) == Place::Innermost {
            let _ = Python::attach(|py| self.leave(py, false));
        }
    }
}

/// A space without a root object gets one, with an empty dict, unless another program is quicker.
pub(crate) fn make_root(py: Python<'_>, space: &Opened) -> PyResult<()> {
    let vh = space.instance(true)?;
    let nested = is_in_a_visit();
    ground::come_back();
    // SAFETY: as in `Visit::enter`.
    unsafe { go_in(py, vh) }?.map_err(Failure::call("enter", &space.name))?;
    let made = fill(space).map_err(Failure::call("make", &space.name));
    if made.is_err() {
        // SAFETY: the `Memory` of `fill` is gone.
        unsafe { sys::vas_abort() }
            .map_err(Failure::call("take back the changes to", &space.name))?;
    }
    // SAFETY: as above.
    let back = unsafe { go_back(py, nested) }?;
    if let Err(errno) = back {
        // SAFETY: as above.
        unsafe { sys::vas_abort() }
            .map_err(Failure::call("take back the changes to", &space.name))?;
        // SAFETY: as above.
        unsafe { go_back(py, nested) }?.map_err(Failure::call("leave", &space.name))?;
        return Err(Failure::NotCommitted { space: space.name.clone(), errno }.into());
    }
    Ok(made?)
}

/// Inside, alone to write.
fn fill(space: &Opened) -> Result<(), Errno> {
    if sys::seg_root_get(space.sid)?.address != 0 {
        return Ok(());
    }
    let size = sys::seg_stat(space.sid)?.size_bytes;
    // SAFETY: the thread is inside, alone; without a root object nothing uses what is there.
    let mut memory = unsafe { Memory::format(space.base, space.sid, size, stored::TEXT) }?;
    let failed = |fault| match fault {
        Fault::NoRoom(_, errno) => errno,
        _ => Errno::EIO,
    };
    let root = root_object(&mut memory).map_err(failed)?;
    let record =
        SegRoot { address: root, fingerprint: spacejmp::layout::Fingerprint::of(stored::TEXT).0 };
    // SAFETY: there lies what the text stands for, in a heap.
    unsafe { sys::seg_root_set(space.sid, &record) }?;
    memory.note(&record).map_err(failed)
}

fn root_object(memory: &mut Memory) -> Result<u64, Fault> {
    let root = memory.allocate(stored::ROOT_BYTES, 16)?;
    let dict = crate::table::Table::create(memory, Kind::Dict, 0, random())?.cell();
    dict.store(memory, root)?;
    memory.set_words(root + CELL, [0, random(), random(), 0])?;
    Ok(root)
}
