//! How all threads of a process come to a stand for a snapshot (`vmm::linux::snapshot`, `gather`), under loom, which runs
//! the interleavings.
//!
//! A thread acknowledges a kick, then looks whether it is to stand, then runs until it is kicked. Who asks says so,
//! then kicks those that do not stand. Here no wait ends by time: a question that a thread misses, or a wake that
//! is lost, is a deadlock, which loom reports. Each step of those that matter can be left out, to see that it
//! matters.

use std::collections::BTreeSet;
use std::process::Command;

use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

const THREADS: usize = 2;
/// Says which defect a process looks for.
const PLANTED: &str = "STANDING_DEFECT";

/// Who makes the snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// Whichever thread comes last: somebody outside has asked.
    Last,
    /// This thread, which has asked itself.
    Thread(usize),
}

/// A step that is left out, or done too late.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    None,
    /// A kick is acknowledged after the thread has looked.
    LooksFirst,
    /// Who comes does not tell the one that asked.
    ComesUntold,
    /// Who asks kicks before it says so.
    KicksFirst,
    /// Whoever has made it does not tell those that stand.
    DoneUntold,
    /// Those that stand do not wait for the end of the making.
    RunsWhileMaking,
}

#[derive(Default)]
struct Inner {
    asked: bool,
    standing: BTreeSet<usize>,
    is_making: bool,
    made: u32,
}

struct World {
    by: By,
    defect: Defect,
    wanted: AtomicBool,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Whether each thread is kicked, and what it sleeps on in the guest.
    kicks: Vec<(Mutex<bool>, Condvar)>,
    /// Threads in the guest.
    running: AtomicU32,
}

impl World {
    fn new(by: By, defect: Defect) -> World {
        World {
            by,
            defect,
            wanted: AtomicBool::new(false),
            inner: Mutex::default(),
            changed: Condvar::new(),
            kicks: (0..THREADS).map(|_| (Mutex::new(false), Condvar::new())).collect(),
            running: AtomicU32::new(0),
        }
    }

    fn is_wanted(&self) -> bool {
        // loom orders SeqCst accesses as AcqRel only; the fence makes them what they promise.
        fence(SeqCst);
        self.wanted.load(SeqCst)
    }

    /// `SnapshotDesk::ask`, and the event loop's kicks.
    fn ask(&self) {
        if self.defect == Defect::KicksFirst {
            self.kick();
        }
        self.inner.lock().unwrap().asked = true;
        self.changed.notify_all();
        self.wanted.store(true, SeqCst);
        fence(SeqCst);
        if self.defect != Defect::KicksFirst {
            self.kick();
        }
    }

    fn kick(&self) {
        let standing = self.inner.lock().unwrap().standing.clone();
        for (thread, (kicked, told)) in self.kicks.iter().enumerate() {
            if !standing.contains(&thread) {
                *kicked.lock().unwrap() = true;
                told.notify_all();
            }
        }
    }

    fn is_makers(&self, thread: usize) -> bool {
        self.by == By::Last || self.by == By::Thread(thread)
    }

    /// `SnapshotDesk::stand`, and what its caller does with what it returns.
    fn stand(&self, thread: usize) {
        let mut inner = self.inner.lock().unwrap();
        if !inner.asked || inner.is_making {
            return;
        }
        inner.standing.insert(thread);
        if !self.is_makers(thread) && self.defect != Defect::ComesUntold {
            self.changed.notify_all();
        }
        loop {
            if !inner.standing.contains(&thread) {
                return;
            }
            if inner.is_making {
                if self.defect == Defect::RunsWhileMaking {
                    return;
                }
                inner = self.changed.wait(inner).unwrap();
                continue;
            }
            if self.is_makers(thread) && inner.standing.len() == THREADS {
                inner.asked = false;
                inner.is_making = true;
                break;
            }
            inner = self.changed.wait(inner).unwrap();
        }
        // Wakes must not be what ends the others' wait meanwhile.
        self.changed.notify_all();
        drop(inner);
        assert_eq!(self.running.load(SeqCst), 0, "a thread runs while the snapshot is made");
        loom::thread::yield_now();
        assert_eq!(self.running.load(SeqCst), 0, "a thread runs while the snapshot is made");
        // `SnapshotDesk::done`.
        self.wanted.store(false, SeqCst);
        let mut inner = self.inner.lock().unwrap();
        let made = inner.made + 1;
        *inner = Inner { made, ..Inner::default() };
        if self.defect != Defect::DoneUntold {
            self.changed.notify_all();
        }
        drop(inner);
        if self.defect == Defect::RunsWhileMaking {
            // What is looked for is not that they are still there.
            self.kick();
        }
    }

