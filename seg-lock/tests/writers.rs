//! Writers of versioned segments under loom: a vCPU that the guest kernel lets in with the segment's lock,
//! while another VM commits, and while the VMM takes the tables back, with the lock or without.
//!
//! The lock itself is another model's (`loom.rs`); here it is one word, without waiters. The steps are those
//! of `guest-kernel/src/switch.rs` (`sj_write`), `vmm/src/kernel/views.rs` and
//! `vmm/src/vas/versioned/kernel_writers.rs`.

use abi::switch::{VIEW_WRITES, may_be_on};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Release};
use loom::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, fence};

const HOME: u64 = 0;
const VH: u64 = 1;
/// Address of the record, which the entry of the instance has while the kernel may enter.
const SHOWN: u64 = 9;
const ROOT: u64 = 0x1000;
const FREE: u64 = 0;
const OURS: u64 = 1;
const OTHERS: u64 = 2;

/// Ways to get it wrong, to check that the model notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// The vCPU compares the count before it has the lock.
    EarlyCount,
    /// The vCPU reads the root before it has the lock.
    EarlyRoot,
    /// The VMM looks at the vCPUs without a fence.
    NoFence,
    /// The vCPU notes which tables it is on when it counts as inside already.
    LateNote,
    /// The VMM frees what a vCPU on its way does not yet say it is on.
    OnlyInside,
}

/// What happens beside the vCPU that enters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Beside {
    /// Another VM commits.
    Commit,
    /// A thread of this VM enters by the VMM, and its visit spoils the tables.
    Spoil,
    /// The VMM takes the tables back without the lock.
    Withdraw,
}

struct World {
    lock: AtomicU64,
    /// How often versions have been published; here also the newest version.
    published: AtomicU64,
    entry: AtomicU64,
    count: AtomicU64,
    cr3: AtomicU64,
    /// The version that the tables show; the VMM's own.
    tables: AtomicU64,
    announced: AtomicU64,
    inside: AtomicU64,
    view: AtomicU64,
    freed: AtomicBool,
    /// What the vCPU really runs on; not to be looked at by the VMM.
    loaded: AtomicU64,
}

impl World {
    /// A thread is about to leave.
    fn new() -> World {
        let word = AtomicU64::new;
        World {
            lock: word(OURS),
            published: word(0),
            entry: word(0),
            count: word(0),
            cr3: word(0),
            tables: word(0),
            announced: word(HOME),
            inside: word(HOME),
            view: word(0),
            freed: AtomicBool::new(false),
            loaded: word(0),
        }
    }

    /// A locked instruction, which is a full barrier on x86.
    fn acquire(&self, owner: u64) -> bool {
        let acquired = self.lock.compare_exchange(FREE, owner, SeqCst, SeqCst).is_ok();
        fence(SeqCst);
        acquired
    }

    fn release(&self) {
        self.lock.swap(FREE, SeqCst);
        fence(SeqCst);
    }

    fn announce(&self, vh: u64) {
        self.announced.swap(vh, SeqCst);
        fence(SeqCst);
    }

    /// Goes in by the kernel, commits, and leaves by the VMM. Returns whether the kernel has let it in.
    fn transaction(&self, fault: Fault) -> bool {
        self.announce(VH);
        let is_newest = || self.published.load(Acquire) == self.count.load(Acquire);
        let root = || self.cr3.load(Acquire);
        let early = match fault {
            Fault::EarlyCount => (is_newest(), 0),
            Fault::EarlyRoot => (false, root()),
            _ => (false, 0),
        };
        if self.entry.load(Acquire) != SHOWN || !self.acquire(OURS) {
            self.announced.store(self.inside.load(Relaxed), Release);
            return false;
        }
        let is_newest = if fault == Fault::EarlyCount { early.0 } else { is_newest() };
        let root = if fault == Fault::EarlyRoot { early.1 } else { root() };
        if !is_newest || root == 0 {
            self.release();
            self.announced.store(self.inside.load(Relaxed), Release);
            return false;
        }
        let note = || self.view.store(root | VIEW_WRITES, Release);
        if fault != Fault::LateNote {
            note();
        }
        self.loaded.store(root, SeqCst);
        self.inside.store(VH, Release);
        if fault == Fault::LateNote {
            note();
        }
        assert!(!self.freed.load(SeqCst), "tables were freed before the vCPU ran on them");
        let newest = self.published.load(Acquire);
        assert_eq!(self.tables.load(Relaxed), newest, "it overwrites what it has not seen");
        // The VMM, at its exit.
        self.entry.store(0, Release);
        self.cr3.store(0, Release);
        assert!(!self.freed.load(SeqCst), "tables were freed while a vCPU ran on them");
        self.loaded.store(0, SeqCst);
        self.view.store(0, Release);
        self.announce(HOME);
        self.inside.store(HOME, Release);
        self.leave();
        true
    }

