//! Attacks of safe code on spaces over plain memory, where a pointer that outlives its memory is a
//! use after free: worth most under AddressSanitizer (`cargo xtask check asan`). Those that need a VM
//! are in `tests/guests/src/bin/sdk_attacks.rs`, those that must not compile in `ui`.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use spacejmp::brand::Kept;
use spacejmp::{
    Brand, Error, Inside, Space, Storable, VBox, VPtr, VRc, VVec, VVecDeque, brand, inside,
};

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

/// A value whose destructor tries to make what it is in outlive it.
#[derive(Storable)]
#[storable(vas = Counts)]
struct Last {
    number: u64,
    back: VPtr<Option<VRc<Last, Counts>>, Counts>,
}

brand! { Counts => Option<VRc<Last, Counts>> }

thread_local! {
    static OWNERS: RefCell<Vec<VRc<Last, Counts>>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Last {
    fn drop(&mut self) {
        // Owners that are kept elsewhere would be dropped in the middle of this one.
        let kept = OWNERS.try_with(RefCell::take).unwrap_or_default();
        assert!(kept.len() < 9, "{}", self.number);
    }
}

#[test]
fn an_owner_in_a_cycle_a_thread_local_or_a_destructor_frees_no_value_that_another_one_has() {
    let space = Space::<Counts>::in_memory(ROOM, |_| Ok(None)).unwrap();
    let done = space.write(|v| {
        let back = VPtr::new(v, None)?;
        let owner = VRc::new(v, Last { number: 7, back })?;
        // A cycle, by a pointer to what is never freed.
        *back.get_mut(v) = Some(owner.another(v));
        OWNERS.with_borrow_mut(|kept| kept.push(owner.another(v)));
        let (root, at) = v.root_mut();
        *root = Some(owner);
        let root = root.as_mut().expect("it was made");
        assert!(root.get_mut(at).is_none(), "it has three owners");
        Ok::<_, Error>(root.owners(at))
    });
    assert_eq!(done, Ok(3));
    // Dropped at home by another thread, which has none, and by this one inside.
    std::thread::spawn(|| assert!(OWNERS.take().is_empty())).join().unwrap();
    let done = space.write(|v| {
        drop(OWNERS.take());
        let back = v.root().as_ref().map(|root| root.get(v).back).expect("a root");
        let second = back.get_mut(v).take().expect("it was put there");
        drop(second);
        let (root, at) = v.root_mut();
        let root = root.as_mut().expect("a root");
        root.get_mut(at).expect("its only owner").number += 1;
        assert_eq!(root.get(at).number, 8);
        Ok::<_, Error>(())
    });
    assert_eq!(done, Ok(()));
    space.write(|v| Ok::<_, Error>(v.root_mut().0.take().is_some())).unwrap();
}

#[test]
fn a_leaked_iterator_of_a_deque_leaks_what_is_in_it() {
    brand! { Away => VVecDeque<VBox<u64, Away>, Away> }
    let space = Space::<Away>::in_memory(ROOM, |_| Ok(VVecDeque::new())).unwrap();
    let done = space.write(|v| {
        let (root, at) = v.root_mut();
        for number in 0..5 {
            root.at_mut(at).push_front(VBox::new(at, number)?)?;
        }
        let mut taken = std::mem::take(root).into_iter(at);
        assert_eq!(taken.next().map(|number| *number.get(at)), Some(4));
        std::mem::forget(taken);
        assert!(root.is_empty());
        root.at_mut(at).push_back(VBox::new(at, 9)?)?;
        Ok::<_, Error>(root.at(at).iter().map(|number| *number.get(at)).sum::<u64>())
    });
    assert_eq!(done, Ok(9));
}
