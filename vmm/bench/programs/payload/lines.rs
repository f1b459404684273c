//! `tlb`: what it costs to reach a line of a random page, with and without a switch before it.
//!
//! Each access is timed by itself, between two readings of the time-stamp counter with fences
//! around them, after the switch has returned: so the time does not include the switch, but
//! its effect on the TLB. What two readings with nothing between them cost is subtracted. The
//! slowest hundredth of the samples are interrupts and the like and are left out of the mean.
//!
//! The line has a different offset in every page, so that lines do not compete for the same
//! cache sets. A control reads as many lines packed into as few pages as hold them: what it
//! costs more for many lines is due to the caches, what the others cost beyond it is not.

use std::hint::black_box;

use abi::objects::Lifetime;
use spacejmp::sys::{self, PagePolicy, VasHandle, attach};

use crate::gups::table::Words;
use crate::json::Object;
use crate::mapping::Mapping;
use crate::random::Random;
use crate::space::{cycles, enter, fence, make, median, sized, tell, unmake};

/// Fewest pages.
const FEWEST: u64 = 16;
/// Words of a line.
const LINE: u64 = 8;
/// Accesses without a switch for every one with a switch: those are cheap.
const MORE: u64 = 10;

/// Numbers of pages that are measured, up to `most`.
fn counts(most: u64) -> impl Iterator<Item = u64> {
    let doubled = std::iter::successors(Some(FEWEST), |count| count.checked_mul(2));
    doubled.flat_map(|count| [count, count / 2 * 3]).take_while(move |&count| count <= most)
}

/// The position of page `page`'s line, in words; `page_words` is a power of two.
fn spread(page: u64, page_words: u64) -> u64 {
    page * page_words + page % (page_words / LINE) * LINE
}

/// The line of `page` where all are packed.
fn packed(page: u64, _: u64) -> u64 {
    page * LINE
}

/// Measures up to `pages` pages of 4 KiB, in a segment, or of 2 MiB, in private memory, with
/// `samples` switches for each number.
///
/// Large pages are in private memory, which every VAS maps at the same place, because the
/// VMM asks the host for large pages there: a shadowing host would split the large pages of
/// a segment that is backed by small host pages.
pub(crate) fn run(pages: u64, samples: u64, is_small: bool) -> Result<Object, String> {
    with_lines(pages, is_small, |lines, tagged, untagged| {
        lines.all(pages, samples, tagged, untagged)
    })
}

/// Reads lines of `pages` pages `count` times in one space, and times nothing: for a run that counts
/// misses from outside.
pub(crate) fn only_read(pages: u64, count: u64, is_small: bool) -> Result<Object, String> {
    with_lines(pages, is_small, |lines, tagged, _| {
        tell("vas_switch", enter(tagged[0]))?;
        let mut random = Random::new(pages);
        for _ in 0..count {
            let page = u64::from(random.below(pages as u32));
            black_box(lines.words.read(spread(page, lines.page_words)));
        }
        Ok(Object::new("tlb").number("accesses", count))
    })
}

/// Makes the pages, two instances with tags and two without, does `work`, and removes
/// everything.
fn with_lines(
    pages: u64,
    is_small: bool,
    work: impl FnOnce(&Lines, [VasHandle; 2], [VasHandle; 2]) -> Result<Object, String>,
) -> Result<Object, String> {
    let page_words: u64 = if is_small { 512 } else { 1 << 18 };
    let bytes = pages.next_power_of_two().max(FEWEST) * page_words * 8;
    let params = sys::SegParams {
        lifetime: Lifetime::Volatile as u8,
        ..sized(if is_small { bytes } else { 4096 }, PagePolicy::Small4K)
    };
    let (vid, sids) = make("lines", 1, &params)?;
    let base = tell("seg_stat", sys::seg_stat(sids[0]))?.base;
    let attach_two = |flags| {
        let one = tell("vas_attach", sys::vas_attach(vid, flags))?;
        Ok::<_, String>([one, tell("vas_attach", sys::vas_attach(vid, flags))?])
    };
    let tagged = attach_two(attach::POPULATE)?;
    let untagged = attach_two(attach::POPULATE | attach::NO_TAG)?;
    let words = if is_small {
        Words::in_vas(base, bytes)?
    } else {
        Words::of(Mapping::shared_memory(bytes)?.kept(), 0, bytes)
    };
    let lines = Lines { words, page_words };
    // Every page is present, in all four, before anything is timed.
    for vh in tagged.into_iter().chain(untagged) {
        tell("vas_switch", enter(vh))?;
        (0..pages).for_each(|page| lines.words.touch_word(spread(page, page_words)));
    }
    let object = work(&lines, tagged, untagged)?;
    tell("vas_switch home", enter(VasHandle::HOME))?;
    for vh in tagged.into_iter().chain(untagged) {
        tell("vas_detach", sys::vas_detach(vh))?;
    }
    unmake(vid, sids)?;
    Ok(object)
}

