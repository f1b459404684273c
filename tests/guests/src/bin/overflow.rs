//! Overflows the stack of the main thread, or with `thread` of another one: Rust's own
//! message "has overflowed its stack" on standard error, then death by SIGABRT.

use std::hint::black_box;

fn deeper(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    if black_box(depth) == u64::MAX { 0 } else { deeper(depth + 1) + room[63] }
}

fn main() {
    println!("going down");
    let depth = if std::env::args().nth(1).as_deref() == Some("thread") {
        std::thread::Builder::new()
            .name("diver".into())
            .spawn(|| deeper(0))
            .unwrap()
            .join()
            .unwrap()
    } else {
        deeper(0)
    };
    println!("never {depth}");
}
