//! Says what versions of a segment are for: `vas_messages NAME` makes one, and versions of it with messages and without,
//! and is refused others. Prints `done`; status 0, or 101 with what is wrong.

use abi::Errno;
use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_home};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, attach};

fn main() {
    require_vm();
    let name = std::env::args().nth(1).expect("NAME");
    let mut params = sized(1 << 20);
    params.lifetime = Lifetime::Versioned as u8;
    params.lockable = 1;
    let (vid, sid) = find_or_make(&name, &params);
    let [read, write] =
        [attach::READ_ONLY, 0].map(|flags| must("vas_attach", sys::vas_attach(vid, flags)));

    let refused = |text: &[u8], errno| assert_eq!(sys::vas_message(text), Err(errno));
    refused(b"at home", Errno::EPERM);
    must("enter", enter(read));
    refused(b"to read", Errno::EPERM);
    go_home();

    let say = |text: &str| must("vas_message", sys::vas_message(text));
    let word = Place::at(base_of(sid));
    let change = || word.write(word.read() + 1);
    let make = || {
        change();
        must("vas_commit", commit());
    };
    // It goes with a visit that has changed nothing, also if the kernel lets the next one in.
    must("enter", enter(write));
    say("not committed");
    go_home();
    must("enter", enter(write));
    change();
    go_home();
    must("enter", enter(write));
    for bad in [&[b'x'; 121][..], b"two\nlines", b"\xff"] {
        refused(bad, Errno::EINVAL);
    }
    say("aborted");
    change();
    abort();
    make();
    say("taken back");
    say("");
    make();
    say("one");
    // This makes no version, and the message waits for one.
    must("vas_commit", commit());
    make();
    make();
    say(&"\u{e9}".repeat(60));
    change();
    go_home();
    println!("done");
}
