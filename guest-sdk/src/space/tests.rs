//! Visits and owners, over plain memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::time::Duration;

use crate::{AllocError, Error, Inside, Space, Storable, VBox, VPtr, brand, inside};

const ROOM: usize = 1 << 20;

#[test]
fn what_is_written_inside_is_there_at_the_next_visit() {
    brand! { Here => [u32; 4] }
    let space = Space::<Here>::in_memory(ROOM, |_| Ok([0; 4])).unwrap();
    space
        .write(|v| {
            v.root_mut().0[1] = 5;
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.read(|v| *v.root()), Ok([0, 5, 0, 0]));
}

#[test]
fn a_box_dropped_inside_frees_and_dropped_elsewhere_leaks() {
    brand! { Boxes => Option<VBox<u64, Boxes>> }
    let space = Space::<Boxes>::in_memory(ROOM, |_| Ok(None)).unwrap();
    let new = || space.write(|v| Ok::<_, Error>(VBox::<u64, Boxes>::new(v, 1)?)).unwrap();
    assert_eq!(space.blocks(), 1);
    let inner = new();
    assert_eq!(space.blocks(), 2);
    space
        .write(|_| {
            drop(inner);
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), 1);
    drop(new());
    assert_eq!(space.blocks(), 2);
    let another = new();
    space.read(|_| drop(another)).unwrap();
    assert_eq!(space.blocks(), 3);
    let taken = new();
    assert_eq!(space.write(|v| Ok::<_, Error>(taken.into_inner(v))), Ok(1));
    assert_eq!(space.blocks(), 3);
}

#[derive(Storable)]
#[storable(vas = Lists)]
struct Item {
    value: u32,
    next: Option<VBox<Item, Lists>>,
}

brand! { Lists => Option<VBox<Item, Lists>> }

#[test]
fn dropping_a_list_inside_frees_all_of_it() {
    let space = Space::<Lists>::in_memory(ROOM, |at| {
        let mut list = None;
        for value in 0..10 {
            list = Some(VBox::new(at, Item { value, next: list })?);
        }
        Ok(list)
    })
    .unwrap();
    let sum = space.read(|v| {
        let mut sum = 0;
        let mut next = v.root();
        while let Some(item) = next {
            sum += item.get(v).value;
            next = &item.get(v).next;
        }
        sum
    });
    assert_eq!(sum, Ok(45));
    assert_eq!(space.blocks(), 11);
    space
        .write(|v| {
            *v.root_mut().0 = None;
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(space.blocks(), 1);
}

#[test]
fn pointers_may_form_cycles() {
    #[derive(Storable)]
    #[storable(vas = Ring)]
    struct Node {
        next: Option<VPtr<Node, Ring>>,
    }
    brand! { Ring => Option<VPtr<Node, Ring>> }
    let space = Space::<Ring>::in_memory(ROOM, |_| Ok(None)).unwrap();
    let (first, second) = space
        .write(|v| {
            let first = VPtr::new(v, Node { next: None })?;
            let second = VPtr::new(v, Node { next: Some(first) })?;
            first.get_mut(v).next = Some(second);
            *v.root_mut().0 = Some(first);
            Ok::<_, Error>((first, second))
        })
        .unwrap();
    let around = space.read(|v| first.get(v).next.and_then(|node| node.get(v).next));
    assert_eq!(around, Ok(Some(first)));
    assert_ne!(first, second);
    assert_eq!(size_of_val(&around.unwrap()), 8);
}

#[test]
fn a_full_space_refuses_and_stays_usable() {
    brand! { Small => u8 }
    let space = Space::<Small>::in_memory(64, |_| Ok(0)).unwrap();
    let full =
        space.write(|v| Ok::<_, Error>(VBox::<[u8; 100], Small>::new(v, [0; 100]).map(drop)));
    assert_eq!(full, Ok(Err(AllocError { bytes: 100, brand: "Small" })));
    let error = Error::from(AllocError { bytes: 100, brand: "Small" });
    assert_eq!(error.to_string(), "no room for 100 bytes in address space `Small`");
    assert_eq!(space.write(|v| Ok::<_, Error>(VBox::<u8, Small>::new(v, 0).map(drop))), Ok(Ok(())));
}

#[test]
fn a_thread_has_one_chain_of_tokens() {
    brand! { Outer => u8, Inner => u8 }
    let outer = Space::<Outer>::in_memory(ROOM, |_| Ok(1)).unwrap();
    let inner = Space::<Inner>::in_memory(ROOM, |_| Ok(2)).unwrap();
    outer
        .read(|v| {
            let refused = inner.read(|_| ()).unwrap_err();
            let text = "cannot enter `memory-";
            assert!(refused.to_string().starts_with(text), "{refused}");
            assert!(matches!(refused, Error::AlreadyInside { inside: "Outer", .. }));

            let seen = v.write(&inner, |w| {
                assert_eq!(
                    (inside::<Outer>(), inside::<Inner>()),
                    (Inside::Elsewhere, Inside::Writable)
                );
                Ok::<_, Error>(*w.root())
            });
            assert_eq!(seen, Ok(2));
            assert_eq!(
                (inside::<Outer>(), inside::<Inner>()),
                (Inside::ReadOnly, Inside::Elsewhere)
            );
            assert_eq!(*v.root(), 1);
        })
        .unwrap();
    assert_eq!(inside::<Outer>(), Inside::Elsewhere);
}

#[test]
fn a_panic_inside_leaves_and_what_was_being_written_counts_as_unfinished() {
    brand! { Panics => u8, Deeper => u8, Read => u8 }
    let space = Space::<Panics>::in_memory(ROOM, |_| Ok(0)).unwrap();
    let deeper = Space::<Deeper>::in_memory(ROOM, |_| Ok(0)).unwrap();
    let caught = std::panic::catch_unwind(|| {
        space.write(|v| v.write(&deeper, |_| -> Result<(), Error> { panic!("on purpose") }))
    });
    assert!(caught.is_err());
    assert_eq!(inside::<Panics>(), Inside::Elsewhere);
    for space in [&space.try_write(|_| Ok::<_, Error>(())), &deeper.try_read(|_| ())] {
        assert!(matches!(space, Err(Error::Inconsistent { .. })), "{space:?}");
    }
    // SAFETY: the root objects are numbers, any of which is valid.
    unsafe { space.recover(|_| ()) }.unwrap();
    assert_eq!(space.try_write(|v| Ok::<_, Error>(*v.root())), Ok(0));
    // SAFETY: as above.
    unsafe { deeper.recover(|_| ()) }.unwrap();
    assert_eq!(deeper.try_read(|v| *v.root()), Ok(0));

    let read = Space::<Read>::in_memory(ROOM, |_| Ok(0)).unwrap();
    let caught = std::panic::catch_unwind(|| read.read(|_| panic!("on purpose")));
    assert!(caught.is_err());
    assert_eq!(read.try_write(|v| Ok::<_, Error>(*v.root())), Ok(0), "a reader changes nothing");
    let caught =
        read.write(|_| Ok::<_, Error>(std::panic::catch_unwind(|| panic!("on purpose")).is_err()));
    assert_eq!(caught, Ok(true));
    assert_eq!(
        read.try_write(|v| Ok::<_, Error>(*v.root())),
        Ok(0),
        "what is caught inside breaks nothing off"
    );
    let refused: Result<Result<(), u8>, _> = read.write(|_| Ok::<_, Error>(Err(1)));
    assert_eq!(refused, Ok(Err(1)));
    assert_eq!(read.try_write(|v| Ok::<_, Error>(*v.root())), Ok(0), "an error is a way to return");
}

#[test]
fn readers_are_inside_together_and_a_writer_alone() {
    brand! { Shared => u8 }
    let space = Space::<Shared>::in_memory(ROOM, |_| Ok(0)).unwrap();
    let (came, go) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            space.read(|_| {
                came.wait();
                go.wait();
            })
        });
        came.wait();
        assert_eq!(space.try_read(|_| ()), Ok(()));
        let locked = |waited| Err(Error::Locked { space: space.name().to_owned(), waited });
        assert_eq!(space.try_write(|_| Ok::<_, Error>(())), locked(Duration::ZERO));
        let limit = Duration::from_millis(5);
        assert_eq!(space.write_timeout(limit, |_| Ok::<_, Error>(())), locked(limit));
        go.wait();
        assert_eq!(reader.join().unwrap(), Ok(()));
    });
    assert_eq!(space.try_write(|_| Ok::<_, Error>(())), Ok(()));
}

