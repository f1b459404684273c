//! Attaches many VASes and switches into each: `vas_many [COUNT [SEGMENTS]]`, 10,000 and 16 by
//! default. VAS number i has segment number i modulo SEGMENTS; all have the same base, so what
//! is read there tells which VAS the thread is really in. Two rounds in two orders, and one in
//! random order; then all are detached, and everything is deleted. `vas_many limit`: one VAS
//! attached until no handles are left. Stable lines, then `done`; status 0.

use std::process::ExitCode;

use abi::Errno;
use abi::layout::VAS_START;
use guests::findings::{Findings, must};
use guests::place::{Place, enter, go_home};
use guests::random::mix;
use guests::store::sized;
use spacejmp::sys::{self, Right, SegId, VasHandle, VasId};

fn main() -> ExitCode {
    let mut found = Findings::new();
    if std::env::args().nth(1).as_deref() == Some("limit") {
        limit(&mut found);
        return found.end();
    }
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("a number"));
    let count: u64 = args.next().unwrap_or(10_000);
    let segments = args.next().unwrap_or(16);

    let mut params = sized(4096);
    params.base = VAS_START.raw() + (1 << 40);
    let segment = |n| must("seg_alloc", sys::seg_alloc(format!("many-{n}"), &params));
    let sids: Vec<SegId> = (0..segments).map(segment).collect();
    let make = |n: u64| {
        let vid = must("vas_create", sys::vas_create(format!("many-{n}"), 0o600));
        let sid = sids[(n % segments) as usize];
        must("seg_attach", sys::seg_attach(vid, sid, Right::Write));
        vid
    };
    let vids: Vec<VasId> = (0..count).map(make).collect();
    println!("made: {} VASes, {} segments", vids.len(), sids.len());

    let attach = |&vid: &VasId| must("vas_attach", sys::vas_attach(vid, 0));
    let vhs: Vec<VasHandle> = vids.iter().map(attach).collect();
    let mut distinct: Vec<u64> = vhs.iter().map(|vh| vh.raw()).collect();
    distinct.sort_unstable();
    distinct.dedup();
    found.same("all handles differ", distinct.len() as u64, count);

    let word = Place::at(params.base);
    for n in 0..segments.min(count) {
        must("vas_switch", enter(vhs[n as usize]));
        word.write(mix(n));
    }
    let is_right = |n: u64| {
        must("vas_switch", enter(vhs[n as usize]));
        word.read() == mix(n % segments)
    };
    // Up and down: each tag that is recycled on the way up is used again on the way down.
    let wrong = (0..count).filter(|&n| !is_right(n)).count();
    found.same("one after the other, each shows its segment", wrong, 0);
    let wrong = (0..count).rev().filter(|&n| !is_right(n)).count();
    found.same("and back", wrong, 0);
    let wrong = (0..count).filter(|&n| !is_right(mix(n) % count)).count();
    found.same("and in any order", wrong, 0);
    go_home();

    for vh in vhs {
        must("vas_detach", sys::vas_detach(vh));
    }
    for vid in vids {
        must("vas_delete", sys::vas_delete(vid));
    }
    for sid in sids {
        must("seg_delete", sys::seg_delete(sid));
    }
    println!("gone");
    found.end()
}

fn limit(found: &mut Findings) {
    let vid = must("vas_create", sys::vas_create("limit", 0o600));
    let mut vhs = Vec::new();
    let refused = loop {
        match sys::vas_attach(vid, 0) {
            Ok(vh) => vhs.push(vh),
            Err(error) => break error,
        }
    };
    found.same("the limit's error", refused, Errno::EMFILE);
    // One is home.
    found.same("as many as promised", vhs.len() as u32, sys::MAX_INSTANCES - 1);
    must("vas_detach", sys::vas_detach(vhs.swap_remove(1000)));
    vhs.push(found.need("one goes, one comes", sys::vas_attach(vid, 0)));
    for vh in vhs {
        must("vas_detach", sys::vas_detach(vh));
    }
    must("vas_delete", sys::vas_delete(vid));
}
