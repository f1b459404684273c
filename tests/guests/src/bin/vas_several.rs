//! Accounts in two versioned segments, with a sum over both that every visit has.
//!
//! `vas_several NAME make [DURABILITY]`: VAS NAME with the versioned segments `NAME.a` and
//! `NAME.b`, each with ACCOUNTS words, on a page of its own each, of FIRST each; and VASes with one
//! of them, `NAME.a` and `NAME.b`. `move THREADS COUNT SEED`: each thread COUNT times moves money
//! from an account of the one to one of the other, in steps between which the sum is wrong; now and
//! then it aborts in the middle, and now and then it commits and goes on. `alone WHICH COUNT`: the
//! same between accounts of one segment, in the VAS with that one. `sums COUNT`: COUNT visits to
//! read, each with two looks at all accounts, which must agree and have the right sum; prints how
//! many different states it saw. `visits COUNT`: COUNT visits without a call inside; `elsewhere COUNT`: each after
//! a commit in another VAS. `watch STATES`: `sums` until it has seen so many. `many WHICH
//! COUNT`: commits in the VAS with one segment, enough to fill logs. `go COUNT`: says `ready`,
//! reads a byte, and commits COUNT times. `stay COUNT [WHICH]`: the same, of both segments or of one; says
//! what the last account is then, reads a byte, says what the first two are, and commits once more. `loses`: says `ready`, reads a byte,
//! commits in one segment and then in both, and says what became of that. `count`: commits again and again, of both
//! segments, and prints the number of each when it is committed; `counted`: prints the number of the last, all of whose parts are
//! there; `watch-counted`: looks at that again and again. `die`: ends by SIGKILL with money under way. `large`:
//! more than a commit of two segments may have. `mixed`: a raw segment beside a versioned one.
//! Prints `done`; status 0, or 1 with a message.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::thread;

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_home};
use guests::random::Random;
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, Right, SegId, SegParams, VasHandle, VasId, attach};

const ACCOUNTS: u64 = 16;
const FIRST: u64 = 1000;
const SIZE: u64 = 4 << 20;
const LARGE: u64 = 96 << 20;
/// Pages behind the accounts that `count` changes, one after another.
const COUNTED: u64 = 64;

/// The two segments, and the VAS that has both.
struct Bank {
    sids: [SegId; 2],
    bases: [u64; 2],
    vid: VasId,
}

impl Bank {
    fn find_or_make(name: &str, durability: Option<u16>) -> Bank {
        let mut params = sized(SIZE);
        params.lifetime = Lifetime::Versioned as u8;
        params.lockable = 1;
        params.reserve_bytes = LARGE;
        params.durability = durability.unwrap_or_default();
        let sids = ["a", "b"].map(|which| find_or_make(&format!("{name}.{which}"), &params).1);
        let vid = match sys::vas_create(name, 0o600) {
            Err(Errno::EEXIST) => must("vas_find", sys::vas_find(name)),
            made => must("vas_create", made),
        };
        for sid in sids {
            match sys::seg_attach(vid, sid, Right::Write) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => panic!("seg_attach: {error:?}"),
            }
        }
        Bank { sids, bases: sids.map(base_of), vid }
    }

    fn account(&self, which: usize, number: u64) -> Place {
        Place::at(self.bases[which] + number * 4096)
    }

    fn add(&self, which: usize, number: u64, amount: u64) {
        let account = self.account(which, number);
        account.write(account.read().wrapping_add(amount));
    }

    fn look(&self) -> Vec<u64> {
        let of = |which| (0..ACCOUNTS).map(move |number| self.account(which, number).read());
        of(0).chain(of(1)).collect()
    }

    fn check(&self, who: &str) {
        let sum = self.look().into_iter().fold(0, u64::wrapping_add);
        assert_eq!(sum, 2 * ACCOUNTS * FIRST, "{who}");
    }
}

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let [name, ref what @ ..] = args[..] else {
        eprintln!("usage: vas_several NAME WHAT ...");
        return ExitCode::from(2);
    };
    if *what == ["mixed"] {
        mixed(name);
        println!("done");
        return ExitCode::SUCCESS;
    }
    let durability = match *what {
        ["make", durability] => Some(number(durability) as u16),
        _ => None,
    };
    let bank = &Bank::find_or_make(name, durability);
    let write = || must("vas_attach", sys::vas_attach(bank.vid, 0));
    let read = || must("vas_attach", sys::vas_attach(bank.vid, attach::READ_ONLY));
    match *what {
        ["make", ..] => {
            must("enter", enter(write()));
            for (which, n) in (0..2).flat_map(|which| (0..ACCOUNTS).map(move |n| (which, n))) {
                bank.account(which, n).write(FIRST);
            }
            go_home();
        }
        ["move", threads, count, seed] => thread::scope(|scope| {
            let vh = write();
            for n in 0..number(threads) {
                let random = Random::new(number(seed).wrapping_mul(1000).wrapping_add(n));
                scope.spawn(move || move_about(bank, vh, number(count), random));
            }
        }),
        ["alone", which, count] => alone(bank, number(which) as usize, number(count)),
        ["many", which, count] => many(bank, number(which) as usize, number(count)),
        ["sums", count] => println!("states {}", sums(bank, |visits, _| visits < number(count))),
        ["visits", count] => visits(bank, number(count), false),
        ["elsewhere", count] => visits(bank, number(count), true),
        ["watch", states] => println!("states {}", sums(bank, |_, seen| seen < number(states))),
        ["go", count] => {
            let vh = write();
            println!("ready");
            must("read", std::io::stdin().read_exact(&mut [0]).map_err(|_| Errno::EIO));
            for round in 0..number(count) {
                must("enter", enter(vh));
                bank.add(0, round % ACCOUNTS, 1);
                bank.add(1, round % ACCOUNTS, 1_u64.wrapping_neg());
                go_home();
            }
        }
        ["stay", count] => stay(bank, write(), [0, 1], number(count)),
        ["stay", count, which] => {
            let which = number(which) as usize;
            stay(bank, one_of(bank, which), [which; 2], number(count));
        }
        ["loses"] => {
            let (both, one) = (write(), one_of(bank, 1));
            println!("ready");
            must("read", std::io::stdin().read_exact(&mut [0]).map_err(|_| Errno::EIO));
            must("enter", enter(one));
            bank.add(1, 0, 1);
            bank.add(1, 1, 1_u64.wrapping_neg());
            go_home();
            must("enter", enter(both));
            bank.add(0, 2, 1);
            bank.add(1, 2, 1_u64.wrapping_neg());
            println!("leaves: {:?}", enter(VasHandle::HOME));
        }
        ["count"] => {
            let vh = write();
            loop {
                println!("{}", count(bank, vh));
                must("flush", std::io::stdout().flush().map_err(|_| Errno::EIO));
            }
        }
        ["counted"] => {
            println!("{}", counted(bank, read()));
            return ExitCode::SUCCESS;
        }
        ["watch-counted"] => {
            let vh = read();
            loop {
                counted(bank, vh);
            }
        }
        ["die"] => {
            must("enter", enter(write()));
            bank.add(0, 1, 10);
            bank.add(1, 1, 20);
            // SAFETY: takes a number.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        ["large"] => large(bank, write()),
        _ => panic!("what?"),
    }
    println!("done");
    ExitCode::SUCCESS
}

