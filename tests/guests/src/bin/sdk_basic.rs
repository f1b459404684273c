//! The safe API in one VM, without `unsafe`: spaces made, opened, entered in every way, refused
//! for every reason, and the objects under them. Lines `ok: ...`, then `done`.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use abi::Errno;
use guests::findings::Findings;
use spacejmp::{
    AllocError, AttachOptions, Error, Right, Segment, Space, Storable, VBox, VPtr, Vas, brand,
};

#[derive(Storable)]
#[storable(vas = Chain)]
struct Link {
    value: u64,
    next: Option<VBox<Link, Chain>>,
    first: Option<VPtr<u64, Chain>>,
}

/// The same name, another layout.
mod other {
    use super::{Changed, Storable, VBox, VPtr};

    #[derive(Storable)]
    #[storable(vas = Changed)]
    pub(super) struct Link {
        pub(super) value: i64,
        pub(super) next: Option<VBox<Link, Changed>>,
        pub(super) first: Option<VPtr<u64, Changed>>,
    }
}

brand! {
    Chain => Option<VBox<Link, Chain>>,
    Changed => Option<VBox<other::Link, Changed>>,
    Counter => u64,
    Unlocked => u64,
    Missing => u64,
    Big => Option<VBox<[u64; 1 << 17], Big>>,
}

fn main() -> ExitCode {
    let mut f = Findings::new();
    objects(&mut f);
    let chain = Space::<Chain>::options().create("chain", |_| Ok(None)).expect("it can be made");
    let counter =
        Space::<Counter>::options().open_or_create("counter", |_| Ok(0)).expect("it can be made");
    pointers(&mut f, &chain);
    nested(&mut f, &chain, &counter);
    threads(&mut f, &counter);
    waiting(&mut f, &counter);
    growth(&mut f);
    refusals(&mut f);
    // Last, because no thread can be inside after it.
    panics(&mut f, &chain, &counter);
    drop((chain, counter));
    for name in ["chain", "counter", "big", "unlocked"] {
        Vas::find(name).and_then(Vas::delete).expect("no VM has it attached");
        Segment::find(name).and_then(Segment::delete).expect("no VM has it attached");
    }
    f.end()
}

fn objects(f: &mut Findings) {
    let vas = Vas::options().mode(0o640).open_or_create("box").expect("made");
    f.same("a VAS that is there is opened", Vas::options().open_or_create("box"), Ok(vas.clone()));
    let errno = |error: Error| (error.errno(), error.to_string());
    let text = "cannot create address space `box`: file exists (EEXIST)".to_owned();
    f.same(
        "an error names the object",
        Vas::create("box").map_err(errno),
        Err((Some(Errno::EEXIST), text)),
    );
    let segment =
        Segment::options(4096).reserve(4 << 20).lockable(true).create("box").expect("made");
    vas.attach_segment(&segment, Right::Write).expect("attached");
    f.same(
        "segments are listed with their rights",
        vas.segments(),
        Ok(vec![(segment.clone(), Right::Write)]),
    );
    segment.grow(8192).expect("grown");
    f.same(
        "a segment grows",
        segment.stat().map(|stat| (stat.size, stat.lockable)),
        Ok((8192, true)),
    );
    let attached = vas.attach(&AttachOptions::new()).expect("attached");
    f.same(
        "attached objects are counted",
        vas.stat().map(|stat| (stat.attachers, stat.segments)),
        Ok((1, 1)),
    );
    f.same(
        "what is attached stays",
        vas.clone().delete().map_err(|err| err.errno()),
        Err(Some(Errno::EBUSY)),
    );
    drop(attached);
    let copy = segment.clone_as("copy").expect("copied");
    f.same("a copy has its own id", copy.id() == segment.id(), false);
    f.same("both are listed", Segment::list().map(|all| all.len()), Ok(2));
    copy.delete().expect("deleted");
    f.same("dropping detached it", vas.delete(), Ok(()));
    f.same("and then no VM has the segment", segment.delete(), Ok(()));
}

