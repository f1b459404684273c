//! When commits survive a power cut, and waiting for versions.
//!
//! `vas_durable NAME DURABILITY WHAT ...`: VAS and versioned segment NAME, made with DURABILITY (a
//! number as in `SegParams`) if it is not there. Each commit raises the words of PAGES pages by one.
//! `commits COUNT`: so many. `go COUNT`: the same, after a byte on the standard input. `hold COUNT`: then
//! says `committed` and sleeps for ever. `look`: says which version there is, and the value.
//! `watch`: says `waiting`, and what it sees when there is a newer version. `calls`: what the calls
//! give. `fails LOST`: commits, and has a sync that fails (the test sees to that, after a byte on the
//! standard input); LOST is 1 if what was committed cannot be read back. `sees`: visits, and once
//! more for each byte on the standard input, and says how that ended.
//! `fill MIB`: grows the segment and writes so much in one visit; `filled MIB`: looks at it. `many
//! COUNT`: so many commits of the same 128 pages. `beside COUNT`: the same of 256, while a thread reads.
//! Prints `done`; status 0, or 101 with a message.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use abi::Errno;
use abi::objects::{Durability, SyncInterval};
use guests::findings::{must, require_vm};
use guests::place::{Place, abort, commit, enter, go_home};
use guests::store::{base_of, find_or_make, sized};
use spacejmp::sys::{self, Lifetime, SegId, VasHandle, VasId, attach, seg_command};

const PAGES: u64 = 3;
const SIZE: u64 = 2 << 20;

struct Space {
    sid: SegId,
    base: u64,
    vid: VasId,
}

impl Space {
    fn attach(&self, flags: u64) -> VasHandle {
        must("vas_attach", sys::vas_attach(self.vid, flags))
    }

    fn value(&self) -> u64 {
        let first = Place::at(self.base).read();
        (1..PAGES).for_each(|page| assert_eq!(Place::at(self.base + page * 4096).read(), first));
        first
    }

    fn raise(&self) {
        let next = self.value() + 1;
        (0..PAGES).for_each(|page| Place::at(self.base + page * 4096).write(next));
    }

    fn commits(&self, count: u64) {
        let vh = self.attach(0);
        for _ in 0..count {
            must("enter", enter(vh));
            self.raise();
            go_home();
        }
    }

    /// Version and value that a visit to read sees.
    fn look(&self) -> (u64, u64) {
        let vh = self.attach(attach::READ_ONLY);
        must("enter", enter(vh));
        let seen = (must("vas_version", sys::vas_version(vh)), self.value());
        go_home();
        must("vas_detach", sys::vas_detach(vh));
        seen
    }
}

fn say(text: &str) {
    println!("{text}");
    std::io::stdout().flush().expect("it can be written");
}

/// Whether a byte comes.
fn byte() -> bool {
    std::io::stdin().read_exact(&mut [0]).is_ok()
}

