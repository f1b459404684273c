//! Transactions larger than the memory that the program may use.
//!
//! `vas_spill make NAME MIB`: VAS and versioned segment NAME. What a page has follows from its number and that of a
//! round, 0 being zeros. `load NAME ROUND`: one visit that gives every page what it has in that round, reads all of it,
//! and changes some again before it leaves. `check NAME ROUND`: every page has what that round gave it. `abort NAME
//! ROUND`: the same as `load`, thrown away; then it is as in the round before, and another visit does it again. `half
//! NAME ROUND`: the same, says `half` in the middle, and waits. `call NAME ROUND`: system calls store all of it.
//! `random NAME STEPS SEED`: stores, loads, system calls, removals, commits and aborts in any order, compared with a
//! model. `full NAME ROUND`: a commit that fails, and a smaller one. `several NAME OTHER ROUND`: segments of one VAS,
//! changed together. `nested NAME
//! OTHER ROUND`: a visit to OTHER within one to NAME. Prints `done`.

use std::process::ExitCode;

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_back, go_home, nest};
use guests::random::Random;
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, Right, SegId, VasHandle, VasId, attach};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A segment of which this program knows what every page has.
struct Big {
    vid: VasId,
    sid: SegId,
    base: u64,
    pages: u64,
}

/// What a page has in its first and its last word.
fn content(page: u64, round: u64) -> u64 {
    if round == 0 { 0 } else { (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round }
}

impl Big {
    fn make(name: &str, mib: u64) -> Big {
        let mut params = sized(mib * MIB);
        params.lifetime = Lifetime::Versioned as u8;
        params.lockable = 1;
        let (vid, sid) = find_or_make(name, &params);
        Big::of(vid, sid)
    }

    fn find(name: &str) -> Big {
        Big::of(must("vas_find", sys::vas_find(name)), must("seg_find", sys::seg_find(name)))
    }

    fn of(vid: VasId, sid: SegId) -> Big {
        let pages = must("seg_stat", sys::seg_stat(sid)).size_bytes / PAGE;
        Big { vid, sid, base: base_of(sid), pages }
    }

    fn writer(&self) -> VasHandle {
        must("vas_attach", sys::vas_attach(self.vid, 0))
    }

    fn words(&self, page: u64) -> [Place; 2] {
        let at = self.base + page * PAGE;
        [Place::at(at), Place::at(at + PAGE - 8)]
    }

    fn put(&self, page: u64, round: u64) {
        self.words(page).iter().for_each(|word| word.write(content(page, round)));
    }

    #[track_caller]
    fn expect(&self, page: u64, round: u64) {
        let found = self.words(page).map(Place::read);
        assert_eq!(found, [content(page, round); 2], "page {page} of {}", self.pages);
    }

    #[track_caller]
    fn check(&self, round: u64) {
        (0..self.pages).for_each(|page| self.expect(page, round));
    }

    /// What `load` does within its visit.
    fn load(&self, round: u64) {
        (0..self.pages).for_each(|page| self.put(page, round));
        self.check(round);
        for page in (0..self.pages).step_by(97) {
            self.put(page, round + 1000);
            self.expect(page, round + 1000);
        }
        // Long after they were written out.
        for page in (0..self.pages).step_by(97) {
            self.expect(page, round + 1000);
            self.put(page, round);
        }
    }
}

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match args[..] {
        ["make", name, mib] => drop(Big::make(name, number(mib))),
        ["load", name, round] => {
            let big = Big::find(name);
            must("enter", enter(big.writer()));
            big.load(number(round));
            go_home();
        }
        ["check", name, round] => {
            let big = Big::find(name);
            must("enter", enter(must("vas_attach", sys::vas_attach(big.vid, attach::READ_ONLY))));
            big.check(number(round));
            go_home();
        }
        ["half", name, round] => {
            let big = Big::find(name);
            must("enter", enter(big.writer()));
            big.load(number(round));
            println!("half");
            loop {
                std::thread::park();
            }
        }
        ["abort", name, round] => aborted(&Big::find(name), number(round)),
        ["call", name, round] => called(&Big::find(name), number(round)),
        ["random", name, steps, seed] => random(&Big::find(name), number(steps), number(seed)),
        ["full", name, round] => full(&Big::find(name), number(round)),
        ["several", name, other, round] => {
            several(&Big::find(name), &Big::find(other), number(round));
        }
        ["nested", name, other, round] => {
            nested(&Big::find(name), &Big::find(other), number(round));
        }
        _ => {
            eprintln!("usage: vas_spill WHAT NAME ...");
            return ExitCode::from(2);
        }
    }
    println!("done");
    ExitCode::SUCCESS
}

