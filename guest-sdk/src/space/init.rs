//! Watching the `init` of a space that is being made: it is given a witness, so it can make pointers,
//! and can leave them anywhere before it fails.

use crate::brand::Claim;
use crate::space_heap::SpaceHeap;
use crate::thread_state;

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

/// Calls `init`, inside. If it fails or panics and leaves memory behind, the brand is spent: that
/// memory will be handed out again, by this process or another, and old pointers would reach it.
pub(super) fn watched<T, E>(claim: &Claim, init: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let mut watch = Watch { claim, before: blocks(), is_done: false };
    let result = init();
    watch.is_done = result.is_ok();
    result
}
