//! The lock under loom, which runs the interleavings of a few threads up to a number of preemptions.
//!
//! Sleeping is modelled exactly (value and sleep are one step, no time-outs) where no VM dies: a
//! lost wake is a deadlock that loom reports. Where a VM dies, sleeps end by time.

use abi::LeaseId;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst, fence};
use loom::sync::{Arc, Condvar, Mutex};
use seg_lock::{
    LockOutcome, LockWords, Member, Mode, Patience, SCANS_PER_CLEAR, Waiting, acquire, release,
    state, word,
};
use std::cell::Cell;

const VMS: usize = 3;
const QUEUE: usize = 3;
const HEAD: usize = word::SCANS + 1;

/// The words that the models use; all others are 0, as nothing has a reason to change them.
struct Page {
    words: Vec<AtomicU64>,
    sleep: Mutex<()>,
    woken: Condvar,
    /// Threads inside: shared 1 each, exclusive 100.
    inside: AtomicU64,
    dead: AtomicBool,
}

fn place(index: usize) -> Option<usize> {
    let part = |start: usize, len: usize, at: usize| {
        (start..start + len).contains(&index).then(|| index - start + at)
    };
    part(0, HEAD, 0)
        .or_else(|| part(word::READER_COUNTS, VMS, HEAD))
        .or_else(|| part(word::LEASES, VMS, HEAD + VMS))
        .or_else(|| part(word::QUEUE, QUEUE, HEAD + 2 * VMS))
}

impl Page {
    fn new() -> Page {
        let page = Page {
            words: (0..HEAD + 2 * VMS + QUEUE).map(|_| AtomicU64::new(0)).collect(),
            sleep: Mutex::new(()),
            woken: Condvar::new(),
            inside: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        };
        for vm in 0..VMS {
            page.words[place(word::LEASES + vm).unwrap()].store(lease(vm).raw(), SeqCst);
        }
        page.words[word::MEMBERS_USED].store(VMS as u64, SeqCst);
        page
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        // loom orders SeqCst accesses as AcqRel only; the fence makes them what they promise.
        fence(SeqCst);
        &self.words[place(index).expect("no model writes there")]
    }
}

fn lease(vm: usize) -> LeaseId {
    LeaseId::new(0x77_0000 + vm as u64).unwrap()
}

/// A VM's view: it dies at a given access if it is mortal.
struct Vm {
    page: Arc<Page>,
    number: usize,
    left: Cell<Option<usize>>,
    /// Sleeps end by time.
    timed: bool,
    now: Cell<u64>,
    /// By its own accesses: it is inside exclusively.
    alone: Cell<bool>,
}

struct Died;

impl Vm {
    fn new(page: &Arc<Page>, number: usize) -> Vm {
        Vm {
            page: page.clone(),
            number,
            left: Cell::new(None),
            timed: false,
            now: Cell::new(0),
            alone: Cell::new(false),
        }
    }

    fn step(&self) {
        match self.left.get() {
            None => {}
            Some(0) => std::panic::resume_unwind(Box::new(Died)),
            Some(left) => self.left.set(Some(left - 1)),
        }
    }

    fn member(&self) -> Member {
        Member::new(self.number as u32).unwrap()
    }

    fn in_and_out(&self, mode: Mode) -> LockOutcome {
        let weight = if mode == Mode::Shared { 1 } else { 100 };
        let acquired =
            acquire(self, self, self.member(), lease(self.number), mode, Patience::Forever);
        assert!(acquired.is_held());
        let others = self.page.inside.fetch_add(weight, SeqCst);
        assert!(others < 100 && (mode == Mode::Shared || others == 0), "{mode:?} beside {others}");
        self.page.inside.fetch_sub(weight, SeqCst);
        release(self, self, self.member(), lease(self.number), mode);
        acquired
    }
}

