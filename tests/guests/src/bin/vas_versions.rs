//! Accounts in a versioned segment, with a sum that every version has.
//!
//! `vas_versions NAME make`: VAS and versioned segment NAME with ACCOUNTS words, each on a page of
//! its own, of FIRST each. `move THREADS COUNT SEED`: each thread COUNT times moves money from one
//! account to another, in steps between which the sum is wrong; now and then it aborts in the
//! middle. `sums COUNT`: COUNT visits to read, each with two looks at all accounts, which must
//! agree and have the right sum; prints how many different states it saw. `watch STATES`: the same
//! until it has seen so many. `die`: ends by SIGKILL with money under way. `exit`: the same by
//! `exit_group`. `leave`: the same, declared inconsistent before it leaves. `grow`: changes size
//! and root object, aborts that, and does it again. `calls`: system calls read and write the
//! segment. `remove`: pages are removed, which commits and aborts take as changes. `full`: grows and writes until a commit fails, sees that nothing of it has happened,
//! and goes on with less. `many COUNT`: commits COUNT times a page each, enough to fill logs. `keep
//! TAG`: keeps a version in the middle of a change. `at VERSION`: prints what account 1 had in that
//! version, or why it cannot be attached. `views`: a reader's view stays while a thread of the same
//! program commits. `visits COUNT`: COUNT visits to read, with one look in the first; nobody
//! commits. `news COUNT`: COUNT times a commit, then two visits to read. `readers THREADS COMMITS`:
//! a thread commits while others go in and out as fast as they can; no sum is wrong, no view moves,
//! and none is older than what the thread knows to be committed. `busy`: an instance is not
//! detached while a thread is inside, whoever let it in. `long COUNT`: what a thread inside sees
//! stays while another commits COUNT times, enough to fill logs. `again WHAT`: the same as WHAT after a
//! visit that changes nothing, so that the kernel lets in whoever comes next. `turns`: at each line of its
//! input moves money from account 1 to account 2; prints what account 1 has then, or why the change was
//! refused. `slow MS`: moves money twice, the second time without leaving the guest for so long in the
//! middle. `stay`: inside to read, prints at each line of its input what the first account has, and at the end of its input what
//! all have, if that is the same for each. `rounds COUNT`: at each line of its input
//! COUNT times a visit to read and a system call, and each tenth time a commit. `idle`: has nothing attached, and says that it is there until its input ends. Prints `done`; status 0, or 1 with a message.

use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_home, recover, set_root};
use guests::random::Random;
use guests::store::{base_of, find_or_make, sized};
use guests::touch::Seen;
use spacejmp::sys::{self, Lifetime, SegId, SegRoot, VasHandle, VasId, attach};

const ACCOUNTS: u64 = 64;
const FIRST: u64 = 1000;
const SIZE: u64 = 4 << 20;

/// The segment, attached to be written and to be read.
struct Bank {
    sid: SegId,
    base: u64,
    write: VasHandle,
    vid: VasId,
}

impl Bank {
    fn account(&self, number: u64) -> Place {
        Place::at(self.base + number * 4096)
    }

    fn sum(&self) -> u64 {
        (0..ACCOUNTS).map(|number| self.account(number).read()).fold(0, u64::wrapping_add)
    }

    fn read(&self) -> VasHandle {
        must("vas_attach", sys::vas_attach(self.vid, attach::READ_ONLY))
    }

    /// Takes money from one account; it is nowhere then.
    fn take(&self, from: u64, amount: u64) {
        let account = self.account(from);
        account.write(account.read().wrapping_sub(amount));
    }
}