    fn made(&self) -> u32 {
        self.inner.lock().unwrap().made
    }

    /// A thread of the program, until the snapshot is made.
    fn run(&self, thread: usize) {
        if self.by == By::Thread(thread) {
            self.ask();
        }
        let acknowledge = || *self.kicks[thread].0.lock().unwrap() = false;
        loop {
            if self.defect != Defect::LooksFirst {
                acknowledge();
            }
            let is_wanted = self.is_wanted();
            if self.defect == Defect::LooksFirst {
                acknowledge();
            }
            if is_wanted {
                self.stand(thread);
            }
            if self.made() > 0 {
                return;
            }
            // In the guest, until it is kicked.
            let (kicked, told) = &self.kicks[thread];
            let mut kicked = kicked.lock().unwrap();
            self.running.fetch_add(1, SeqCst);
            while !*kicked {
                kicked = told.wait(kicked).unwrap();
            }
            self.running.fetch_sub(1, SeqCst);
        }
    }
}

fn model(by: By, defect: Defect) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let world = Arc::new(World::new(by, defect));
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let world = world.clone();
                thread::spawn(move || world.run(thread))
            })
            .collect();
        if by == By::Last {
            world.ask();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(world.made(), 1);
    });
}

#[test]
fn all_stand_while_one_snapshot_is_made_for_somebody_outside_and_go_on() {
    model(By::Last, Defect::None);
}

#[test]
fn all_stand_while_one_snapshot_is_made_by_the_thread_that_asks_and_go_on() {
    model(By::Thread(0), Defect::None);
}

/// What loom says of a model with a defect. In a process of its own: a deadlock leaves threads that cannot be cleaned up.
fn found(by: By, defect: Defect) -> String {
    let this = std::env::current_exe().expect("a test has a path");
    let mut command = Command::new(this);
    command.args(["--exact", "planted", "--ignored", "--nocapture"]);
    command.env("RUST_BACKTRACE", "0").env(PLANTED, format!("{by:?} {defect:?}"));
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{by:?} {defect:?}: {said}");
    said
}

#[test]
#[ignore = "the others run it, with a defect"]
fn planted() {
    let planted = std::env::var(PLANTED).expect("one of the others runs it");
    let all = [
        Defect::LooksFirst,
        Defect::ComesUntold,
        Defect::KicksFirst,
        Defect::DoneUntold,
        Defect::RunsWhileMaking,
    ];
    for by in [By::Last, By::Thread(0)] {
        let is_that = |defect: &&Defect| format!("{by:?} {defect:?}") == planted;
        if let Some(defect) = all.iter().find(is_that) {
            model(by, *defect);
        }
    }
}

#[test]
fn each_step_that_is_left_out_is_found() {
    for (by, defect, said) in [
        (By::Last, Defect::LooksFirst, "deadlock"),
        (By::Last, Defect::KicksFirst, "deadlock"),
        (By::Thread(0), Defect::ComesUntold, "deadlock"),
        (By::Last, Defect::DoneUntold, "deadlock"),
        (By::Last, Defect::RunsWhileMaking, "a thread runs while the snapshot is made"),
    ] {
        let found = found(by, defect);
        assert!(found.contains(said), "{by:?} {defect:?}: {found}");
    }
}
