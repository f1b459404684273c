//! A program whose guest kernel has been taken over: a test overwrites what the kernel and the
//! lease record about it, while it does something that depends on these words. The first argument
//! selects what, the second is a folder in which the test makes a file when it has finished a step.
//! Prints lines that do not vary, then `done`; status 0.

mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use abi::Errno;
use abi::objects::Lifetime;
use guests::findings::{Findings, must};
use guests::place::{enter, enter_by_hypercall, go_home, recover};
use guests::store::{base_of, sized};
use spacejmp::sys::{self, Right, SegId, SegParams, VasHandle, VasId};

const MIB: u64 = 1 << 20;
/// Threads that read into the segment.
const READERS: u64 = 3;

fn main() -> ExitCode {
    let mut found = Findings::new();
    let mut args = std::env::args().skip(1);
    let (what, folder) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let steps = Steps(PathBuf::from(folder));
    match what.as_str() {
        "pinned" => pinned(&mut found, &steps),
        "waiting" => waiting(&mut found, &steps),
        "places" => places(&mut found, &steps),
        "held" => held(&mut found, &steps),
        "tables" => tables::tables(&mut found, &steps),
        "views" => views(&mut found, &steps),
        "writers" => writers(&mut found, &steps),
        other => found.fail("the first argument", other),
    }
    found.end()
}

/// Where the test signals that it has done its part.
struct Steps(PathBuf);

