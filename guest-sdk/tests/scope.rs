//! Allocation scopes over plain memory, in a program of its own: it has the allocator.
//!
//! Where a block comes from shows by what there is room for: a space has little.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::time::Duration;

use spacejmp::brand::Kept;
use spacejmp::layout::LayoutWriter;
use spacejmp::{Brand, Error, In, Inside, ScopedAlloc, Space, Storable, Write, brand, inside};

#[global_allocator]
static ALLOCATOR: ScopedAlloc = ScopedAlloc::new();

const ROOM: usize = 64 << 10;

/// What existing code makes.
#[derive(Default)]
struct Foreign<T>(ManuallyDrop<T>);

/// Implements `Storable` for what a test keeps in its space.
macro_rules! foreign {
    ($($brand:ident => $type:ty),+ $(,)?) => {$(
        brand! { $brand => Foreign<$type> }

        // SAFETY: tests allocate it in scopes of this brand; the root is never dropped.
        unsafe impl Storable<$brand> for Foreign<$type> {
            fn layout(writer: &mut LayoutWriter) {
                writer.describe::<Self>(stringify!($type), |_| {});
            }
        }
    )+};
}

fn space<V: Brand<Root: Default, Handles = Kept<V>> + 'static>() -> Space<V> {
    Space::in_memory(ROOM, |_| Ok(V::Root::default())).unwrap()
}

fn scope<V: spacejmp::Brand, R>(v: &mut In<V, Write>, f: impl FnOnce(&mut In<V, Write>) -> R) -> R {
    // SAFETY: memory of spaces over plain memory is valid everywhere, so a wrong use of it would
    // be found by what tests assert, not by a fault. They live as long as the tests.
    unsafe { v.alloc_scope(f) }
}

/// Whether the global allocator has room for so much.
fn has_room(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

foreign! {
    Lines => Vec<String>,
    Words => BTreeMap<String, Vec<u32>>,
    Thrown => (),
    Caught => (),
    Outer => (),
    Inner => (),
    Escaped => Vec<u8>,
    Grown => Vec<u8>,
    Mine => (),
    Threads => (),
    Nested => (),
    ReadOnly => Vec<u8>,
    Asking => (),
    Asked => (),
}

#[test]
fn collections_of_std_built_in_a_scope_are_there_at_the_next_visit() {
    let words = space::<Words>();
    words
        .write(|v| {
            scope(v, |v| {
                let (root, _) = v.root_mut();
                for number in 0..500_u32 {
                    root.0.entry(format!("word {}", number % 50)).or_default().push(number);
                }
            });
            Ok::<_, Error>(())
        })
        .unwrap();
    let found = words.read(|v| (v.root().0.len(), v.root().0["word 7"].clone())).unwrap();
    assert_eq!(found, (50, (0..10).map(|round| 7 + 50 * round).collect()));
    let room = words.write(|v| Ok::<_, Error>(scope(v, |_| has_room(ROOM - 4000)))).unwrap();
    assert!(!room, "it takes none of the space's room");
}

#[test]
fn a_scope_has_the_room_of_its_space_and_ends_with_its_closure() {
    let lines = space::<Lines>();
    lines
        .write(|v| {
            assert!(has_room(2 * ROOM));
            scope(v, |_| {
                assert!(has_room(ROOM / 2));
                assert!(!has_room(2 * ROOM));
            });
            assert!(has_room(2 * ROOM));
            Ok::<_, Error>(())
        })
        .unwrap();
    assert!(has_room(2 * ROOM));
}

#[test]
fn a_panic_ends_the_scope_and_its_text_may_be_kept() {
    let thrown = space::<Thrown>();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        thrown.write(|v| Ok::<_, Error>(scope(v, |_| panic_any("made inside ".repeat(10)))))
    }));
    assert!(has_room(2 * ROOM));
    let text = caught.unwrap_err().downcast::<String>().unwrap();
    // SAFETY: what panicked had changed nothing.
    unsafe { thrown.recover(|_| ()) }.unwrap();
    // Nothing of it is the space's: the room is there again, and the text can be freed.
    assert_eq!(thrown.write(|v| Ok::<_, Error>(scope(v, |_| has_room(ROOM / 2)))), Ok(true));
    assert_eq!(*text, "made inside ".repeat(10));
}

#[test]
fn what_runs_while_a_scope_unwinds_allocates_in_the_process() {
    struct Look<'a>(&'a mut bool);
    impl Drop for Look<'_> {
        fn drop(&mut self) {
            *self.0 = has_room(2 * ROOM);
        }
    }
    let caught = space::<Caught>();
    let (mut unwinding, mut after) = (false, true);
    caught
        .write(|v| {
            scope(v, |_| {
                let look = Look(&mut unwinding);
                let panic = catch_unwind(AssertUnwindSafe(move || {
                    let _look = look;
                    panic!("on purpose");
                }));
                drop(panic);
                after = has_room(2 * ROOM);
            });
            Ok::<_, Error>(())
        })
        .unwrap();
    assert!(unwinding);
    assert!(!after, "a panic that is caught inside only interrupts the scope");
}

