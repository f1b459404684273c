// What content is, and where memory of a VAS may be held, is not said by safe code.
use spacejmp::sys::{SegId, SegRoot, seg_recover, seg_root_set};
use spacejmp::VAlloc;

spacejmp::brand! { One => u64 }

fn root(segment: SegId, root: &SegRoot) {
    seg_root_set(segment, root).unwrap();
}

fn recovered(segment: SegId) {
    seg_recover(segment).unwrap();
}

fn memory() -> VAlloc<One> {
    VAlloc::new()
}

fn main() {}
