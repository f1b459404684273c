//! Goes through a versioned segment whose pages lie in several files, so that the VMM gathers what lies behind
//! what was read, 2 MiB at a time.
//!
//! `vas_scattered NAME make`: writes all pages, then every eighth one again; reads all in one visit, in order and again,
//! while another thread changes some; then in visits behind commits of a page each, and beside them. All words are always those of the
//! version that the visit sees. `read`: reads all twice in order, and changes nothing. Prints `done`; status 0, or 1 with a message.

use std::process::ExitCode;
use std::thread;

use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, VasHandle, attach};

/// Six times 2 MiB.
const PAGES: u64 = 6 * 512;

#[derive(Clone, Copy)]
struct Pages {
    base: u64,
    write: VasHandle,
}

impl Pages {
    fn word(self, page: u64) -> Place {
        Place::at(self.base + page * 4096 + page % 512 * 8)
    }

    /// One commit of some pages; each gets its number and a value in one word.
    fn commit(self, pages: impl Iterator<Item = u64>, value: u64) {
        must("enter", enter(self.write));
        pages.for_each(|page| self.word(page).write(page << 32 | value));
        go_home();
    }

    fn check(self, when: &str, expected: &[u64]) {
        for (page, value) in (0..).zip(expected) {
            assert_eq!(self.word(page).read(), page << 32 | value, "{when}: page {page}");
        }
    }
}

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, what] = &args[..] else {
        eprintln!("usage: vas_scattered NAME make|read");
        return ExitCode::from(2);
    };
    let mut params = sized(PAGES * 4096);
    (params.lifetime, params.lockable) = (Lifetime::Versioned as u8, 1);
    let (vid, sid) = find_or_make(name, &params);
    let read = must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY));
    if what == "read" {
        let pages = Pages { base: base_of(sid), write: VasHandle::HOME };
        must("enter", enter(read));
        for page in (0..PAGES).chain(0..PAGES) {
            assert_eq!(pages.word(page).read() >> 32, page, "page {page}");
        }
        go_home();
        println!("done");
        return ExitCode::SUCCESS;
    }
    let pages = Pages { base: base_of(sid), write: must("vas_attach", sys::vas_attach(vid, 0)) };
    let mut expected = vec![1; PAGES as usize];
    pages.commit(0..PAGES, 1);
    pages.commit((0..PAGES).step_by(8), 2);
    expected.iter_mut().step_by(8).for_each(|value| *value = 2);

    must("enter", enter(read));
    pages.check("the first time", &expected);
    // In copies, and in tables.
    let changed = || (0..PAGES).step_by(50);
    thread::scope(|scope| {
        scope.spawn(|| pages.commit(changed(), 3));
    });
    pages.check("beside a writer", &expected);
    go_home();
    changed().for_each(|page| expected[page as usize] = 3);
    for value in 4..40 {
        must("enter", enter(read));
        pages.check("behind a commit", &expected);
        let page = value * 257 % PAGES;
        let mut newer = expected.clone();
        newer[page as usize] = value;
        if value % 8 == 0 {
            // The other one enters by the same handle, and sees what is new; this one does not.
            thread::scope(|scope| {
                scope.spawn(|| {
                    pages.commit(page..page + 1, value);
                    must("enter", enter(read));
                    pages.check("another reader", &newer);
                    go_home();
                });
            });
            pages.check("beside another reader", &expected);
            go_home();
        } else {
            go_home();
            pages.commit(page..page + 1, value);
        }
        expected = newer;
    }
    println!("done");
    ExitCode::SUCCESS
}