fn main() -> ExitCode {
    require_vm();
    guests::touch::prepare(0..0);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let [name, ref what @ ..] = args[..] else {
        eprintln!("usage: vas_versions NAME WHAT ...");
        return ExitCode::from(2);
    };
    if *what == ["idle"] {
        println!("outside");
        std::io::stdin().lines().for_each(|_| println!("outside"));
        println!("done");
        return ExitCode::SUCCESS;
    }
    let mut params = sized(SIZE);
    params.lifetime = Lifetime::Versioned as u8;
    params.lockable = 1;
    params.reserve_bytes = 4 * SIZE;
    let (vid, sid) = find_or_make(name, &params);
    if *what == ["make"] {
        let write = must("vas_attach", sys::vas_attach(vid, 0));
        let bank = Bank { sid, base: base_of(sid), write, vid };
        must("enter", enter(write));
        (0..ACCOUNTS).for_each(|number| bank.account(number).write(FIRST));
        go_home();
        println!("done");
        return ExitCode::SUCCESS;
    }
    if let ["sums", count] = *what {
        // Attached to be read only: it takes no lock.
        let bank = Bank { sid, base: base_of(sid), write: VasHandle::HOME, vid };
        println!("states {}", sums(&bank, |visits, _| visits < number(count)));
        return ExitCode::SUCCESS;
    }
    if *what == ["stay"] {
        stay(&Bank { sid, base: base_of(sid), write: VasHandle::HOME, vid });
        println!("done");
        return ExitCode::SUCCESS;
    }
    if let ["visits", count] = *what {
        let bank = Bank { sid, base: base_of(sid), write: VasHandle::HOME, vid };
        visits(&bank, number(count));
        return ExitCode::SUCCESS;
    }
    if let ["rounds", count] = *what {
        let write = must("vas_attach", sys::vas_attach(vid, 0));
        rounds(&Bank { sid, base: base_of(sid), write, vid }, number(count));
        println!("done");
        return ExitCode::SUCCESS;
    }
    if let ["watch", states] = *what {
        let bank = Bank { sid, base: base_of(sid), write: VasHandle::HOME, vid };
        println!("states {}", sums(&bank, |_, seen| seen < number(states)));
        return ExitCode::SUCCESS;
    }
    if let ["at", version] = *what {
        let kept = sys::vas_find(format!("{name}@{version}"));
        let bank = Bank { sid, base: base_of(sid), write: VasHandle::HOME, vid };
        match kept {
            Ok(vid) => println!("account {}", first_of(&Bank { vid, ..bank })),
            Err(error) => println!("{error:?}"),
        }
        return ExitCode::SUCCESS;
    }
    let write = must("vas_attach", sys::vas_attach(vid, 0));
    let bank = &Bank { sid, base: base_of(sid), write, vid };
    let what = match *what {
        ["again", ref what @ ..] => {
            must("enter", enter(write));
            bank.sum();
            go_home();
            what
        }
        ref what => what,
    };
    match *what {
        ["move", threads, count, seed] => thread::scope(|scope| {
            for n in 0..number(threads) {
                let random = Random::new(number(seed).wrapping_mul(1000).wrapping_add(n));
                scope.spawn(move || move_about(bank, number(count), random));
            }
        }),
        ["die"] => {
            must("enter", enter(write));
            bank.take(1, 10);
            // SAFETY: takes a number.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        ["remove"] => removed(bank),
        ["exit"] => {
            must("enter", enter(write));
            bank.take(2, 10);
            std::process::exit(7);
        }
        ["leave"] => {
            must("enter", enter(write));
            bank.take(3, 10);
            other_segment();
            must("marking", mark_inconsistent(sid));
            assert_eq!(commit(), Err(Errno::EPERM));
            go_home();
            must("enter", enter(write));
            assert_eq!(bank.sum(), ACCOUNTS * FIRST);
            go_home();
        }
        ["grow"] => grow(bank),
        ["calls"] => calls(bank),
        ["views"] => views(bank),
        ["full"] => full(bank),
        ["busy"] => busy(bank),
        ["long", count] => long(bank, number(count)),
        ["news", count] => news(bank, number(count)),
        ["readers", threads, commits] => readers(bank, number(threads), number(commits)),
        ["keep", tag] => keep(bank, name, tag),
        ["many", count] => many(bank, number(count)),
        ["turns"] => turns(bank),
        ["slow", ms] => [0, number(ms)].into_iter().for_each(|ms| slow(bank, ms)),
        _ => panic!("what?"),
    }
    println!("done");
    ExitCode::SUCCESS
}

fn mark_inconsistent(sid: SegId) -> Result<(), Errno> {
    // SAFETY: the accounts are numbers, of which any is valid.
    unsafe { sys::seg_mark_inconsistent(sid) }
}

fn slow(bank: &Bank, ms: u64) {
    must("enter", enter(bank.write));
    bank.take(1, 1);
    let until = Instant::now() + Duration::from_millis(ms);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    let other = bank.account(2);
    other.write(other.read().wrapping_add(1));
    go_home();
}

fn turns(bank: &Bank) {
    println!("ready");
    for line in std::io::stdin().lines() {
        must("a line", line.map_err(|_| Errno::EIO));
        must("enter", enter(bank.write));
        bank.take(1, 1);
        let left = bank.account(1).read();
        let other = bank.account(2);
        other.write(other.read().wrapping_add(1));
        match enter(VasHandle::HOME) {
            Ok(()) => println!("has {left}"),
            Err(error) => {
                abort();
                go_home();
                println!("{error:?}");
            }
        }
    }
}

/// The same again and again, as long as there is input.
fn rounds(bank: &Bank, count: u64) {
    let read = bank.read();
    println!("attached");
    let mut all = 0_u64;
    for line in std::io::stdin().lines() {
        must("a line", line.map_err(|_| Errno::EIO));
        for round in 0..count {
            must("enter", enter(read));
            assert_eq!(bank.account(0).read(), FIRST + all.div_ceil(10));
            go_home();
            assert_ne!(std::process::id(), 0);
            if round % 10 == 0 {
                must("enter", enter(bank.write));
                bank.account(0).write(FIRST + all / 10 + 1);
                go_home();
            }
            all += 1;
        }
        println!("rounds {all}");
    }
}

/// One visit to read, as long as there is input. All pages but that of the first account are looked at only at its end.
fn stay(bank: &Bank) {
    let vh = bank.read();
    must("enter", enter(vh));
    println!("inside");
    for line in std::io::stdin().lines() {
        must("a line", line.map_err(|_| Errno::EIO));
        println!("first {}", bank.account(0).read());
    }
    let all: std::collections::BTreeSet<u64> =
        (0..ACCOUNTS).map(|n| bank.account(n).read()).collect();
    println!("all {all:?}");
    go_home();
}

/// What account 1 has, in a state that has the right sum.
fn first_of(bank: &Bank) -> u64 {
    let vh = bank.read();
    must("enter", enter(vh));
    assert_eq!(bank.sum(), ACCOUNTS * FIRST);
    let first = bank.account(1).read();
    go_home();
    must("vas_detach", sys::vas_detach(vh));
    first
}

/// Keeps a version in the middle of a change, which is not in it.
fn keep(bank: &Bank, name: &str, tag: &str) {
    must("enter", enter(bank.write));
    let before = bank.account(1).read();
    bank.take(1, 10);
    let kept = must("vas_tag", sys::vas_tag(bank.vid, tag));
    let other = bank.account(2);
    other.write(other.read() + 10);
    go_home();
    assert_eq!(sys::vas_tag(bank.vid, tag), Err(Errno::EEXIST));
    assert_eq!(sys::vas_tag(bank.vid, "17"), Err(Errno::EINVAL));
    assert_eq!(sys::vas_tag(bank.vid, "a@b"), Err(Errno::EINVAL));
    assert_eq!(sys::vas_find(format!("{name}@{tag}")), Ok(kept));
    let old = Bank { sid: bank.sid, base: bank.base, write: VasHandle::HOME, vid: kept };
    assert_eq!(first_of(&old), before);
    assert_eq!(first_of(bank), before - 10);
}

/// Another versioned segment that the program has attached is not the one it writes.
fn other_segment() {
    let mut params = sized(4096);
    (params.lifetime, params.lockable) = (Lifetime::Versioned as u8, 1);
    let (vid, sid) = find_or_make("other", &params);
    let vh = must("vas_attach", sys::vas_attach(vid, 0));
    assert_eq!(mark_inconsistent(sid), Err(Errno::EPERM));
    assert_eq!(recover(sid), Err(Errno::EPERM));
    must("vas_detach", sys::vas_detach(vh));
}

fn move_about(bank: &Bank, count: u64, mut random: Random) {
    for round in 0..count {
        must("enter", enter(bank.write));
        assert_eq!(bank.sum(), ACCOUNTS * FIRST, "a writer");
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let amount = random.below(100);
        bank.take(from, amount);
        if round % 5 == 4 {
            abort();
            assert_eq!(bank.sum(), ACCOUNTS * FIRST, "after an abort");
        } else {
            bank.take(to, amount.wrapping_neg());
        }
        if round % 7 == 6 {
            must("vas_commit", commit());
            bank.take(from, 1);
            abort();
        }
        go_home();
    }
}

/// Visits to read, as long as `goes_on` says, given how many there were and how many different
/// states they saw; returns the latter.
fn sums(bank: &Bank, goes_on: impl Fn(u64, u64) -> bool) -> u64 {
    let vh = bank.read();
    let (mut visits, mut seen) = (0, std::collections::BTreeSet::new());
    while goes_on(visits, seen.len() as u64) {
        visits += 1;
        must("enter", enter(vh));
        let look = || (0..ACCOUNTS).map(|n| bank.account(n).read()).collect::<Vec<_>>();
        let first = look();
        thread::yield_now();
        assert_eq!(look(), first, "the view moved");
        let sum = first.iter().copied().fold(0, u64::wrapping_add);
        assert_eq!(sum, ACCOUNTS * FIRST, "a reader");
        assert_eq!(bank.account(0).put(1), Seen::Forbidden, "a reader can write");
        assert_eq!(commit(), Err(Errno::EPERM));
        go_home();
        seen.insert(first);
    }
    seen.len() as u64
}

fn grow(bank: &Bank) {
    let last = Place::at(bank.base + SIZE);
    let root = SegRoot { address: last.address(), fingerprint: [7, 8] };
    assert_eq!(sys::seg_grow(bank.sid, 2 * SIZE), Err(Errno::EPERM), "from home");
    must("enter", enter(bank.write));
    assert_eq!(last.look(), Seen::NotMapped, "beyond the end");
    assert_eq!(set_root(bank.sid, &root), Err(Errno::EINVAL));
    for keep in [false, true] {
        must("seg_grow", sys::seg_grow(bank.sid, 2 * SIZE));
        assert_eq!(last.read(), 0);
        last.write(5);
        must("seg_root_set", set_root(bank.sid, &root));
        assert_eq!(sys::seg_root_get(bank.sid), Ok(root));
        if !keep {
            abort();
            assert_eq!(sys::seg_root_get(bank.sid), Ok(SegRoot::default()));
        }
    }
    assert_eq!(sys::seg_grow(bank.sid, SIZE), Err(Errno::EINVAL), "smaller");
    assert_eq!(sys::seg_grow(bank.sid, 64 * SIZE), Err(Errno::EFBIG));
    go_home();
    assert_eq!(sys::seg_root_get(bank.sid), Ok(root));
    assert_eq!(must("seg_stat", sys::seg_stat(bank.sid)).size_bytes, 2 * SIZE);
    let vh = bank.read();
    must("enter", enter(vh));
    assert_eq!(last.read(), 5);
    go_home();
}

/// System calls see what the thread sees, and a call that stores is a store.
fn calls(bank: &Bank) {
    let mut pipe = [0; 2];
    // SAFETY: two descriptors fit.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let send = |address: u64, bytes: usize| {
        // SAFETY: only reads; a bad address is an error.
        unsafe { libc::write(pipe[1], std::ptr::with_exposed_provenance(address as usize), bytes) }
    };
    let receive = |address: u64, bytes: usize| {
        let to = std::ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: an address in the VAS region, where no Rust object lives.
        unsafe { libc::read(pipe[0], to, bytes) }
    };
    let across = bank.base + 10 * 4096 - 16;
    must("enter", enter(bank.write));
    let (one, two) = (Place::at(across + 8), Place::at(across + 16));
    // Read first, so that what a call replaces is what a thread has looked at.
    assert_eq!((one.read(), two.read()), (0, FIRST));
    one.write(0x11);
    assert_eq!(send(one.address(), 16), 16);
    two.write(3);
    assert_eq!(Place::at(across + 4096).read(), 0);
    assert_eq!(receive(across + 4096 - 8 + 8, 16), 16);
    assert_eq!(Place::at(across + 4096).read(), 0x11, "what a call stored");
    assert_eq!(Place::at(across + 4096 + 8).read(), FIRST);
    let fresh = Place::at(bank.base + 3 * 1024 * 1024);
    assert_eq!(fresh.read(), 0);
    assert_eq!(send(two.address(), 8), 8);
    assert_eq!(receive(fresh.address(), 8), 8);
    assert_eq!(fresh.read(), 3);
    abort();
    assert_eq!((fresh.read(), one.read(), two.read()), (0, 0, FIRST));
    go_home();
    let vh = bank.read();
    must("enter", enter(vh));
    assert_eq!(send(two.address(), 8), 8);
    assert_eq!(receive(fresh.address(), 8), -1, "a store in a visit to read");
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
    go_home();
    let mut word = [0_u8; 8];
    // SAFETY: the buffer is 8 bytes.
    assert_eq!(unsafe { libc::read(pipe[0], word.as_mut_ptr().cast(), 8) }, 8);
    assert_eq!(u64::from_le_bytes(word), FIRST);
}

