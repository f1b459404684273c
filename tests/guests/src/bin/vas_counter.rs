//! Locked increments of one word in a shared lockable segment; several VMs may do so at once.
//!
//! `vas_counter NAME THREADS COUNT`: each thread COUNT times enters, adds one in two steps, goes
//! home. Prints `added THREADS*COUNT`, then `recovered N` if it found a dead holder N times.
//! `vas_counter NAME show`: prints `value V`, read under a shared lock.
//! VAS and segment NAME are created if they do not exist. Status 0; 1 with a message on failure.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home, recover};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, SegId, VasHandle, attach};

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (name, work) = match args[..] {
        [name, "show"] => (name, None),
        [name, threads, count] => {
            let number = |text: &str| text.parse::<u64>().expect("a number");
            (name, Some((number(threads), number(count))))
        }
        _ => {
            eprintln!("usage: vas_counter NAME THREADS COUNT, or NAME show");
            return ExitCode::from(2);
        }
    };
    let mut params = sized(4096);
    params.lockable = 1;
    let (vid, sid) = find_or_make(name, &params);
    let word = Place::at(base_of(sid));
    let Some((threads, count)) = work else {
        let vh = must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY));
        must("vas_switch", enter(vh));
        let value = word.read();
        go_home();
        println!("value {value}");
        return ExitCode::SUCCESS;
    };

    let vh = must("vas_attach", sys::vas_attach(vid, 0));
    let recovered = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..count {
                    enter_whatever_happened(vh, sid, &recovered);
                    word.increment_unlocked();
                    go_home();
                }
            });
        }
    });
    println!("added {}", threads * count);
    let recovered = recovered.into_inner();
    if recovered > 0 {
        println!("recovered {recovered}");
    }
    ExitCode::SUCCESS
}

/// A single word is consistent, whatever the holder was doing when it died.
fn enter_whatever_happened(vh: VasHandle, sid: SegId, recovered: &AtomicU64) {
    match enter(vh) {
        Err(Errno::EOWNERDEAD) => {
            assert_eq!(sys::vas_current(), Ok(vh), "EOWNERDEAD, but not inside");
            must("RECOVER", recover(sid));
            recovered.fetch_add(1, Ordering::Relaxed);
        }
        entered => must("vas_switch", entered),
    }
}
