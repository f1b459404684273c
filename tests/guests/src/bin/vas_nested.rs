//! Visits inside of visits: three versioned VASes `a`, `b` and `c`, and a raw one `raw`, each with one segment of
//! the same name.
//!
//! `make`: makes them, with WORDS words of FIRST each, on a page of its own each. `random STEPS SEED`: a
//! thread nests, returns, switches, commits, aborts, writes and looks, and compares all that it sees and is
//! told with a model. `ends HOW`: has changed `a`, in it `b` and in it `raw`, and ends there: by `exit`, by the end of its
//! `thread`, by SIGKILL (`kill`) or a store where nothing is (`fault`). `waits`: what the calls say and do
//! about locks that others have. `cross`: two threads, each with a lock that the other waits for in a nested
//! visit. `stays MS`: has changed `a`, reads `b` in it, says `suspended`, and goes on after so long. `hold VAS`: enters to write, says `holding`, and stays. `busy`: instances with suspended visits.
//! `full`: a nested visit that cannot be committed. `look`: prints the first two words of each. Prints `done`.

use std::process::ExitCode;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_back, go_home, nest, try_enter};
use guests::random::Random;
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, SegId, VasHandle, VasId, attach};

const NAMES: [&str; 4] = ["a", "b", "c", "raw"];
const RAW: usize = 3;
const WORDS: usize = 4;
const FIRST: u64 = 1000;
/// As many as a thread can have suspended.
const DEPTH: usize = 16;
const NOW: Option<Duration> = Some(Duration::ZERO);

/// One of the VASes, attached to be read and to be written.
struct Vas {
    vid: VasId,
    sid: SegId,
    base: u64,
    read: VasHandle,
    write: VasHandle,
}

impl Vas {
    fn find_or_make(which: usize) -> Vas {
        let mut params = sized(4 << 20);
        params.lockable = 1;
        if which != RAW {
            params.lifetime = Lifetime::Versioned as u8;
        }
        params.reserve_bytes = 256 << 20;
        let (vid, sid) = find_or_make(NAMES[which], &params);
        let attach = |flags| must("vas_attach", sys::vas_attach(vid, flags));
        Vas { vid, sid, base: base_of(sid), read: attach(attach::READ_ONLY), write: attach(0) }
    }

    fn word(&self, number: usize) -> Place {
        Place::at(self.base + number as u64 * 4096)
    }

    fn words(&self) -> [u64; WORDS] {
        std::array::from_fn(|number| self.word(number).read())
    }
}

fn main() -> ExitCode {
    require_vm();
    guests::touch::prepare(0..0);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let all: [Vas; 4] = std::array::from_fn(Vas::find_or_make);
    let all = &all;
    match args[..] {
        ["make"] => {
            for vas in all {
                must("enter", enter(vas.write));
                (0..WORDS).for_each(|number| vas.word(number).write(FIRST));
                go_home();
            }
        }
        ["random", steps, seed] => random(all, number(steps), number(seed)),
        ["ends", how] => ends(all, how),
        ["waits"] => waits(all),
        ["cross"] => cross(all),
        ["busy"] => busy(all),
        ["full"] => full(all),
        ["hold", name] => {
            let which = NAMES.iter().position(|it| *it == name).expect("a VAS");
            must("enter", enter(all[which].write));
            println!("holding");
            thread::sleep(Duration::from_secs(600));
            go_home();
        }
        ["stays", ms] => {
            let [a, b, ..] = all;
            must("enter", enter(a.write));
            a.word(0).write(FIRST + 1);
            must("nest", nest(b.read, None));
            println!("suspended");
            thread::sleep(Duration::from_millis(number(ms)));
            must("back", go_back());
            a.word(1).write(FIRST - 1);
            go_home();
            println!("left");
            // There is time for a signal.
            thread::sleep(Duration::from_secs(600));
        }
        ["look"] => {
            for (name, vas) in NAMES.iter().zip(all) {
                match enter(vas.read) {
                    Ok(()) | Err(Errno::EOWNERDEAD) => {}
                    Err(error) => panic!("enter {name}: {error:?}"),
                }
                let [first, second, ..] = vas.words();
                go_home();
                println!("{name} {first} {second}");
            }
        }
        _ => panic!("what?"),
    }
    println!("done");
    ExitCode::SUCCESS
}