/// `madvise(MADV_REMOVE)` of some accounts' pages.
fn remove(bank: &Bank, first: u64, count: u64) -> Result<(), Option<i32>> {
    let start = std::ptr::with_exposed_provenance_mut((bank.base + first * 4096) as usize);
    // SAFETY: addresses in the VAS region, where no Rust object lives.
    match unsafe { libc::madvise(start, (count * 4096) as usize, libc::MADV_REMOVE) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error()),
    }
}

/// Pages that are removed: zeros, as part of the change, whether they were touched before or not.
fn removed(bank: &Bank) {
    let words = |accounts: std::ops::Range<u64>| -> Vec<u64> {
        accounts.map(|number| bank.account(number).read()).collect()
    };
    must("enter", enter(bank.write));
    // Account 0 untouched, 1 read, 2 written; 3 and 4 are not removed.
    assert_eq!(bank.account(1).read(), FIRST);
    bank.account(2).write(7);
    bank.account(3).write(8);
    assert_eq!(remove(bank, 0, 3), Ok(()));
    assert_eq!(words(0..5), [0, 0, 0, 8, FIRST]);
    abort();
    assert_eq!(words(0..5), [FIRST; 5]);
    assert_eq!(remove(bank, 0, 3), Ok(()));
    abort();
    // Never touched between.
    bank.account(1).write(9);
    assert_eq!(words(0..3), [FIRST, 9, FIRST]);
    assert_eq!(remove(bank, 0, 3), Ok(()));
    bank.account(0).write(1);
    assert_eq!(Place::at(bank.base + 8).read(), 0, "the rest of a page that was removed");
    must("commit", commit());
    assert_eq!(words(0..4), [1, 0, 0, FIRST]);
    bank.account(2).write(2);
    must("commit", commit());
    // What a commit has made zeros, and a later one removes again.
    assert_eq!(remove(bank, 0, 3), Ok(()));
    assert_eq!(remove(bank, 0, 3), Ok(()));
    bank.account(1).write(5);
    // Never touched, neither before nor after.
    assert_eq!(remove(bank, 10, 4), Ok(()));
    go_home();
    must("enter", enter(bank.write));
    assert_eq!(words(0..4), [0, 5, 0, FIRST]);
    assert_eq!(words(10..14), [0; 4]);
    bank.account(2).write(6);
    assert_eq!(remove(bank, 2, 1 << 20), Err(Some(libc::ENOMEM)), "behind the end");
    // More copies than are kept for the next visit: their memory is given back.
    must("seg_grow", sys::seg_grow(bank.sid, 2 * SIZE));
    let pages = ACCOUNTS..SIZE / 4096 + 500;
    pages.clone().for_each(|page| bank.account(page).write(page));
    assert_eq!(remove(bank, pages.start, pages.end - pages.start), Ok(()));
    assert!(pages.clone().all(|page| bank.account(page).read() == 0));
    pages.clone().step_by(3).for_each(|page| bank.account(page).write(page + 1));
    go_home();
    must("enter", enter(bank.write));
    let now = |page: u64| if (page - ACCOUNTS).is_multiple_of(3) { page + 1 } else { 0 };
    assert!(pages.clone().all(|page| bank.account(page).read() == now(page)));
    assert_eq!(remove(bank, pages.start, pages.end - pages.start), Ok(()));
    abort();
    assert!(pages.clone().all(|page| bank.account(page).read() == now(page)));
    go_home();
    let vh = bank.read();
    must("enter", enter(vh));
    assert_eq!(words(0..4), [0, 5, 6, FIRST]);
    assert_eq!(words(9..15), [FIRST, 0, 0, 0, 0, FIRST]);
    assert_eq!(remove(bank, 0, 1), Err(Some(libc::EACCES)));
    go_home();
}