impl Steps {
    /// Prints `ready`, and waits until the test has done its part of the step.
    fn wait(&self, ready: &str) {
        println!("{ready}");
        while !self.is_done(ready) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_done(&self, step: &str) -> bool {
        Path::exists(&self.0.join(step))
    }
}

/// A VAS with one segment, attached.
struct Attached {
    vid: VasId,
    sid: SegId,
    vh: VasHandle,
    base: u64,
}

fn attached(found: &mut Findings, name: &str, params: &SegParams) -> Attached {
    let vid = found.need("vas_create", sys::vas_create(name, 0o600));
    let sid = found.need("seg_alloc", sys::seg_alloc(name, params));
    found.need("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    let vh = found.need("vas_attach", sys::vas_attach(vid, 0));
    Attached { vid, sid, vh, base: base_of(sid) }
}

/// A system call's result.
fn outcome(result: isize) -> Result<isize, Errno> {
    match result {
        -1 => {
            let raw = std::io::Error::last_os_error().raw_os_error();
            Err(Errno::from_raw(raw.unwrap_or(0)))
        }
        done => Ok(done),
    }
}

fn read(fd: i32, address: u64, len: u64) -> Result<isize, Errno> {
    let to = ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: all callers pass addresses in the VAS region, where no Rust object lives.
    outcome(unsafe { libc::read(fd, to, len as usize) })
}

fn write(fd: i32, address: u64, len: u64) -> Result<isize, Errno> {
    // SAFETY: the call only reads; a bad address is an error to it.
    outcome(unsafe {
        libc::write(fd, ptr::with_exposed_provenance(address as usize), len as usize)
    })
}

fn pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: two numbers are written.
    let made = outcome(unsafe { libc::pipe(ends.as_mut_ptr()) } as isize);
    must("pipe", made.map(|_| ends))
}

/// The futex `word`, which holds 0, with `command`.
fn futex(word: u64, command: i32) -> Result<isize, Errno> {
    let at: *const AtomicU32 = ptr::with_exposed_provenance(word as usize);
    let none = ptr::null::<libc::timespec>();
    let value = if command == libc::FUTEX_WAIT { 0 } else { 1 };
    // SAFETY: the word is in the segment, or the address is an error; no time limit.
    outcome(unsafe { libc::syscall(libc::SYS_futex, at, command, value, none) } as isize)
}

/// System calls that wait while they use memory of an instance, while the kernel and the lease
/// say that no thread is inside.
fn pinned(found: &mut Findings, steps: &Steps) {
    let params = SegParams { lifetime: Lifetime::Volatile as u8, ..sized((READERS + 1) * MIB) };
    let Attached { vid, sid, vh, base } = attached(found, "pinned", &params);
    let pipes: Vec<[i32; 2]> = (0..READERS).map(|_| pipe()).collect();
    let readers: Vec<JoinHandle<Result<isize, Errno>>> = (0..READERS)
        .zip(&pipes)
        .map(|(n, &[from, _])| {
            thread::spawn(move || {
                must("vas_switch", enter(vh));
                let got = read(from, base + n * MIB, MIB);
                go_home();
                got
            })
        })
        .collect();
    let word = base + READERS * MIB;
    let waiter = thread::spawn(move || {
        must("vas_switch", enter(vh));
        let woken = futex(word, libc::FUTEX_WAIT);
        go_home();
        woken
    });
    steps.wait("inside");
    found.refused("vas_detach while system calls use it", sys::vas_detach(vh), Errno::EBUSY);
    // For other programs only the lease counts; this instance keeps what is in use.
    println!("seg_detach: {}", sys::seg_detach(vid, sid).is_ok());
    found.refused("vas_detach after seg_detach", sys::vas_detach(vh), Errno::EBUSY);

    // The stacks of their threads are where freed memory would be reused.
    let idle: Vec<JoinHandle<()>> = (0..20).map(|_| thread::spawn(|| ())).collect();
    let junk = vec![0x41_u8; 64 << 10];
    for &[_, to] in &pipes {
        found.same("feed a reader", write(to, junk.as_ptr() as u64, 64 << 10), Ok(64 << 10));
    }
    for reader in readers {
        let got = reader.join().expect("a reader does not panic");
        found.check("a reader got its bytes", got.is_ok_and(|bytes| bytes > 0));
    }
    must("vas_switch", enter(vh));
    while futex(word, libc::FUTEX_WAKE) == Ok(0) {
        thread::sleep(Duration::from_millis(5));
    }
    go_home();
    found.same("the waiter was woken", waiter.join().expect("it does not panic"), Ok(0));
    idle.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    found.need("vas_detach", sys::vas_detach(vh));
}

/// A thread that waits in a switch, and claims to be in an instance that did not exist when it
/// began, but does when it comes back.
fn waiting(found: &mut Findings, steps: &Steps) {
    let first = attached(found, "first", &SegParams { lockable: 1, ..sized(MIB) });
    let later = found.need("vas_create", sys::vas_create("later", 0o600));
    found.need("vas_switch", enter(first.vh));
    let path = steps.0.clone();
    let other = thread::spawn(move || {
        Steps(path).wait("lie");
        enter(first.vh).map(|()| go_home())
    });
    while !steps.is_done("waits") {
        thread::sleep(Duration::from_millis(5));
    }
    let vh = found.need("vas_attach of another", sys::vas_attach(later, 0));
    println!("handle {}", vh.raw());
    go_home();
    found.same("the other thread", other.join().expect("it does not panic"), Ok(()));
    found.need("vas_detach of the other", sys::vas_detach(vh));
    found.need("vas_detach", sys::vas_detach(first.vh));
}

/// A thread in a view of a versioned segment that the kernel has let it into, and that is claimed to be
/// elsewhere, while others make its tables old.
fn views(found: &mut Findings, steps: &Steps) {
    let mut params = SegParams { lockable: 1, ..sized(MIB) };
    params.lifetime = Lifetime::Versioned as u8;
    let Attached { vid, vh, base, .. } = attached(found, "views", &params);
    let read_only = found.need("vas_attach", sys::vas_attach(vid, sys::attach::READ_ONLY));
    let [from, to] = pipe();
    for _ in 0..2 {
        go_home();
        found.need("vas_switch", enter(read_only));
        look(base);
    }
    steps.wait("lie");
    // Another thread commits and sees what is new, several times: the old tables go.
    let other = thread::spawn(move || {
        for _ in 0..8 {
            must("vas_switch", enter(vh));
            raise(base);
            go_home();
            must("vas_switch", enter(read_only));
            go_home();
        }
    });
    other.join().expect("it does not panic");
    let written = write(to, base, 8);
    let got = read(from, base, 8);
    println!("calls: {} {}", written.is_ok(), got.is_err() || written.is_err());
    // May be a fault.
    look(base);
    go_home();
}

/// The word at an address of the VAS region.
fn look(address: u64) -> u64 {
    // SAFETY: no Rust object lives there.
    unsafe { ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
}

/// Adds 1 to it.
fn raise(address: u64) {
    let word = ptr::with_exposed_provenance_mut::<u64>(address as usize);
    let value = look(address).wrapping_add(1);
    // SAFETY: as in `look`.
    unsafe { word.write_volatile(value) };
}

/// Threads that write a versioned segment, whom the kernel lets in by words that say anything.
fn writers(found: &mut Findings, steps: &Steps) {
    let mut params = SegParams { lockable: 1, ..sized(MIB) };
    params.lifetime = Lifetime::Versioned as u8;
    let Attached { vh, base, .. } = attached(found, "writers", &params);
    let [from, to] = pipe();
    let change = move || {
        let _ = enter(vh);
        raise(base);
        let calls = (write(to, base, 8).is_ok(), read(from, base + 4096, 8).is_ok());
        let _ = enter(VasHandle::HOME);
        calls
    };
    (0..2).for_each(|_| {
        change();
    });
    steps.wait("lie");
    println!("calls: {:?}", change());
    let other = thread::spawn(move || (0..4).for_each(|_| println!("other: {:?}", change())));
    (0..4).for_each(|_| println!("calls: {:?}", change()));
    other.join().expect("it does not panic");
}

/// A thread at home that is claimed to be elsewhere.
fn places(found: &mut Findings, steps: &Steps) {
    let Attached { vh, base, .. } = attached(found, "places", &sized(MIB));
    let [from, to] = pipe();
    found.refused("at home", write(to, base, 8), Errno::EFAULT);
    steps.wait("in-the-instance");
    found.same("said to be in the instance", write(to, base, 8), Ok(8));
    found.same("to read there", read(from, base + 64, 8), Ok(8));
    for nowhere in ["in-77", "in-all-ones", "in-too-many-bits"] {
        steps.wait(nowhere);
        found.refused(nowhere, write(to, base, 8), Errno::EFAULT);
        found.refused(nowhere, futex(base, libc::FUTEX_WAKE), Errno::EFAULT);
    }
    steps.wait("at-home");
    found.refused("at home again", write(to, base, 8), Errno::EFAULT);
    found.need("vas_detach", sys::vas_detach(vh));
}

/// Threads that are claimed to hold other locks, and many more.
fn held(found: &mut Findings, steps: &Steps) {
    let lockable = SegParams { lockable: 1, ..sized(MIB) };
    let Attached { sid, vh, .. } = attached(found, "held", &lockable);
    let path = steps.0.clone();
    let other = thread::spawn(move || {
        must("vas_switch", enter(vh));
        Steps(path).wait("lie");
        // Their results depend on the false claims; what counts is that they return.
        let _ = recover(sid);
        let _ = enter_by_hypercall(VasHandle::HOME);
        let _ = sys::vas_current();
    });
    found.check("the thread came to its end", other.join().is_ok());
    println!("vas_detach is served: {}", matches!(sys::vas_detach(vh), Ok(()) | Err(Errno::EBUSY)));
}
