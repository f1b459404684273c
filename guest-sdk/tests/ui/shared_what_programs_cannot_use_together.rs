// Values that mean nothing to other programs, or are not for several threads, are shared.
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use spacejmp::{Concurrent, Shared, VBox, VOnce};

spacejmp::brand! { Numbers => VBox<u64, Numbers> }

#[derive(Concurrent)]
struct WithANumber {
    count: AtomicU64,
    plain: u64,
}

#[derive(Concurrent)]
enum Either {
    Count(AtomicU64),
}

fn main() {
    let _ = Shared::<Cell<u64>>::in_memory();
    let _ = Shared::<Mutex<u64>>::in_memory();
    let _ = Shared::<VOnce<&'static u64>>::in_memory();
    let _ = Shared::<VOnce<VBox<u64, Numbers>>>::in_memory();
}