/// One thread reads while another commits: the reader's view stays, the next visit sees the change.
fn views(bank: &Bank) {
    let (vh, meet) = (bank.read(), Barrier::new(2));
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            meet.wait();
            must("enter", enter(bank.write));
            bank.take(5, 1);
            bank.take(6, 1_u64.wrapping_neg());
            go_home();
            meet.wait();
        });
        must("enter", enter(vh));
        let before = (bank.account(5).read(), bank.account(6).read());
        meet.wait();
        meet.wait();
        assert_eq!((bank.account(5).read(), bank.account(6).read()), before);
        // A page that this visit has not touched yet is of its version, too.
        assert_eq!(bank.sum(), ACCOUNTS * FIRST);
        go_home();
        must("enter", enter(vh));
        assert_eq!((bank.account(5).read(), bank.account(6).read()), (before.0 - 1, before.1 + 1));
        go_home();
        writer.join().expect("the writer");
    });
}

/// Visits to read while nobody commits: the kernel's business.
fn visits(bank: &Bank, count: u64) {
    let vh = bank.read();
    for visit in 0..count {
        must("enter", enter(vh));
        if visit == 0 {
            assert_eq!(bank.sum(), ACCOUNTS * FIRST);
        }
        assert_eq!(Ok(()), enter(vh), "where it is");
        go_home();
    }
    println!("done");
}

