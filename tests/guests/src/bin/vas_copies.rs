//! Reads several address spaces, of which some are copies of others: `vas_copies VAS:SEGMENT...`.
//!
//! Prints `NAME SUM` of each, and `read`; then waits for a VAS named `one-less`, detaches the first, prints
//! `detached`; waits for `again`, reads the others once more, prints `read again`; waits for `end`. Status 0.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home};
use guests::store::base_of;
use spacejmp::sys::{self, VasHandle, attach};

struct Copy {
    name: String,
    vh: VasHandle,
    base: u64,
    bytes: u64,
}

fn main() -> ExitCode {
    require_vm();
    let mut copies: Vec<Copy> = std::env::args().skip(1).map(|names| copy(&names)).collect();
    copies.iter().for_each(show);
    wait("read", "one-less");
    must("vas_detach", sys::vas_detach(copies.remove(0).vh));
    wait("detached", "again");
    copies.iter().for_each(show);
    wait("read again", "end");
    ExitCode::SUCCESS
}

fn copy(names: &str) -> Copy {
    let (vas, segment) = names.split_once(':').expect("VAS:SEGMENT");
    let vid = must("vas_find", sys::vas_find(vas));
    let sid = must("seg_find", sys::seg_find(segment));
    let vh = must("vas_attach", sys::vas_attach(vid, attach::READ_ONLY));
    let bytes = must("seg_stat", sys::seg_stat(sid)).size_bytes;
    Copy { name: vas.to_owned(), vh, base: base_of(sid), bytes }
}

fn show(copy: &Copy) {
    must("vas_switch", enter(copy.vh));
    let pages = (0..copy.bytes / 4096).map(|page| Place::at(copy.base + page * 4096).read());
    let sum = pages.fold(0_u64, u64::wrapping_add);
    go_home();
    println!("{} {sum}", copy.name);
}

fn wait(what: &str, name: &str) {
    println!("{what}");
    while sys::vas_find(name).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
}