fn aborted(big: &Big, round: u64) {
    let vh = big.writer();
    must("enter", enter(vh));
    big.load(round);
    abort();
    big.check(round - 1);
    // The same visit goes on, with a commit on the way.
    (0..big.pages).for_each(|page| big.put(page, round));
    must("vas_commit", commit());
    big.check(round);
    (0..big.pages).for_each(|page| big.put(page, round + 1));
    abort();
    big.check(round);
    go_home();
}

/// A pipe's two ends.
struct Pipe([i32; 2]);

impl Pipe {
    fn new() -> Pipe {
        let mut ends = [0; 2];
        // SAFETY: two descriptors fit.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        Pipe(ends)
    }

    fn send(&self, bytes: &[u8]) {
        // SAFETY: only reads the buffer.
        let sent = unsafe { libc::write(self.0[1], bytes.as_ptr().cast(), bytes.len()) };
        assert_eq!(usize::try_from(sent), Ok(bytes.len()));
    }

    fn send_from(&self, address: u64, len: u64) {
        let from = std::ptr::with_exposed_provenance(address as usize);
        // SAFETY: only reads; a bad address is an error.
        let sent = unsafe { libc::write(self.0[1], from, len as usize) };
        assert_eq!(u64::try_from(sent), Ok(len));
    }

    /// Into two places, one behind the other.
    fn receive(&self, parts: [(u64, u64); 2]) -> u64 {
        let parts = parts.map(|(address, len)| libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(address as usize),
            iov_len: len as usize,
        });
        // SAFETY: addresses in the VAS region, where no Rust object lives.
        let got = unsafe { libc::readv(self.0[0], parts.as_ptr(), 2) };
        u64::try_from(got).unwrap_or_else(|_| panic!("{}", std::io::Error::last_os_error()))
    }
}

/// Pages that a pipe takes.
const AT_ONCE: usize = 16;

/// Each call could store all that is left, and is given two places for it.
fn called(big: &Big, round: u64) {
    let pipe = Pipe::new();
    must("enter", enter(big.writer()));
    let end = big.base + big.pages * PAGE;
    for first in (0..big.pages).step_by(AT_ONCE) {
        let mut bytes = [[0_u8; PAGE as usize]; AT_ONCE];
        for (page, bytes) in (first..).zip(&mut bytes) {
            let word = content(page, round).to_le_bytes();
            bytes[..8].copy_from_slice(&word);
            bytes[PAGE as usize - 8..].copy_from_slice(&word);
        }
        pipe.send(bytes.as_flattened());
        let mut at = big.base + first * PAGE;
        let until = at + bytes.as_flattened().len() as u64;
        while at < until {
            let next = (at + 100).min(until);
            at += pipe.receive([(at, next - at), (next, end - next)]);
        }
    }
    big.check(round);
    // As many bytes as a pipe takes: what a call reads was written out long ago.
    pipe.send_from(big.base, 8);
    pipe.receive([(big.base, 4), (big.base + 4, 4)]);
    big.check(round);
    go_home();
}

