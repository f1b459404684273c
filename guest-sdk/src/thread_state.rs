//! The state of the calling thread: where it is, and what it may do there. The single source of
//! truth for everything that cannot have a token, which is destructors and allocators.
//!
//! Only entering and leaving (`space/visit.rs`) write it. Its destructor-free cell can be read at
//! any time in a thread's life, even while the thread's other locals are being dropped.

use std::any::TypeId;
use std::cell::Cell;
use std::ptr::NonNull;

use abi::SegId;

use crate::brand::Brand;
use crate::location::Location;
use crate::space_heap::SpaceHeap;
use crate::type_id;

/// What is known of a thread.
#[derive(Clone, Copy)]
pub(crate) struct ThreadState {
    /// The brand of the VAS; `None` at home.
    pub(crate) brand: Option<TypeId>,
    /// Its name in messages.
    pub(crate) name: &'static str,
    /// Whether the thread holds the VAS's lock exclusively and its memory may be written.
    pub(crate) writable: bool,
    /// The heap of the VAS, for as long as the thread is inside; `None` at home, read-only.
    pub(crate) heap: Option<NonNull<dyn SpaceHeap>>,
    /// Whether the global allocator serves from `heap`.
    pub(crate) scope: Scope,
    /// Whether visits that begin from here are nested: this one is versioned, or one that it is nested in, and
    /// leaving it, if only for a while, would end the view or the change.
    pub(crate) nests: bool,
    /// Its location, for the way back.
    pub(crate) location: Location,
}

/// Of an allocation scope (`scope.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The global allocator serves from the process's own memory.
    Outside,
    /// It serves from the VAS, until the thread panics.
    UntilPanic,
    /// The same, for a scope that began while the thread was panicking already.
    Always,
    /// A heap works: whatever it allocates and frees is the process's.
    Working,
}

impl ThreadState {
    pub(crate) const HOME: ThreadState = ThreadState {
        brand: None,
        name: "home",
        writable: false,
        heap: None,
        scope: Scope::Outside,
        nests: false,
        location: Location::HOME,
    };
}

thread_local! {
    static STATE: Cell<ThreadState> = const { Cell::new(ThreadState::HOME) };
}

/// The state of the calling thread.
#[inline]
pub(crate) fn current() -> ThreadState {
    STATE.get()
}

/// Notes a new state; returns the one before.
#[inline]
pub(crate) fn set(state: ThreadState) -> ThreadState {
    STATE.replace(state)
}

/// Whether the calling thread may be in the middle of changing `segment`: it is inside a space to
/// write that has it. A thread that visits another space from there has lent its token, and is not
/// in the middle of a change.
pub(crate) fn is_writing(segment: SegId) -> bool {
    let here = current();
    here.writable && here.location.has(segment)
}

/// Puts back the heap and the scope that the thread had, when it is dropped.
pub(crate) struct Changed(ThreadState);

impl Drop for Changed {
    fn drop(&mut self) {
        set(ThreadState { heap: self.0.heap, scope: self.0.scope, ..current() });
    }
}

/// Until the result is dropped, the global allocator serves as `scope` says. The thread must be
/// where it is now when that happens.
#[must_use]
pub(crate) fn with_scope(scope: Scope) -> Changed {
    Changed(set(ThreadState { scope, ..current() }))
}

/// Until the result is dropped, the thread has no heap but its process's. A heap at work uses this
/// wherever it may allocate itself: what it needs must not come from itself.
#[must_use]
pub(crate) fn without_heap() -> Changed {
    Changed(set(ThreadState { heap: None, scope: Scope::Working, ..current() }))
}

/// How the calling thread is inside a VAS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// At home, or in another VAS: memory of this one must not be touched.
    Elsewhere,
    /// Inside, with shared access.
    ReadOnly,
    /// Inside, with exclusive access.
    Writable,
}

/// How the calling thread is inside `V`.
///
/// For destructors of types that own memory in `V`: they must not touch it unless this is
/// [`Inside::Writable`], and leak it otherwise. Everything else takes a token. If the brand has a lifetime, the
/// thread may be inside another space that has it: the owners of this crate look, besides, whether their memory is
/// that space's.
#[inline]
#[must_use]
pub fn inside<V: Brand>() -> Inside {
    let state = current();
    match (state.brand == Some(type_id::of::<V>()), state.writable) {
        (false, _) => Inside::Elsewhere,
        (true, false) => Inside::ReadOnly,
        (true, true) => Inside::Writable,
    }
}
