//! `store-whole`, `store-change`, `store-scan`, `store-hold`: a versioned segment of which every page is in use, commits of
//! some of its pages, reading all of it, or all of its copies, and a visit to read that lasts.

use std::time::Instant;

use spacejmp::sys::{self, Durability, Lifetime, PagePolicy, SegId, VasHandle, attach};

use super::marks;
use crate::json::Object;
use crate::random::Random;
use crate::space::{Word, enter, make, sized, tell};

const PAGE: u64 = 4096;

/// Where the first segment of a VAS lies: its first address, and its pages.
struct Place {
    base: u64,
    pages: u64,
    vh: VasHandle,
}

impl Place {
    fn find(name: &str, flags: u64) -> Result<Place, String> {
        let vid = tell("vas_find", sys::vas_find(name))?;
        let mut listed = [sys::Attachment::default(); 1];
        tell("vas_segments", sys::vas_segments(vid, &mut listed, 0))?;
        let sid = SegId::new(listed[0].sid).ok_or(format!("{name} has no segment"))?;
        let about = tell("seg_stat", sys::seg_stat(sid))?;
        let vh = tell("vas_attach", sys::vas_attach(vid, flags))?;
        Ok(Place { base: about.base, pages: about.size_bytes / PAGE, vh })
    }

    fn word(&self, page: u64) -> Result<Word, String> {
        Word::at(self.base + page * PAGE)
    }

    fn enter(&self) -> Result<(), String> {
        tell("vas_switch", enter(self.vh))
    }

    fn leave() -> Result<(), String> {
        tell("vas_switch home", enter(VasHandle::HOME))
    }
}

/// Makes the VAS `name` with a versioned segment, and one commit of all its pages.
pub(super) fn fill(name: &str, bytes: u64) -> Result<Object, String> {
    let mut params = sized(bytes, PagePolicy::Largest);
    (params.lifetime, params.lockable) = (Lifetime::Versioned as u8, 1);
    params.durability = Durability::Each.raw();
    make(name, 1, &params)?;
    let place = Place::find(name, 0)?;
    place.enter()?;
    (0..place.pages).try_for_each(|page| place.word(page).map(|word| word.put(page + 1)))?;
    Place::leave()?;
    Ok(Object::new("store-whole").number("pages", place.pages))
}

/// Commits of `count` pages each, drawn at random.
pub(super) fn change(name: &str, count: u64, commits: u64, seed: u64) -> Result<Object, String> {
    let place = Place::find(name, 0)?;
    let mut random = Random::new(seed);
    let pages = u32::try_from(place.pages).map_err(|_| "too many pages")?;
    let count = u32::try_from(count).unwrap_or(pages).min(pages);
    for _ in 0..commits {
        let chosen = random.distinct(pages, count);
        place.enter()?;
        for page in &chosen {
            place.word(u64::from(*page))?.put(random.next() >> 16);
        }
        Place::leave()?;
    }
    Ok(Object::new("store-change").number("pages", count).number("commits", commits))
}

/// Enters to read, reads a word of each page, and stays inside until a byte comes, or the end.
pub(super) fn hold(name: &str) -> Result<Object, String> {
    let place = Place::find(name, attach::READ_ONLY)?;
    place.enter()?;
    let sum = (0..place.pages)
        .try_fold(0_u64, |sum, page| Ok::<_, String>(sum.wrapping_add(place.word(page)?.read())))?;
    marks::ready()?;
    Place::leave()?;
    Ok(Object::new("store-hold").pattern("sum", sum))
}

/// Reads a word of each page: of the VAS `name`, or, with copies, of each `name` with a number from 0 on.
/// Of each the first time in order, then in order and at random again; then waits, held inside none, if it is
/// marked.
pub(super) fn scan(name: &str, copies: u64, is_marked: bool) -> Result<Object, String> {
    let names = match copies {
        0 => vec![name.to_owned()],
        _ => (0..copies).map(|number| format!("{name}{number}")).collect(),
    };
    let (mut first, mut again, mut random, mut sum) = (0, 0, 0, 0_u64);
    let mut attached = Vec::new();
    for name in &names {
        let place = Place::find(name, attach::READ_ONLY)?;
        place.enter()?;
        let mut pass = |pages: &mut dyn Iterator<Item = u64>| {
            let begin = Instant::now();
            for page in pages {
                sum = sum.wrapping_add(place.word(page)?.read());
            }
            Ok::<_, String>(begin.elapsed().as_nanos())
        };
        first += pass(&mut (0..place.pages))?;
        again += pass(&mut (0..place.pages))?;
        let mut draws = Random::new(7);
        random += pass(&mut (0..place.pages).map(|_| draws.next() % place.pages))?;
        Place::leave()?;
        attached.push(place);
    }
    if is_marked {
        marks::ready()?;
    }
    let object = Object::new("store-scan").number("spaces", attached.len() as u64);
    let object = object.number("first_ns", first).number("again_ns", again);
    Ok(object.number("random_ns", random).pattern("sum", sum))
}
