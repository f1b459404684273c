//! Holds a lock until it is killed, and examines what a killed holder has left.
//!
//! `vas_holder NAME write`: enters VAS NAME (created if needed, with a lockable segment NAME),
//! prints `holding write`, and waits for its end.
//! `vas_holder NAME read`: the same with a shared lock, `holding read`.
//! `vas_holder NAME wait`: prints `waiting`, enters, prints `entered` or `entered after a death`,
//! goes home, `left`; status 0.
//! `vas_holder NAME try`: prints `try: ERRNO` or `try: entered`, and the same for a time limit
//! of 50 ms as `timeout: ...`; status 0.
//! `vas_holder NAME recover`: expects a dead holder; twice EOWNERDEAD, then RECOVER, then
//! none. Lines `ok: ...`.
//! `vas_holder NAME end:HOW`: a thread enters to write, or as HOW says, prints `inside`, and then
//! it, or the whole program, ends without leaving; see [`End`]. Status 0 where it can choose one.
//! `vas_holder NAME waited`: eight threads wait to write, and the reader inside ends the
//! program. Prints `inside`.
//! `vas_holder NAME fill`: writes to one page after another of 64 MiB; `filled` at the end.
//! With `ends:HOW` the segment is volatile: for `vas_holder NAME waits`, which is `wait` with such a
//! one, attached before a line of input is awaited.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use abi::Errno;
use guests::findings::{Findings, must, require_vm};
use guests::place::{Place, enter, enter_within, go_home, recover, try_enter};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, SegId, VasHandle, VasId, attach, seg_command};

/// Bytes that `fill` writes.
const FILL_BYTES: u64 = 64 << 20;

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, mode] = &args[..] else {
        eprintln!("usage: vas_holder NAME write|read|wait|waited|try|recover|end:HOW|ends:HOW");
        return ExitCode::from(2);
    };
    let mut params = sized(if mode == "fill" { FILL_BYTES } else { 4096 });
    params.lockable = 1;
    if mode.starts_with("ends:") || mode == "waits" {
        params.lifetime = sys::Lifetime::Volatile as u8;
    }
    let (vid, sid) = find_or_make(name, &params);
    let word = Place::at(base_of(sid));
    let reads = mode == "read" || mode.ends_with("reader");
    let flags = if reads { attach::READ_ONLY } else { 0 };
    let vh = must("vas_attach", sys::vas_attach(vid, flags));
    match mode.as_str() {
        "write" => {
            must("vas_switch", entered(enter(vh)));
            // An incomplete change: the next visitor sees that it was not finished.
            word.write(word.read() | 1);
            hold("write")
        }
        "read" => {
            must("vas_switch", entered(enter(vh)));
            hold("read")
        }
        "wait" | "waits" => {
            println!("waiting");
            if mode == "waits" {
                // Attached: the VM to wait for may come now.
                let mut line = String::new();
                std::io::stdin().read_line(&mut line).expect("standard input");
            }
            match enter(vh) {
                Ok(()) => println!("entered"),
                Err(Errno::EOWNERDEAD) => println!("entered after a death"),
                Err(error) => panic!("vas_switch: {error:?}"),
            }
            go_home();
            println!("left");
            ExitCode::SUCCESS
        }
        "fill" => {
            must("vas_switch", enter(vh));
            for offset in (0..FILL_BYTES).step_by(4096) {
                Place::at(word.address() + offset).write(1);
            }
            println!("filled");
            ExitCode::SUCCESS
        }
        "waited" => waited(vid, vh),
        "try" => tries(vh),
        "recover" => recovers(vh, sid),
        _ => match mode.split_once(':').and_then(|(_, how)| End::named(how)) {
            Some(end) => end.come(vh, word),
            None => panic!("there is no mode {mode:?}"),
        },
    }
}

/// Ways to end inside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// `main` returns, at home, while the thread writes.
    MainReturns,
    /// The thread calls `exit`.
    Exit,
    /// `main` calls `exit`, at home, while the thread reads.
    Reader,
    /// The thread calls the system's `exit`: it ends, the program goes on and enters.
    Thread,
    /// The thread's start routine returns.
    Returns,
    /// The thread goes home first.
    Home,
    /// The thread goes home after a while, prints `left`, and waits for its end.
    Slow,
    /// The thread aborts.
    Abort,
    /// The thread writes to an unmapped address.
    Fault,
}

