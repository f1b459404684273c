//! Attacks by safe code on the typed API: each ends in an error, never in a pointer to
//! something else. There is no unsafe code here, and none is needed.
//!
//! `sdk_attacks NAME`: one attack, in a separate store. Lines `ok: ...`, and `done`.
//! `sdk_attacks fault`: ends by the fault that its last line announces.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use abi::Errno;
use guests::findings::{Findings, require_vm};
use spacejmp::brand::Kept;
use spacejmp::sys::{self, seg_command};
use spacejmp::{
    AllocError, At, AttachOptions, Brand, Error, Right, Segment, Space, VBox, VPtr, VString, VVec,
    Vas, Write, brand,
};

brand! {
    One => [u64; 2],
    Two => [u64; 2],
    Text => Option<VString<Text>>,
    Nothing => (),
    List => VVec<VBox<u64, List>, List>,
}

/// Where the segments lie in attacks that concern addresses.
const BASE: u64 = 0x7100_0000_0000;

fn main() -> ExitCode {
    require_vm();
    let mut found = Findings::new();
    let attack = std::env::args().nth(1).unwrap_or_default();
    match attack.as_str() {
        "stash" => stash(&mut found),
        "retry" => retry(&mut found),
        "replace" => replace(&mut found),
        "take-out" => take_out(&mut found),
        "lower" => lower(&mut found),
        "handles" => handles(&mut found),
        "threads" => threads(&mut found),
        "fault" => fault(),
        "copy" => copy(&mut found),
        "nothing" => nothing(&mut found),
        _ => found.fail("arguments", "there is no such attack"),
    }
    found.end()
}

fn refused<T: std::fmt::Debug>(
    found: &mut Findings,
    what: &str,
    got: Result<T, Error>,
    expected: fn(&Error) -> bool,
) {
    match got {
        Err(error) if expected(&error) => found.check(what, true),
        other => found.fail(what, &format!("{other:?}")),
    }
}

fn make<V: Brand<Root = [u64; 2], Handles = Kept<V>> + 'static>(
    name: &str,
    root: [u64; 2],
) -> Space<V> {
    Space::options().open_or_create(name, |_| Ok(root)).expect("a space")
}

/// The VAS of a space and its data segment, as any program can find them.
fn parts(name: &str) -> (Vas, Segment) {
    (Vas::find(name).expect("a VAS"), Segment::find(name).expect("a segment"))
}

/// `init` fails and leaves a pointer into a heap that would be created again.
fn stash(found: &mut Findings) {
    let mut stash: Option<VPtr<[usize; 3], Text>> = None;
    let failed = Space::<Text>::options().open_or_create("stash", |at| {
        stash = Some(VPtr::new(at, [7; 3])?);
        Err(AllocError::new::<Text>(0))
    });
    refused(found, "init fails", failed, |error| matches!(error, Error::Alloc(_)));
    let spent = |error: &Error| matches!(error, Error::BrandSpent { .. });
    let again = || Space::<Text>::options().open_or_create("stash", |_| Ok(None));
    refused(found, "the brand is spent", again(), spent);
    let other = Space::<Text>::options().create("elsewhere", |_| Ok(None));
    refused(found, "for other spaces, too", other, spent);
    found.check("the pointer is still there, and useless", stash.is_some());
}

/// If nothing is left of a failed attempt, the brand can be used.
fn retry(found: &mut Findings) {
    drop(make::<One>("there", [1, 1]));
    let exists = Space::<Text>::options().create("there", |_| Ok(None));
    refused(found, "there is one", exists, |error| error.errno() == Some(Errno::EEXIST));
    let failed = Space::<Text>::options().create("retry", |at| {
        let _dropped = (VBox::<u64, Text>::new(at, 1)?, VString::new(at, "text")?);
        Err(AllocError::new::<Text>(0))
    });
    refused(found, "init fails", failed, |error| matches!(error, Error::Alloc(_)));
    let again = Space::<Text>::options().create("retry", |at| Ok(Some(VString::new(at, "text")?)));
    let read = again.and_then(|space| space.read(|v| v.root().as_ref().map(VString::len)));
    found.same("the next attempt", read, Ok(Some(4)));
}

