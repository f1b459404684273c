// A reference into a shared value is kept when the thread has left it.
use std::sync::atomic::AtomicU64;

use spacejmp::Shared;

fn main() {
    let shared = Shared::<AtomicU64>::in_memory();
    let _kept: &AtomicU64 = shared.visit(|it| it).unwrap();
}
