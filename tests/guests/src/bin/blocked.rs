//! N threads that block forever, half of them in futexes and half in sleeps; prints "all
//! blocked" when they do. Then `main N`: the first thread exits with 5; `other N`: another
//! thread exits the process with 6; `fault N`: another thread faults; `stay N`: waits too.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

fn block(n: usize, never: &(Mutex<bool>, Condvar)) {
    if n.is_multiple_of(2) {
        let mut guard = never.0.lock().unwrap();
        while !*guard {
            guard = never.1.wait(guard).unwrap();
        }
    } else {
        thread::sleep(Duration::from_secs(1000));
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let how = args.next().expect("main, other, fault or stay");
    let count: usize = args.next().expect("a number").parse().expect("a number");
    let never = Arc::new((Mutex::new(false), Condvar::new()));
    let ready = Arc::new(AtomicUsize::new(0));
    for n in 0..count {
        let (never, ready) = (never.clone(), ready.clone());
        thread::spawn(move || {
            ready.fetch_add(1, Ordering::Relaxed);
            block(n, &never);
        });
    }
    while ready.load(Ordering::Relaxed) < count {
        thread::sleep(Duration::from_millis(1));
    }
    // A thread is ready a few instructions before it blocks.
    thread::sleep(Duration::from_millis(50));
    println!("all blocked");
    std::io::stdout().flush().unwrap();
    match how.as_str() {
        "main" => std::process::exit(5),
        "other" => drop(thread::spawn(|| std::process::exit(6)).join()),
        "fault" => drop(
            // SAFETY: the write faults; nothing is at address 8.
            thread::spawn(|| unsafe {
                std::ptr::without_provenance_mut::<u8>(8).write_volatile(1)
            })
            .join(),
        ),
        _ => block(0, &never),
    }
}
