//! Computes forever without a system call. With `threads`, in two threads.

use std::hint::black_box;

fn spin() -> ! {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

fn main() {
    println!("spinning");
    if std::env::args().nth(1).as_deref() == Some("threads") {
        std::thread::spawn(|| spin());
    }
    spin();
}