#[test]
fn a_nested_visit_to_the_same_space_gives_the_outer_lock_back_meanwhile() {
    brand! { Again => u8 }
    let space = Space::<Again>::in_memory(ROOM, |_| Ok(0)).unwrap();
    let seen = space.read(|v| {
        v.write(&space, |w| {
            *w.root_mut().0 = 9;
            Ok::<_, Error>(())
        })
        .unwrap();
        *v.root()
    });
    assert_eq!(seen, Ok(9));
}

#[test]
fn a_brand_is_good_for_one_space() {
    brand! { Once => u8 }
    let first = Space::<Once>::in_memory(ROOM, |_| Ok(0)).unwrap();
    let second = Space::<Once>::in_memory(ROOM, |_| Ok(0)).unwrap_err();
    assert!(second.to_string().contains(first.name()), "{second}");
    drop(first);
    // A pointer of the first one may be anywhere.
    assert!(Space::<Once>::in_memory(ROOM, |_| Ok(0)).is_err());
}

/// A separate brand for each outcome of an `init`.
macro_rules! brands {
    ($($name:ident),*) => { crate::brand! { $($name => Option<VBox<u64, $name>>),* } };
}

brands!(CleanFailure, CleanPanic, Stashed, StashedInPanic);

fn no_room<V: crate::Brand>() -> AllocError {
    AllocError::new::<V>(1)
}