fn move_about(bank: &Bank, vh: VasHandle, count: u64, mut random: Random) {
    for round in 0..count {
        must("enter", enter(vh));
        bank.check("a writer");
        let from = random.below(2) as usize;
        let (one, other) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let amount = random.below(100);
        bank.add(from, one, amount.wrapping_neg());
        if round % 5 == 4 {
            abort();
            bank.check("after an abort");
        } else {
            bank.add(1 - from, other, amount);
        }
        if round % 7 == 6 {
            must("vas_commit", commit());
            bank.add(from, one, 1);
            bank.add(1 - from, one, 1);
            abort();
            bank.check("after a commit and an abort");
        }
        go_home();
    }
}

/// Makes the next change to both segments; returns its number.
fn count(bank: &Bank, vh: VasHandle) -> u64 {
    must("enter", enter(vh));
    let number = bank.account(0, 0).read() - FIRST + 1;
    bank.add(0, 0, 1);
    bank.add(1, 0, 1_u64.wrapping_neg());
    (0..2).for_each(|which| bank.account(which, ACCOUNTS + number % COUNTED).write(number));
    go_home();
    number
}

/// The number of the last change; every page that one has changed, in either segment, has to have the number of the last
/// that did.
fn counted(bank: &Bank, vh: VasHandle) -> u64 {
    must("enter", enter(vh));
    let last = bank.account(0, 0).read() - FIRST;
    bank.check("counted");
    for number in last.saturating_sub(COUNTED - 1).max(1)..=last {
        let parts = [0, 1].map(|which| bank.account(which, ACCOUNTS + number % COUNTED).read());
        assert_eq!(parts, [number; 2], "change {number} of {last}");
    }
    go_home();
    last
}

/// The handle of the VAS that has one of the segments.
fn one_of(bank: &Bank, which: usize) -> VasHandle {
    let mut stat = sys::EMPTY_SEG_STAT;
    stat.clone_from(&must("seg_stat", sys::seg_stat(bank.sids[which])));
    let vid = must("vas_find", sys::vas_find(guests::store::text(&stat.name)));
    must("vas_attach", sys::vas_attach(vid, 0))
}

fn alone(bank: &Bank, which: usize, count: u64) {
    let vh = one_of(bank, which);
    for round in 0..count {
        must("enter", enter(vh));
        bank.add(which, round % ACCOUNTS, 1);
        bank.add(which, (round + 1) % ACCOUNTS, 1_u64.wrapping_neg());
        go_home();
    }
}