/// Each commit is one exit to enter, one to leave, and one for the first visit that finds it.
fn news(bank: &Bank, count: u64) {
    let vh = bank.read();
    must("enter", enter(vh));
    assert_eq!(bank.sum(), ACCOUNTS * FIRST);
    go_home();
    for _ in 0..count {
        must("enter", enter(bank.write));
        bank.take(1, 1);
        bank.take(2, 1_u64.wrapping_neg());
        go_home();
        for _ in 0..2 {
            must("enter", enter(vh));
            assert_eq!(bank.sum(), ACCOUNTS * FIRST);
            go_home();
        }
    }
}

/// Enters to read, for the second time: the kernel lets the thread in.
fn enter_again(vh: VasHandle) {
    must("enter", enter(vh));
    go_home();
    must("enter", enter(vh));
}

fn busy(bank: &Bank) {
    let (vh, meet) = (bank.read(), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            enter_again(vh);
            meet.wait();
            meet.wait();
            go_home();
            meet.wait();
            meet.wait();
        });
        meet.wait();
        assert_eq!(sys::vas_detach(vh), Err(Errno::EBUSY), "a thread is inside");
        meet.wait();
        meet.wait();
        // It has left without the VMM.
        must("vas_detach", sys::vas_detach(vh));
        assert_eq!(enter(vh), Err(Errno::EBADF));
        let again = bank.read();
        enter_again(again);
        assert_eq!(bank.sum(), ACCOUNTS * FIRST);
        go_home();
        meet.wait();
    });
}

