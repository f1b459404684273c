//! More memory than 48 bits address: 4 VASes with a sparse segment of 100 TiB each, all at
//! the same base; `vas_huge [PLACES [TIB]]`, 1,000 random places per VAS and 100 TiB by default.
//! Writes a distinct value to each place, then reads all back, going from VAS to VAS with
//! every read. Stable lines, then `done`; status 0. Everything is deleted at the end.

use std::process::ExitCode;

use abi::layout::VAS_START;
use guests::findings::{Findings, must};
use guests::place::{Place, enter, go_home};
use guests::random::{Random, mix};
use guests::store::sized;
use spacejmp::sys::{self, Right, SegId, VasHandle, VasId};

const VASES: u64 = 4;

fn main() -> ExitCode {
    let mut found = Findings::new();
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("a number"));
    let count: u64 = args.next().unwrap_or(1000);
    let size = args.next().unwrap_or(100) << 40;

    let mut params = sized(size);
    params.base = VAS_START.raw();
    let make = |n: u64| -> (VasId, SegId, VasHandle) {
        let name = format!("huge-{n}");
        let vid = must("vas_create", sys::vas_create(&name, 0o600));
        let sid = must("seg_alloc", sys::seg_alloc(&name, &params));
        must("seg_attach", sys::seg_attach(vid, sid, Right::Write));
        (vid, sid, must("vas_attach", sys::vas_attach(vid, 0)))
    };
    let all: Vec<_> = (0..VASES).map(make).collect();
    println!("attached: {} TiB in {VASES} VASes at the same addresses", (size * VASES) >> 40);

    // The first and the last word of all, and random ones between them. The same places in
    // every VAS: confusing two of them shows.
    let mut random = Random::new(1);
    let mut offsets: Vec<u64> = (2..count).map(|_| random.below(size / 8) * 8).collect();
    offsets.extend([0, size - 8]);
    offsets.sort_unstable();
    offsets.dedup();
    // Scattered, not ascending.
    offsets.sort_by_key(|&offset| mix(offset));
    let value = |vas: u64, offset: u64| mix(offset ^ (vas << 61)) | 1;

    let mut dirty = 0;
    for (vas, &(_, _, vh)) in (0..).zip(&all) {
        must("vas_switch", enter(vh));
        for &offset in &offsets {
            let place = Place::at(params.base + offset);
            dirty += u64::from(place.read() != 0);
            place.write(value(vas, offset));
        }
    }
    found.same("all places were zero", dirty, 0);
    let mut wrong = 0;
    for &offset in &offsets {
        for (vas, &(_, _, vh)) in (0..).zip(&all) {
            must("vas_switch", enter(vh));
            wrong += u64::from(Place::at(params.base + offset).read() != value(vas, offset));
        }
    }
    found.same("every place kept its value", wrong, 0);
    go_home();

    for (vid, sid, vh) in all {
        must("vas_detach", sys::vas_detach(vh));
        must("vas_delete", sys::vas_delete(vid));
        must("seg_delete", sys::seg_delete(sid));
    }
    found.end()
}
