//! The lock with real threads and the host's futex: each thread stands for a VM of its own or
//! shares one, counts under the lock, and none starves.

use abi::LeaseId;
use seg_lock::{
    AtomicWords, LockOutcome, LockWords, Mode, Patience, Waiting, acquire, join, release, reset,
    word,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

struct Page(Vec<AtomicU64>);

impl AtomicWords for Page {
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index]
    }
}

struct Host<'a> {
    page: &'a Page,
    start: Instant,
    /// Sleeps that ended by time: a wake that was lost shows here.
    overslept: AtomicU64,
}

impl Host<'_> {
    fn futex(
        &self,
        index: usize,
        operation: libc::c_int,
        value: u32,
        timeout: Option<Duration>,
    ) -> i64 {
        let word = self.page.0[index].as_ptr();
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the word lives as long as `self`; the kernel only reads its low half, and
        // the time-out, which outlives the call.
        unsafe { libc::syscall(libc::SYS_futex, word, operation, value, timeout) }
    }
}

impl Waiting for Host<'_> {
    fn wait(&self, index: usize, expected: u32, timeout_ns: u64) {
        let timeout = Duration::from_nanos(timeout_ns);
        let result = self.futex(index, libc::FUTEX_WAIT, expected, Some(timeout));
        if result != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT) {
            self.overslept.fetch_add(1, Relaxed);
        }
    }
    fn wake(&self, index: usize, count: u32) {
        self.futex(index, libc::FUTEX_WAKE, count, None);
    }
    fn pause(&self, timeout_ns: u64) {
        std::thread::sleep(Duration::from_nanos(timeout_ns));
    }
    fn is_alive(&self, _: LeaseId) -> bool {
        true
    }
    fn should_stop(&self) -> bool {
        false
    }
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

fn page() -> Page {
    let page = Page((0..seg_lock::WORDS).map(|_| AtomicU64::new(0)).collect());
    reset(&page);
    page
}

fn lease(vm: u64) -> LeaseId {
    LeaseId::new(0x1234_5678_0000 + vm).unwrap()
}

#[test]
fn no_increment_is_lost_among_writers_and_readers_of_two_vms() {
    const THREADS: u64 = 8;
    const EACH: u64 = 12_500;
    let page = page();
    let host = Host { page: &page, start: Instant::now(), overslept: AtomicU64::new(0) };
    // Two halves that only the lock keeps equal.
    let count = [AtomicU64::new(0), AtomicU64::new(0)];
    let members = [0, 1].map(|vm| join(&page, &host, lease(vm)).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (page, host, count) = (&page, &host, &count);
            let (member, me) = (members[(thread % 2) as usize], lease(thread % 2));
            scope.spawn(move || {
                for round in 0..EACH {
                    let taken = acquire(page, host, member, me, Mode::Exclusive, Patience::Forever);
                    assert_eq!(taken, LockOutcome::Acquired);
                    for half in count {
                        half.store(half.load(Relaxed) + 1, Relaxed);
                    }
                    release(page, host, member, me, Mode::Exclusive);
                    if round % 8 == 0 {
                        let taken =
                            acquire(page, host, member, me, Mode::Shared, Patience::Forever);
                        assert_eq!(taken, LockOutcome::Acquired);
                        assert_eq!(count[0].load(Relaxed), count[1].load(Relaxed));
                        release(page, host, member, me, Mode::Shared);
                    }
                }
            });
        }
    });
    assert_eq!(count[0].load(Relaxed), THREADS * EACH);
    println!("{} sleeps ended by time in {:?}", host.overslept.load(Relaxed), host.start.elapsed());
    assert_eq!(page.load(word::MUTEX), 0);
    // No thread is left in the queue, and none inside.
    let view = seg_lock::inspect(&page);
    assert_eq!((view.owner, view.waiting_exclusive, view.waiting_shared), (None, 0, 0));
    assert!(view.readers.iter().all(|&readers| readers == 0));
}

#[test]
fn neither_readers_nor_writers_starve() {
    let page = page();
    let host = Host { page: &page, start: Instant::now(), overslept: AtomicU64::new(0) };
    let members = [0, 1].map(|vm| join(&page, &host, lease(vm)).unwrap());
    let over = AtomicBool::new(false);
    let turns: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for (thread, turns) in turns.iter().enumerate() {
            let (page, host, over) = (&page, &host, &over);
            let (member, me) = (members[thread % 2], lease(thread as u64 % 2));
            // Six readers that are nearly always inside, or six writers, and two of the others.
            let mode = if thread < 6 { Mode::Shared } else { Mode::Exclusive };
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    assert!(acquire(page, host, member, me, mode, Patience::Forever).is_held());
                    std::thread::sleep(Duration::from_micros(200));
                    release(page, host, member, me, mode);
                    turns.fetch_add(1, Relaxed);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1500));
        over.store(true, Relaxed);
    });
    let turns: Vec<u64> = turns.iter().map(|turns| turns.load(Relaxed)).collect();
    println!("turns: {turns:?}; {} sleeps ended by time", host.overslept.load(Relaxed));
    let most = turns.iter().max().copied().unwrap_or(0);
    assert!(turns.iter().all(|&turns| turns * 10 > most), "{turns:?}");
}
