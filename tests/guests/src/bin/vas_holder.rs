//! Holds a lock until it is killed, and looks at what is left by one who was.
//!
//! `vas_holder NAME write`: enters VAS NAME (made if need be, with a lockable segment NAME),
//! prints `holding write`, and waits for its end.
//! `vas_holder NAME read`: the same with a shared lock, `holding read`.
//! `vas_holder NAME wait`: prints `waiting`, enters, prints `entered` or `entered after a death`,
//! goes home, `left`; status 0.
//! `vas_holder NAME try`: prints `try: ERRNO` or `try: entered`, and the same for a time limit
//! of 50 ms as `timeout: ...`; status 0.
//! `vas_holder NAME recover`: expects a dead holder; twice EOWNERDEAD, then RECOVER, then
//! none. Lines `ok: ...`.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use abi::Errno;
use guests::findings::{Findings, must, require_vm};
use guests::place::{Place, enter, enter_within, go_home, recover, try_enter};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, SegId, VasHandle, attach};

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, mode] = &args[..] else {
        eprintln!("usage: vas_holder NAME write|read|wait|try|recover");
        return ExitCode::from(2);
    };
    let mut params = sized(4096);
    params.lockable = 1;
    let (vid, sid) = find_or_make(name, &params);
    let word = Place::at(base_of(sid));
    let flags = if mode == "read" { attach::READ_ONLY } else { 0 };
    let vh = must("vas_attach", sys::vas_attach(vid, flags));
    match mode.as_str() {
        "write" => {
            must("vas_switch", entered(enter(vh)));
            // Half of a change: whoever comes next sees that it was not finished.
            word.write(word.read() | 1);
            hold("write")
        }
        "read" => {
            must("vas_switch", entered(enter(vh)));
            hold("read")
        }
        "wait" => {
            println!("waiting");
            match enter(vh) {
                Ok(()) => println!("entered"),
                Err(Errno::EOWNERDEAD) => println!("entered after a death"),
                Err(error) => panic!("vas_switch: {error:?}"),
            }
            go_home();
            println!("left");
            ExitCode::SUCCESS
        }
        "try" => tries(vh),
        "recover" => recovers(vh, sid),
        _ => panic!("there is no mode {mode:?}"),
    }
}

/// Whether the thread is inside: it is after `EOWNERDEAD` too.
fn entered(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EOWNERDEAD) => Ok(()),
        other => other,
    }
}

fn hold(what: &str) -> ! {
    println!("holding {what}");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn tries(vh: VasHandle) -> ExitCode {
    let tell = |what: &str, result: Result<(), Errno>| {
        match result {
            Ok(()) => println!("{what}: entered"),
            Err(error) => println!("{what}: {error:?}"),
        }
        if sys::vas_current() == Ok(vh) {
            go_home();
        }
    };
    tell("try", try_enter(vh));
    let began = Instant::now();
    let limit = Duration::from_millis(50);
    let result = enter_within(vh, limit);
    let elapsed = began.elapsed();
    if result == Err(Errno::ETIMEDOUT) && elapsed < limit {
        println!("FAILED: gave up after {elapsed:?}");
        return ExitCode::FAILURE;
    }
    tell("timeout", result);
    ExitCode::SUCCESS
}

fn recovers(vh: VasHandle, sid: SegId) -> ExitCode {
    let mut found = Findings::new();
    let inconsistent = |sid| sys::seg_stat(sid).map(|stat| stat.inconsistent);
    for what in ["the dead holder is reported", "and again until it is recovered"] {
        found.refused(what, enter(vh), Errno::EOWNERDEAD);
        found.same("the thread is inside", sys::vas_current(), Ok(vh));
        found.same("the segment says inconsistent", inconsistent(sid), Ok(1));
        go_home();
    }
    let early = recover(sid);
    found.refused("recovering without the lock", early, Errno::EPERM);
    found.refused("once more", enter(vh), Errno::EOWNERDEAD);
    found.need("RECOVER", recover(sid));
    found.same("the segment says consistent", inconsistent(sid), Ok(0));
    go_home();
    found.same("and a switch does not complain", enter(vh), Ok(()));
    go_home();
    found.end()
}
