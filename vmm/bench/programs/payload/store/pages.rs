//! `store-commit`, `store-fill`, `store-open`, `store-view`: commits of some pages of a versioned
//! segment, by the raw calls, and finding the segment again.
//!
//! 256 pages of it are in use, evenly spread over its size, as a small hot part of a database is. A
//! commit changes 4000 bytes in each of some of them, drawn at random: as much as the peers of
//! `bench-peers` do, and the same numbers of pages.

use std::time::Instant;

use spacejmp::sys::{self, Durability, Lifetime, PagePolicy, VasHandle, attach};

use super::marks;
use crate::json::Object;
use crate::random::Random;
use crate::samples::Samples;
use crate::space::{Word, enter, make, sized, tell};

/// Pages in use.
pub(super) const PAGES: u32 = 256;
/// Words of a page that a commit changes.
pub(super) const WORDS: u64 = 500;
/// Commits before those that are timed: the pages are the writer's own then.
const WARM_UP: u64 = 8;

/// The pages of a segment, attached to be written.
pub(super) struct Pages {
    base: u64,
    stride: u64,
    vh: VasHandle,
}

impl Pages {
    /// Makes the VAS `name` with a versioned segment of `bytes` bytes, if it does not exist.
    pub(super) fn find_or_make(name: &str, bytes: u64) -> Result<Pages, String> {
        let mut params = sized(bytes, PagePolicy::Largest);
        (params.lifetime, params.lockable) = (Lifetime::Versioned as u8, 1);
        params.durability = Durability::Each.raw();
        if sys::vas_find(name).is_err() {
            make(name, 1, &params)?;
        }
        Pages::find(name)
    }

    fn find(name: &str) -> Result<Pages, String> {
        let vid = tell("vas_find", sys::vas_find(name))?;
        let about = tell("seg_find", sys::seg_find(format!("{name}-0")))?;
        let about = tell("seg_stat", sys::seg_stat(about))?;
        let stride = (about.size_bytes / u64::from(PAGES)) & !4095;
        if stride == 0 {
            return Err(format!("{name} has less than {PAGES} pages"));
        }
        let vh = tell("vas_attach", sys::vas_attach(vid, 0))?;
        Ok(Pages { base: about.base, stride, vh })
    }

    /// Gives some pages a content that they do not have.
    fn write(&self, pages: &[u32], round: u64) -> Result<(), String> {
        for page in pages {
            let start = self.base + u64::from(*page) * self.stride;
            for word in 0..WORDS {
                Word::at(start + word * 8)?.put(round.wrapping_mul(WORDS) + word + 1);
            }
        }
        Ok(())
    }

    fn enter(&self) -> Result<(), String> {
        tell("vas_switch", enter(self.vh))
    }

    /// All pages, and some commits of as many as will be timed.
    fn warm_up(&self, pages: u32, random: &mut Random) -> Result<(), String> {
        self.enter()?;
        self.write(&(0..PAGES).collect::<Vec<_>>(), random.next() >> 16)?;
        home()?;
        (0..WARM_UP).try_for_each(|_| {
            self.enter()?;
            self.write(&random.distinct(PAGES, pages), random.next() >> 16)?;
            home()
        })
    }
}

fn home() -> Result<(), String> {
    tell("vas_switch home", enter(VasHandle::HOME))
}

fn commit_inside() -> Result<(), String> {
    // SAFETY: no reference into the segment exists, and any words are a valid content.
    tell("vas_commit", unsafe { sys::vas_commit() })
}

