//! Threads in VASes: `vas_threads [THREADS [SAME]]`, 8 by default. Each thread enters its own
//! VAS, all with a segment at the same base (with a second argument: one VAS for all). What one
//! thread maps, allocates or starts inside its VAS is visible to the others in theirs. Stable
//! lines, then `done`; status 0. Everything is deleted at the end.

use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use abi::layout::VAS_START;
use guests::findings::{Findings, must};
use guests::place::{Place, enter, go_home};
use guests::random::mix;
use guests::store::sized;
use spacejmp::sys::{self, Right, SegId, VasHandle, VasId};

const BASE: u64 = VAS_START.raw() + (2 << 40);
const MAPPED: usize = 3 << 20;

/// Data the threads share; counters of errors.
struct Shared {
    barrier: Barrier,
    mapping: AtomicU64,
    stacks: Vec<AtomicU64>,
    wrong_segment: AtomicU64,
    wrong_mapping: AtomicU64,
    wrong_stack: AtomicU64,
    wrong_child: AtomicU64,
    wrong_heap: AtomicU64,
}

fn main() -> ExitCode {
    let mut found = Findings::new();
    let mut args = std::env::args().skip(1);
    let threads: u64 = args.next().map_or(8, |arg| arg.parse().expect("a number of threads"));
    let vases = if args.next().is_some() { 1 } else { threads };

    let mut params = sized(1 << 20);
    params.base = BASE;
    let make = |n: u64| -> (VasId, SegId, VasHandle) {
        let name = format!("threads-{n}");
        let vid = must("vas_create", sys::vas_create(&name, 0o600));
        let sid = must("seg_alloc", sys::seg_alloc(&name, &params));
        must("seg_attach", sys::seg_attach(vid, sid, Right::Write));
        (vid, sid, must("vas_attach", sys::vas_attach(vid, 0)))
    };
    let all: Vec<_> = (0..vases).map(make).collect();

    let shared = Shared {
        barrier: Barrier::new(threads as usize),
        mapping: AtomicU64::new(0),
        stacks: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        wrong_segment: AtomicU64::new(0),
        wrong_mapping: AtomicU64::new(0),
        wrong_stack: AtomicU64::new(0),
        wrong_child: AtomicU64::new(0),
        wrong_heap: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        for n in 0..threads {
            let vh = all[(n % vases) as usize].2;
            let shared = &shared;
            scope.spawn(move || work(shared, n, threads, vases, vh));
        }
    });
    found.same("each thread's segment was its VAS's", shared.wrong_segment.into_inner(), 0);
    found.same("a mapping made inside is everywhere", shared.wrong_mapping.into_inner(), 0);
    found.same("stacks are everywhere", shared.wrong_stack.into_inner(), 0);
    found.same("threads started inside begin at home", shared.wrong_child.into_inner(), 0);
    found.same("the heap is everywhere", shared.wrong_heap.into_inner(), 0);
    found.same("the main thread never moved", sys::vas_current(), Ok(VasHandle::HOME));

    for (vid, sid, vh) in all {
        must("vas_detach", sys::vas_detach(vh));
        must("vas_delete", sys::vas_delete(vid));
        must("seg_delete", sys::seg_delete(sid));
    }
    found.end()
}

fn work(shared: &Shared, n: u64, threads: u64, vases: u64, vh: VasHandle) {
    let wrong = |counter: &AtomicU64, is_wrong: bool| {
        counter.fetch_add(u64::from(is_wrong), Ordering::Relaxed);
    };
    must("vas_switch", enter(vh));
    // The thread's own word, at the same address in every VAS if it has one for itself.
    let word = Place::at(if vases == 1 { BASE + n * 4096 } else { BASE });
    wrong(&shared.wrong_segment, word.read() != 0);
    word.write(mix(n));
    let on_stack = AtomicU64::new(mix(n + 1000));
    shared.stacks[n as usize].store(&raw const on_stack as u64, Ordering::SeqCst);
    if n == 0 {
        let mapping = map();
        for at in (0..MAPPED).step_by(4096) {
            atomic(mapping + at as u64).store(mix(at as u64), Ordering::SeqCst);
        }
        shared.mapping.store(mapping, Ordering::SeqCst);
    }
    shared.barrier.wait();

    // From here on every thread is inside, and checks what the others made there.
    wrong(&shared.wrong_segment, word.read() != mix(n));
    let mapping = shared.mapping.load(Ordering::SeqCst);
    for at in (0..MAPPED).step_by(4096) {
        let value = atomic(mapping + at as u64).load(Ordering::SeqCst);
        wrong(&shared.wrong_mapping, value != mix(at as u64));
    }
    for other in 0..threads {
        let address = shared.stacks[other as usize].load(Ordering::SeqCst);
        let value = atomic(address).load(Ordering::SeqCst);
        wrong(&shared.wrong_stack, value != mix(other + 1000));
    }
    // Large enough for a separate mapping, made here and read by a thread started here.
    let large = vec![n; 100_000];
    let child = thread::scope(|scope| {
        let child = scope.spawn(|| {
            let began_at = sys::vas_current();
            must("the child's vas_switch", enter(vh));
            let seen = word.read();
            go_home();
            (began_at, seen, large.iter().sum::<u64>())
        });
        child.join().expect("the child ends")
    });
    wrong(&shared.wrong_child, child.0 != Ok(VasHandle::HOME) || child.1 != mix(n));
    wrong(&shared.wrong_heap, child.2 != n * 100_000);
    wrong(&shared.wrong_child, sys::vas_current() != Ok(vh));
    shared.barrier.wait();

    if n == 0 {
        unmap(mapping);
    }
    shared.barrier.wait();
    for round in 0..200 {
        go_home();
        must("vas_switch", enter(vh));
        wrong(&shared.wrong_segment, word.read() != mix(n).wrapping_add(round));
        word.write(word.read().wrapping_add(1));
    }
    go_home();
}

/// A shared word of this process's private memory, by its address.
fn atomic(address: u64) -> &'static AtomicU64 {
    let pointer = std::ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: every caller passes a word of the mapping or a thread's `on_stack`, which live
    // until the barrier after their last use, and all use them as atomics.
    unsafe { AtomicU64::from_ptr(pointer) }
}

fn map() -> u64 {
    let (rights, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, which replaces nothing.
    let mapping = unsafe { libc::mmap(std::ptr::null_mut(), MAPPED, rights, flags, -1, 0) };
    assert_ne!(mapping, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    mapping.expose_provenance() as u64
}

fn unmap(mapping: u64) {
    let pointer = std::ptr::with_exposed_provenance_mut(mapping as usize);
    // SAFETY: no thread uses the mapping after the previous barrier.
    let result = unsafe { libc::munmap(pointer, MAPPED) };
    assert_eq!(result, 0, "munmap: {}", std::io::Error::last_os_error());
}
