//! Views of versioned segments under loom: a vCPU that enters and leaves by itself, while the VMM shows
//! a newer view and frees the tables of the old one.
//!
//! It is about `abi::switch::may_be_on` and has nothing to do with locks; it is here because `loom` is. The
//! steps are those of `guest-kernel/src/switch.rs` (30 there), of `vmm/src/kernel/views.rs`, and of whoever
//! publishes a version, `store/src/objects/words.rs`.

use abi::switch::may_be_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Release};
use loom::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, fence};

const HOME: u64 = 0;
const VH: u64 = 1;
/// A stamp that the store's word never has.
const NO_STAMP: u64 = 9;
const ROOTS: [u64; 2] = [100, 101];

/// Ways to get it wrong, to check that the model notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// The VMM looks at the vCPUs without a fence.
    NoFence,
    /// The vCPU looks for the view before it has announced itself.
    LateAnnouncement,
    /// The vCPU notes which view it is on when it counts as inside already.
    LateNote,
    /// The VMM frees what a vCPU on its way does not yet say it is on.
    OnlyInside,
    /// The VMM writes the new stamp while the old root is there.
    RootStays,
    /// The VMM asks for the store's word after it has looked which version is the newest.
    StampLate,
}

struct World {
    /// The newest version, as the segment's file says.
    word: AtomicU64,
    /// The store's word.
    published: AtomicU64,
    stamp: AtomicU64,
    root: AtomicU64,
    announced: AtomicU64,
    inside: AtomicU64,
    view: AtomicU64,
    freed: [AtomicBool; 2],
    /// What the vCPU really runs on; not to be looked at by the VMM.
    loaded: AtomicU64,
}

impl World {
    fn new() -> World {
        let word = AtomicU64::new;
        World {
            word: word(0),
            published: word(0),
            stamp: word(0),
            root: word(ROOTS[0]),
            announced: word(HOME),
            inside: word(HOME),
            view: word(0),
            freed: [AtomicBool::new(false), AtomicBool::new(false)],
            loaded: word(0),
        }
    }

    /// An exchange, which is a full barrier on x86.
    fn announce(&self, vh: u64) {
        self.announced.swap(vh, SeqCst);
        fence(SeqCst);
    }

    fn has_freed(&self, root: u64) -> bool {
        self.freed[usize::from(root == ROOTS[1])].load(SeqCst)
    }

    /// In and out again; returns whether the kernel has served it, and by which root.
    fn visit(&self, known: u64, fault: Fault) -> Option<u64> {
        if fault != Fault::LateAnnouncement {
            self.announce(VH);
        }
        let is_newest = self.published.load(Acquire) == self.stamp.load(Acquire);
        let root = if is_newest { self.root.load(Acquire) } else { 0 };
        if root == 0 {
            self.announced.store(self.inside.load(Relaxed), Release);
            return None;
        }
        if fault == Fault::LateAnnouncement {
            self.announce(VH);
        }
        let note = || self.view.store(root, Release);
        if fault != Fault::LateNote {
            note();
        }
        self.loaded.store(root, SeqCst);
        self.inside.store(VH, Release);
        if fault == Fault::LateNote {
            note();
        }
        assert!(!self.has_freed(root), "tables were freed before the vCPU ran on them");
        assert!(root == ROOTS[1] || known == 0, "older than what was known before");
        // Leaves by a plain switch.
        self.announce(HOME);
        assert!(!self.has_freed(root), "tables were freed while a vCPU ran on them");
        self.loaded.store(0, SeqCst);
        self.inside.store(HOME, Release);
        Some(root)
    }

    /// A version is published.
    fn publish(&self) {
        self.word.store(1, Release);
        self.published.store(1, Release);
    }

    /// The view of the newest version is shown to the kernel. Returns whether the old tables could be freed.
    fn show(&self, fault: Fault) -> bool {
        let (stamp, newest) = if fault == Fault::StampLate {
            let newest = self.word.load(Acquire);
            (self.published.load(Acquire), newest)
        } else {
            let stamp = self.published.load(Acquire);
            (stamp, self.word.load(Acquire))
        };
        if fault != Fault::RootStays {
            self.root.store(0, Release);
            self.stamp.store(NO_STAMP, Release);
        }
        let root = ROOTS[newest as usize];
        if fault == Fault::RootStays {
            self.stamp.store(stamp, Release);
            self.root.store(root, Release);
        } else {
            self.root.store(root, Release);
            self.stamp.store(stamp, Release);
        }
        if newest == 0 {
            return false;
        }
        if fault != Fault::NoFence {
            fence(SeqCst);
        }
        let (announced, inside) = (self.announced.load(Acquire), self.inside.load(Acquire));
        let view = self.view.load(Acquire);
        let is_used = match fault {
            Fault::OnlyInside => inside == VH && view == ROOTS[0],
            _ => may_be_on(announced, inside, view, VH, ROOTS[0]),
        };
        if !is_used {
            self.freed[0].store(true, SeqCst);
            assert_ne!(self.loaded.load(SeqCst), ROOTS[0], "a vCPU runs on what is freed");
        }
        !is_used
    }
}

fn explore(fault: Fault) -> [u64; 3] {
    let counts: std::sync::Arc<[std::sync::atomic::AtomicU64; 3]> = std::sync::Arc::default();
    let seen = counts.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 20_000;
    builder.check(move || {
        let world = Arc::new(World::new());
        let vmm = world.clone();
        let vmm = loom::thread::spawn(move || vmm.show(fault));
        let writer = world.clone();
        let writer = loom::thread::spawn(move || writer.publish());
        let mut newest = 0;
        for _ in 0..2 {
            let known = world.published.load(Acquire);
            newest = world.visit(known, fault).map_or(newest, |root| newest.max(root));
        }
        writer.join().unwrap();
        let happened = [true, newest == ROOTS[1], vmm.join().unwrap()];
        for (count, happened) in seen.iter().zip(happened) {
            count.fetch_add(happened.into(), Relaxed);
        }
    });
    [0, 1, 2].map(|n| counts[n].load(Relaxed))
}

#[test]
fn no_vcpu_runs_on_tables_that_are_freed_and_none_sees_less_than_it_knew() {
    let [runs, entered, freed] = explore(Fault::None);
    println!(
        "{runs} interleavings; the new view entered in {entered}, the old one freed in {freed}"
    );
    assert!(runs > 100, "loom found {runs} interleavings only");
    assert!(entered > 0 && freed > 0 && freed < runs, "{entered} {freed} of {runs}");
}

#[test]
fn the_model_notices_each_way_to_get_it_wrong() {
    use Fault::{LateAnnouncement, LateNote, NoFence, OnlyInside, RootStays, StampLate};
    for fault in [NoFence, LateAnnouncement, LateNote, OnlyInside, RootStays, StampLate] {
        let found = std::panic::catch_unwind(|| explore(fault));
        assert!(found.is_err(), "{fault:?}");
    }
}