fn random(big: &Big, steps: u64, seed: u64) {
    let mut random = Random::new(seed);
    let (vh, pipe) = (big.writer(), Pipe::new());
    must("enter", enter(vh));
    let mut now: Vec<u64> = vec![0; big.pages as usize];
    // As the round before this program left it: by the first word.
    for page in 0..big.pages {
        now[page as usize] = big.words(page)[0].read();
    }
    let mut committed = now.clone();
    for step in 0..steps {
        let first = random.below(big.pages);
        let count = match random.below(3) {
            0 => 1,
            1 => 1 + random.below(32),
            _ => 1 + random.below(2000),
        };
        let range = first..(first + count).min(big.pages);
        match random.below(24) {
            0..10 => {
                for page in range {
                    let value = content(page, step + 1);
                    big.words(page)[0].write(value);
                    now[page as usize] = value;
                }
            }
            10..16 => {
                for page in range {
                    assert_eq!(
                        big.words(page)[0].read(),
                        now[page as usize],
                        "step {step}: {page}"
                    );
                }
            }
            16..18 => {
                let page = range.start;
                let value = content(page, step + 1);
                pipe.send(&value.to_le_bytes());
                let at = big.words(page)[0].address();
                pipe.receive([(at, 3), (at + 3, 5)]);
                now[page as usize] = value;
            }
            18 | 19 => {
                let start =
                    std::ptr::with_exposed_provenance_mut((big.base + range.start * PAGE) as usize);
                let bytes = ((range.end - range.start) * PAGE) as usize;
                // SAFETY: addresses in the VAS region, where no Rust object lives.
                assert_eq!(unsafe { libc::madvise(start, bytes, libc::MADV_REMOVE) }, 0);
                range.for_each(|page| now[page as usize] = 0);
            }
            20 => {
                abort();
                now.clone_from(&committed);
            }
            21 => {
                must("vas_commit", commit());
                committed.clone_from(&now);
            }
            22 => {
                go_home();
                must("enter", enter(vh));
                committed.clone_from(&now);
            }
            // What was changed and changed back is no change.
            _ => {
                for page in range {
                    let word = big.words(page)[0];
                    let before = word.read();
                    word.write(!before);
                    word.write(before);
                }
            }
        }
    }
    for page in 0..big.pages {
        assert_eq!(big.words(page)[0].read(), now[page as usize], "page {page} at the end");
        now[page as usize] = content(page, 1);
        big.put(page, 1);
    }
    go_home();
}

fn full(big: &Big, round: u64) {
    let vh = big.writer();
    must("enter", enter(vh));
    let most = big.pages;
    (0..most).for_each(|page| big.put(page, round));
    let failed = enter(VasHandle::HOME);
    assert!(matches!(failed, Err(Errno::ENOSPC | Errno::EDQUOT)), "{failed:?}");
    assert_eq!(sys::vas_current(), Ok(vh), "it stays inside");
    big.check(round);
    abort();
    big.check(round - 1);
    (0..8).for_each(|page| big.put(page, round));
    go_home();
}

fn several(big: &Big, other: &Big, round: u64) {
    match sys::seg_attach(big.vid, other.sid, Right::Write) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => panic!("seg_attach: {error:?}"),
    }
    must("enter", enter(big.writer()));
    (0..big.pages).for_each(|page| big.put(page, round));
    (0..other.pages).for_each(|page| other.put(page, round));
    big.check(round);
    abort();
    big.check(round - 1);
    other.check(round - 1);
    (0..big.pages).for_each(|page| big.put(page, round));
    (0..other.pages).for_each(|page| other.put(page, round));
    must("vas_commit", commit());
    big.check(round);
    other.check(round);
    // A transaction more in the same visit, of one of them.
    (0..other.pages).for_each(|page| other.put(page, round + 1));
    must("vas_commit", commit());
    (0..other.pages).for_each(|page| other.put(page, round));
    big.check(round);
    go_home();
}

fn nested(big: &Big, other: &Big, round: u64) {
    must("enter", enter(big.writer()));
    (0..big.pages).for_each(|page| big.put(page, round));
    must("vas_nest", nest(other.writer(), None));
    (0..other.pages).for_each(|page| other.put(page, round));
    other.check(round);
    must("vas_return", go_back());
    big.check(round);
    must("vas_nest", nest(other.writer(), None));
    (0..other.pages).for_each(|page| other.put(page, round + 1));
    abort();
    other.check(round);
    must("vas_return", go_back());
    big.check(round);
    go_home();
}
