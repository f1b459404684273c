//! Attacks of safe code on spaces over plain memory, where a pointer that outlives its memory is a
//! use after free: worth most under AddressSanitizer (`cargo xtask check asan`). Those that need a VM
//! are in `tests/guests/src/bin/sdk_attacks.rs`, those that must not compile in `ui`.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use spacejmp::brand::Kept;
use spacejmp::{Brand, Error, Inside, Space, Storable, VBox, VPtr, VVec, brand, inside};

const ROOM: usize = 1 << 20;

/// Brands by a type parameter, of which the first is a subtype of the second.
struct Family<T>(PhantomData<T>);

impl<T: 'static> Brand for Family<T> {
    type Root = Option<VBox<u64, Self>>;
    const NAME: &'static str = "Family";
    type Handles = Kept<Self>;
}

type Sub = Family<for<'a> fn(&'a u8)>;
type Super = Family<fn(&'static u8)>;

#[test]
fn brands_that_are_subtypes_of_each_other_are_two_brands() {
    let one = Space::<Sub>::in_memory(ROOM, |at| Ok(Some(VBox::new(at, 1)?))).unwrap();
    let two = Space::<Super>::in_memory(ROOM, |at| Ok(Some(VBox::new(at, 2)?))).unwrap();
    one.read(|_| assert_eq!(inside::<Super>(), Inside::Elsewhere)).unwrap();
    let stash = two.write(|v| Ok::<_, Error>(v.root_mut().0.take())).unwrap();
    // Dropped inside the other, it must not go to that one's heap.
    one.write(|_| {
        drop(stash);
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(two.read(|v| v.root().is_none()), Ok(true));
}

brand! { Gone => Option<VBox<u64, Gone>> }

#[test]
fn a_brand_is_not_given_to_new_memory_when_its_space_is_gone() {
    let space = Space::<Gone>::in_memory(ROOM, |_| Ok(None)).unwrap();
    let (owner, shared) = space
        .write(|v| Ok::<_, Error>((VBox::<u64, Gone>::new(v, 7)?, VPtr::new(v, 8_u64)?)))
        .unwrap();
    drop(space);
    let again = Space::<Gone>::in_memory(ROOM, |_| Ok(None));
    assert!(matches!(again, Err(Error::BrandTaken { .. })), "{again:?}, {shared:?}");
    // Its memory is gone; it is not touched.
    drop(owner);
}

type Boxes<V> = VVec<VBox<u64, V>, V>;

brand! { Unwound => Boxes<Unwound>, Nested => Boxes<Nested>, Beside => u64 }

/// Tries all operations on a space that may be called while something unwinds: none gives access.
struct Meddler<'a, V: Brand<Root = Boxes<V>, Handles = Kept<V>> + 'static>(
    &'a Space<V>,
    Option<VBox<u64, V>>,
);

impl<V: Brand<Root = Boxes<V>, Handles = Kept<V>> + 'static> Drop for Meddler<'_, V> {
    fn drop(&mut self) {
        assert!(self.0.write(|v| Ok::<_, Error>(v.root().len())).is_err());
        drop(self.1.take());
    }
}

/// A visit to write that panics, and another one inside it if `nested`.
fn unwinds<V: Brand<Root = Boxes<V>, Handles = Kept<V>> + 'static>(
    beside: &Space<Beside>,
    nested: bool,
) {
    let space = Space::<V>::in_memory(ROOM, |_| Ok(VVec::new())).unwrap();
    let thrown = catch_unwind(AssertUnwindSafe(|| {
        space.write(|v| -> Result<(), Error> {
            let _meddler = Meddler(&space, VBox::new(v, 1).ok());
            let (root, at) = v.root_mut();
            root.at_mut(at).push(VBox::new(at, 5).unwrap()).unwrap();
            if nested {
                let _ = v.write(beside, |w| -> Result<(), Error> {
                    *w.root_mut().0 += 1;
                    panic!("in the other one")
                });
            }
            panic!("in this one")
        })
    }));
    assert!(thrown.is_err());
    assert_eq!(inside::<V>(), Inside::Elsewhere);
    let (again, look) = (space.write(|_| Ok::<_, Error>(())), space.read(|_| ()));
    assert!(matches!(again, Err(Error::Inconsistent { .. })), "{again:?}");
    assert!(matches!(look, Err(Error::Inconsistent { .. })), "{look:?}");
}

#[test]
fn what_a_panic_broke_off_is_out_of_reach_whatever_destructors_do() {
    let beside = Space::<Beside>::in_memory(ROOM, |_| Ok(0)).unwrap();
    unwinds::<Unwound>(&beside, false);
    unwinds::<Nested>(&beside, true);
}

brand! { Everywhere => Option<VBox<u64, Everywhere>> }

static SHARED: LazyLock<Space<Everywhere>> =
    LazyLock::new(|| Space::in_memory(ROOM, |_| Ok(None)).expect("a space"));

thread_local! {
    static KEPT: RefCell<Option<VBox<u64, Everywhere>>> = const { RefCell::new(None) };
}

#[test]
fn owners_in_statics_and_thread_locals_are_only_followed_inside() {
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || {
                let made = SHARED
                    .write(|v| Ok::<_, Error>(VBox::<u64, Everywhere>::new(v, number).unwrap()));
                KEPT.set(made.ok());
                SHARED.read(|_| ()).unwrap();
                let read = SHARED
                    .read(|v| KEPT.with_borrow(|kept| kept.as_ref().map(|kept| *kept.get(v))));
                assert_eq!(read, Ok(Some(number)));
                // Dropped with the thread, at home: it leaks.
            });
        }
    });
}