fn main() -> ExitCode {
    require_vm();
    guests::touch::prepare(0..0);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let [name, durability, ref what @ ..] = args[..] else {
        eprintln!("usage: vas_durable NAME DURABILITY WHAT ...");
        return ExitCode::from(2);
    };
    let mut params = sized(SIZE);
    (params.lifetime, params.lockable) = (Lifetime::Versioned as u8, 1);
    params.durability = number(durability) as u16;
    params.reserve_bytes = 256 << 20;
    let (vid, sid) = find_or_make(name, &params);
    let space = Space { sid, base: base_of(sid), vid };
    match *what {
        ["commits", count] => space.commits(number(count)),
        ["go", count] => {
            say("ready");
            assert!(byte());
            space.commits(number(count));
        }
        ["hold", count] => {
            space.commits(number(count));
            say("committed");
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        ["look"] => {
            let (version, value) = space.look();
            say(&format!("version {version} value {value}"));
        }
        ["watch"] => watch(&space),
        ["calls"] => calls(&space),
        ["fails", lost] => fails(&space, lost == "1"),
        ["sees"] => sees(&space),
        ["fill", mib] => fill(&space, number(mib) << 20),
        ["filled", mib] => filled(&space, number(mib) << 20),
        ["many", count] => many(&space, number(count)),
        ["beside", count] => beside(&space, number(count)),
        _ => panic!("what?"),
    }
    say("done");
    ExitCode::SUCCESS
}

/// A reader waits at home, and inside, where its view stays.
fn watch(space: &Space) {
    let vh = space.attach(attach::READ_ONLY);
    let version = must("vas_version", sys::vas_version(vh));
    say("waiting");
    let newer = must("vas_wait", sys::vas_wait(vh, version, Duration::from_secs(60)));
    assert!(newer > version);
    must("enter", enter(vh));
    let value = space.value();
    say("inside");
    must("vas_wait", sys::vas_wait(vh, newer, Duration::from_secs(60)));
    assert_eq!(space.value(), value, "the view moved");
    go_home();
    must("enter", enter(vh));
    assert!(space.value() > value);
    go_home();
}

fn calls(space: &Space) {
    let stat = || must("seg_stat", sys::seg_stat(space.sid)).durability;
    assert_eq!(stat(), Durability::DEFAULT.raw());
    for durability in [Durability::Manual, Durability::Each] {
        let raw = u64::from(durability.raw());
        must("seg_ctl", sys::seg_ctl(space.sid, seg_command::SET_DURABILITY, raw));
        assert_eq!(stat(), durability.raw());
    }
    let unknown = u64::from(SyncInterval::MAX_MS) + 1;
    for bad in [0, unknown, 1 << 16, u64::MAX] {
        let result = sys::seg_ctl(space.sid, seg_command::SET_DURABILITY, bad);
        assert_eq!(result, Err(Errno::EINVAL), "{bad}");
    }
    for vh in [VasHandle::HOME, VasHandle::from_raw(77)] {
        let expected = if vh == VasHandle::HOME { Errno::EINVAL } else { Errno::EBADF };
        assert_eq!(sys::vas_sync(vh), Err(expected));
        assert_eq!(sys::vas_version(vh), Err(expected));
        assert_eq!(sys::vas_wait(vh, 0, Duration::ZERO), Err(expected));
    }
    let mut raw = sized(SIZE);
    raw.durability = Durability::Each.raw();
    assert_eq!(sys::seg_alloc("raw with one", &raw), Err(Errno::EINVAL));
    let (raw, sid) = find_or_make("raw", &sized(SIZE));
    let each = Durability::Each.raw().into();
    assert_eq!(sys::seg_ctl(sid, seg_command::SET_DURABILITY, each), Err(Errno::EINVAL));
    let raw = must("vas_attach", sys::vas_attach(raw, 0));
    assert_eq!(sys::vas_version(raw), Err(Errno::EINVAL), "without a versioned segment");

    let (write, read) = (space.attach(0), space.attach(attach::READ_ONLY));
    let before = must("vas_version", sys::vas_version(read));
    let began = Instant::now();
    let limit = Duration::from_millis(30);
    assert_eq!(sys::vas_wait(read, before, limit), Err(Errno::ETIMEDOUT));
    assert!(began.elapsed() >= limit);
    must("enter", enter(write));
    space.raise();
    assert_eq!(sys::vas_wait(read, before, Duration::MAX), Err(Errno::EDEADLK));
    // It does not commit.
    assert_eq!(sys::vas_sync(write), Ok(before));
    abort();
    space.raise();
    must("vas_commit", commit());
    assert_eq!(sys::vas_version(read), Ok(before + 1));
    assert_eq!(sys::vas_sync(read), Ok(before + 1), "who may only read");
    go_home();
    assert_eq!(sys::vas_wait(read, before, Duration::ZERO), Ok(before + 1));
    must("seg_sync", sys::seg_sync(space.sid));

    // From reading to writing: only what was read is written.
    must("enter", enter(read));
    let value = space.value();
    must("from reading", enter(write));
    assert_eq!(space.value(), value);
    go_home();
    must("enter", enter(read));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            must("enter", enter(write));
            space.raise();
            go_home();
        });
        other.join().expect("the other thread");
    });
    assert_eq!(enter(write), Err(Errno::EBUSY));
    assert_eq!((sys::vas_current(), space.value()), (Ok(read), value), "it stays");
    // Nobody is kept out by that.
    go_home();
    must("enter", enter(write));
    assert_eq!(space.value(), value + 1);
    go_home();
}