impl LockWords for Vm {
    fn load(&self, index: usize) -> u64 {
        self.step();
        if place(index).is_none() { 0 } else { self.page.word(index).load(SeqCst) }
    }
    fn store(&self, index: usize, value: u64) {
        self.step();
        self.page.word(index).store(value, SeqCst);
        fence(SeqCst);
    }
    fn compare_exchange(&self, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.step();
        let done = self.page.word(index).compare_exchange(old, new, SeqCst, SeqCst);
        let owner = self.number as u64 + 1;
        let takes_state = index == word::STATE && new & (state::OWNER | state::CLAIM) == owner;
        // Bits 3..2 of a queue word are 0 for a reader, bits 1..0 are 2 once the lock is granted.
        let leaves_queue = index >= word::QUEUE && new == 0 && old & 3 == 2 && old & 12 != 0;
        if done.is_ok() && (takes_state || leaves_queue) {
            self.alone.set(true);
        }
        done
    }
    fn fetch_add(&self, index: usize, delta: u64) -> u64 {
        self.step();
        self.page.word(index).fetch_add(delta, SeqCst)
    }
    fn fetch_sub(&self, index: usize, delta: u64) -> u64 {
        self.step();
        let enters = delta & state::CLAIM != 0 && delta & state::OWNER == 0;
        if index == word::STATE && (enters || delta & state::OWNER == self.number as u64 + 1) {
            self.alone.set(enters);
        }
        self.page.word(index).fetch_sub(delta, SeqCst)
    }
    fn fetch_or(&self, index: usize, bits: u64) -> u64 {
        self.step();
        self.page.word(index).fetch_or(bits, SeqCst)
    }
    fn fetch_and(&self, index: usize, bits: u64) -> u64 {
        self.step();
        self.page.word(index).fetch_and(bits, SeqCst)
    }
    fn swap(&self, index: usize, value: u64) -> u64 {
        self.step();
        self.page.word(index).swap(value, SeqCst)
    }
}