/// Where a thread is, and what it sees there.
#[derive(Clone, Debug)]
enum Visit {
    Home,
    Inside { which: usize, writes: bool, sees: [u64; WORDS], version: u64, changed: bool },
}

impl Visit {
    /// Whether it has the lock of `which` in a mode that excludes the other.
    fn excludes(&self, other: usize, other_writes: bool) -> bool {
        let Visit::Inside { which, writes, .. } = *self else { return false };
        // Readers of versions have none.
        let counts = which == RAW || (writes && other_writes);
        which == other && counts && (writes || other_writes)
    }
}

/// What all VASes have, and where the thread is: its visits, the innermost last.
struct Model {
    committed: [([u64; WORDS], u64); 4],
    visits: Vec<Visit>,
}

impl Model {
    fn here(&mut self) -> &mut Visit {
        self.visits.last_mut().expect("there is always one")
    }

    fn commit(&mut self) -> Result<(), Errno> {
        let Visit::Inside { which, writes: true, sees, version, changed } = self.here() else {
            return Err(Errno::EPERM);
        };
        if *which == RAW {
            return Err(Errno::EPERM);
        }
        *version += u64::from(std::mem::take(changed));
        let (which, made) = (*which, (*sees, *version));
        self.committed[which] = made;
        Ok(())
    }

    fn begin(&self, which: usize, writes: bool) -> Visit {
        let (sees, version) = self.committed[which];
        Visit::Inside { which, writes, sees, version, changed: false }
    }

    /// Whether a thread may go to `which`, from all visits or from all but the innermost.
    fn refusal(&self, target: Option<(usize, bool)>, nests: bool) -> Option<Errno> {
        let (which, writes) = target?;
        let kept = if nests { &self.visits[..] } else { &self.visits[..self.visits.len() - 1] };
        if kept.iter().any(|visit| visit.excludes(which, writes)) {
            return Some(Errno::EDEADLK);
        }
        let newest = match self.visits.last() {
            // What is left for it is committed before.
            Some(&Visit::Inside { which: left, version, changed, .. })
                if !nests && left == which =>
            {
                version.max(self.committed[which].1) + u64::from(changed)
            }
            _ => self.committed[which].1,
        };
        let is_newer = self.visits.iter().any(|visit| match *visit {
            Visit::Inside { which: read, writes: false, version, .. } => {
                read == which && which != RAW && writes && version < newest
            }
            _ => false,
        });
        is_newer.then_some(Errno::EBUSY)
    }

    fn check(&mut self, all: &[Vas; 4], step: u64) {
        let here = self.here().clone();
        let current = must("vas_current", sys::vas_current());
        match here {
            Visit::Home => assert_eq!(current, VasHandle::HOME, "{step}"),
            Visit::Inside { which, writes, sees, .. } => {
                let vas = &all[which];
                let vh = if writes { vas.write } else { vas.read };
                assert_eq!((current, vas.words()), (vh, sees), "{step}: {here:?}");
            }
        }
    }
}

