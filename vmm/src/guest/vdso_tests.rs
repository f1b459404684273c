//! The vDSO's code, run in the test process, with clock page and image mapped as for a program.
//! What it computes is compared with [`ClockPage::read`], the resulting time with the host's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::PAGE_SIZE;
use proptest::prelude::*;

use super::clock::tests::publish_for_test;
use super::clock::{ClockWords, GuestClock, host_tsc, host_tsc_is_stable};
use super::clock_page::tests::SERVED;
use super::clock_page::{Ahead, ClockPage, NS, PAGE_WORDS, Slope, Truth, word};
use super::vdso::{CLOCK_PAGE_AT, CODE_AT, image};
use super::vdso_code::entries;

const PAGE: usize = PAGE_SIZE as usize;
/// From the image to the clock page.
const DISTANCE: usize = CLOCK_PAGE_AT as usize;
/// All clocks except the alarm clocks, which not every machine has.
const ALWAYS_THERE: [usize; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 11];

/// The image, and the clock page, mapped read-only at one address and writable at another.
struct Mapped {
    program: *mut u8,
    writer: *mut u8,
}

// SAFETY: the clock page is accessed by atomic words and by the code under test, which is designed
// for that; the image is never written.
unsafe impl Sync for Mapped {}

impl ClockWords for Mapped {
    type Error = std::convert::Infallible;

    fn store(&self, index: usize, value: u64) -> Result<(), Self::Error> {
        assert!(index < PAGE_WORDS);
        // SAFETY: within the page, by the assertion.
        let word = unsafe { self.writer.cast::<u64>().add(index) };
        // SAFETY: aligned, mapped as long as `self`, never accessed non-atomically.
        unsafe { AtomicU64::from_ptr(word) }.store(value, Ordering::Release);
        Ok(())
    }
}

/// A VMM thread that is preempted just before it locks the page.
struct Late<'a>(&'a Mapped);

impl ClockWords for Late<'_> {
    type Error = std::convert::Infallible;

    fn store(&self, index: usize, value: u64) -> Result<(), Self::Error> {
        if index == word::SEQUENCE && value % 2 == 1 {
            let until = host_tsc() + 200_000;
            while host_tsc() < until {
                std::hint::spin_loop();
            }
        }
        self.0.store(index, value)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for (at, len) in [(self.program, DISTANCE + PAGE), (self.writer, PAGE)] {
            // SAFETY: mapped in `new`, no longer in use.
            let status = unsafe { libc::munmap(at.cast(), len) };
            assert_eq!(status, 0);
        }
    }
}

fn map(at: *mut u8, len: usize, prot: i32, flags: i32, file: i32, offset: i64) -> *mut u8 {
    // SAFETY: fresh addresses, or (with MAP_FIXED) ones that the caller has just obtained that way.
    let mapped = unsafe { libc::mmap(at.cast(), len, prot, flags, file, offset) };
    assert_ne!(mapped, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    mapped.cast()
}

impl Mapped {
    fn new() -> Mapped {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; PAGE]).unwrap();
        file.write_all(&image()).unwrap();
        let (r, x) = (libc::PROT_READ, libc::PROT_EXEC);
        let (shared, fd) = (libc::MAP_SHARED, file.as_raw_fd());
        let nothing = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let program = map(std::ptr::null_mut(), DISTANCE + PAGE, 0, nothing, -1, 0);
        let fixed = shared | libc::MAP_FIXED;
        map(program, PAGE, r | x, fixed, fd, PAGE as i64);
        map(program.wrapping_add(DISTANCE), PAGE, r, fixed, fd, 0);
        let writer = map(std::ptr::null_mut(), PAGE, r | libc::PROT_WRITE, shared, fd, 0);
        Mapped { program, writer }
    }

    fn publish(&self, page: ClockPage) {
        publish_for_test(&mut 0, self, |_| page);
    }

    fn function(&self, index: usize) -> *mut u8 {
        // SAFETY: within the image.
        unsafe { self.program.add((CODE_AT + entries()[index]) as usize) }
    }

    fn pair_call(&self, index: usize, first: u64, second: u64) -> i64 {
        // SAFETY: the functions take up to two words (and ignore others) and return one.
        let f: extern "sysv64" fn(u64, u64) -> i64 =
            unsafe { std::mem::transmute(self.function(index)) };
        f(first, second)
    }

    fn clock_gettime(&self, clock: u64) -> (i64, i64) {
        let mut ts = [-1i64; 2];
        assert_eq!(self.pair_call(0, clock, ts.as_mut_ptr() as u64), 0);
        assert!((0..NS as i64).contains(&ts[1]), "{ts:?}");
        (ts[0], ts[1])
    }

    fn ns(&self, clock: usize) -> u64 {
        let (sec, nsec) = self.clock_gettime(clock as u64);
        sec as u64 * NS + nsec as u64
    }
}