#[test]
fn an_init_that_fails_and_leaves_nothing_behind_can_be_tried_again() {
    let failed = Space::<CleanFailure>::in_memory(1 << 20, |at| {
        let _dropped = VBox::new(at, 1)?;
        Err(no_room::<CleanFailure>())
    });
    assert!(matches!(failed, Err(Error::Alloc(_))), "{failed:?}");
    assert!(Space::<CleanFailure>::in_memory(1 << 20, |_| Ok(None)).is_ok());

    let panicked = catch_unwind(|| {
        Space::<CleanPanic>::in_memory(1 << 20, |at| {
            let _dropped = VBox::new(at, 1)?;
            panic!("on purpose")
        })
    });
    assert!(panicked.is_err());
    assert!(Space::<CleanPanic>::in_memory(1 << 20, |_| Ok(None)).is_ok());
}

#[test]
fn an_init_that_fails_and_leaves_a_pointer_behind_spends_the_brand() {
    let mut stash = None;
    let failed = Space::<Stashed>::in_memory(1 << 20, |at| {
        stash = Some(VPtr::<[usize; 3], Stashed>::new(at, [7; 3])?);
        Err(no_room::<Stashed>())
    });
    assert!(matches!(failed, Err(Error::Alloc(_))), "{failed:?}");
    let again = Space::<Stashed>::in_memory(1 << 20, |_| Ok(None));
    assert!(matches!(again, Err(Error::BrandSpent { .. })), "{again:?}, with {stash:?}");

    let mut stash = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        Space::<StashedInPanic>::in_memory(1 << 20, |at| {
            stash = Some(VBox::<u64, StashedInPanic>::new(at, 7)?);
            panic!("on purpose")
        })
    }));
    assert!(panicked.is_err() && stash.is_some());
    let again = Space::<StashedInPanic>::in_memory(1 << 20, |_| Ok(None));
    assert!(matches!(again, Err(Error::BrandSpent { .. })), "{again:?}");
}

#[test]
fn a_root_of_no_size_and_one_of_large_alignment_have_an_address() {
    #[derive(Debug, PartialEq, Clone, Copy, crate::Storable)]
    #[repr(align(4096))]
    struct Aligned;
    crate::brand! { Nothing => (), Much => Aligned }
    let nothing = Space::<Nothing>::in_memory(1 << 20, |_| Ok(())).unwrap();
    assert_eq!(nothing.read(|v| *v.root()), Ok(()));
    assert_eq!(nothing.blocks(), 1);
    let much = Space::<Much>::in_memory(1 << 20, |_| Ok(Aligned)).unwrap();
    let address = much.read(|v| (&raw const *v.root()).addr()).unwrap();
    assert!(address.is_multiple_of(4096) && address != 0);
}
