//! Linux calls made inside a VAS, with buffers and futexes in its segment. Reads one line from
//! standard input; prints lines that do not vary, then `done`; status 0.

use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use abi::Errno;
use guests::findings::{Findings, must};
use guests::place::{Place, enter, go_home};
use guests::store::{base_of, sized};
use spacejmp::sys::{self, Right, VasHandle};

fn main() -> ExitCode {
    let mut found = Findings::new();
    let vid = found.need("vas_create", sys::vas_create("syscalls", 0o600));
    let sid = found.need("seg_alloc", sys::seg_alloc("syscalls", &sized(1 << 20)));
    found.need("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    let vh = found.need("vas_attach", sys::vas_attach(vid, 0));
    let base = base_of(sid);

    files(&mut found, vh, base);
    others(&mut found, vh, base);
    futex(&mut found, vh, base);

    found.need("vas_detach", sys::vas_detach(vh));
    found.need("vas_delete", sys::vas_delete(vid));
    found.need("seg_delete", sys::seg_delete(sid));
    found.end()
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

/// `write`, with an address that may be invalid.
fn write(fd: i32, address: u64, len: usize) -> Result<isize, Errno> {
    // SAFETY: the call only reads; a bad address is an error to it.
    outcome(unsafe { libc::write(fd, ptr::with_exposed_provenance(address as usize), len) })
}

/// `read` into the segment, or to an invalid address.
fn read(fd: i32, address: u64, len: usize) -> Result<isize, Errno> {
    let to = ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: all callers pass addresses in the VAS region, where no Rust object lives.
    outcome(unsafe { libc::read(fd, to, len) })
}

/// Puts `text` into the segment, a word at a time.
fn put(address: u64, text: &[u8]) {
    for (n, chunk) in (0..).zip(text.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        Place::at(address + 8 * n).write(u64::from_le_bytes(word));
    }
}

/// What lies in the segment.
fn get(address: u64, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).map(|n| Place::at(address + 8 * n).read());
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

fn files(found: &mut Findings, vh: VasHandle, base: u64) {
    let text = b"written from a segment\n";
    found.same("write at home", write(1, base, text.len()), Err(Errno::EFAULT));
    found.same("read at home", read(0, base, 8), Err(Errno::EFAULT));
    must("vas_switch", enter(vh));
    put(base, text);
    found.same("write inside", write(1, base, text.len()), Ok(text.len() as isize));

    let line = read(0, base + 4096, 100);
    let len = line.unwrap_or(0) as usize;
    let read_line = String::from_utf8_lossy(&get(base + 4096, len)).into_owned();
    println!("read from standard input: {read_line:?}");

    let mut ends = [0; 2];
    // SAFETY: two numbers are written.
    let made = outcome(unsafe { libc::pipe(ends.as_mut_ptr()) } as isize);
    found.same("pipe", made, Ok(0));
    // More than a page, and across untouched pages.
    let long: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
    put(base + 8192, &long);
    let (from, to) = (base + 8192, base + (512 << 10));
    found.same("write to a pipe", write(ends[1], from, long.len()), Ok(20_000));
    found.same("read from a pipe", read(ends[0], to, long.len()), Ok(20_000));
    found.check("the bytes are the same", get(to, long.len()) == long);

    // The last page of the segment, and the addresses after it.
    let end = base + (1 << 20);
    found.same("write up to the end", write(ends[1], end - 8, 8), Ok(8));
    found.same("write from behind it", write(ends[1], end, 8), Err(Errno::EFAULT));
    let vectors = [
        libc::iovec { iov_base: ptr::with_exposed_provenance_mut(base as usize), iov_len: 7 },
        libc::iovec { iov_base: ptr::with_exposed_provenance_mut(to as usize), iov_len: 5 },
    ];
    // SAFETY: both parts are mapped.
    let sent = unsafe { libc::writev(ends[1], vectors.as_ptr(), 2) };
    found.same("writev", outcome(sent), Ok(12));
    found.same("and what came before", read(ends[0], base + 4096, 64), Ok(20));
    found.check("in order", get(base + 4096, 20)[8..15] == text[..7]);
    go_home();
}

fn others(found: &mut Findings, vh: VasHandle, base: u64) {
    must("vas_switch", enter(vh));
    let at = ptr::with_exposed_provenance_mut::<libc::c_void>(base as usize + 256);
    Place::at(base + 256).write(0);
    Place::at(base + 264).write(0);
    // SAFETY: 16 bytes of the segment are written.
    let filled = unsafe { libc::getrandom(at, 16, 0) };
    found.same("getrandom", outcome(filled), Ok(16));
    found.check("something came", Place::at(base + 256).read() != 0);
    // SAFETY: one timespec in the segment is written; the raw call, not the vDSO.
    let told = unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, at) };
    found.same("clock_gettime by system call", outcome(told as isize), Ok(0));
    // SAFETY: as before, through the vDSO, which runs inside the VAS.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, at.cast()) };
    found.same("clock_gettime", outcome(told as isize), Ok(0));
    found.check("it is a time", Place::at(base + 264).read() < 1_000_000_000);
    // Linux's memory calls do not apply to the VAS region.
    // SAFETY: refused; the range holds no Rust object anyway.
    let unmapped = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(base as usize), 4096) };
    found.same("munmap of a segment", outcome(unmapped as isize), Err(Errno::EINVAL));
    found.check("it is still there", Place::at(base).read() != 0);
    go_home();
}

/// A thread waits inside on a word of the segment, another wakes it from inside.
fn futex(found: &mut Findings, vh: VasHandle, base: u64) {
    let word = base + 1024;
    let operate = move |operation: i32, value: u32| {
        let at = ptr::with_exposed_provenance_mut::<u32>(word as usize);
        // SAFETY: the word is in the VAS region; the call only compares it.
        let done = unsafe { libc::syscall(libc::SYS_futex, at, operation, value, 0_usize) };
        outcome(done as isize)
    };
    must("vas_switch", enter(vh));
    Place::at(word).write(0);
    found.same("a futex that moved on", operate(libc::FUTEX_WAIT, 7), Err(Errno::EAGAIN));
    go_home();
    let woken = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                must("the waiter's vas_switch", enter(vh));
                while Place::at(word).read() == 0 {
                    match operate(libc::FUTEX_WAIT, 0) {
                        Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                        other => panic!("futex wait: {other:?}"),
                    }
                }
                woken.fetch_add(1, Ordering::SeqCst);
                go_home();
            });
        }
        must("vas_switch", enter(vh));
        // Usually long enough for both to wait; the outcome does not depend on it.
        thread::sleep(std::time::Duration::from_millis(50));
        Place::at(word).write(1);
        let woke = operate(libc::FUTEX_WAKE, i32::MAX as u32);
        assert!(woke.is_ok(), "futex wake: {woke:?}");
        go_home();
    });
    found.same("both waiters came back", woken.into_inner(), 2);
    let at_home = operate(libc::FUTEX_WAKE, 1);
    found.check("a futex word of another space", matches!(at_home, Ok(0) | Err(Errno::EFAULT)));
}
