//! A program whose types have changed, in three builds at once: `sdk_changing BUILD WHAT`, with BUILD `1`, `2` or
//! `3`. `fill COUNT`: makes the space `notes` and writes so many notes. `show`: opens it and prints what is
//! there. `look`: the same, opened to be read. `preview`: what opening would do. `at TAG`: what an old version
//! is, and what it has as the type of build 1. `stay`: keeps it open and, after each line of input, says what a
//! visit finds. `raw`: the same as `fill 1`, not versioned. `tight COUNT`: as `fill`, where there is room for
//! little more. `stuck`: opens it, and waits for ever in the middle of making the new values; prints `stuck`. `panic`: the same with a
//! panic. Errors are printed, with status 0.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use spacejmp::sys::Lifetime;
use spacejmp::{AllocError, At, Error, Space, Storable, VBTreeMap, VString, VVec, Write, brand};

thread_local! {
    /// What happens in the middle of an upgrade.
    static IN_THE_MIDDLE: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Build 1.
mod v1 {
    use super::{Storable, VString, VVec};

    #[derive(Storable)]
    #[storable(vas = V)]
    pub(crate) struct Note<V: spacejmp::Brand> {
        pub(crate) text: VString<V>,
        pub(crate) day: u32,
    }

    #[derive(Storable)]
    #[repr(u8)]
    pub(crate) enum Order {
        ByDay,
        ByText { backwards: bool },
        Random(u64),
    }

    #[derive(Storable)]
    #[storable(vas = V)]
    pub(crate) struct Notes<V: spacejmp::Brand> {
        pub(crate) list: VVec<Note<V>, V>,
        pub(crate) count: u32,
        pub(crate) order: Order,
        pub(crate) cache: VVec<u64, V>,
    }
}

/// Build 2: notes may be done, a number is called otherwise and a cache is given up; an order has another form.
mod v2 {
    use super::{AllocError, At, IN_THE_MIDDLE, Storable, VString, VVec, Write, v1};

    #[derive(Storable)]
    #[storable(vas = V, version = 2, from = v1::Note<V>, with = note)]
    pub(crate) struct Note<V: spacejmp::Brand> {
        pub(crate) text: VString<V>,
        pub(crate) day: u64,
        pub(crate) is_done: bool,
    }

    fn note<V: spacejmp::Brand>(old: v1::Note<V>, _: &At<V, Write>) -> Result<Note<V>, AllocError> {
        if old.day == 1
            && let Some(happens) = IN_THE_MIDDLE.get()
        {
            happens();
        }
        Ok(Note { text: old.text, day: old.day.into(), is_done: false })
    }

    #[derive(Storable)]
    #[repr(u8)]
    #[storable(version = 2, from = v1::Order)]
    #[expect(dead_code, reason = "a variant that nothing is made of")]
    pub(crate) enum Order {
        #[storable(new)]
        AsWritten,
        ByDay,
        #[storable(was = ByText)]
        Alphabetic {
            #[storable(was = backwards)]
            descending: bool,
            #[storable(new = 2)]
            depth: u8,
        },
        #[storable(gone(0))]
        Random,
    }

    #[derive(Storable)]
    #[storable(vas = V, version = 2, from = v1::Notes<V>, gone(cache))]
    pub(crate) struct Notes<V: spacejmp::Brand> {
        #[storable(upgrade)]
        pub(crate) list: VVec<Note<V>, V>,
        #[storable(was = count)]
        pub(crate) total: u32,
        #[storable(upgrade)]
        pub(crate) order: Order,
        #[storable(new)]
        pub(crate) tags: VVec<VString<V>, V>,
    }
}

/// Build 3: notes by number.
mod v3 {
    use super::{AllocError, At, Storable, VBTreeMap, Write, v2};

    #[derive(Storable)]
    #[storable(vas = V, version = 3, from = v2::Notes<V>, with = by_number)]
    pub(crate) struct Notes<V: spacejmp::Brand> {
        pub(crate) notes: VBTreeMap<u64, v2::Note<V>, V>,
    }

    fn by_number<V: spacejmp::Brand>(
        old: v2::Notes<V>,
        at: &At<V, Write>,
    ) -> Result<Notes<V>, AllocError> {
        let mut notes = VBTreeMap::new();
        for (number, note) in (1..).zip(old.list.into_iter(at)) {
            notes.at_mut(at).insert(number, note)?;
        }
        Ok(Notes { notes })
    }
}

brand! {
    One<'v> => v1::Notes<One<'v>>,
    Two<'v> => v2::Notes<Two<'v>>,
    Three<'v> => v3::Notes<Three<'v>>,
    Raw => v1::Notes<Raw>,
    RawTwo => v2::Notes<RawTwo>,
}

/// The type of build 1 in visits of build 2.
struct AsInOne;

impl spacejmp::RootType for AsInOne {
    type During<'v> = v1::Notes<Two<'v>>;
}

fn text(day: u32) -> String {
    format!("note of day {day} {}", "x".repeat(day as usize % 50))
}

fn notes<V: spacejmp::Brand>(count: u32, at: &At<V, Write>) -> Result<v1::Notes<V>, AllocError> {
    let note = |day| Ok(v1::Note { text: VString::new(at, &text(day))?, day });
    let order = match count % 3 {
        0 => v1::Order::ByText { backwards: true },
        1 => v1::Order::ByDay,
        _ => v1::Order::Random(5),
    };
    let list = VVec::try_collect(at, (0..count).map(note))?;
    Ok(v1::Notes { list, count, order, cache: VVec::from_slice(at, &[7; 100])? })
}

fn look_at_one<V: spacejmp::Brand, M: spacejmp::Mode>(
    root: &v1::Notes<V>,
    at: &At<V, M>,
) -> String {
    let list = root.list.at(at);
    let whole =
        list.iter().zip(0..).all(|(note, day)| note.day == day && note.text.at(at) == text(day));
    let order = match &root.order {
        v1::Order::ByDay => "by day",
        v1::Order::ByText { .. } => "by text",
        v1::Order::Random(_) => "random",
    };
    format!(
        "1: {} of {}, {order}, cache {}, whole {whole}",
        list.len(),
        root.count,
        root.cache.len()
    )
}

fn one(space: &Space<One<'_>>) -> Result<String, Error> {
    space.read(|v| look_at_one(v.root(), v))
}

fn two(space: &Space<Two<'_>>) -> Result<String, Error> {
    space.read(|v| {
        let root = v.root();
        let list = root.list.at(v);
        let whole = list.iter().zip(0..).all(|(note, day)| {
            note.day == u64::from(day) && note.text.at(v) == text(day) && !note.is_done
        });
        let order = match root.order {
            v2::Order::AsWritten => "as written".to_owned(),
            v2::Order::ByDay => "by day".to_owned(),
            v2::Order::Alphabetic { descending, depth } => {
                format!("alphabetic {descending} {depth}")
            }
            v2::Order::Random => "random".to_owned(),
        };
        let (total, tags) = (root.total, root.tags.len());
        format!("2: {} of {total}, {order}, {tags} tags, whole {whole}", list.len())
    })
}

fn three(space: &Space<Three<'_>>) -> Result<String, Error> {
    space.read(|v| {
        let notes = v.root().notes.at(v);
        let whole = notes.iter().all(|(number, note)| {
            note.day + 1 == *number && note.text.at(v) == text(note.day as u32)
        });
        format!("3: {}, whole {whole}", notes.len())
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(said) => println!("{said}"),
        Err(error) => println!("{error}"),
    }
}

fn run(args: &[&str]) -> Result<String, Error> {
    let number = |text: &str| text.parse::<u32>().expect("a number");
    match *args {
        ["1", "fill", count] => {
            one(&Space::options().open_or_create("notes", |at| notes(number(count), at))?)
        }
        ["1", "tight", count] => {
            let options = Space::<One<'_>>::options().reserve(2 << 20);
            one(&options.open_or_create("notes", |at| notes(number(count), at))?)
        }
        ["1", "raw"] => {
            let options = Space::<Raw>::options().lifetime(Lifetime::Persistent);
            options.create("notes", |at| notes(1, at)).map(|_| "made".to_owned())
        }
        ["1", "show"] => one(&Space::open("notes")?),
        ["2", "show"] => two(&Space::open("notes")?),
        ["3", "show"] => three(&Space::open("notes")?),
        ["2", "raw"] => Space::<RawTwo>::open("notes").map(|_| "opened".to_owned()),
        ["2", "look"] => two(&Space::open_read_only("notes")?),
        ["2", "preview"] => Space::<Two<'_>>::preview("notes").map(|said| format!("{said:?}")),
        ["1", "preview"] => Space::<One<'_>>::preview("notes").map(|said| format!("{said:?}")),
        ["2", "at", tag] => {
            let space = Space::<Two<'_>>::open("notes")?;
            match space.at(tag) {
                Ok(old) => return two(&old),
                Err(error) => println!("{error}"),
            }
            let old = space.at_as::<AsInOne>(tag)?;
            old.read(|v| look_at_one(v.root(), v))
        }
        ["1", "stay"] => {
            let space = Space::<One<'_>>::open("notes")?;
            println!("{}", one(&space)?);
            for _ in std::io::stdin().lines() {
                println!("{}", one(&space).unwrap_or_else(|error| error.to_string()));
            }
            Ok("left".to_owned())
        }
        ["2", "stuck"] => {
            IN_THE_MIDDLE.set(Some(|| {
                println!("stuck");
                loop {
                    std::thread::park();
                }
            }));
            two(&Space::open("notes")?)
        }
        ["2", "panic"] => {
            IN_THE_MIDDLE.set(Some(|| panic!("on purpose")));
            let opened = catch_unwind(AssertUnwindSafe(|| Space::<Two<'_>>::open("notes")));
            assert!(opened.is_err(), "{opened:?}");
            // The same process goes on, and the second attempt is whole.
            IN_THE_MIDDLE.set(None);
            two(&Space::open("notes")?)
        }
        _ => panic!("what?"),
    }
}