#[test]
fn a_space_is_kept_by_who_is_inside() {
    brand! { Counted => [u64; 2] }
    let space = Arc::new(Space::<Counted>::in_memory(ROOM, |_| Ok([3, 4])).unwrap());
    let (one, two) = (space.clone(), space);
    let read = std::thread::spawn(move || one.read(|v| *v.root())).join().unwrap();
    let last = two.clone();
    let inside = two.read(|v| {
        drop(last);
        *v.root()
    });
    assert_eq!((read, inside), (Ok([3, 4]), Ok([3, 4])));
}

#[test]
fn a_leaked_view_changes_nothing() {
    // With padding.
    #[derive(Storable)]
    struct Plain(u32, u8);
    brand! { Leaky => VVec<Plain, Leaky> }
    let space = Space::<Leaky>::in_memory(ROOM, |at| {
        VVec::collect(at, (0..100).map(|number| Plain(number, 1)))
    })
    .unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            let mut view = root.at_mut(at);
            std::mem::forget(view.drain(10..20));
            assert!(view.len() <= 100 && view.iter().all(|plain| plain.0 < 100));
            root.at_mut(at).push(Plain(7, 1)).unwrap();
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.read(|v| v.root().at(v).last().map(|plain| plain.0)), Ok(Some(7)));
}

#[test]
fn sizes_beyond_all_measure_are_errors() {
    brand! { Huge => VVec<[u64; 64], Huge> }
    let space = Space::<Huge>::in_memory(ROOM, |_| Ok(VVec::new())).unwrap();
    space
        .write(|v| {
            let (root, at) = v.root_mut();
            let mut view = root.at_mut(at);
            for count in [usize::MAX, usize::MAX / 512, isize::MAX as usize / 512 + 1, ROOM] {
                view.reserve(count).unwrap_err();
                view.reserve_exact(count).unwrap_err();
                view.resize(count, [0; 64]).unwrap_err();
            }
            assert!(view.is_empty());
            VVec::<[u64; 64], Huge>::with_capacity(at, usize::MAX).unwrap_err();
            Ok::<_, Error>(())
        })
        .unwrap();
}
