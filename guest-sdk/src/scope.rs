//! Allocation scopes: code that knows nothing about VASes allocates in one, as with the paper's
//! `malloc`, which serves from the address space the thread is in.
//!
//! The owner of a block is determined by its address, never by where the thread is: what was
//! allocated in a scope may be freed or grown outside it, by code that does not know
//! (`block_owners`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};

use crate::block_owners::{is_of_a_space, kinds};
use crate::brand::Brand;
use crate::space_heap::SpaceHeap;
use crate::thread_state::{self, Scope};
use crate::token::{In, Write};

/// A global allocator with scopes: inside [`In::alloc_scope`] it serves from the VAS the thread
/// is in, elsewhere it is [`System`].
///
/// ```
/// use std::collections::BTreeMap;
/// use std::mem::ManuallyDrop;
///
/// use spacejmp::layout::LayoutWriter;
/// use spacejmp::{Inside, ScopedAlloc, Space, Storable};
///
/// #[global_allocator]
/// static ALLOCATOR: ScopedAlloc = ScopedAlloc::new();
///
/// /// A map of the standard library, to lie in a VAS.
/// struct Index(ManuallyDrop<BTreeMap<String, Vec<u32>>>);
///
/// spacejmp::brand! { Words => Index }
///
/// // SAFETY: all that it holds is allocated in scopes of `Words`. Only this program reads it.
/// unsafe impl Storable<Words> for Index {
///     fn layout(writer: &mut LayoutWriter) {
///         writer.describe::<Self>("Index of program words, build 1", |_| {});
///     }
/// }
///
/// impl Drop for Index {
///     fn drop(&mut self) {
///         if spacejmp::inside::<Words>() == Inside::Writable {
///             // SAFETY: it is dropped once.
///             unsafe { ManuallyDrop::drop(&mut self.0) };
///         }
///     }
/// }
///
/// let space = Space::<Words>::in_memory(1 << 20, |_| Ok(Index(ManuallyDrop::default())))?;
/// space.write(|v| {
///     let fill = |v: &mut spacejmp::In<Words, spacejmp::Write>| {
///         let (index, _) = v.root_mut();
///         for (number, word) in "one two one".split(' ').enumerate() {
///             index.0.entry(word.to_owned()).or_default().push(number as u32);
///         }
///     };
///     // SAFETY: what is allocated belongs to the root; nothing of it is carried out.
///     unsafe { v.alloc_scope(fill) };
///     Ok::<_, spacejmp::Error>(())
/// })?;
/// assert_eq!(space.read(|v| v.root().0["one"].len())?, 2);
/// # Ok::<_, spacejmp::Error>(())
/// ```
///
/// # Whose a block is
/// A block stays where it was allocated, whatever its owner does:
/// - of a VAS: freed and grown by a thread that is inside that VAS, writable, in a scope or not.
///   Anywhere else freeing leaks it, without touching it, until `check` of the heap
///   reports it; growing gives no memory, so most programs end with a message.
/// - of the process: freed and grown there, in a scope too.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScopedAlloc(());

impl ScopedAlloc {
    /// For a `#[global_allocator]`.
    #[must_use]
    pub const fn new() -> ScopedAlloc {
        ScopedAlloc(())
    }
}

impl<V: Brand> In<V, Write> {
    /// Calls `f`, and everything that this thread allocates with the global allocator meanwhile
    /// comes from the heap of `V`. The program's global allocator must be a [`ScopedAlloc`]; with
    /// another one nothing special happens.
    ///
    /// The scope ends when `f` returns and when it panics, the making of the panic's message
    /// included. While the thread visits another VAS from inside it pauses. Other threads,
    /// also those that `f` starts, have nothing to do with it. Scopes may nest.
    ///
    /// When there is no room the allocator fails as allocators do; most of the standard library
    /// ends the program then.
    ///
    /// # Safety
    /// Nothing but the caller's care keeps what the compiler otherwise checks:
    ///
    /// - **What is allocated in the scope must not be used outside `V`.** Not what `f` returns or
    ///   leaves in variables of its caller, not the content of a panic other than a text; it
    ///   faults, or is other data. Dropping it there is no better: `Vec<String>` looks into its
    ///   strings. Beware of what hides allocations and keeps them for later:
    ///   the first `println!`, lazily initialised statics and thread-locals, caches, loggers,
    ///   environment variables, `thread::spawn`, channels. Use such things once before, or not in
    ///   `f`.
    /// - **What was allocated outside must not be stored in `V`.** A `Vec` that was made at home
    ///   stays there when it grows in a scope; an `Arc` that is cloned is the same `Arc`. It
    ///   means nothing to the next process.
    /// - **Nor addresses of this program**: `&'static str`, functions, trait objects, anything
    ///   with a vtable, in types of others too. They are good for this run of this program.
    /// - **Types of the standard library and of most crates have no promised layout.** What is
    ///   stored in `V` as one of them may only be read by programs for which it is the same:
    ///   in practice the same executable, built once. The layout text of an unsafe
    ///   [`Storable`](crate::Storable) around them is what must differ when that does.
    /// - **Nothing that changes through shared references** (`Mutex`, `Cell`, `Rc`'s count) may be
    ///   used by a read-only visit: the memory is mapped read-only.
    /// - **Destructors must not run outside `V`**: a type around what is stored must ask
    ///   [`inside`](crate::inside) in its `Drop`, as the example of [`ScopedAlloc`] does.
    pub unsafe fn alloc_scope<R>(&mut self, f: impl FnOnce(&mut In<V, Write>) -> R) -> R {
        let scope = if std::thread::panicking() { Scope::Always } else { Scope::UntilPanic };
        let ended = thread_state::with_scope(scope);
        // The caught value is not examined: the panic goes on.
        let result = catch_unwind(AssertUnwindSafe(|| f(self)));
        drop(ended);
        result.unwrap_or_else(|payload| resume_unwind(of_the_process(payload)))
    }
}