/// The same VAS with a new segment of the old name at the old address.
fn replace(found: &mut Findings) {
    let open = || Space::<Text>::options().base(BASE).open_or_create("replace", |_| Ok(None));
    let pointer =
        open().and_then(|space| space.write(|v| Ok::<_, Error>(VPtr::new(v, [7_usize; 3]))));
    let (vas, segment) = parts("replace");
    let gone = vas.detach_segment(&segment).and_then(|()| segment.delete());
    found.same("the segment goes", gone, Ok(()));
    refused(found, "the brand does not follow", open(), |e| matches!(e, Error::Replaced { .. }));
    found.check("the pointer leads nowhere", matches!(pointer, Ok(Ok(_))));
}

/// The segment of an open space is detached from its VAS, and another attached in its place.
fn take_out(found: &mut Findings) {
    let changed = |error: &Error| matches!(error, Error::Changed { .. });
    let one = Space::<One>::options().base(BASE).open_or_create("out", |_| Ok([4, 2]));
    let one = one.expect("a space");
    let (vas, segment) = parts("out");
    found.same("inside", one.write(|v| Ok::<_, Error>(*v.root())), Ok([4, 2]));
    found.same("taken out", vas.detach_segment(&segment), Ok(()));
    refused(found, "a writer is told", one.write(|v| Ok::<_, Error>(*v.root())), changed);
    refused(found, "a reader is told", one.read(|v| *v.root()), changed);
    let other = Segment::options(2 << 20).base(BASE).lockable(true).create("other");
    let other = other.expect("a segment");
    found.same("another", vas.attach_segment(&other, Right::Write), Ok(()));
    refused(found, "the other is not entered", one.write(|v| Ok::<_, Error>(*v.root())), changed);
    refused(found, "nor read", one.read(|v| *v.root()), changed);
    found.same("and out", vas.detach_segment(&other), Ok(()));
    found.same("back again", vas.attach_segment(&segment, Right::Write), Ok(()));
    found.same("as before", one.write(|v| Ok::<_, Error>(*v.root())), Ok([4, 2]));
    // An added segment does no harm, and does not appear.
    let more = Segment::options(2 << 20).lockable(true).create("more").expect("a segment");
    found.same("one more", vas.attach_segment(&more, Right::Write), Ok(()));
    found.same("is left alone", one.write(|v| Ok::<_, Error>(*v.root())), Ok([4, 2]));
}

/// The right of a segment is lowered before the first visit, and after it.
fn lower(found: &mut Findings) {
    let one = make::<One>("early", [1, 1]);
    drop(one);
    let one = Space::<One>::open("early").expect("a space");
    let lower = |(vas, segment): (Vas, Segment)| {
        vas.detach_segment(&segment).and_then(|()| vas.attach_segment(&segment, Right::Read))
    };
    found.same("lowered", lower(parts("early")), Ok(()));
    let eacces = |error: &Error| error.errno() == Some(Errno::EACCES);
    refused(
        found,
        "no right to write",
        one.write(|v| {
            v.root_mut().0[0] = 2;
            Ok::<_, Error>(())
        }),
        eacces,
    );
    found.same("to read there is", one.read(|v| *v.root()), Ok([1, 1]));

    let two = make::<Two>("late", [1, 1]);
    found.same(
        "written",
        two.write(|v| {
            v.root_mut().0[0] = 2;
            Ok::<_, Error>(())
        }),
        Ok(()),
    );
    found.same("lowered", lower(parts("late")), Ok(()));
    let changed = |error: &Error| matches!(error, Error::Changed { .. });
    refused(
        found,
        "nor here",
        two.write(|v| {
            v.root_mut().0[0] = 3;
            Ok::<_, Error>(())
        }),
        changed,
    );
    found.same("to read there is", two.read(|v| *v.root()), Ok([2, 1]));
}

/// The handle of a space's instance is used in raw calls.
fn handles(found: &mut Findings) {
    let one = make::<One>("one", [1, 1]);
    drop(make::<Two>("two", [2, 2]));
    let vh = one.read(|_| sys::vas_current()).expect("inside").expect("a handle");
    let (two, segment) = parts("two");
    found.refused("its instance is its own", sys::vas_detach(vh), Errno::EBUSY);
    let local = sys::seg_attach_local(vh, segment.id(), Right::Read);
    found.refused("and keeps what it has", local, Errno::EBUSY);
    found.same("which is still there", one.read(|v| *v.root()), Ok([1, 1]));

    let attached = two.attach(&AttachOptions::new()).expect("attached");
    found.refused("so has an owner", sys::vas_detach(attached.handle()), Errno::EBUSY);
    let fresh = sys::vas_attach(two.id(), 0).expect("a handle");
    drop(attached);
    found.same("its drop takes no other", sys::vas_detach(fresh), Ok(()));

    let recovered = sys::seg_ctl(segment.id(), seg_command::RECOVER, 0);
    found.refused("a raw call cannot declare content sound", recovered, Errno::EPERM);
}

