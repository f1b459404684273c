//! Fills a versioned segment in order, so that from some place on the thread gets 2 MiB at once, which it
//! has as one page.
//!
//! `vas_filled NAME fill`: fills, aborts, fills again, commits inside, changes and removes some of it, grows
//! and goes on; after each step all words are what they should be. `look`: so they are in another visit.
//! Prints `done`; status 0, or 1 with a message.

use std::ops::Range;
use std::process::ExitCode;

use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_home};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, attach};

/// Pages of 2 MiB.
const GROUP: u64 = 512;
/// Pages at first, and at the end.
const PAGES: u64 = 8 * GROUP;
const MORE: u64 = 12 * GROUP;
/// What is removed: part of 2 MiB, all of the next, and part of those behind.
const REMOVED: Range<u64> = 3 * GROUP + 100..5 * GROUP + 7;
/// What is written where something was removed.
const AGAIN: Range<u64> = 4 * GROUP - 5..4 * GROUP + 5;

struct Pages(u64);

impl Pages {
    fn word(&self, page: u64) -> Place {
        Place::at(self.0 + page * 4096 + page % 512 * 8)
    }

    fn fill(&self, pages: Range<u64>, plus: u64) {
        pages.for_each(|page| self.word(page).write(page + plus));
    }

    fn check(&self, pages: Range<u64>, expected: impl Fn(u64) -> u64) {
        for page in pages {
            assert_eq!(self.word(page).read(), expected(page), "page {page}");
        }
    }

    fn remove(&self, pages: Range<u64>) {
        let start = std::ptr::with_exposed_provenance_mut((self.0 + pages.start * 4096) as usize);
        let bytes = ((pages.end - pages.start) * 4096) as usize;
        // SAFETY: pages of numbers, of which nothing holds a reference (`guests::place`).
        let done = unsafe { libc::madvise(start, bytes, libc::MADV_REMOVE) };
        assert_eq!(done, 0, "madvise");
    }
}

/// What a page has once all is done.
fn at_the_end(page: u64) -> u64 {
    match page {
        page if AGAIN.contains(&page) => page + 3,
        page if REMOVED.contains(&page) => 0,
        page if page.is_multiple_of(100) => page + 2,
        page => page + 1,
    }
}

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, what] = &args[..] else {
        eprintln!("usage: vas_filled NAME fill|look");
        return ExitCode::from(2);
    };
    let mut params = sized(PAGES * 4096);
    (params.lifetime, params.lockable) = (Lifetime::Versioned as u8, 1);
    params.reserve_bytes = MORE * 4096;
    let (vid, sid) = find_or_make(name, &params);
    let pages = Pages(base_of(sid));
    if what == "look" {
        must("enter", enter(must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY))));
        pages.check(0..MORE, at_the_end);
        go_home();
        println!("done");
        return ExitCode::SUCCESS;
    }
    must("enter", enter(must("vas_attach", sys::vas_attach(vid, 0))));
    pages.fill(0..PAGES, 7);
    pages.check(0..PAGES, |page| page + 7);
    abort();
    pages.check(0..PAGES, |_| 0);
    pages.fill(0..PAGES, 1);
    must("commit", commit());
    pages.check(0..PAGES, |page| page + 1);
    // Part of what is one page, which an abort takes back.
    pages.fill(2 * GROUP + 7..4 * GROUP, 9);
    pages.remove(REMOVED);
    pages.check(REMOVED, |_| 0);
    abort();
    pages.check(0..PAGES, |page| page + 1);
    (0..PAGES).step_by(100).for_each(|page| pages.word(page).write(page + 2));
    pages.remove(REMOVED);
    pages.fill(AGAIN, 3);
    must("commit", commit());
    pages.check(0..PAGES, at_the_end);
    must("seg_grow", sys::seg_grow(sid, MORE * 4096));
    (PAGES..MORE).for_each(|page| pages.word(page).write(at_the_end(page)));
    pages.check(0..MORE, at_the_end);
    go_home();
    println!("done");
    ExitCode::SUCCESS
}
