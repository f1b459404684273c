//! Watching the `init` of a space that is being made: it is given a witness, so it can make pointers,
//! and can leave them anywhere before it fails.

use std::ptr::NonNull;

use crate::alloc::AllocError;
use crate::boxed;
use crate::brand::{Brand, Claim, During, Handles, RootDuring};
use crate::space_heap::SpaceHeap;
use crate::thread_state;
use crate::token::{At, Write};

/// Spends the brand unless what was allocated meanwhile is freed.
struct Watch<'a> {
    claim: &'a Claim,
    before: u64,
    is_done: bool,
}

/// Blocks of the space the thread is in.
fn blocks() -> u64 {
    thread_state::current().heap.map_or(0, |heap| {
        // SAFETY: the thread's state holds the heap of the space the thread is in.
        let heap: &dyn SpaceHeap = unsafe { heap.as_ref() };
        // SAFETY: the thread is inside, writable, or it would have no heap.
        unsafe { heap.blocks() }
    })
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // A pointer into the heap has a block there, which is not freed as long as there is the
        // pointer. Without one, nothing outlives the attempt, and the brand can be used again.
        if !self.is_done && blocks() != self.before {
            self.claim.spend();
        }
    }
}

/// A root object, as `init` makes it, inside.
pub(super) fn root<V: Brand>(
    _inside: &At<During<'static, V>, Write>,
    init: impl for<'v> FnOnce(&'v At<During<'v, V>, Write>) -> Result<RootDuring<'v, V>, AllocError>,
) -> Result<NonNull<()>, AllocError> {
    // SAFETY: the thread is inside until this returns, as the other witness proves, which differs in the
    // lifetime only.
    let at = unsafe { At::new() };
    let value = init(&at)?;
    boxed::allocate_root(&at, value).map(NonNull::cast)
}

/// Calls `init`, inside. If it fails or panics and leaves memory behind, the brand is spent: that
/// memory will be handed out again, by this process or another, and old pointers would reach it. Unless
/// there are none, since they end with the visit.
pub(super) fn watched<V: Brand, T, E>(
    claim: &Claim,
    init: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let before = if V::Handles::ARE_KEPT { blocks() } else { 0 };
    let mut watch = Watch { claim, before, is_done: !V::Handles::ARE_KEPT };
    let result = init();
    watch.is_done |= result.is_ok();
    result
}