/// A segment is copied in the middle of a change: in a comparison during a sort, which has a box in
/// two places, by a typed call and by a raw one.
fn copy(found: &mut Findings) {
    let boxes = |at: &At<List, Write>| VVec::try_collect(at, (0..300).map(|n| VBox::new(at, n)));
    let list = Space::<List>::options().open_or_create("list", boxes).expect("a space");
    let (_, segment) = parts("list");
    let mut tried = Vec::new();
    let sorted = list.write(|v| {
        let (root, at) = v.root_mut();
        root.at_mut(at).sort_unstable_by(|one, other| {
            let name = format!("copy-{}", tried.len());
            let raw = sys::seg_clone(segment.id(), &name).err();
            let typed = segment.clone_as(&name).err().and_then(|error| error.errno());
            tried.push([raw, typed]);
            (*other.get(at) % 7).cmp(&(*one.get(at) % 7))
        });
        Ok::<_, Error>(())
    });
    found.same("sorted", sorted, Ok(()));
    let refused = tried.iter().all(|tried| *tried == [Some(Errno::EDEADLK); 2]);
    found.check("no copy in the middle", refused && !tried.is_empty());
    found.same("of what is only read", list.read(|_| segment.clone_as("read").is_ok()), Ok(true));
    drop(make::<One>("other", [1, 1]));
    let (_, other) = parts("other");
    found.same(
        "of others",
        list.write(|_| Ok::<_, Error>(other.clone_as("others").is_ok())),
        Ok(true),
    );
    found.same("and afterwards", segment.clone_as("whole").map(|_| ()), Ok(()));
}

/// A scoped thread takes a reference along into another space at the same addresses.
fn threads(found: &mut Findings) {
    let space =
        |name: &str| Space::<One>::options().base(BASE).open_or_create(name, |_| Ok([1, 1]));
    let one = space("same1").expect("a space");
    let two = Space::<Two>::options().base(BASE).open_or_create("same2", |_| Ok([2, 2]));
    let two = two.expect("a space");
    let locked = |error: &Error| matches!(error, Error::Locked { .. });
    let tried = one.read(|v| {
        let taken: &[u64; 2] = v.root();
        let tried = std::thread::scope(|scope| {
            let other =
                scope.spawn(|| two.try_write(|w| Ok::<_, Error>((w.root_mut().0[0], taken[0]))));
            other.join().expect("no panic")
        });
        (tried, *taken)
    });
    let (tried, own) = tried.expect("inside");
    refused(found, "the other space is not entered", tried, locked);
    found.same("the reference is what it was", own, [1, 1]);
    found.same("later it is", two.write(|w| Ok::<_, Error>(w.root_mut().0[0])), Ok(2));
    let both = one.read(|v| v.read(&two, |w| *w.root()).map(|two| (two, *v.root())));
    found.same("and from inside, without references", both, Ok(Ok(([2, 2], [1, 1]))));
    let again = one.read(|v| {
        v.write(&one, |w| {
            w.root_mut().0[1] += 1;
            Ok::<_, Error>(())
        })
        .map(|()| *v.root())
    });
    found.same("its own space, too", again, Ok(Ok([1, 2])));
}

/// A scoped thread uses a reference at home: there is nothing at the address.
fn fault() {
    let one = make::<One>("fault", [1, 1]);
    let used = one.read(|v| {
        let taken: &[u64; 2] = v.root();
        println!("a fault is next");
        std::thread::scope(|scope| scope.spawn(|| taken[0]).join().ok())
    });
    println!("read {used:?}");
}

/// A zero-sized root.
fn nothing(found: &mut Findings) {
    let made = Space::<Nothing>::options().open_or_create("nothing", |_| Ok(()));
    found.same("made", made.and_then(|space| space.read(|v| *v.root())), Ok(()));
    let opened = Space::<Nothing>::open("nothing");
    found.same(
        "opened",
        opened.and_then(|space| {
            space.write(|v| {
                let () = *v.root_mut().0;
                Ok::<_, Error>(())
            })
        }),
        Ok(()),
    );
}
