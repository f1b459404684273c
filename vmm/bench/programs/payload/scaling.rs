//! `scale`: what a switch costs as the number of something grows: attached VASes, segments
//! in a VAS, processors that switch.
//!
//! A figure is the median over batches, the best of several attempts: disturbances on a host last
//! longer than an attempt. A timed pair is a switch in and a switch home; half of its time is one
//! switch.

use std::sync::Barrier;

use spacejmp::sys::{self, PagePolicy, SegId, VasHandle, VasId};

use crate::json::Object;
use crate::random::Random;
use crate::space::{cycles, enter, make, median, sized, tell};

/// Switches of a batch.
const BATCH: u64 = 16;
/// Batches of an attempt.
const BATCHES: u64 = 40;
/// Attempts at a figure.
const GOES: u64 = 7;

/// Cycles of one switch, half of a pair in and home, over `vhs` as `choose` says.
fn switches(vhs: &[VasHandle], mut choose: impl FnMut(usize) -> usize) -> Result<u64, String> {
    let mut best = u64::MAX;
    for _ in 0..GOES {
        best = best.min(go(vhs, &mut choose)?);
    }
    Ok(best)
}

fn go(vhs: &[VasHandle], choose: &mut impl FnMut(usize) -> usize) -> Result<u64, String> {
    let mut samples = Vec::new();
    for batch in 0..=BATCHES {
        let began = cycles();
        for _ in 0..BATCH {
            let vh = vhs.get(choose(vhs.len())).copied().unwrap_or(VasHandle::HOME);
            tell("vas_switch", enter(vh))?;
            tell("vas_switch home", enter(VasHandle::HOME))?;
        }
        // The first one warms up.
        if batch > 0 {
            samples.push((cycles() - began) / BATCH / 2);
        }
    }
    Ok(median(samples))
}

fn steps(most: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(1), |n| Some(n * 10)).take_while(move |n| *n <= most)
}

/// VASes are made and attached one by one, up to `most`. With 1, 10, 100 ... attached, a switch
/// is timed: always to the first, and to a random one.
pub(crate) fn vases(most: u64) -> Result<Object, String> {
    let mut object = Object::new("scale-vases").number("most", most);
    let params = sized(4096, PagePolicy::Small4K);
    let (first, sids) = make("v0", 1, &params)?;
    let mut vhs = vec![tell("vas_attach", sys::vas_attach(first, 0))?];
    let mut random = Random::new(1);
    for count in steps(most) {
        while (vhs.len() as u64) < count {
            let vid = another(vhs.len(), sids[0])?;
            vhs.push(tell("vas_attach", sys::vas_attach(vid, 0))?);
        }
        object = object
            .number(&format!("same_{count}"), switches(&vhs, |_| 0)?)
            .number(&format!("any_{count}"), switches(&vhs, |n| random.below(n as u32) as usize)?);
    }
    Ok(object)
}

/// A new VAS with the shared segment.
fn another(n: usize, sid: SegId) -> Result<VasId, String> {
    let vid = tell("vas_create", sys::vas_create(format!("v{n}"), 0o600))?;
    tell("seg_attach", sys::seg_attach(vid, sid, sys::Right::Write))?;
    Ok(vid)
}

/// VASes with 1, 10, 100 ... segments without locks, up to `most`.
pub(crate) fn segments(most: u64) -> Result<Object, String> {
    let mut object = Object::new("scale-segments").number("most", most);
    for count in steps(most) {
        let name = format!("segments-{count}");
        let (vid, _) = make(&name, count, &sized(4096, PagePolicy::Small4K))?;
        let vh = tell("vas_attach", sys::vas_attach(vid, 0))?;
        object = object.number(&format!("s{count}"), switches(&[vh], |_| 0)?);
        tell("vas_detach", sys::vas_detach(vh))?;
    }
    Ok(object)
}

/// This many threads switch at the same time, each to its own instance of one VAS: the median of
/// the slowest.
pub(crate) fn threads(count: u64) -> Result<Object, String> {
    let (vid, _) = make("shared", 1, &sized(4096, PagePolicy::Small4K))?;
    let barrier = Barrier::new(count as usize);
    let one = || -> Result<u64, String> {
        let vh = tell("vas_attach", sys::vas_attach(vid, 0));
        // Even after an error: the others wait for all.
        barrier.wait();
        // Not the best: in that one the other thread may already have finished.
        let goes: Result<Vec<u64>, String> =
            (0..GOES).map(|_| go(&[vh.clone()?], &mut |_| 0)).collect();
        let spent = goes.map(median);
        barrier.wait();
        spent
    };
    let spent = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect::<Result<Vec<u64>, String>>()
    })?;
    let slowest = spent.into_iter().max().unwrap_or(0);
    Ok(Object::new("scale-threads").number("threads", count).number("switch", slowest))
}

/// Attaches a VAS with `count` segments, or with one segment `count` VASes, and ends: for the
/// memory they take.
pub(crate) fn memory(kind: &str, count: u64) -> Result<Object, String> {
    let params = sized(4096, PagePolicy::Small4K);
    if kind == "memory-segments" {
        let (vid, _) = make("many", count, &params)?;
        tell("vas_attach", sys::vas_attach(vid, 0))?;
    } else {
        let (first, sids) = make("v0", 1, &params)?;
        tell("vas_attach", sys::vas_attach(first, 0))?;
        for n in 1..count {
            tell("vas_attach", sys::vas_attach(another(n as usize, sids[0])?, 0))?;
        }
    }
    Ok(Object::new("scale-memory").number("count", count))
}

/// The subcommand's kinds.
pub(crate) fn run(kind: &str, count: u64) -> Result<Object, String> {
    match kind {
        "vases" => vases(count),
        "segments" => segments(count),
        "threads" => threads(count.max(1)),
        "memory-vases" | "memory-segments" => memory(kind, count),
        // A program that only looks one up opens the store, and that is all it may add to a
        // start.
        "find" => tell("vas_find", sys::vas_find("v0")).map(|_| Object::new("scale-find")),
        other => Err(format!("no kind {other:?} of scale")),
    }
}