fn host(clock: usize) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure.
    assert_eq!(unsafe { libc::clock_gettime(clock as i32, &mut ts) }, 0);
    ts.tv_sec as u64 * NS + ts.tv_nsec as u64
}

/// Checks that `ours` lies between two readings of the host's clock, give or take a millisecond.
fn agrees(clock: usize, ours: impl Fn() -> u64) {
    let before = host(clock);
    let read = ours();
    let after = host(clock);
    let slack = NS / 1000;
    assert!(read + slack >= before && read <= after + slack, "{clock}: {before} {read} {after}");
}

#[test]
fn uncalibrated_code_makes_the_system_call() {
    let mapped = Mapped::new();
    for clock in ALWAYS_THERE {
        agrees_coarsely(clock, || mapped.ns(clock));
    }
    let mut tv = [0u64; 2];
    assert_eq!(mapped.pair_call(1, tv.as_mut_ptr() as u64, 0), 0);
    agrees_coarsely(0, || tv[0] * NS + tv[1] * 1000);
    let mut time = 0u64;
    let returned = mapped.pair_call(2, &raw mut time as u64, 0);
    assert_eq!(returned as u64, time);
    agrees_coarsely(0, || time * NS);
}

/// For coarse clocks, CPU times, and earlier readings.
fn agrees_coarsely(clock: usize, ours: impl Fn() -> u64) {
    let off = host(clock).abs_diff(ours());
    // `time` drops up to a second.
    assert!(off < 2 * NS, "clock {clock} is {off} ns off");
}

