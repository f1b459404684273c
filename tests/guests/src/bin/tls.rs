//! Thread-local storage: initialised per thread, its own address, destroyed at the end of
//! the thread. Prints "tls: ..." lines and exits with 0.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

static DESTROYED: AtomicU32 = AtomicU32::new(0);

struct Guard(u32);

impl Drop for Guard {
    fn drop(&mut self) {
        DESTROYED.fetch_add(self.0, Ordering::SeqCst);
    }
}

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(42) };
    static GUARD: RefCell<Option<Guard>> = const { RefCell::new(None) };
    static LAZY: Vec<u64> = (0..1000).collect();
}

fn main() {
    NUMBER.set(1);
    thread::scope(|scope| {
        for n in 1..=16_u32 {
            scope.spawn(move || {
                assert_eq!(NUMBER.get(), 42, "a new thread sees the initial value");
                for _ in 0..100 {
                    NUMBER.set(NUMBER.get() + u64::from(n));
                    thread::yield_now();
                }
                assert_eq!(NUMBER.get(), 42 + u64::from(n) * 100);
                GUARD.set(Some(Guard(n)));
                assert_eq!(LAZY.with(|lazy| lazy.iter().sum::<u64>()), 499_500);
            });
        }
    });
    // A scope ends when the closures have; joining waits for the destructors as well.
    thread::spawn(|| GUARD.set(Some(Guard(1000)))).join().unwrap();
    while DESTROYED.load(Ordering::SeqCst) < 1136 {
        thread::yield_now();
    }
    println!("tls: main {}, destroyed {}", NUMBER.get(), DESTROYED.load(Ordering::SeqCst));
}