fn pointers(f: &mut Findings, chain: &Space<Chain>) {
    let made = chain.write(|v| {
        let (root, at) = v.root_mut();
        let first = VPtr::new(at, 100)?;
        for value in 0..1000 {
            let next = root.take();
            *root = Some(VBox::new(at, Link { value, next, first: Some(first) })?);
        }
        Ok::<_, Error>(())
    });
    f.same("a list is made inside", made, Ok(()));
    let sum = |space: &Space<Chain>| {
        space.read(|v| {
            let (mut sum, mut next) = (0, v.root());
            while let Some(link) = next {
                let link = link.get(v);
                sum += link.value + link.first.map_or(0, |first| *first.get(v));
                next = &link.next;
            }
            sum
        })
    };
    f.same("and read", sum(chain), Ok(499_500 + 100_000));
    let again = Space::<Chain>::open_read_only("chain").expect("it opens");
    f.same("and read by a program that opens it again", sum(&again), Ok(599_500));
    let refused = again.write(|_| Ok::<_, Error>(())).map_err(|err| err.errno());
    f.same("what is opened to be read is not written", refused, Err(Some(Errno::EACCES)));
    let taken = chain.write(|v| Ok::<_, Error>(v.root_mut().0.take())).expect("inside");
    f.same("an owner may leave, its content not", taken.is_some(), true);
    let length = chain.write(|v| {
        let mut taken = taken;
        let mut length = 0;
        while let Some(link) = taken {
            taken = link.into_inner(v).next;
            length += 1;
        }
        Ok::<_, Error>(length)
    });
    f.same("and is good for another visit", length, Ok(1000));
}

fn nested(f: &mut Findings, chain: &Space<Chain>, counter: &Space<Counter>) {
    let outcome = chain.read(|v| {
        let second = counter.read(|_| ()).map_err(|err| err.to_string());
        let went = v.write(counter, |w| {
            *w.root_mut().0 += 5;
            Ok::<_, Error>(w.read(chain, |v| v.root().is_none()))
        });
        (second, went, v.root().is_none())
    });
    let text = "cannot enter `counter`: the thread is inside `Chain`; use its token's `read`";
    let expected = (Err(text.to_owned()), Ok(Ok(true)), true);
    f.same("from inside one goes on by the token only", outcome, Ok(expected));
    f.same("what the inner visit wrote is there", counter.read(|v| *v.root()), Ok(5));
}

fn panics(f: &mut Findings, chain: &Space<Chain>, counter: &Space<Counter>) {
    std::panic::set_hook(Box::new(|_| {}));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        chain.write(|v| v.write(counter, |_| -> Result<(), Error> { panic!("on purpose") }))
    }));
    let _ = std::panic::take_hook();
    f.check("a panic inside comes out", caught.is_err());
    f.same(
        "the thread is at home",
        spacejmp::sys::vas_current(),
        Ok(spacejmp::sys::VasHandle::HOME),
    );
    let told = |result: Result<(), Error>| result.map_err(|error| error.to_string());
    let refused = |name| {
        Err(format!(
            "`{name}` is inconsistent: a program died while it was writing; see `Space::recover`"
        ))
    };
    f.same("the outer change is unfinished", told(chain.try_read(|_| ())), refused("chain"));
    f.same(
        "and the inner one",
        told(counter.try_write(|_| Ok::<_, Error>(()))),
        refused("counter"),
    );
}

fn threads(f: &mut Findings, counter: &Space<Counter>) {
    let (readers, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let together = Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..200 {
                    counter
                        .write(|v| {
                            *v.root_mut().0 += 1;
                            Ok::<_, Error>(())
                        })
                        .expect("inside");
                }
                // The reader inside waits below: by then no thread may still want to write.
                together.wait();
                counter
                    .read(|_| {
                        let now = readers.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        together.wait();
                        readers.fetch_sub(1, Ordering::SeqCst);
                    })
                    .expect("inside");
            });
        }
    });
    f.same("writers are alone", counter.read(|v| *v.root()), Ok(605));
    f.same("readers are not", most.into_inner(), 3);
    let spawned = counter.read(|_| {
        std::thread::scope(|scope| {
            let current = scope.spawn(spacejmp::sys::vas_current).join();
            current.expect("it does not panic")
        })
    });
    f.same(
        "a thread that begins inside begins at home",
        spawned,
        Ok(Ok(spacejmp::sys::VasHandle::HOME)),
    );
}