fn random(all: &[Vas; 4], steps: u64, seed: u64) {
    let mut random = Random::new(seed);
    let committed = std::array::from_fn(|which| {
        must("enter", enter(all[which].read));
        let words = all[which].words();
        go_home();
        (words, 0)
    });
    let mut model = Model { committed, visits: vec![Visit::Home] };
    let (mut deepest, mut refused) = (0, 0);
    for step in 0..steps {
        let target = match random.below(9) {
            8 => None,
            number => Some((number as usize / 2, number % 2 == 1)),
        };
        let vh =
            target.map_or(
                VasHandle::HOME,
                |(which, writes)| {
                    if writes { all[which].write } else { all[which].read }
                },
            );
        match random.below(20) {
            0..5 => {
                let expected = match model.refusal(target, true) {
                    _ if model.visits.len() > DEPTH => Err(Errno::ELOOP),
                    refusal => refusal.map_or(Ok(()), Err),
                };
                let limit = [NOW, None, Some(Duration::from_secs(60))][random.below(3) as usize];
                assert_eq!(nest(vh, limit), expected, "{step}: nest {target:?} {:?}", model.visits);
                refused += u64::from(expected.is_err());
                if expected.is_ok() {
                    let begun = target.map(|(which, writes)| model.begin(which, writes));
                    model.visits.push(begun.unwrap_or(Visit::Home));
                }
            }
            5..9 => {
                let is_nested = model.visits.len() > 1;
                if is_nested {
                    let _ = model.commit();
                    model.visits.pop();
                }
                let went = go_back();
                assert_eq!(went.is_ok(), is_nested, "{step}: {went:?}");
                assert!(is_nested || went == Err(Errno::EPERM), "{step}: {went:?}");
            }
            9..11 => {
                let is_here = must("vas_current", sys::vas_current()) == vh;
                let refusal = if is_here { None } else { model.refusal(target, false) };
                let expected = refusal.map_or(Ok(()), Err);
                assert_eq!(try_enter(vh), expected, "{step}: switch {target:?} {:?}", model.visits);
                if !is_here {
                    // A thread commits before it tries to leave.
                    let _ = model.commit();
                }
                if refusal.is_none() && !is_here {
                    *model.here() = target.map_or(Visit::Home, |(which, writes)| {
                        let (sees, version) = model.committed[which];
                        Visit::Inside { which, writes, sees, version, changed: false }
                    });
                }
            }
            11 => assert_eq!(commit(), model.commit(), "{step}"),
            12 => {
                let committed = model.committed;
                if let Visit::Inside { which, writes: true, sees, changed, .. } = model.here()
                    && *which != RAW
                {
                    abort();
                    (*sees, *changed) = (committed[*which].0, false);
                }
            }
            _ => {
                let (number, value) = (random.below(WORDS as u64) as usize, random.number());
                let mut raw = None;
                if let Visit::Inside { which, writes: true, sees, changed, .. } = model.here() {
                    all[*which].word(number).write(value);
                    (sees[number], *changed) = (value, true);
                    raw = (*which == RAW).then_some(*sees);
                }
                if let Some(words) = raw {
                    model.committed[RAW].0 = words;
                }
            }
        }
        deepest = deepest.max(model.visits.len());
        model.check(all, step);
    }
    println!("deepest {deepest} refused {}", refused > 0);
    while model.visits.len() > 1 {
        let _ = model.commit();
        model.visits.pop();
        must("vas_return", go_back());
        model.check(all, steps);
    }
    let _ = model.commit();
    go_home();
    for (which, vas) in all.iter().enumerate() {
        must("enter", enter(vas.read));
        assert_eq!(vas.words(), model.committed[which].0, "{}", NAMES[which]);
        go_home();
    }
}

/// Everything that is not committed is gone, in all visits; raw segments keep what was stored.
fn ends([a, b, _, raw]: &[Vas; 4], how: &str) {
    let go_in = || {
        must("enter", enter(a.write));
        a.word(0).write(1);
        must("nest", nest(b.write, None));
        b.word(0).write(2);
        must("commit", commit());
        b.word(1).write(3);
        must("nest", nest(raw.write, None));
        raw.word(0).write(4);
    };
    match how {
        "thread" => thread::scope(|scope| {
            must("join", scope.spawn(go_in).join().map_err(|_| Errno::EIO));
        }),
        "exit" => {
            go_in();
            std::process::exit(7)
        }
        "kill" => {
            go_in();
            // SAFETY: takes a number.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        "fault" => {
            go_in();
            // What lies there is the suspended visit's.
            a.word(0).write(5);
        }
        _ => panic!("how?"),
    }
    // Of a thread that has ended nothing is left in the way.
    for vas in [a, b] {
        must("enter", try_enter(vas.write));
        go_home();
    }
}

