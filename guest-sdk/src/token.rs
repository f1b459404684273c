//! Tokens: values that only exist while a thread is inside a VAS.
//!
//! Why that is enough. Memory of a VAS is reached only with a borrow of the token. Going
//! anywhere else needs the token mutably, so no such borrow is alive then; and the token itself
//! ends with the closure that was called with it. Owned data (`VBox`, collections) are written
//! through `&mut` of their owner, which begins at the root or in a local variable, and a borrow
//! of the witness [`At`]; both are parts of one `&mut In`. Shared data ([`crate::VPtr`]) are
//! written with the whole `&mut In`, so nothing else of the VAS is borrowed meanwhile.
//!
//! Tokens are neither `Send` nor `Sync`: another thread is somewhere else. Plain references that
//! were borrowed with one are both, and no type can forbid it: `location/occupancy.rs` ensures that
//! they reach no other data in other threads.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::brand::{Brand, Invariant};

mod sealed {
    pub trait Sealed {}
}

/// How a VAS was entered: [`Read`] or [`Write`].
pub trait Mode: sealed::Sealed + 'static {
    /// Whether memory of the VAS may be written.
    const WRITABLE: bool;
}

/// Shared access: other threads and programs may be inside and read too.
#[derive(Debug)]
pub enum Read {}

/// Exclusive access: no other thread is inside.
#[derive(Debug)]
pub enum Write {}

impl sealed::Sealed for Read {}
impl sealed::Sealed for Write {}

impl Mode for Read {
    const WRITABLE: bool = false;
}

impl Mode for Write {
    const WRITABLE: bool = true;
}

/// Witness that the calling thread is inside `V`. It is only ever seen as `&At`, and has no size.
///
/// Types that own memory in `V` take it wherever they touch that memory; `&In` and `&mut In`
/// become `&At` by themselves. What needs to write takes an `&At<V, Write>`.
///
/// # What implementors may rely on
/// While an `&'a At<V, M>` exists, the calling thread is inside `V`, the memory of `V` is mapped,
/// and the thread holds its lock, exclusively if `M` is [`Write`]. Of what an owner owns, `&'a`
/// of owner and witness allow reading for `'a`, `&'a mut` of the owner and `&'a At<V, Write>`
/// writing.
pub struct At<V, M> {
    _of: PhantomData<(Invariant<V>, Invariant<M>)>,
    // As an array, which keeps the standard library's `PhantomData` out of the compiler's message.
    _not_send: [*mut (); 0],
}

/// The token of one visit to the VAS `V`: what the closure given to [`crate::Space::read`]
/// is called with.
///
/// See [the module](crate::token) for why it confines pointers to their VAS.
pub struct In<V: Brand, M> {
    at: At<V, M>,
    root: NonNull<V::Root>,
}

impl<V: Brand, M: Mode> At<V, M> {
    /// A witness.
    ///
    /// # Safety
    /// Until it is dropped the thread is inside `V` as `M` says, except while it is borrowed
    /// mutably for the length of a nested visit; every other witness of the thread is so
    /// borrowed.
    pub(crate) unsafe fn new() -> At<V, M> {
        At { _of: PhantomData, _not_send: [] }
    }

    /// A witness that is borrowed: one that a borrow of another one, or the thread's state, stands for.
    ///
    /// # Safety
    /// For all of `'a` this thread is inside `V`, as `M` says or writable, and goes nowhere else.
    pub(crate) const unsafe fn borrowed<'a>() -> &'a At<V, M>
    where
        V: 'a,
    {
        // SAFETY: it has no size, so any aligned address is one of it; the caller promises the rest.
        unsafe { NonNull::dangling().as_ref() }
    }
}

impl<V: Brand, M: Mode> In<V, M> {
    /// A token.
    ///
    /// # Safety
    /// `root` points to a valid root object in `V`, and nothing else does.
    pub(crate) unsafe fn new(at: At<V, M>, root: NonNull<V::Root>) -> In<V, M> {
        In { at, root }
    }

    /// The root object.
    #[inline]
    #[must_use]
    pub fn root(&self) -> &V::Root {
        // SAFETY: it is valid as `new` was promised; nothing writes it while `self` is borrowed.
        unsafe { self.root.as_ref() }
    }
}

impl<V: Brand> In<V, Write> {
    /// The root object to be changed, and the witness that its methods ask for.
    ///
    /// ```
    /// # use spacejmp::{Space, VBox};
    /// # spacejmp::brand! { Numbers => Option<VBox<u64, Numbers>> }
    /// # let space = Space::<Numbers>::in_memory(1 << 20, |_| Ok(None))?;
    /// space.write(|v| {
    ///     let (root, at) = v.root_mut();
    ///     *root = Some(VBox::new(at, 42)?);
    ///     Ok::<_, spacejmp::Error>(())
    /// })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn root_mut(&mut self) -> (&mut V::Root, &At<V, Write>) {
        // SAFETY: as for `root`, and the exclusive borrow of `self` keeps every reader out.
        (unsafe { self.root.as_mut() }, &self.at)
    }
}

impl<V: Brand, M> Deref for In<V, M> {
    type Target = At<V, M>;

    #[inline]
    fn deref(&self) -> &At<V, M> {
        &self.at
    }
}

impl<V: Brand, M: Mode> std::fmt::Debug for In<V, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "In<{}, {}>", V::NAME, if M::WRITABLE { "Write" } else { "Read" })
    }
}

impl<V: Brand, M: Mode> std::fmt::Debug for At<V, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "At<{}, {}>", V::NAME, if M::WRITABLE { "Write" } else { "Read" })
    }
}
