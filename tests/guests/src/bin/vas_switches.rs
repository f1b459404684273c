//! Switches into a VAS and home: `vas_switches SEGMENTS COUNT`. The VAS has SEGMENTS segments
//! without locks, each with a word that is read on every visit. Prints `done`; status 0.

use std::process::ExitCode;

use abi::PAGE_SIZE_2M;
use abi::layout::VAS_START;
use guests::findings::{Findings, must};
use guests::place::{Place, enter, go_home};
use guests::store::sized;
use spacejmp::sys::{self, Right};

fn main() -> ExitCode {
    let mut found = Findings::new();
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("a number"));
    let (Some(segments), Some(count)) = (args.next(), args.next()) else {
        panic!("usage: vas_switches SEGMENTS COUNT")
    };
    let vid = must("vas_create", sys::vas_create("switches", 0o600));
    let base = |n: u64| VAS_START.raw() + (1 << 40) + n * PAGE_SIZE_2M;
    for n in 0..segments {
        let mut params = sized(4096);
        params.base = base(n);
        let sid = must("seg_alloc", sys::seg_alloc(format!("switches-{n}"), &params));
        must("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    }
    let vh = must("vas_attach", sys::vas_attach(vid, 0));
    must("vas_switch", enter(vh));
    (0..segments).for_each(|n| Place::at(base(n)).write(n + 1));
    go_home();
    let mut wrong = 0_u64;
    for visit in 0..count {
        must("vas_switch", enter(vh));
        let n = visit % segments;
        wrong += u64::from(Place::at(base(n)).read() != n + 1);
        go_home();
    }
    found.same("every visit reads its segment's word", wrong, 0);
    found.end()
}
