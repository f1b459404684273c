//! Readers without a lease and a writer that brings logs to a layer, under loom: one of the two sees the other
//! before anything is overwritten that is being read.
//!
//! It has nothing to do with locks; it is here because `loom` is. The steps are those of
//! `vmm/store/src/objects/nameless.rs` (announce, ask), `kept/pinned.rs` and `join_versioned` (look, read), and of
//! `vmm/versions/src/segment/checkpoint.rs`. The host's list of locks is one word here.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use loom::sync::atomic::{Ordering::SeqCst, fence};

/// Ways to get it wrong, to check that the model notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// The reader looks which versions there are before it has announced itself.
    LateAnnouncement,
    /// No fence behind the announcement.
    NoFenceOfReader,
    /// No fence before the question.
    NoFenceOfWriter,
    /// The writer asks once, before it says what it is going to overwrite.
    AsksOnce,
    /// The writer asks before it has made the newest version known, and not again.
    AsksEarly,
}

/// Which version is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reads {
    /// What is published, as who attaches a segment.
    Newest,
    /// The older of the two, as who names it.
    Older,
}

/// One page. Its log has version 1 of it, and its layer the version that `layer` says: 0 at first.
struct World {
    published: AtomicU64,
    /// The oldest version that can be read, as the root record says.
    oldest: AtomicU64,
    layer: AtomicU64,
    announced: AtomicU64,
}

impl World {
    fn announce(&self, fault: Fault) {
        self.announced.store(1, Release);
        if fault != Fault::NoFenceOfReader {
            fence(SeqCst);
        }
    }

    fn is_read(&self, fault: Fault) -> bool {
        if fault != Fault::NoFenceOfWriter {
            fence(SeqCst);
        }
        self.announced.load(Acquire) != 0
    }

    /// Returns whether there was something to read.
    fn read(&self, reads: Reads, fault: Fault) -> bool {
        if fault != Fault::LateAnnouncement {
            self.announce(fault);
        }
        let version = match reads {
            Reads::Newest => self.published.load(Acquire),
            Reads::Older => 0,
        };
        let is_there = version >= self.oldest.load(Acquire);
        if fault == Fault::LateAnnouncement {
            self.announce(fault);
        }
        if is_there && version == 0 {
            // Twice: what is seen does not move either.
            for _ in 0..2 {
                assert_eq!(self.layer.load(Acquire), 0, "what is read was overwritten");
            }
        }
        self.announced.store(0, Release);
        is_there
    }

    /// Returns whether it has overwritten anything.
    fn commit_and_checkpoint(&self, fault: Fault) -> bool {
        let early = fault == Fault::AsksEarly && self.is_read(fault);
        self.published.store(1, Release);
        if early || (fault != Fault::AsksEarly && self.is_read(fault)) {
            return false;
        }
        self.oldest.store(1, Release);
        if ![Fault::AsksOnce, Fault::AsksEarly].contains(&fault) && self.is_read(fault) {
            return false;
        }
        self.layer.store(1, Release);
        true
    }
}

fn explore(reads: Reads, fault: Fault) -> [u64; 3] {
    let counts: std::sync::Arc<[std::sync::atomic::AtomicU64; 3]> = std::sync::Arc::default();
    let seen = counts.clone();
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.check(move || {
        let word = AtomicU64::new;
        let world =
            World { published: word(0), oldest: word(0), layer: word(0), announced: word(0) };
        let world = Arc::new(world);
        let writer = world.clone();
        let writer = loom::thread::spawn(move || writer.commit_and_checkpoint(fault));
        let has_read = world.read(reads, fault);
        let happened = [true, has_read, writer.join().unwrap()];
        for (count, happened) in seen.iter().zip(happened) {
            count.fetch_add(happened.into(), Relaxed);
        }
    });
    [0, 1, 2].map(|n| counts[n].load(Relaxed))
}

#[test]
fn nothing_is_overwritten_that_a_reader_without_a_lease_reads() {
    for reads in [Reads::Newest, Reads::Older] {
        let [runs, read, overwritten] = explore(reads, Fault::None);
        println!("{reads:?}: {runs} interleavings; read in {read}, overwritten in {overwritten}");
        assert!(runs > 10, "loom found {runs} interleavings only");
        assert!(
            read > 0 && overwritten > 0 && overwritten < runs,
            "{read} {overwritten} of {runs}"
        );
    }
}

#[test]
fn the_model_notices_each_way_to_get_it_wrong() {
    use Fault::{AsksEarly, AsksOnce, LateAnnouncement, NoFenceOfReader, NoFenceOfWriter};
    for fault in [AsksEarly, AsksOnce, LateAnnouncement, NoFenceOfReader, NoFenceOfWriter] {
        let found = [Reads::Newest, Reads::Older]
            .map(|reads| std::panic::catch_unwind(|| explore(reads, fault)).is_err());
        assert!(found.contains(&true), "{fault:?}");
    }
}