/// Cycles of a switch between two instances with nothing else.
fn switch_alone(pair: [VasHandle; 2]) -> Result<u64, String> {
    let mut spent = Vec::new();
    for turn in 0..200 {
        let began = cycles();
        tell("vas_switch", enter(pair[turn % 2]))?;
        spent.push(cycles() - began);
    }
    Ok(median(spent))
}

struct Lines {
    words: Words<'static>,
    page_words: u64,
}

impl Lines {
    fn all(
        &self,
        pages: u64,
        samples: u64,
        tagged: [VasHandle; 2],
        untagged: [VasHandle; 2],
    ) -> Result<Object, String> {
        let empty = each(samples * MORE, |_| Ok(()), || ())?;
        let mut object = Object::new("tlb")
            .number("page_bytes", self.page_words * 8)
            .number("samples", samples)
            .number("empty_millicycles", empty)
            .number("switch", switch_alone(untagged)?);
        for count in counts(pages) {
            let stay = self.measure(count, samples * MORE, spread, &tagged[..1])?;
            let close = self.measure(count, samples * MORE, packed, &tagged[..1])?;
            let with_tags = self.measure(count, samples, spread, &tagged)?;
            let without = self.measure(count, samples, spread, &untagged)?;
            for (name, spent) in
                [("stay", stay), ("packed", close), ("tagged", with_tags), ("untagged", without)]
            {
                object = object.number(&format!("p{count}_{name}"), spent.saturating_sub(empty));
            }
        }
        Ok(object)
    }

    /// Thousandths of a cycle of an access to one of `count` pages, `spaces` entered in
    /// rotation before each; if there is one, only before the first.
    fn measure(
        &self,
        count: u64,
        samples: u64,
        place: fn(u64, u64) -> u64,
        spaces: &[VasHandle],
    ) -> Result<u64, String> {
        // Lines are in the caches, and for one space translations in the TLB, if they fit.
        for &vh in spaces {
            tell("vas_switch", enter(vh))?;
            (0..count).for_each(|page| {
                black_box(self.words.read(place(page, self.page_words)));
            });
        }
        let mut random = Random::new(count);
        let next = std::cell::Cell::new(0);
        let before = |turn: usize| {
            next.set(place(u64::from(random.below(count as u32)), self.page_words));
            if spaces.len() > 1 {
                return tell("vas_switch", enter(spaces[turn % spaces.len()]));
            }
            Ok(())
        };
        each(samples, before, || {
            black_box(self.words.read(next.get()));
        })
    }
}

/// Mean of `count` timings of `work`, in thousandths of a cycle; `before` is not timed.
#[inline(always)]
fn each(
    count: u64,
    mut before: impl FnMut(usize) -> Result<(), String>,
    work: impl Fn(),
) -> Result<u64, String> {
    let mut samples = Vec::with_capacity(count as usize);
    for turn in 0..count as usize {
        before(turn)?;
        fence();
        let began = cycles();
        fence();
        work();
        fence();
        samples.push(cycles() - began);
    }
    Ok(mean(samples))
}

/// Mean in thousandths, without the slowest hundredth.
fn mean(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples.truncate(samples.len() - samples.len() / 100);
    samples.iter().sum::<u64>() * 1000 / (samples.len() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_pages_rise_from_sixteen_to_the_most() {
        let all: Vec<_> = counts(64).collect();
        assert_eq!(all, [16, 24, 32, 48, 64]);
        assert_eq!(counts(8192).last(), Some(8192));
    }

    #[test]
    fn every_page_has_its_line_and_lines_of_neighbours_lie_in_other_sets() {
        for page_words in [512, 1 << 18] {
            let lines: Vec<_> = (0..200).map(|page| spread(page, page_words)).collect();
            let in_own_page = |(page, line): (u64, &u64)| line / page_words == page;
            assert!((0..).zip(&lines).all(in_own_page));
            assert!(lines.windows(2).all(|two| two[0] / 8 % 64 != two[1] / 8 % 64));
        }
    }

    #[test]
    fn the_slowest_hundredth_is_left_out_of_the_mean() {
        let mut samples = vec![10; 198];
        samples.extend([1_000_000, 1_000_000]);
        assert_eq!(mean(samples), 10_000);
        assert_eq!(mean(vec![3, 4]), 3_500);
    }
}