fn stay(bank: &Bank, vh: VasHandle, [from, to]: [usize; 2], count: u64) {
    let wait = || must("read", std::io::stdin().read_exact(&mut [0]).map_err(|_| Errno::EIO));
    let change = |round| {
        bank.add(to, round, 1);
        bank.add(from, ACCOUNTS - 1, 1_u64.wrapping_neg());
    };
    println!("ready");
    wait();
    for round in 0..count {
        must("enter", enter(vh));
        change(round);
        go_home();
    }
    let reader = must("vas_attach", sys::vas_attach(bank.vid, attach::READ_ONLY));
    must("enter", enter(reader));
    bank.check("who has committed");
    println!("committed {}", bank.account(to, count - 1).read());
    go_home();
    wait();
    must("enter", enter(vh));
    println!("sees {} {}", bank.account(to, 0).read(), bank.account(to, 1).read());
    change(0);
    go_home();
}

fn many(bank: &Bank, which: usize, count: u64) {
    let vh = one_of(bank, which);
    for round in 0..count {
        must("enter", enter(vh));
        let page = |page: u64| Place::at(bank.bases[which] + 2 * 1024 * 1024 + page * 4096);
        (0..128).for_each(|number| page(number).write(round + 1));
        go_home();
    }
}

/// Visits to read, as long as `goes_on` says, given how many there were and how many different
/// states they saw; returns the latter.
fn sums(bank: &Bank, goes_on: impl Fn(u64, u64) -> bool) -> u64 {
    // Attached to be read only: it takes no lock.
    let vh = must("vas_attach", sys::vas_attach(bank.vid, attach::READ_ONLY));
    let (mut visits, mut seen) = (0, std::collections::BTreeSet::new());
    while goes_on(visits, seen.len() as u64) {
        visits += 1;
        must("enter", enter(vh));
        let first = bank.look();
        thread::yield_now();
        assert_eq!(bank.look(), first, "the view moved");
        bank.check("a reader");
        assert_eq!(commit(), Err(Errno::EPERM));
        go_home();
        seen.insert(first);
    }
    seen.len() as u64
}

/// So many visits to read; before each, if it is said, a version of a segment that is not looked at.
fn visits(bank: &Bank, count: u64, elsewhere: bool) {
    let vh = must("vas_attach", sys::vas_attach(bank.vid, attach::READ_ONLY));
    let params = SegParams { lifetime: Lifetime::Versioned as u8, lockable: 1, ..sized(1 << 20) };
    let (vid, sid) = find_or_make("elsewhere", &params);
    let other = must("vas_attach", sys::vas_attach(vid, 0));
    let place = Place::at(base_of(sid));
    for _ in 0..count {
        if elsewhere {
            must("enter", enter(other));
            place.write(place.read() + 1);
            go_home();
        }
        must("enter", enter(vh));
        bank.check("a reader");
        go_home();
    }
}

/// A part that fits into no log: the commit fails as a whole, and the thread goes on.
fn large(bank: &Bank, vh: VasHandle) {
    must("enter", enter(vh));
    must("seg_grow", sys::seg_grow(bank.sids[0], LARGE));
    let pages = SIZE / 4096..(80 << 20) / 4096;
    pages.clone().for_each(|page| Place::at(bank.bases[0] + page * 4096).write(page));
    bank.add(1, 0, 1);
    let failed = enter(VasHandle::HOME);
    assert_eq!(failed, Err(Errno::EFBIG));
    assert_eq!(sys::vas_current(), Ok(vh), "it stays inside");
    assert_eq!(bank.account(1, 0).read(), FIRST + 1, "with its changes");
    abort();
    bank.check("after an abort");
    // Of one segment it may be as much as one likes.
    must("seg_grow", sys::seg_grow(bank.sids[0], LARGE));
    pages.for_each(|page| Place::at(bank.bases[0] + page * 4096).write(page));
    go_home();
    must("enter", enter(vh));
    bank.check("after a large commit");
    bank.add(0, 1, 1);
    bank.add(1, 1, 1_u64.wrapping_neg());
    go_home();
}

/// A raw segment and a versioned one in one VAS: an abort takes back the versioned one alone.
fn mixed(name: &str) {
    let raw = sized(SIZE);
    let raw = guests::store::find_or_make(&format!("{name}.raw"), &raw).1;
    let mut params = sized(SIZE);
    (params.lifetime, params.lockable) = (Lifetime::Versioned as u8, 1);
    let (vid, versioned) = find_or_make(name, &params);
    must("seg_attach", sys::seg_attach(vid, raw, Right::Write));
    let vh = must("vas_attach", sys::vas_attach(vid, 0));
    let [raw, versioned] = [raw, versioned].map(|sid| Place::at(base_of(sid)));
    must("enter", enter(vh));
    [raw, versioned].iter().for_each(|place| place.write(1));
    must("vas_commit", commit());
    [raw, versioned].iter().for_each(|place| place.write(2));
    abort();
    assert_eq!((raw.read(), versioned.read()), (2, 1));
    versioned.write(3);
    go_home();
    let reader = must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY));
    must("enter", enter(reader));
    assert_eq!((raw.read(), versioned.read()), (2, 3));
    go_home();
}
