//! Threads that go from VAS to VAS directly, with overlapping sets of locks:
//! `vas_locks [THREADS [SWITCHES [SEED]]]`, 8, 2,000 and 1 by default. Five VASes hold three
//! lockable segments in different sets and rights, so that orders cross and modes change.
//! Inside, each thread counts itself among the readers or as the writer of every segment it has
//! locked, and checks whether that is possible. A deadlock shows as a run that never ends.
//! Prints `switches N`, lines `ok: ...`, `done`; status 0.

use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;

use guests::findings::{Findings, must};
use guests::place::{Place, enter, go_home, try_enter};
use guests::random::Random;
use guests::store::{base_of, sized};
use spacejmp::sys::{self, Right, VasHandle};

const SEGMENTS: usize = 3;
/// For each VAS its segments and rights.
const VASES: [&[(usize, Right)]; 5] = [
    &[(0, Right::Write), (1, Right::Write)],
    &[(1, Right::Write), (2, Right::Write)],
    &[(2, Right::Read), (0, Right::Write)],
    &[(0, Right::Read), (1, Right::Read), (2, Right::Read)],
    &[(1, Right::Read)],
];

/// The threads in a segment, as they count themselves: readers, or -1 for a writer. In private
/// memory, so that it does not depend on what it checks.
static INSIDE: [AtomicI64; SEGMENTS] = [const { AtomicI64::new(0) }; SEGMENTS];
static VIOLATIONS: AtomicU64 = AtomicU64::new(0);
static WRITES: [AtomicU64; SEGMENTS] = [const { AtomicU64::new(0) }; SEGMENTS];

fn main() -> ExitCode {
    let mut found = Findings::new();
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let threads = args.next().unwrap_or(8);
    let switches = args.next().unwrap_or(2000);
    let seed = args.next().unwrap_or(1);

    let mut params = sized(4096);
    params.lockable = 1;
    let segment = |n| must("seg_alloc", sys::seg_alloc(format!("locks-{n}"), &params));
    let sids: Vec<_> = (0..SEGMENTS).map(segment).collect();
    let words: Vec<_> = sids.iter().map(|&sid| Place::at(base_of(sid))).collect();
    let make = |(n, segments): (usize, &&[(usize, Right)])| {
        let vid = must("vas_create", sys::vas_create(format!("locks-{n}"), 0o600));
        for &(segment, right) in *segments {
            must("seg_attach", sys::seg_attach(vid, sids[segment], right));
        }
        (vid, must("vas_attach", sys::vas_attach(vid, 0)))
    };
    let vases: Vec<_> = VASES.iter().enumerate().map(make).collect();
    let vhs: Vec<VasHandle> = vases.iter().map(|vas| vas.1).collect();

    thread::scope(|scope| {
        for n in 0..threads {
            let (vhs, words) = (&vhs, &words);
            let random = Random::new(seed.wrapping_mul(1000).wrapping_add(n));
            scope.spawn(move || wander(random, switches, vhs, words));
        }
    });
    println!("switches {}", threads * switches);
    found.same("no two were inside that must not be", VIOLATIONS.load(Ordering::SeqCst), 0);
    let vh = vhs[3];
    must("vas_switch", enter(vh));
    for (word, writes) in words.iter().zip(&WRITES) {
        found.same("no write was lost", word.read(), writes.load(Ordering::SeqCst));
    }
    go_home();
    for (vid, vh) in vases {
        must("vas_detach", sys::vas_detach(vh));
        must("vas_delete", sys::vas_delete(vid));
    }
    for sid in sids {
        must("seg_delete", sys::seg_delete(sid));
    }
    found.end()
}

fn wander(mut random: Random, switches: u64, vhs: &[VasHandle], words: &[Place]) {
    for _ in 0..switches {
        let to = random.below(vhs.len() as u64 + 1) as usize;
        let Some(&vh) = vhs.get(to) else {
            go_home();
            continue;
        };
        if random.below(4) == 0 {
            // Whether it succeeds is random; where the thread is afterwards is not.
            let before = must("vas_current", sys::vas_current());
            let tried = try_enter(vh);
            let expected = if tried.is_ok() { vh } else { before };
            assert_eq!(sys::vas_current(), Ok(expected), "after {tried:?}");
            if tried.is_err() {
                continue;
            }
        } else {
            must("vas_switch", enter(vh));
        }
        visit(VASES[to], words);
    }
    go_home();
}

/// Counts itself in, works, counts itself out. The counts hold only while the thread is inside, so
/// they are undone before the next switch, which may keep some of the locks.
fn visit(segments: &[(usize, Right)], words: &[Place]) {
    let violated = |is_violated: bool| {
        VIOLATIONS.fetch_add(u64::from(is_violated), Ordering::SeqCst);
    };
    for &(segment, right) in segments {
        match right {
            Right::Read => violated(INSIDE[segment].fetch_add(1, Ordering::SeqCst) < 0),
            Right::Write => violated(INSIDE[segment].swap(-1, Ordering::SeqCst) != 0),
        }
    }
    for &(segment, right) in segments {
        match right {
            Right::Read => violated(INSIDE[segment].load(Ordering::SeqCst) < 1),
            Right::Write => {
                words[segment].increment_unlocked();
                WRITES[segment].fetch_add(1, Ordering::SeqCst);
                violated(INSIDE[segment].load(Ordering::SeqCst) != -1);
            }
        }
    }
    for &(segment, right) in segments {
        match right {
            Right::Read => INSIDE[segment].fetch_sub(1, Ordering::SeqCst),
            Right::Write => INSIDE[segment].swap(0, Ordering::SeqCst),
        };
    }
}