#[test]
fn a_calibrated_page_agrees_with_the_host_on_every_clock() {
    if !host_tsc_is_stable() {
        eprintln!("SKIPPED: this host's time-stamp counter is not to be trusted");
        return;
    }
    let mapped = Mapped::new();
    let mut clock = GuestClock::new(None);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(clock.start(host_tsc(), || None, &mapped), Ok(true));
    assert_eq!(clock.start(host_tsc(), || None, &mapped), Ok(false), "it runs already");
    for _ in 0..200 {
        for id in [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_MONOTONIC_RAW] {
            agrees(id as usize, || mapped.ns(id as usize));
        }
        for id in [libc::CLOCK_BOOTTIME, libc::CLOCK_TAI] {
            agrees(id as usize, || mapped.ns(id as usize));
        }
        for id in [libc::CLOCK_REALTIME_COARSE, libc::CLOCK_MONOTONIC_COARSE] {
            agrees_coarsely(id as usize, || mapped.ns(id as usize));
        }
        clock.refresh(&mapped).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

#[test]
fn time_never_goes_back_between_threads_while_the_line_is_bent_to_and_fro() {
    let mapped = Mapped::new();
    let slope = Slope::from_khz(2_000_000).unwrap();
    let truth = |monotonic_ns| Truth { monotonic_ns, ahead: Ahead::default() };
    let mut sequence = 0;
    let start = |tsc| ClockPage::start(tsc, &truth(NS), slope);
    let mut page = publish_for_test(&mut sequence, &mapped, start);
    let (latest, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..1_000_000 {
                        let before = latest.load(Ordering::SeqCst);
                        let now = mapped.ns(libc::CLOCK_MONOTONIC as usize);
                        assert!(now >= before, "{now} after {before}");
                        latest.fetch_max(now, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let writer = scope.spawn(|| {
            let mut rounds = 0u64;
            while !done.load(Ordering::Relaxed) {
                // Three milliseconds too slow, then too fast: the rate swings by 0.6 %.
                let error = if rounds.is_multiple_of(2) { 3_000_000 } else { -3_000_000 };
                page = publish_for_test(&mut sequence, &Late(&mapped), |tsc| {
                    let ours = page.read(tsc, libc::CLOCK_MONOTONIC as usize);
                    page.next(tsc, &truth(ours.saturating_add_signed(error)), slope)
                });
                rounds += 1;
            }
            rounds
        });
        let results: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 100, "the line was hardly ever changed");
        results.into_iter().for_each(|result| result.unwrap());
    });
}

#[test]
fn resolution_is_the_hosts() {
    let mapped = Mapped::new();
    for clock in ALWAYS_THERE.map(|clock| clock as u64) {
        let (mut ours, mut hosts) = ([-1i64; 2], libc::timespec { tv_sec: 0, tv_nsec: 0 });
        assert_eq!(mapped.pair_call(3, clock, ours.as_mut_ptr() as u64), 0);
        // SAFETY: fills the structure.
        assert_eq!(unsafe { libc::clock_getres(clock as i32, &mut hosts) }, 0);
        assert_eq!(ours, [hosts.tv_sec, hosts.tv_nsec], "clock {clock}");
        assert_eq!(mapped.pair_call(3, clock, 0), 0);
    }
}

#[test]
fn clocks_the_page_does_not_know_are_the_systems_business() {
    let mapped = Mapped::new();
    mapped.publish(ClockPage::arbitrary([0, 0, 1, 0], 0, 5 * NS + 7));
    for clock in SERVED {
        assert_eq!(mapped.clock_gettime(clock as u64), (5, 7), "clock {clock}");
    }
    // The upper half of an int's register may hold anything.
    assert_eq!(mapped.clock_gettime(1 | 0xdead_beef << 32), (5, 7));
    for clock in [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID] {
        assert_ne!(mapped.clock_gettime(clock as u64), (5, 7), "clock {clock}");
    }
    let mut ts = [0i64; 2];
    for bad in [10u64, 12, 31, 32, 33, 64, 1 << 20, 0x7fff_ffff] {
        let status = mapped.pair_call(0, bad, ts.as_mut_ptr() as u64);
        assert_eq!(status, -i64::from(libc::EINVAL), "clock {bad}");
    }
    // A thread's own CPU clock, number -2 with the upper half unset.
    assert_eq!(mapped.pair_call(0, 0xffff_fffe, ts.as_mut_ptr() as u64), 0);
}

#[test]
fn null_pointers_are_taken_as_linux_takes_them() {
    let mapped = Mapped::new();
    mapped.publish(ClockPage::arbitrary([0, 0, 1, 0], 0, 5 * NS + 7_999));
    let (mut tv, mut tz) = ([-1i64; 2], -1i64);
    assert_eq!(mapped.pair_call(1, 0, 0), 0);
    assert_eq!(mapped.pair_call(1, 0, &raw mut tz as u64), 0);
    assert_eq!(tz, 0);
    assert_eq!(mapped.pair_call(1, tv.as_mut_ptr() as u64, 0), 0);
    assert_eq!(tv, [5, 7]);
    assert_eq!(mapped.pair_call(2, 0, 0), 5);
}

#[test]
fn getcpu_names_a_processor_of_this_machine() {
    let mapped = Mapped::new();
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    assert_eq!(mapped.pair_call(4, &raw mut cpu as u64, &raw mut node as u64), 0);
    // SAFETY: takes and returns a number.
    let configured = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    assert!(i64::from(cpu) < configured && node < 1024);
    assert_eq!(mapped.pair_call(4, 0, 0), 0);
}

thread_local! {
    /// One mapping for all cases of a property.
    static MAPPED: Mapped = Mapped::new();
}

proptest! {
    #[test]
    fn any_number_of_nanoseconds_is_split_exactly(ns: u64, edge in 0..u64::MAX / NS, by in -2i64..3) {
        for ns in [ns, (edge * NS).saturating_add_signed(by)] {
            let (sec, nsec) = MAPPED.with(|mapped| {
                mapped.publish(ClockPage::arbitrary([0, 0, 1, 0], 0, ns));
                mapped.clock_gettime(1)
            });
            prop_assert_eq!((sec as u64, nsec as u64), (ns / NS, ns % NS));
        }
    }

    #[test]
    fn the_code_computes_what_the_model_does(
        back_bits in 1u32..63, back: u64, ahead: bool, bend_bits in 1u32..64, bend: u64,
        mult_bits in 1u32..63, mult: [u64; 2], offset: u64,
    ) {
        // A base up to decades back, or ahead of the counter; a bend anywhere.
        let back = back >> (64 - back_bits);
        let now = host_tsc();
        let base = if ahead { now.saturating_add(1 << 60) } else { now.saturating_sub(back) };
        let [mult, after] = mult.map(|m| m >> (64 - mult_bits));
        let bend = bend >> (64 - bend_bits);
        // No function that overflows 64 bits or steps down at its bend: those are not monotonic.
        let worst = ((u128::from(now) + (1 << 50)) * u128::from(mult.max(after))) >> 32;
        prop_assume!(worst < 1 << 62);
        let bend_ns = ((u128::from(bend) * u128::from(mult)) >> 32) as u64 >> 1;
        let bend_ns = if bend > now { 0 } else { bend_ns * 2 + 1 };
        let page = ClockPage::arbitrary([base, mult, bend, after], bend_ns, offset >> 2);
        MAPPED.with(|mapped| {
            mapped.publish(page);
            let before = host_tsc();
            let ours = mapped.ns(1);
            let later = host_tsc();
            let (low, high) = (page.read(before, 1), page.read(later, 1));
            prop_assert!((low..=high).contains(&ours), "{low} {ours} {high} {page:?}");
            Ok(())
        })?;
    }
}
