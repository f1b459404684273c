//! Visits that change few of many pages that were changed before: `vas_written VISITS SEED`.
//!
//! Two VASes, each with a versioned segment of as many pages as a small database has in use. A visit to
//! one of them stores by instructions and by system calls, removes pages, changes some back, commits, aborts, in any
//! order. After each one another handle, which only reads, has to see what was committed, in both. Prints `done`.

use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;

use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_home};
use guests::random::Random;
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, VasHandle, attach};

const PAGE: u64 = 4096;
const PAGES: u64 = 160;

struct Segment {
    base: u64,
    writer: VasHandle,
    reader: VasHandle,
    /// The second word of each page: in the visit, and as it was committed last.
    now: Vec<u64>,
    committed: Vec<u64>,
}

impl Segment {
    fn make(name: &str) -> Segment {
        let mut params = sized(PAGES * PAGE);
        params.lifetime = Lifetime::Versioned as u8;
        params.lockable = 1;
        let (vid, sid) = find_or_make(name, &params);
        let attach = |flags| must("vas_attach", sys::vas_attach(vid, flags));
        let (writer, reader) = (attach(0), attach(attach::READ_ONLY));
        let none = vec![0; PAGES as usize];
        Segment { base: base_of(sid), writer, reader, now: none.clone(), committed: none }
    }

    fn word(&self, page: u64) -> Place {
        Place::at(self.base + page * PAGE + 8)
    }

    fn put(&mut self, page: u64, value: u64) {
        self.word(page).write(value);
        self.now[page as usize] = value;
    }

    #[track_caller]
    fn check(&self, when: &str) {
        must("enter to read", enter(self.reader));
        for page in 0..PAGES {
            let found = self.word(page).read();
            assert_eq!(found, self.committed[page as usize], "page {page} {when}");
        }
        go_home();
    }

    fn leave(&mut self) {
        go_home();
        self.committed.clone_from(&self.now);
    }

    /// What one visit does.
    fn visit(&mut self, random: &mut Random, (reader, writer): &mut (PipeReader, PipeWriter)) {
        must("enter", enter(self.writer));
        for _ in 0..random.below(6) {
            let first = random.below(PAGES);
            let some = first..(first + 1 + random.below(4)).min(PAGES);
            let value = random.number();
            match random.below(10) {
                0..3 => some.for_each(|page| self.put(page, value)),
                3..6 => {
                    writer.write_all(&value.to_le_bytes()).expect("a pipe takes a word");
                    let at =
                        std::ptr::with_exposed_provenance_mut(self.word(first).address() as usize);
                    // SAFETY: an address in the VAS region, where no Rust object lives.
                    let got = unsafe { libc::read(reader.as_raw_fd(), at, 8) };
                    assert_eq!(got, 8);
                    self.now[first as usize] = value;
                }
                6 => {
                    for page in some {
                        let before = self.now[page as usize];
                        self.put(page, !before);
                        self.put(page, before);
                    }
                }
                7 => {
                    let at = std::ptr::with_exposed_provenance_mut(
                        (self.base + some.start * PAGE) as usize,
                    );
                    let bytes = ((some.end - some.start) * PAGE) as usize;
                    // SAFETY: addresses in the VAS region, where no Rust object lives.
                    assert_eq!(unsafe { libc::madvise(at, bytes, libc::MADV_REMOVE) }, 0);
                    some.for_each(|page| self.now[page as usize] = 0);
                }
                8 => {
                    must("vas_commit", commit());
                    self.committed.clone_from(&self.now);
                }
                _ => {
                    abort();
                    self.now.clone_from(&self.committed);
                }
            }
        }
        for page in 0..PAGES {
            assert_eq!(self.word(page).read(), self.now[page as usize], "page {page} inside");
        }
        self.leave();
    }
}

fn main() {
    require_vm();
    let args: Vec<u64> =
        std::env::args().skip(1).map(|arg| arg.parse().expect("a number")).collect();
    let [visits, seed] = args[..] else { panic!("usage: vas_written VISITS SEED") };
    let mut random = Random::new(seed);
    let mut pipe = std::io::pipe().expect("a pipe");
    let mut both = ["one", "other"].map(Segment::make);
    for segment in &mut both {
        // Twice: the second commit finds most of them as they were.
        for round in [1, 2] {
            must("enter", enter(segment.writer));
            (0..PAGES).for_each(|page| segment.put(page, page + round));
            segment.leave();
            must("enter", enter(segment.writer));
            segment.put(0, round);
            segment.leave();
        }
    }
    for visit in 0..visits {
        both[random.below(2) as usize].visit(&mut random, &mut pipe);
        both.iter().for_each(|segment| segment.check(&format!("after visit {visit}")));
    }
    println!("done");
}