fn fails(space: &Space, lost: bool) {
    let vh = space.attach(0);
    let visit = || {
        enter(vh)?;
        space.raise();
        enter(VasHandle::HOME)
    };
    must("a visit", visit());
    must("vas_sync", sys::vas_sync(vh));
    say("ready");
    assert!(byte());
    must("a visit", visit());
    let seen = must("vas_version", sys::vas_version(vh));
    say("committed");
    assert!(byte());
    assert_eq!(sys::vas_sync(vh), Err(Errno::EIO), "it has failed");
    if !lost {
        must("the next visit", visit());
        assert_eq!(sys::vas_sync(vh), Ok(seen + 1), "stored anew");
        must("enter", enter(vh));
        say(&format!("value {}", space.value()));
        go_home();
        return;
    }
    assert_eq!(enter(vh), Err(Errno::ESTALE), "it has seen what is lost");
    assert_eq!(sys::vas_sync(vh), Err(Errno::EIO));
    assert_eq!(enter(vh), Err(Errno::ESTALE));
    must("vas_detach", sys::vas_detach(vh));
    let vh = space.attach(0);
    must("enter", enter(vh));
    say(&format!("value {}", space.value()));
    go_home();
    let version = must("vas_version", sys::vas_version(vh));
    assert!(version > seen, "{version} stands for two contents");
    must("vas_sync", sys::vas_sync(vh));
}

/// Raises the value by commits that fill logs quickly, while another thread enters to read all the time.
fn beside(space: &Space, count: u64) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let vh = space.attach(attach::READ_ONLY);
            while !is_over.load(Ordering::Relaxed) {
                must("enter", enter(vh));
                space.value();
                go_home();
            }
        });
        let vh = space.attach(0);
        for _ in 0..count {
            must("enter", enter(vh));
            space.raise();
            let value = space.value();
            pages(space, 1 << 20).for_each(|(_, place)| place.write(value));
            go_home();
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// A word of each page, from the second on.
fn pages(space: &Space, bytes: u64) -> impl Iterator<Item = (u64, Place)> {
    let base = space.base;
    (PAGES..bytes / 4096).map(move |page| (page, Place::at(base + page * 4096 + 8)))
}

fn fill(space: &Space, bytes: u64) {
    let vh = space.attach(0);
    must("enter", enter(vh));
    must("seg_grow", sys::seg_grow(space.sid, bytes));
    pages(space, bytes).for_each(|(page, word)| word.write(page));
    space.raise();
    go_home();
}

fn filled(space: &Space, bytes: u64) {
    let vh = space.attach(attach::READ_ONLY);
    must("enter", enter(vh));
    pages(space, bytes).for_each(|(page, word)| assert_eq!(word.read(), page));
    space.value();
    go_home();
}

fn many(space: &Space, count: u64) {
    let vh = space.attach(0);
    for round in 0..count {
        must("enter", enter(vh));
        pages(space, 128 * 4096).for_each(|(_, word)| word.write(round + 1));
        space.raise();
        go_home();
    }
}

fn sees(space: &Space) {
    let vh = space.attach(attach::READ_ONLY);
    loop {
        match enter(vh) {
            Ok(()) => {
                let value = space.value();
                go_home();
                say(&format!("sees {value}"));
            }
            Err(error) => say(&format!("{error:?}")),
        }
        if !byte() {
            return;
        }
    }
}
