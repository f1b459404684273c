//! `attach`: what it costs to attach, detach, make and delete, in nanoseconds.
//!
//! Kinds that are compared are timed alternately; a figure is the median. *Cached* is an
//! attach in a VM that had the segment attached before but no longer has: tables are kept,
//! rights are checked and the store is updated, as for any attach.

use std::time::Instant;

use spacejmp::sys::{self, PagePolicy, SegId, VasHandle, VasId, attach};

use crate::json::Object;
use crate::space::{Word, enter, make, median, sized, tell, timed, unmake};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Attaches that each build tables for their own segment.
const FIRST: u64 = 5;
/// VASes by the number of their segments.
const COUNTS: [u64; 3] = [1, 10, 100];

/// Attach and detach of one VAS.
struct Timed {
    vid: VasId,
    sids: Vec<SegId>,
    attach: Vec<u64>,
    detach: Vec<u64>,
}

impl Timed {
    /// A VAS with `count` segments, attached and detached once, tables built.
    fn new(name: &str, count: u64, bytes: u64, pages: PagePolicy) -> Result<Timed, String> {
        let (vid, sids) = make(name, count, &sized(bytes, pages))?;
        let mut timed = Timed { vid, sids, attach: Vec::new(), detach: Vec::new() };
        timed.round(attach::POPULATE)?;
        // The first one built the tables.
        timed.attach.clear();
        timed.detach.clear();
        Ok(timed)
    }

    fn round(&mut self, flags: u64) -> Result<(), String> {
        let vh = timed(&mut self.attach, || tell("vas_attach", sys::vas_attach(self.vid, flags)))?;
        timed(&mut self.detach, || tell("vas_detach", sys::vas_detach(vh)))?;
        Ok(())
    }

    /// Adds both medians and deletes the VAS.
    fn end(self, object: Object, name: &str) -> Result<Object, String> {
        unmake(self.vid, self.sids)?;
        Ok(object
            .number(&format!("attach_{name}"), median(self.attach))
            .number(&format!("detach_{name}"), median(self.detach)))
    }
}

/// Measures for `rounds` rounds; the large segment has `large` bytes.
pub(crate) fn run(rounds: u64, large: u64) -> Result<Object, String> {
    let mut object = Object::new("attach").number("rounds", rounds).number("large", large);
    object = first(object)?;

    let mut timed = vec![
        ("1m", Timed::new("one-mib", 1, MIB, PagePolicy::Largest)?),
        ("64g", Timed::new("large", 1, large, PagePolicy::Largest)?),
        ("1g", Timed::new("one-gib", 1, GIB, PagePolicy::Small4K)?),
    ];
    let names = ["segments_1", "segments_10", "segments_100"];
    for (count, name) in COUNTS.into_iter().zip(names) {
        timed.push((name, Timed::new(name, count, 2 * MIB, PagePolicy::Largest)?));
    }
    for round in 0..rounds {
        // In alternating order: what one leaves in the caches must not always affect the
        // same other.
        for turn in 0..timed.len() {
            let at = if round % 2 == 0 { turn } else { timed.len() - 1 - turn };
            timed[at].1.round(0)?;
        }
    }
    // With another instance that keeps the segment: the store is not updated.
    let kept = tell("vas_attach", sys::vas_attach(timed[2].1.vid, 0))?;
    let mut shared =
        Timed { vid: timed[2].1.vid, sids: Vec::new(), attach: Vec::new(), detach: Vec::new() };
    for _ in 0..rounds {
        shared.round(0)?;
    }
    tell("vas_detach", sys::vas_detach(kept))?;
    object = object
        .number("attach_1g_shared", median(shared.attach))
        .number("detach_1g_shared", median(shared.detach));
    for (name, vas) in timed {
        object = vas.end(object, name)?;
    }
    made_and_deleted(object, rounds)
}

/// First attach of 1 GiB: tables are built for all of it, 4 KiB pages. Then one switch in and
/// an access to its last page, which would reveal an attach that deferred work.
fn first(mut object: Object) -> Result<Object, String> {
    let (mut small, mut small_detach, mut largest) = (Vec::new(), Vec::new(), Vec::new());
    let mut entered = Vec::new();
    // The first call of all opens the store and makes the lease.
    Timed::new("opens", 1, MIB, PagePolicy::Largest)?.end(Object::new(""), "opens")?;
    for n in 0..FIRST {
        let (vid, sids) = make(&format!("first-{n}"), 1, &sized(GIB, PagePolicy::Small4K))?;
        let vh = timed(&mut small, || tell("vas_attach", sys::vas_attach(vid, attach::POPULATE)))?;
        let base = tell("seg_stat", sys::seg_stat(sids[0]))?.base;
        let began = Instant::now();
        tell("vas_switch", enter(vh))?;
        let last = Word::at(base + GIB - 8)?;
        let value = last.read();
        entered.push(began.elapsed().as_nanos() as u64);
        last.write(value + 1);
        tell("vas_switch", enter(VasHandle::HOME))?;
        if value != 0 {
            return Err("a new segment is not full of zeros".into());
        }
        timed(&mut small_detach, || tell("vas_detach", sys::vas_detach(vh)))?;
        unmake(vid, sids)?;

        let (vid, sids) = make(&format!("first-{n}"), 1, &sized(GIB, PagePolicy::Largest))?;
        let vh =
            timed(&mut largest, || tell("vas_attach", sys::vas_attach(vid, attach::POPULATE)))?;
        tell("vas_detach", sys::vas_detach(vh))?;
        unmake(vid, sids)?;
    }
    object = object
        .number("attach_1g_first", median(small))
        .number("detach_1g_first", median(small_detach))
        .number("touch_1g_first", median(entered))
        .number("attach_1g_first_largest", median(largest));
    Ok(object)
}

fn made_and_deleted(object: Object, rounds: u64) -> Result<Object, String> {
    let (mut create, mut find, mut delete) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..rounds {
        let name = format!("made-{n}");
        let vid = timed(&mut create, || tell("vas_create", sys::vas_create(&name, 0o600)))?;
        timed(&mut find, || tell("vas_find", sys::vas_find(&name)))?;
        timed(&mut delete, || tell("vas_delete", sys::vas_delete(vid)))?;
    }
    Ok(object
        .number("create", median(create))
        .number("find", median(find))
        .number("delete", median(delete)))
}

/// Attaches one VAS `count` times and ends without detaching: the resident memory then shows
/// how much an instance takes.
pub(crate) fn instances(count: u64) -> Result<Object, String> {
    let (vid, _) = make("instances", 1, &sized(MIB, PagePolicy::Largest))?;
    for _ in 0..count {
        let vh = tell("vas_attach", sys::vas_attach(vid, 0))?;
        tell("vas_switch", enter(vh))?;
        tell("vas_switch home", enter(VasHandle::HOME))?;
    }
    Ok(Object::new("instances").number("count", count))
}
