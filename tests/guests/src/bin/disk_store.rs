//! Makes raw segments until the disk may take no more (`--disk`).
//!
//! `disk_store make MIB`: one of half of the limit, which is filled; another one, a copy, and one that grows
//! are refused. `disk_store attach`: the segment `sparse`, which is too large, cannot be attached to be written, and can be to be
//! read. Prints what each call gave.

use std::process::ExitCode;

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, enter, go_home};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Right, attach};

const MIB: u64 = 1 << 20;

fn say<T>(what: &str, result: Result<T, Errno>) {
    match result {
        Ok(_) => println!("{what}: ok"),
        Err(errno) => println!("{what}: {errno:?}"),
    }
}

fn main() -> ExitCode {
    require_vm();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [what, mib] if what == "make" => {
            let half = mib.parse::<u64>().expect("a number") * MIB / 2;
            let (vid, sid) = find_or_make("half", &sized(half));
            must("enter", enter(must("vas_attach", sys::vas_attach(vid, 0))));
            let base = base_of(sid);
            (0..half / 4096).for_each(|page| Place::at(base + page * 4096).write(page + 1));
            go_home();
            say("another", sys::seg_alloc("another", &sized(half)));
            say("copy", sys::seg_clone(sid, "copy"));
            let mut growing = sized(MIB);
            growing.reserve_bytes = 4 * half;
            let small = must("seg_alloc", sys::seg_alloc("small", &growing));
            say("grow small", sys::seg_grow(small, 2 * half));
            say("grow a little", sys::seg_grow(small, 2 * MIB));
        }
        [what] if what == "attach" => {
            let sid = must("seg_find", sys::seg_find("sparse"));
            let vid = must("vas_create", sys::vas_create("v", 0o600));
            must("seg_attach", sys::seg_attach(vid, sid, Right::Write));
            say("attach", sys::vas_attach(vid, 0));
            say("attach to read", sys::vas_attach(vid, attach::READ_ONLY));
        }
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}
