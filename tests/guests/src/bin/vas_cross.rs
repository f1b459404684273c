//! Threads of several VMs that switch directly from VAS to VAS with overlapping sets of locks, and
//! repair what killed VMs leave behind.
//!
//! `vas_cross NAME THREADS COUNT SEED`: each thread COUNT times goes to a VAS drawn at random, or
//! home. Four VASes `NAME-0` to `NAME-3` hold the lockable segments `NAME-0` to `NAME-2` in
//! different sets and rights. A segment is a pair of equal words, which a writer changes one
//! after the other; a difference without `EOWNERDEAD` means that two were inside. Prints
//! `switches THREADS*COUNT recovered N`.
//! `vas_cross NAME check`: enters each, recovers what is left, prints `sound`.
//! Everything is created if it does not exist. Status 0; 1 with a message on failure.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home, recover};
use guests::random::Random;
use guests::store::{base_of, sized};
use spacejmp::sys::{self, Right, SegId, VasHandle};

const SEGMENTS: usize = 3;
/// For each VAS its segments and rights.
const VASES: [&[(usize, Right)]; 4] = [
    &[(0, Right::Write), (1, Right::Write)],
    &[(1, Right::Write), (2, Right::Write)],
    &[(2, Right::Write), (0, Right::Read)],
    &[(0, Right::Read), (1, Right::Read), (2, Right::Read)],
];

static RECOVERED: AtomicU64 = AtomicU64::new(0);

/// What all threads use.
struct World {
    sids: Vec<SegId>,
    /// First words; the second of a pair lies on another page.
    firsts: Vec<Place>,
    seconds: Vec<Place>,
    vhs: Vec<VasHandle>,
}

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match args[..] {
        [name, "check"] => {
            let world = world(name);
            let mut visitor = Visitor { world: &world, doubtful: BTreeSet::new() };
            // Writable attachments first, so that read-only ones find it sound.
            (0..VASES.len()).for_each(|vas| visitor.visit(vas));
            go_home();
            println!("sound");
            ExitCode::SUCCESS
        }
        [name, threads, count, seed] => {
            let (world, threads, count) = (&world(name), number(threads), number(count));
            thread::scope(|scope| {
                for n in 0..threads {
                    let random = Random::new(number(seed).wrapping_mul(1000).wrapping_add(n));
                    scope.spawn(move || wander(world, count, random));
                }
            });
            let recovered = RECOVERED.load(Ordering::Relaxed);
            println!("switches {} recovered {recovered}", threads * count);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: vas_cross NAME THREADS COUNT SEED, or NAME check");
            ExitCode::from(2)
        }
    }
}

/// Finds everything, or creates it. Several VMs may do so at the same time.
fn world(name: &str) -> World {
    let mut params = sized(8192);
    params.lockable = 1;
    let segment = |n: usize| match sys::seg_alloc(format!("{name}-{n}"), &params) {
        Err(Errno::EEXIST) => must("seg_find", sys::seg_find(format!("{name}-{n}"))),
        made => must("seg_alloc", made),
    };
    let sids: Vec<SegId> = (0..SEGMENTS).map(segment).collect();
    let attach = |(n, segments): (usize, &&[(usize, Right)])| {
        let vid = match sys::vas_create(format!("{name}-{n}"), 0o600) {
            Err(Errno::EEXIST) => must("vas_find", sys::vas_find(format!("{name}-{n}"))),
            made => must("vas_create", made),
        };
        for &(segment, right) in *segments {
            match sys::seg_attach(vid, sids[segment], right) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => panic!("seg_attach: {error:?}"),
            }
        }
        must("vas_attach", sys::vas_attach(vid, 0))
    };
    let vhs = VASES.iter().enumerate().map(attach).collect();
    let place = |offset: u64| {
        sids.iter().map(move |&sid| Place::at(base_of(sid) + offset)).collect::<Vec<_>>()
    };
    World { firsts: place(0), seconds: place(4096), vhs, sids }
}

fn wander(world: &World, count: u64, mut random: Random) {
    let mut visitor = Visitor { world, doubtful: BTreeSet::new() };
    for _ in 0..count {
        match random.below(VASES.len() as u64 + 1) as usize {
            vas if vas < VASES.len() => visitor.visit(vas),
            _ => visitor.leave(),
        }
    }
    visitor.leave();
}

struct Visitor<'a> {
    world: &'a World,
    /// Held to read, and not to be relied on: a holder died, and no writer has recovered it
    /// since.
    doubtful: BTreeSet<usize>,
}

impl Visitor<'_> {
    fn leave(&mut self) {
        go_home();
        self.doubtful.clear();
    }

    fn visit(&mut self, vas: usize) {
        let World { sids, firsts, seconds, vhs } = self.world;
        let entered = enter(vhs[vas]);
        self.doubtful.retain(|segment| VASES[vas].contains(&(*segment, Right::Read)));
        if entered == Err(Errno::EOWNERDEAD) {
            assert_eq!(sys::vas_current(), Ok(vhs[vas]), "EOWNERDEAD, but not inside");
            for &(segment, right) in VASES[vas] {
                let stat = must("seg_stat", sys::seg_stat(sids[segment]));
                if stat.inconsistent == 0 {
                    continue;
                }
                if right == Right::Read {
                    self.doubtful.insert(segment);
                    continue;
                }
                seconds[segment].write(firsts[segment].read());
                must("RECOVER", recover(sids[segment]));
                RECOVERED.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            must("vas_switch", entered);
        }
        for &(segment, right) in VASES[vas] {
            let (first, second) = (firsts[segment], seconds[segment]);
            if right == Right::Write {
                assert_eq!(first.read(), second.read(), "segment {segment}: another thread wrote");
                first.increment_unlocked();
                second.increment_unlocked();
                assert_eq!(first.read(), second.read(), "segment {segment}: another thread writes");
            } else if !self.doubtful.contains(&segment) {
                assert_eq!(first.read(), second.read(), "segment {segment}: another thread writes");
            }
        }
    }
}