fn long(bank: &Bank, count: u64) {
    let (vh, meet) = (bank.read(), Barrier::new(2));
    // Pages that the commits change: one is looked at before, one only after them.
    let changed = [0, 77].map(|page| Place::at(bank.base + 2 * 1024 * 1024 + page * 4096));
    must("enter", enter(bank.write));
    changed.iter().for_each(|place| place.write(5555));
    go_home();
    thread::scope(|scope| {
        scope.spawn(|| {
            enter_again(vh);
            assert_eq!(changed[0].read(), 5555);
            meet.wait();
            meet.wait();
            assert_eq!(changed.map(|place| place.read()), [5555; 2], "the view moved");
            go_home();
            must("enter", enter(vh));
            assert_eq!(changed.map(|place| place.read()), [count - 1; 2]);
            go_home();
        });
        meet.wait();
        many(bank, count);
        // Another one comes and goes meanwhile, and sees the newest.
        enter_again(vh);
        assert_eq!(changed.map(|place| place.read()), [count - 1; 2]);
        go_home();
        meet.wait();
    });
}

/// Account 1 falls by one with each commit.
fn readers(bank: &Bank, threads: u64, commits: u64) {
    let (vh, committed, ended) = (bank.read(), AtomicU64::new(0), AtomicBool::new(false));
    let start = FIRST;
    let read = |bank: &Bank| {
        let mut visits = 0_u64;
        while !ended.load(Ordering::SeqCst) {
            let known = committed.load(Ordering::SeqCst);
            must("enter", enter(vh));
            let first = bank.account(1).read();
            assert!(start - first >= known, "older than what was committed before");
            // System calls see the same version.
            if visits.is_multiple_of(16) {
                thread::yield_now();
            }
            if visits.is_multiple_of(4) {
                assert_eq!(bank.sum(), ACCOUNTS * FIRST);
            }
            assert_eq!(bank.account(1).read(), first, "the view moved");
            assert_eq!(bank.account(2).read() - FIRST, FIRST - first, "a mixture");
            go_home();
            visits += 1;
        }
        assert!(visits > 0);
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| read(bank));
        }
        for commit in 1..=commits {
            must("enter", enter(bank.write));
            bank.take(1, 1);
            bank.take(2, 1_u64.wrapping_neg());
            go_home();
            committed.store(commit, Ordering::SeqCst);
        }
        ended.store(true, Ordering::SeqCst);
    });
}

/// More than the disk has, in one change: it fails as a whole, and the thread goes on.
fn full(bank: &Bank) {
    must("enter", enter(bank.write));
    must("seg_grow", sys::seg_grow(bank.sid, 4 * SIZE));
    let fill = |pages: u64| {
        (0..pages).for_each(|page| Place::at(bank.base + SIZE + page * 4096).write(page + 1));
    };
    fill(3 * SIZE / 4096);
    let failed = enter(VasHandle::HOME);
    assert!(matches!(failed, Err(Errno::ENOSPC | Errno::EDQUOT)), "{failed:?}");
    assert_eq!(sys::vas_current(), Ok(bank.write), "it stays inside");
    assert_eq!(Place::at(bank.base + SIZE).read(), 1, "with its changes");
    abort();
    bank.take(0, 1);
    bank.take(1, 1_u64.wrapping_neg());
    go_home();
}

fn many(bank: &Bank, count: u64) {
    for round in 0..count {
        must("enter", enter(bank.write));
        (0..128).for_each(|page| Place::at(bank.base + 2 * 1024 * 1024 + page * 4096).write(round));
        go_home();
    }
}