/// `rounds` commits of `pages` pages: each *transaction* from before it enters to after it has left,
/// which commits; alternately the *commit* alone, by a call inside. And the least that the call's exit
/// costs.
pub(super) fn commit(place: &Pages, pages: u32, rounds: u64, seed: u64) -> Result<Object, String> {
    let mut random = Random::new(seed);
    place.warm_up(pages, &mut random)?;
    let [mut commits, mut transactions, mut exits] = [(); 3].map(|()| Samples::default());
    for _ in 0..rounds {
        let (chosen, content) = (random.distinct(PAGES, pages), random.next() >> 16);
        let begin = Instant::now();
        place.enter()?;
        place.write(&chosen, content)?;
        home()?;
        transactions.push(begin.elapsed().as_nanos() as u64);

        let (chosen, content) = (random.distinct(PAGES, pages), random.next() >> 16);
        place.enter()?;
        place.write(&chosen, content)?;
        let begin = Instant::now();
        commit_inside()?;
        commits.push(begin.elapsed().as_nanos() as u64);
        home()?;

        let begin = Instant::now();
        tell("null hypercall", sys::hyper_null())?;
        exits.push(begin.elapsed().as_nanos() as u64);
    }
    let object = Object::new("store-commit").number("pages", pages);
    let object = transactions.into(object, "transaction");
    Ok(exits.into(commits.into(object, "commit"), "exit"))
}

/// The same `rounds` transactions between marks, for a tracer.
pub(super) fn marked(place: &Pages, pages: u32, rounds: u64, seed: u64) -> Result<Object, String> {
    let mut random = Random::new(seed);
    place.warm_up(pages, &mut random)?;
    marks::ready()?;
    for _ in 0..rounds {
        let (chosen, content) = (random.distinct(PAGES, pages), random.next() >> 16);
        marks::mark()?;
        place.enter()?;
        place.write(&chosen, content)?;
        home()?;
    }
    marks::mark()?;
    Ok(Object::new("store-commit").number("pages", pages).number("rounds", rounds))
}

/// Makes the segment and `rounds` commits of all its pages, then waits inside, with changes that are
/// not committed, for somebody to kill it.
pub(super) fn fill(name: &str, bytes: u64, rounds: u64) -> Result<Object, String> {
    let place = Pages::find_or_make(name, bytes)?;
    let all: Vec<u32> = (0..PAGES).collect();
    for round in 1..=rounds {
        place.enter()?;
        place.write(&all, round)?;
        home()?;
    }
    place.enter()?;
    place.write(&all, rounds + 1)?;
    marks::ready()?;
    Err("nobody has killed it".into())
}

/// Finds the segment that [`fill`] or [`commit`] has left and enters it to write: all that a program
/// has to do before it can work with it. Says what the first word of the last page is.
pub(super) fn open(name: &str, is_marked: bool) -> Result<Object, String> {
    // The first look at the clock makes the VMM set one up, which is no part of it.
    let _ = Instant::now();
    if is_marked {
        marks::ready()?;
        marks::mark()?;
    }
    let begin = Instant::now();
    let place = Pages::find(name)?;
    place.enter()?;
    let last = Word::at(place.base + u64::from(PAGES - 1) * place.stride)?.read();
    let ns = begin.elapsed().as_nanos();
    if is_marked {
        marks::mark()?;
    }
    home()?;
    Ok(Object::new("store-open").number("open_ns", ns).pattern("last", last))
}

/// Finds the tag `VAS@TAG` and enters it: all that a program has to do before it can read an old
/// version. Says what the first word of the last page is.
pub(super) fn view(name: &str) -> Result<Object, String> {
    let begin = Instant::now();
    let vid = tell("vas_find", sys::vas_find(name))?;
    let vh = tell("vas_attach", sys::vas_attach(vid, attach::READ_ONLY))?;
    tell("vas_switch", enter(vh))?;
    let ns = begin.elapsed().as_nanos();
    // The segment that it is a version of has the same addresses.
    let (of, _) = name.split_once('@').ok_or("VAS@TAG is expected")?;
    let about = tell("seg_find", sys::seg_find(format!("{of}-0")))?;
    let about = tell("seg_stat", sys::seg_stat(about))?;
    let stride = (about.size_bytes / u64::from(PAGES)) & !4095;
    let last = Word::at(about.base + u64::from(PAGES - 1) * stride)?.read();
    home()?;
    Ok(Object::new("store-view").number("open_ns", ns).pattern("last", last))
}
