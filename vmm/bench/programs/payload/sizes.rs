//! `attach-sizes` and `map-sizes`: mapping and unmapping memory, for sizes from 4 KiB up in powers
//! of two, in nanoseconds.
//!
//! *First* is the attach that builds all tables, *kept* one that finds them built. There are so
//! many sizes that each is measured only a few times; `attaching` has the figures that are
//! compared.

use spacejmp::sys::{self, PagePolicy, attach};

use crate::json::Object;
use crate::mapping::{Mapping, file_or_memory, times};
use crate::space::{make, median, sized, tell, timed, unmake};

/// Smallest size.
const LEAST: u64 = 4096;
/// The most bytes mapped for one size in total; but at least three times.
const MAPPED: u64 = 2 << 30;

fn sizes(most: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(LEAST), |size| size.checked_mul(2)).take_while(move |s| *s <= most)
}

/// Attaches and detaches segments of 4 KiB to `most` bytes, of small pages and of the largest that
/// fit, `rounds` times each.
pub(crate) fn attached(most: u64, rounds: u64) -> Result<Object, String> {
    let mut object = Object::new("attach-sizes").number("most", most);
    // The first call of all opens the store and makes the lease.
    let (vid, sids) = make("opens", 1, &sized(LEAST, PagePolicy::Small4K))?;
    once(vid, 0)?;
    unmake(vid, sids)?;
    for (pages, policy) in [("4k", PagePolicy::Small4K), ("largest", PagePolicy::Largest)] {
        for size in sizes(most) {
            let (vid, sids) = make(&format!("{pages}-{size}"), 1, &sized(size, policy))?;
            let first = once(vid, attach::POPULATE)?;
            let (mut attached, mut detached) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let (attach, detach) = once(vid, 0)?;
                attached.push(attach);
                detached.push(detach);
            }
            unmake(vid, sids)?;
            for (name, spent) in [
                ("first", first.0),
                ("first_gone", first.1),
                ("kept", median(attached)),
                ("kept_gone", median(detached)),
            ] {
                object = object.number(&format!("{pages}_{size}_{name}"), spent);
            }
        }
    }
    Ok(object)
}

fn once(vid: sys::VasId, flags: u64) -> Result<(u64, u64), String> {
    let mut spent = Vec::new();
    let vh = timed(&mut spent, || tell("vas_attach", sys::vas_attach(vid, flags)))?;
    timed(&mut spent, || tell("vas_detach", sys::vas_detach(vh)))?;
    Ok((spent[0], spent[1]))
}

/// Maps and unmaps the first 4 KiB to `most` bytes of a warm memfd, or of `file`.
pub(crate) fn mapped(most: u64, rounds: u64, file: Option<&str>) -> Result<Object, String> {
    let file = file_or_memory(file, most)?;
    // Warms up: every page is in the page cache from then on.
    drop(Mapping::new(&file, 0, most)?);
    let mut object = Object::new("map-sizes").number("most", most);
    for size in sizes(most) {
        let (map, unmap) = times(&file, size, rounds.min(MAPPED / size).max(3))?;
        object = object.number(&format!("{size}_map"), map).number(&format!("{size}_unmap"), unmap);
    }
    Ok(object)
}