    /// The VMM commits what a thread has changed, lets the kernel have its tables, and gives the lock back.
    fn leave(&self) {
        let newest = self.published.load(Acquire) + 1;
        self.published.store(newest, Release);
        self.tables.store(newest, Relaxed);
        self.count.store(self.published.load(Acquire), Release);
        self.cr3.store(ROOT, Release);
        self.entry.store(SHOWN, Release);
        self.release();
    }

    /// Returns whether it has happened.
    fn beside(&self, what: Beside, fault: Fault) -> bool {
        match what {
            Beside::Commit => {
                while !self.acquire(OTHERS) {
                    loom::thread::yield_now();
                }
                self.published.store(self.published.load(Acquire) + 1, Release);
                self.release();
                true
            }
            Beside::Spoil => {
                let acquired = self.acquire(OURS);
                if acquired {
                    self.cr3.store(0, Release);
                    self.entry.store(0, Release);
                    self.freed.store(true, SeqCst);
                    assert_eq!(self.loaded.load(SeqCst), 0, "a vCPU runs on what is freed");
                    self.release();
                }
                acquired
            }
            Beside::Withdraw => {
                self.cr3.store(0, Release);
                self.entry.store(0, Release);
                if fault != Fault::NoFence {
                    fence(SeqCst);
                }
                let (announced, inside) = (self.announced.load(Acquire), self.inside.load(Acquire));
                let view = self.view.load(Acquire);
                let is_used = match fault {
                    Fault::OnlyInside => inside == VH && view == ROOT | VIEW_WRITES,
                    _ => may_be_on(announced, inside, view, VH, ROOT),
                };
                if !is_used {
                    self.freed.store(true, SeqCst);
                    assert_eq!(self.loaded.load(SeqCst), 0, "a vCPU runs on what is freed");
                }
                !is_used
            }
        }
    }
}

/// How many interleavings there are, in how many the kernel let the thread in, and in how many the other
/// thing happened.
fn explore(what: Beside, fault: Fault) -> [u64; 3] {
    let counts: std::sync::Arc<[std::sync::atomic::AtomicU64; 3]> = std::sync::Arc::default();
    let seen = counts.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.max_branches = 20_000;
    builder.check(move || {
        let world = Arc::new(World::new());
        // Withdrawn tables are not offered again.
        if what == Beside::Withdraw {
            world.leave();
        }
        let vmm = world.clone();
        let vmm = loom::thread::spawn(move || vmm.beside(what, fault));
        if what != Beside::Withdraw {
            world.leave();
        }
        let happened = [true, world.transaction(fault), vmm.join().unwrap()];
        for (count, happened) in seen.iter().zip(happened) {
            count.fetch_add(happened.into(), Relaxed);
        }
    });
    [0, 1, 2].map(|n| counts[n].load(Relaxed))
}

#[test]
fn whoever_is_let_in_writes_what_was_committed_last_on_tables_that_stay() {
    for what in [Beside::Commit, Beside::Spoil, Beside::Withdraw] {
        let [runs, entered, happened] = explore(what, Fault::None);
        println!("{what:?}: {runs} interleavings; entered in {entered}, the other in {happened}");
        assert!(runs > 20, "loom found {runs} interleavings only");
        assert!(entered > 0 && entered < runs || what == Beside::Commit, "{entered} of {runs}");
        assert!(happened > 0 && happened < runs || what == Beside::Commit, "{happened} of {runs}");
    }
}

#[test]
fn the_model_notices_each_way_to_get_it_wrong() {
    use Beside::{Commit, Spoil, Withdraw};
    for (what, fault) in [
        (Commit, Fault::EarlyCount),
        (Spoil, Fault::EarlyRoot),
        (Withdraw, Fault::NoFence),
        (Withdraw, Fault::LateNote),
        (Withdraw, Fault::OnlyInside),
    ] {
        let found = std::panic::catch_unwind(|| explore(what, fault));
        assert!(found.is_err(), "{what:?} {fault:?}");
    }
}