fn waiting(f: &mut Findings, counter: &Space<Counter>) {
    let (inside, go) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            counter.read(|_| {
                inside.wait();
                go.wait();
            })
        });
        inside.wait();
        let locked = |waited| Err(Error::Locked { space: "counter".to_owned(), waited });
        f.same(
            "a writer is refused at once",
            counter.try_write(|_| Ok::<_, Error>(())),
            locked(Duration::ZERO),
        );
        let limit = Duration::from_millis(20);
        f.same(
            "or after a while",
            counter.write_timeout(limit, |_| Ok::<_, Error>(())),
            locked(limit),
        );
        f.same("a reader is not", counter.read_timeout(limit, |v| *v.root()), Ok(605));
        go.wait();
    });
}

fn growth(f: &mut Findings) {
    let options = Space::<Big>::options().size(1 << 20).reserve(8 << 20);
    let big = options.create("big", |_| Ok(None)).expect("it can be made");
    let blocks = big.write(|v| {
        let mut kept = Vec::new();
        while let Ok(block) = VBox::<[u64; 1 << 17], Big>::new(v, [7; 1 << 17]) {
            kept.push(block);
        }
        let last = kept.last().map(|block| block.get(v)[1000]);
        Ok::<_, Error>((kept.len() > 3, last))
    });
    f.same(
        "a segment grows up to its reserve, then there is an error",
        blocks,
        Ok((true, Some(7))),
    );
    let size = Segment::find("big").and_then(|it| it.stat()).map(|stat| stat.size > 1 << 20);
    f.same("its size says so", size, Ok(true));
}

fn refusals(f: &mut Findings) {
    match Space::<Changed>::open("chain").map(|_| ()) {
        Err(error @ Error::WrongRoot { .. }) => {
            println!("ok: a root of another type is refused:\n{error}");
        }
        other => f.same("a root of another type is refused", other, Ok(())),
    }
    f.same(
        "a brand is good for one VAS",
        Space::<Counter>::open("chain").map(|_| ()).is_err(),
        true,
    );
    let unlocked = Segment::find("counter").and_then(|it| it.clone_as("unlocked")).expect("copied");
    unlocked.set_lockable(false).expect("no VM has it attached");
    let vas = Vas::create("unlocked").expect("made");
    vas.attach_segment(&unlocked, Right::Write).expect("attached");
    let taken = Space::<Counter>::open("unlocked").map(|_| ());
    let expected = Error::BrandTaken {
        brand: "Counter",
        space: "unlocked".to_owned(),
        taken_by: "counter".to_owned(),
    };
    f.same("another VAS with the same brand is refused", taken, Err(expected));
    let space = Space::<Unlocked>::open("unlocked").expect("it opens");
    let expected = Error::NotLockable { space: "unlocked".to_owned() };
    f.same("a segment without a lock is refused", space.read(|_| ()), Err(expected));
    let missing = Space::<Missing>::open("missing").map_err(|err| err.errno()).map(|_| ());
    f.same("what is not there is not opened", missing, Err(Some(Errno::ENOENT)));
    Vas::create("missing").expect("made");
    let empty = Space::<Missing>::open("missing").map(|_| ());
    f.same("nor a VAS without a root", empty, Err(Error::NoRoot { space: "missing".to_owned() }));
    let full = AllocError { bytes: 1, brand: "Missing" };
    Vas::find("missing").and_then(Vas::delete).expect("deleted");
    let failed = Space::<Missing>::options().create("missing", |_| Err(full)).map(|_| ());
    f.same("a space whose root fails is not made", failed, Err(Error::Alloc(full)));
    f.same(
        "and leaves no VAS",
        Vas::find("missing").map_err(|err| err.errno()),
        Err(Some(Errno::ENOENT)),
    );
    let left = Segment::find("missing").map_err(|err| err.errno());
    f.same("and no segment", left, Err(Some(Errno::ENOENT)));
}