/// The content of a panic that began in a scope. A text that was made before the panic lies in the
/// VAS; the thread is still inside, and copies it. Nothing is known about other types.
#[cold]
fn of_the_process(payload: Box<dyn Any + Send>) -> Box<dyn Any + Send> {
    match payload.downcast::<String>() {
        Ok(text) => Box::new(String::from(text.as_str())),
        Err(other) => other,
    }
}

/// The owner of a block.
enum Owner {
    Process,
    /// The space the thread is in, writable.
    Here(NonNull<dyn SpaceHeap>),
    /// Another space, or this one where it must not be written.
    Elsewhere,
}

#[inline]
fn owner(block: *mut u8) -> Owner {
    match kinds() {
        0 => Owner::Process,
        kinds => owner_among(kinds, block),
    }
}

fn owner_among(kinds: u8, block: *mut u8) -> Owner {
    let Some(block) = NonNull::new(block) else { return Owner::Process };
    let here = thread_state::current();
    if here.scope == Scope::Working || !is_of_a_space(kinds, block) {
        return Owner::Process;
    }
    if let Some(heap) = here.heap
        // SAFETY: the thread's state holds the heap of the space the thread is in.
        && unsafe { heap.as_ref() }.holds(block)
    {
        return Owner::Here(heap);
    }
    Owner::Elsewhere
}

/// The heap that new blocks come from; `None` for the process's.
#[inline]
fn serving() -> Option<NonNull<dyn SpaceHeap>> {
    let here = thread_state::current();
    match here.scope {
        Scope::Outside | Scope::Working => None,
        Scope::Always => here.heap,
        // A panic's message, its content and what unwinding allocates outlive the scope.
        Scope::UntilPanic => here.heap.filter(|_| !std::thread::panicking()),
    }
}

// SAFETY: blocks are those of `System` or of a `SpaceHeap`, and are returned where they came from:
// `owner` tells them apart by address. It does not unwind: heaps do not panic, except the one for
// tests, on a block that is not its own.
unsafe impl GlobalAlloc for ScopedAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match serving() {
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
            Some(heap) => allocate(heap, layout),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(heap) = serving() else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let block = allocate(heap, layout);
        if !block.is_null() {
            // SAFETY: it has that many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match owner(block) {
            // SAFETY: the caller's promise, and it is no block of a space.
            Owner::Process => unsafe { System.dealloc(block, layout) },
            Owner::Here(heap) => {
                let Some(block) = NonNull::new(block) else { return };
                // SAFETY: the thread's state holds the heap of the space the thread is in.
                let heap = unsafe { heap.as_ref() };
                // SAFETY: the thread is inside, writable, or it would have no heap; the block is of
                // this heap, with this layout by the caller's promise.
                unsafe { heap.deallocate(block, layout) };
            }
            Owner::Elsewhere => {}
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        match owner(block) {
            // SAFETY: the caller's promise, and it is no block of a space.
            Owner::Process => unsafe { System.realloc(block, layout, new) },
            Owner::Here(heap) => {
                let Some(block) = NonNull::new(block) else { return ptr::null_mut() };
                // SAFETY: the thread's state holds the heap of the space the thread is in.
                let heap = unsafe { heap.as_ref() };
                // SAFETY: as in `dealloc`; `new` is not 0 by the caller's promise.
                let moved = unsafe { heap.reallocate(block, layout, new) };
                moved.map_or(ptr::null_mut(), NonNull::as_ptr)
            }
            Owner::Elsewhere => ptr::null_mut(),
        }
    }
}

/// A block of `heap`, the one of the space the thread is in; null if there is no room.
#[inline]
fn allocate(heap: NonNull<dyn SpaceHeap>, layout: Layout) -> *mut u8 {
    // SAFETY: the thread's state holds the heap of the space the thread is in.
    let heap = unsafe { heap.as_ref() };
    // SAFETY: the thread is inside, writable, or it would have no heap; global allocators are
    // asked for no empty blocks.
    unsafe { heap.allocate(layout) }.map_or(ptr::null_mut(), NonNull::as_ptr)
}
