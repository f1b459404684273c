//! Several spaces of one brand, whose handles end with the visit: what is moved from a visit of one into a visit of another
//! is of another type there, and its destructor, which knows nothing of lifetimes, leaves all memory as it is.

use spacejmp::{
    At, Error, Space, Storable, VBTreeMap, VBox, VHashMap, VRc, VString, VVec, VVecDeque, Write,
    brand,
};

#[derive(Storable)]
#[storable(vas = Month<'v>)]
struct Book<'v> {
    names: VVec<VString<Month<'v>>, Month<'v>>,
    amounts: VHashMap<u32, VBox<u64, Month<'v>>, Month<'v>>,
    queue: VVecDeque<VRc<VString<Month<'v>>, Month<'v>>, Month<'v>>,
    days: VBTreeMap<u32, VString<Month<'v>>, Month<'v>>,
    text: VBox<str, Month<'v>>,
    boxed: VBox<u64, Month<'v>>,
}

brand! { Month<'v> => Book<'v> }

fn book<'v>(at: &At<Month<'v>, Write>, first: u32) -> Result<Book<'v>, Error> {
    let mut book = Book {
        names: VVec::new(),
        amounts: VHashMap::new(),
        queue: VVecDeque::new(),
        days: VBTreeMap::new(),
        text: VBox::from_text(at, "a text of some length")?,
        boxed: VBox::new(at, u64::from(first))?,
    };
    for n in first..first + 40 {
        let name = || VString::new(at, &format!("the name of {n}"));
        book.names.at_mut(at).push(name()?)?;
        book.amounts.at_mut(at).insert(n, VBox::new(at, u64::from(n))?)?;
        book.queue.at_mut(at).push_back(VRc::new(at, name()?)?)?;
        book.days.at_mut(at).insert(n, name()?)?;
    }
    Ok(book)
}

fn space(first: u32) -> Space<Month<'static>> {
    let made = Space::<Month<'_>>::in_memory(1 << 20, |at| {
        book(at, first).map_err(|error| match error {
            Error::Alloc(error) => error,
            other => panic!("{other}"),
        })
    });
    made.expect("a space")
}

/// Everything in a book is what it was made with.
fn is_whole(space: &Space<Month<'static>>, first: u32) -> bool {
    let check = space.read(|v| {
        let book = v.root();
        let names: Vec<_> = (first..first + 40).map(|n| format!("the name of {n}")).collect();
        book.names.at(v).iter().map(|name| name.at(v)).eq(names.iter().map(String::as_str))
            && (first..first + 40).all(|n| {
                book.amounts.at(v).get(&n).is_some_and(|amount| *amount.get(v) == u64::from(n))
            })
            && book
                .queue
                .at(v)
                .iter()
                .map(|name| name.get(v).at(v))
                .eq(names.iter().map(String::as_str))
            && book.days.at(v).values().map(|name| name.at(v)).eq(names.iter().map(String::as_str))
            && book.text.get(v) == "a text of some length"
            && *book.boxed.get(v) == u64::from(first)
    });
    check.expect("a visit")
}

#[test]
fn as_many_spaces_of_a_brand_are_open_as_there_are_months() {
    let months: Vec<_> = (0..12).map(|month| space(month * 100)).collect();
    for (month, space) in (0..).zip(&months) {
        assert!(is_whole(space, month * 100), "{month}");
    }
    // One within the other.
    let [first, second, ..] = &months[..] else { panic!("twelve") };
    let sum = first.read(|v| {
        let first = *v.root().boxed.get(v);
        v.read(second, |w| first + *w.root().boxed.get(w))
    });
    assert_eq!(sum.expect("a visit").expect("a visit"), 100);
}

#[test]
fn owners_that_are_dropped_in_a_visit_of_another_space_of_their_brand_free_nothing() {
    let (outer, inner) = (space(0), space(1000));
    let moved = outer.write(|v| {
        let made = book(v, 5000)?;
        let (root, at) = v.root_mut();
        let taken = std::mem::replace(root, book(at, 0)?);
        v.write(&inner, |w| {
            // Each destructor runs here, inside a space of the brand, writable.
            drop((made, taken));
            // Memory that was freed there would be given out again.
            let more: Result<Vec<_>, _> = (0..50).map(|n| book(w, n)).collect();
            drop(more?);
            Ok::<_, Error>(())
        })
    });
    moved.expect("a visit");
    assert!(is_whole(&outer, 0));
    assert!(is_whole(&inner, 1000));
}

#[test]
fn owners_that_another_thread_drops_in_another_space_of_their_brand_free_nothing() {
    let (outer, inner) = (space(0), space(1000));
    let moved = outer.write(|v| {
        let made = book(v, 5000)?;
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                inner.write(|w| {
                    drop(made);
                    let more = book(w, 77)?;
                    drop(more);
                    Ok::<_, Error>(())
                })
            });
            other.join().expect("no panic")
        })
    });
    moved.expect("a visit");
    assert!(is_whole(&outer, 0));
    assert!(is_whole(&inner, 1000));
}

#[test]
fn owners_are_freed_in_their_own_visit_as_ever() {
    let space = space(0);
    for _ in 0..2000 {
        // Without frees, a MiB would not be enough.
        let made = space.write(|v| book(v, 9).map(drop));
        made.expect("there is room");
    }
    assert!(is_whole(&space, 0));
}