impl Waiting for Vm {
    fn wait(&self, index: usize, expected: u32, timeout_ns: u64) {
        self.now.set(self.now.get() + timeout_ns);
        if self.timed {
            loom::thread::yield_now();
            return;
        }
        let guard = self.page.sleep.lock().unwrap();
        if self.page.word(index).load(SeqCst) as u32 == expected {
            drop(self.page.woken.wait(guard).unwrap());
        }
    }
    fn wake(&self, _: usize, _: u32) {
        let _guard = self.page.sleep.lock().unwrap();
        self.page.woken.notify_all();
    }
    fn pause(&self, timeout_ns: u64) {
        self.now.set(self.now.get() + timeout_ns);
        loom::thread::yield_now();
    }
    fn is_alive(&self, lease: LeaseId) -> bool {
        lease != self::lease(0) || !self.page.dead.load(SeqCst)
    }
    fn should_stop(&self) -> bool {
        false
    }
    fn now_ns(&self) -> u64 {
        self.now.get()
    }
    fn spins(&self) -> u32 {
        0
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) -> u64 {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = runs.clone();
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    runs.load(std::sync::atomic::Ordering::Relaxed)
}

/// What readers have left before the model begins.
#[derive(Clone, Copy, Debug)]
enum Readers {
    /// There was none.
    None,
    /// There were some, and the next writer on the fast path scans for them for the last time.
    LastLook,
}

impl Readers {
    fn have_been(self, page: &Page) {
        if let Readers::LastLook = self {
            page.word(word::STATE).store(state::READERS, SeqCst);
            page.word(word::SCANS).store(SCANS_PER_CLEAR - 1, SeqCst);
        }
    }
}

fn living(preemptions: usize, modes: &'static [Mode]) {
    for readers in [Readers::None, Readers::LastLook] {
        living_after(readers, preemptions, modes);
    }
}

fn living_after(readers: Readers, preemptions: usize, modes: &'static [Mode]) {
    let runs = check(preemptions, move || {
        let page = Arc::new(Page::new());
        readers.have_been(&page);
        let others: Vec<_> = (1..modes.len())
            .map(|vm| {
                let page = page.clone();
                loom::thread::spawn(move || Vm::new(&page, vm).in_and_out(modes[vm]))
            })
            .collect();
        assert_eq!(Vm::new(&page, 0).in_and_out(modes[0]), LockOutcome::Acquired);
        for other in others {
            assert_eq!(other.join().unwrap(), LockOutcome::Acquired);
        }
        assert_eq!(page.word(word::STATE).load(SeqCst) & state::OWNER, 0);
        assert!((0..VMS).all(|vm| page.word(word::READER_COUNTS + vm).load(SeqCst) == 0));
    });
    println!("{readers:?}, {modes:?}: {runs} interleavings");
    assert!(runs > 100, "loom found {runs} interleavings only");
}

#[test]
fn two_writers_exclude_each_other_and_no_wake_is_lost() {
    living(6, &[Mode::Exclusive, Mode::Exclusive]);
}

#[test]
fn a_writer_and_a_reader_exclude_each_other_and_no_wake_is_lost() {
    living(5, &[Mode::Shared, Mode::Exclusive]);
}

#[test]
fn two_readers_and_a_writer_exclude_each_other_and_no_wake_is_lost() {
    living(3, &[Mode::Shared, Mode::Exclusive, Mode::Shared]);
}

/// VM 0 dies at each of its accesses in turn while VM 1 wants the lock; VM 2 comes last.
fn dying(preemptions: usize, readers_seen: bool, mine: Mode, others: Mode) {
    let (mut runs, mut accesses, most) =
        (0, 0, std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    // More accesses than it makes: then it does not die, and that is the end.
    while accesses <= most.load(std::sync::atomic::Ordering::SeqCst) {
        let most = most.clone();
        runs += check(preemptions, move || {
            let page = Arc::new(Page::new());
            page.word(word::STATE).store(if readers_seen { state::READERS } else { 0 }, SeqCst);
            let mortal = {
                let page = page.clone();
                let most = most.clone();
                loom::thread::spawn(move || {
                    let vm =
                        Vm { timed: true, left: Cell::new(Some(accesses)), ..Vm::new(&page, 0) };
                    let life = std::panic::AssertUnwindSafe(|| {
                        let patience = Patience::Forever;
                        assert!(acquire(&vm, &vm, vm.member(), lease(0), mine, patience).is_held());
                        release(&vm, &vm, vm.member(), lease(0), mine);
                    });
                    match std::panic::catch_unwind(life) {
                        Ok(()) => {}
                        Err(why) if why.is::<Died>() => {
                            most.fetch_max(accesses + 1, std::sync::atomic::Ordering::SeqCst);
                        }
                        Err(why) => std::panic::resume_unwind(why),
                    }
                    page.dead.store(true, SeqCst);
                    vm.alone.get()
                })
            };
            let survivor = Vm { timed: true, ..Vm::new(&page, 1) };
            let verdict = survivor.in_and_out(others);
            let inconsistent = mortal.join().unwrap();
            assert!(inconsistent || verdict == LockOutcome::Acquired);
            let last = Vm { timed: true, ..Vm::new(&page, 2) };
            let expected =
                if inconsistent { LockOutcome::OwnerDied } else { LockOutcome::Acquired };
            assert_eq!(last.in_and_out(Mode::Exclusive), expected);
        });
        accesses += 1;
    }
    println!("{mine:?} dies beside {others:?}: {accesses} places, {runs} interleavings");
    assert!(accesses > 2);
}

#[test]
fn a_writer_dies_anywhere_beside_another() {
    dying(2, false, Mode::Exclusive, Mode::Exclusive);
}

#[test]
fn a_writer_dies_anywhere_beside_a_reader() {
    dying(2, true, Mode::Exclusive, Mode::Shared);
}

#[test]
fn a_reader_dies_anywhere_beside_a_writer() {
    dying(2, true, Mode::Shared, Mode::Exclusive);
}
