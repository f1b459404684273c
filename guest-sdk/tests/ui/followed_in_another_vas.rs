// A pointer is followed in another VAS than its own.
use spacejmp::{In, Read, VBox, VPtr};

spacejmp::brand! { One => u64, Two => u64 }

fn owned(number: &VBox<u64, One>, w: &In<Two, Read>) -> u64 {
    *number.get(w)
}

fn shared(number: VPtr<u64, One>, w: &In<Two, Read>) -> u64 {
    *number.get(w)
}

fn main() {}