impl End {
    fn named(how: &str) -> Option<End> {
        Some(match how {
            "main" => End::MainReturns,
            "exit" => End::Exit,
            "reader" => End::Reader,
            "thread" => End::Thread,
            "returns" => End::Returns,
            "home" => End::Home,
            "slow" => End::Slow,
            "abort" => End::Abort,
            "fault" => End::Fault,
            _ => return None,
        })
    }

    fn come(self, vh: VasHandle, word: Place) -> ExitCode {
        let visit = Box::new(Visit { end: self, vh, word });
        let thread = start(visit);
        match self {
            End::MainReturns | End::Reader => {
                while !INSIDE.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            _ => join(thread),
        }
        if matches!(self, End::Thread | End::Returns) {
            println!("then: {:?}", enter(vh));
            go_home();
        }
        ExitCode::SUCCESS
    }
}

/// What the thread is to do.
struct Visit {
    end: End,
    vh: VasHandle,
    word: Place,
}

static INSIDE: AtomicBool = AtomicBool::new(false);

/// Not Rust's threads: those must end only by returning.
fn start(visit: Box<Visit>) -> libc::pthread_t {
    let mut thread = 0;
    let argument = Box::into_raw(visit).cast();
    // SAFETY: the routine takes its argument, a `Visit` that it owns.
    let failed = unsafe { libc::pthread_create(&mut thread, std::ptr::null(), work, argument) };
    assert_eq!(failed, 0, "pthread_create");
    thread
}

fn join(thread: libc::pthread_t) {
    // SAFETY: the thread was made by `start` and is joined once.
    let failed = unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
    assert_eq!(failed, 0, "pthread_join");
}

extern "C" fn work(visit: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `start` has made a box of it for this thread alone.
    let visit = unsafe { Box::from_raw(visit.cast::<Visit>()) };
    let Visit { end, vh, word } = *visit;
    must("vas_switch", enter(vh));
    if end == End::Reader {
        let _ = word.read();
    } else {
        word.write(word.read() | 1);
    }
    println!("inside");
    INSIDE.store(true, Ordering::SeqCst);
    match end {
        End::MainReturns | End::Reader => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        End::Exit => std::process::exit(0),
        // SAFETY: nothing that belongs to this thread is used any more.
        End::Thread => unsafe {
            libc::syscall(libc::SYS_exit, 0);
        },
        End::Abort => std::process::abort(),
        End::Fault => {
            let _ = Place::at(word.address() + (1 << 30)).read();
        }
        End::Home => go_home(),
        End::Slow => {
            // In steps: a call that is interrupted goes on, too.
            for _ in 0..50 {
                thread::sleep(Duration::from_millis(10));
                word.write(word.read().wrapping_add(2));
            }
            go_home();
            println!("left");
            // The program must end without a second visit: this one has to wait outside.
            let _ = enter(vh);
            println!("again");
        }
        End::Returns => {}
    }
    std::ptr::null_mut()
}

fn waited(vid: VasId, vh: VasHandle) -> ExitCode {
    let reads = must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY));
    for _ in 0..8 {
        thread::spawn(move || {
            while !INSIDE.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            let _ = enter(vh);
        });
    }
    must("vas_switch", entered(enter(reads)));
    INSIDE.store(true, Ordering::SeqCst);
    // Lets the others get as far as they can: only what is tried depends on it.
    thread::sleep(Duration::from_millis(200));
    println!("inside");
    std::process::exit(0)
}

/// Whether the thread is inside: it is after `EOWNERDEAD`, too.
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
    found.refused(
        "marking by the safe call",
        sys::seg_ctl(sid, seg_command::MARK_INCONSISTENT, 0),
        Errno::EPERM,
    );
    // SAFETY: nothing points into the segment but what is a number in any state.
    let mark = || unsafe { sys::seg_mark_inconsistent(sid) };
    found.refused("marking without the lock", mark(), Errno::EPERM);
    found.refused("once more", enter(vh), Errno::EOWNERDEAD);
    found.need("RECOVER", recover(sid));
    found.same("the segment says consistent", inconsistent(sid), Ok(0));
    go_home();
    found.same("and a switch does not complain", enter(vh), Ok(()));
    found.need("MARK_INCONSISTENT", mark());
    go_home();
    found.refused("what is marked is reported like a death", enter(vh), Errno::EOWNERDEAD);
    found.need("RECOVER again", recover(sid));
    go_home();
    found.end()
}