#[test]
fn a_scope_pauses_while_the_thread_visits_another_space() {
    let (outer, inner) = (space::<Outer>(), space::<Inner>());
    let seen = outer
        .write(|v| {
            Ok::<_, Error>(scope(v, |v| {
                let there = v.write(&inner, |w| {
                    Ok::<_, Error>((
                        has_room(2 * ROOM),
                        scope(w, |_| has_room(2 * ROOM)),
                        has_room(2 * ROOM),
                    ))
                });
                (there.unwrap(), has_room(2 * ROOM))
            }))
        })
        .unwrap();
    assert_eq!(seen, ((true, false, true), false));
}

type Question = fn(&Space<Asked>) -> Option<Error>;

#[test]
fn what_is_said_about_the_versions_of_a_space_is_the_process_s() {
    let (asking, asked) = (space::<Asking>(), space::<Asked>());
    let questions: [Question; 5] = [
        |space| space.version().err(),
        |space| space.sync().err(),
        |space| space.wait_newer(0, Duration::ZERO).err(),
        |space| space.tag("monday").err(),
        |space| space.at("monday").err(),
    ];
    for ask in questions {
        let room = asking.write(|v| {
            let room = scope(v, |_| {
                // In the scope's space, the names in them would take most of it.
                (0..1200).for_each(|_| std::mem::forget(ask(&asked).unwrap()));
                has_room(ROOM - 8000)
            });
            Ok::<_, Error>(room)
        });
        assert_eq!(room, Ok(true));
    }
}

#[test]
fn a_block_freed_outside_its_space_is_leaked_and_freed_inside_is_not() {
    let escaped = space::<Escaped>();
    let make =
        || escaped.write(|v| Ok::<_, Error>(scope(v, |_| vec![7_u8; 3 * ROOM / 4]))).unwrap();
    let room = || escaped.write(|v| Ok::<_, Error>(scope(v, |_| has_room(ROOM / 2)))).unwrap();
    let inside = make();
    assert!(!room());
    escaped
        .write(|_| {
            drop(inside);
            Ok::<_, Error>(())
        })
        .unwrap();
    assert!(room(), "freed inside, in no scope");
    let outside = make();
    let address = &raw const outside[100];
    drop(outside);
    assert!(!room(), "leaked");
    // SAFETY: it was leaked, so it is still there.
    let still = unsafe { address.read() };
    assert_eq!(still, 7);
}

#[test]
fn a_block_freed_by_a_reader_is_leaked() {
    let shared = space::<ReadOnly>();
    let taken = shared.write(|v| Ok::<_, Error>(scope(v, |_| vec![7_u8; 3 * ROOM / 4]))).unwrap();
    shared.read(|_| drop(taken)).unwrap();
    assert_eq!(shared.write(|v| Ok::<_, Error>(scope(v, |_| has_room(ROOM / 2)))), Ok(false));
}

#[test]
fn a_block_grows_where_it_was_allocated() {
    let grown = space::<Grown>();
    grown
        .write(|v| {
            let mut of_space = scope(v, |_| vec![1_u8; 100]);
            of_space.extend_from_slice(&[2; 1000]);
            assert!(of_space.try_reserve_exact(2 * ROOM).is_err(), "it has left its space");
            let mut of_process = vec![3_u8; 100];
            scope(v, |_| {
                assert!(of_process.try_reserve_exact(2 * ROOM).is_ok());
                assert!(has_room(3 * ROOM / 4), "it has come into the space");
            });
            assert_eq!((of_space[99], of_space[100], of_process[99]), (1, 2, 3));
            v.root_mut().0.0 = ManuallyDrop::new(of_space);
            Ok::<_, Error>(())
        })
        .unwrap();
    let mut taken =
        grown.write(|v| Ok::<_, Error>(std::mem::take(&mut *v.root_mut().0.0))).unwrap();
    assert!(taken.try_reserve_exact(10_000).is_err(), "grown outside");
    assert_eq!(taken.len(), 1100);
}

#[test]
fn what_the_process_has_may_be_freed_in_a_scope() {
    let mine = space::<Mine>();
    let kept: Vec<String> = (0..100).map(|number| format!("string {number}")).collect();
    mine.write(|v| {
        scope(v, |_| drop(kept));
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(mine.write(|v| Ok::<_, Error>(scope(v, |_| has_room(ROOM / 2)))), Ok(true));
}

#[test]
fn threads_that_start_in_a_scope_are_outside() {
    let space = space::<Threads>();
    let room = space.write(|v| {
        Ok::<_, Error>(scope(v, |_| {
            std::thread::scope(|threads| threads.spawn(|| has_room(2 * ROOM)).join().unwrap())
        }))
    });
    assert_eq!(room, Ok(true));
}

#[test]
fn scopes_nest_and_tokens_tell_what_they_always_do() {
    let nested = space::<Nested>();
    nested
        .write(|v| {
            scope(v, |v| {
                scope(v, |_| assert!(!has_room(2 * ROOM)));
                assert!(!has_room(2 * ROOM));
                assert_eq!(inside::<Nested>(), Inside::Writable);
                let refused = nested.read(|_| ()).unwrap_err();
                assert!(matches!(refused, spacejmp::Error::AlreadyInside { .. }));
            });
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(inside::<Nested>(), Inside::Elsewhere);
}