/// Another VM has `c`.
fn waits([a, b, c, raw]: &[Vas; 4]) {
    assert_eq!(go_back(), Err(Errno::EPERM));
    assert_eq!(nest(VasHandle::from_raw(77), None), Err(Errno::EBADF));
    must("enter", enter(a.write));
    a.word(0).write(1);
    assert_eq!(nest(c.write, NOW), Err(Errno::EAGAIN));
    let began = Instant::now();
    let limit = Duration::from_millis(50);
    assert_eq!(nest(c.write, Some(limit)), Err(Errno::ETIMEDOUT));
    assert!(began.elapsed() >= limit);
    let began = Instant::now();
    assert_eq!(nest(c.write, None), Err(Errno::EDEADLK), "nobody waits with a lock for ever");
    assert!(began.elapsed() >= Duration::from_secs(10));
    // Its own lock, whatever the limit; but a reader has none.
    assert_eq!(nest(a.write, Some(Duration::from_secs(600))), Err(Errno::EDEADLK));
    must("nest", nest(a.read, None));
    assert_eq!(a.word(0).read(), FIRST, "what was committed");
    assert_eq!(sys::vas_wait(b.read, 0, Duration::from_secs(600)), Err(Errno::EDEADLK));
    assert_eq!(enter(a.write), Err(Errno::EDEADLK), "nor by a switch");
    assert_eq!(commit(), Err(Errno::EPERM), "it reads here");
    must("nest", nest(raw.read, None));
    must("nest", nest(raw.read, None));
    assert_eq!(enter(raw.write), Err(Errno::EDEADLK));
    assert_eq!(enter(c.write), Err(Errno::EDEADLK));
    for vh in [raw.read, a.read, a.write] {
        assert_eq!(go_back(), Ok(vh));
    }
    assert_eq!(a.word(0).read(), 1);
    go_home();
    // A reader holds nothing.
    must("enter", enter(b.read));
    assert_eq!(nest(c.write, Some(limit)), Err(Errno::ETIMEDOUT));
    must("nest", nest(b.write, None));
    b.word(0).write(5);
    assert_eq!(go_back(), Ok(b.read));
    assert_eq!(b.word(0).read(), FIRST, "its view stays");
    assert_eq!(nest(b.write, None), Err(Errno::EBUSY));
    go_home();
}

/// Two threads that want what the other has: at least one is told, and both go on.
fn cross([a, b, ..]: &[Vas; 4]) {
    let both_in = Barrier::new(2);
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for (mine, other) in [(a, b), (b, a)] {
            let (tell, both_in) = (tell.clone(), &both_in);
            scope.spawn(move || {
                must("enter", enter(mine.write));
                mine.word(0).write(1);
                both_in.wait();
                let nested = nest(other.write, None);
                if nested.is_ok() {
                    other.word(1).write(2);
                    assert_eq!(go_back(), Ok(mine.write));
                } else {
                    assert_eq!(nested, Err(Errno::EDEADLK));
                }
                assert_eq!(mine.word(0).read(), 1);
                go_home();
                must("tell", tell.send(nested.is_err()).map_err(|_| Errno::EIO));
            });
        }
    });
    assert!(told.try_iter().any(|refused| refused));
    for vas in [a, b] {
        must("enter", enter(vas.read));
        assert_eq!(vas.word(0).read(), 1);
        go_home();
    }
}

/// Nothing that a suspended visit has goes away under it.
fn busy(all: &[Vas; 4]) {
    let [a, b, _, raw] = all;
    for outer in [a.write, a.read, raw.write] {
        must("enter", enter(outer));
        must("nest", nest(b.write, None));
        assert_eq!(sys::vas_detach(outer), Err(Errno::EBUSY));
        assert_eq!(sys::seg_detach_local(outer, b.sid), Err(Errno::ENOENT));
        // Others commit meanwhile, more than logs have.
        for round in 0..40 {
            for number in 0..512 {
                Place::at(b.base + number * 4096).write(round * 1000 + number);
            }
            must("commit", commit());
        }
        must("vas_sync", sys::vas_sync(b.read));
        assert_eq!(go_back(), Ok(outer));
        assert_eq!(if outer == raw.write { raw } else { a }.words(), [FIRST; WORDS]);
        go_home();
    }
    must("vas_delete", sys::vas_detach(a.read));
    assert_eq!(sys::vas_delete(a.vid), Err(Errno::EBUSY));
}

/// The disk has room for the one, not for the other.
fn full([a, b, ..]: &[Vas; 4]) {
    must("enter", enter(a.write));
    a.word(0).write(1);
    must("nest", nest(b.write, None));
    must("seg_grow", sys::seg_grow(b.sid, 24 << 20));
    for page in 0..(24 << 20) / 4096 {
        Place::at(b.base + page * 4096).write(page ^ 0x5555);
    }
    assert_eq!(go_back(), Err(Errno::ENOSPC));
    assert_eq!(sys::vas_current(), Ok(b.write), "it stays where it is");
    abort();
    b.word(0).write(2);
    assert_eq!(go_back(), Ok(a.write));
    assert_eq!(a.word(0).read(), 1);
    go_home();
}
