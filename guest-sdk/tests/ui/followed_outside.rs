// A pointer is followed without being inside its VAS.
use spacejmp::{VBox, VPtr};

spacejmp::brand! { One => u64 }

fn owned(number: &VBox<u64, One>) -> u64 {
    **number
}

fn shared(number: VPtr<u64, One>) -> u64 {
    *number
}

fn no_token(number: &VBox<u64, One>) -> u64 {
    *number.get()
}

fn main() {}
