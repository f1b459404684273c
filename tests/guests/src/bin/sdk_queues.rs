//! Queues, shared owners, boxes of slices and keys of several parts in a versioned space. `sdk_queues NAME
//! add FIRST COUNT`: as many jobs, a visit each. `abort`: changes all of it and gives up, by an
//! error and by a panic. `take COUNT`: takes so many jobs out, and says which. `show`: prints what is
//! there. Status 0, or 101 with a message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use spacejmp::{
    At, By, CloneIn, Error, Space, Storable, VBTreeMap, VBinaryHeap, VBox, VHashMap, VKey, VRc,
    VString, VVecDeque, Write, brand,
};

/// What is to be done, the most urgent first; of equally urgent ones the one that came first.
#[derive(Storable, VKey)]
#[storable(vas = Work<'v>)]
struct Job<'v> {
    urgency: u8,
    number: std::cmp::Reverse<u32>,
    owner: VRc<VString<Work<'v>>, Work<'v>>,
}

#[derive(Storable)]
#[storable(vas = Work<'v>)]
struct Office<'v> {
    open: VBinaryHeap<Job<'v>, Work<'v>>,
    /// The last ten, the newest first.
    done: VVecDeque<VBox<str, Work<'v>>, Work<'v>>,
    people: VHashMap<VRc<VString<Work<'v>>, Work<'v>>, u32, Work<'v>>,
    /// How often somebody did something of an urgency.
    counts: VBTreeMap<(VString<Work<'v>>, u8), u32, Work<'v>>,
}

brand! { Work<'v> => Office<'v> }

const NAMES: [&str; 3] = ["Ada", "Emmy", "Grace"];

fn add<'v>(office: &mut Office<'v>, at: &At<Work<'v>, Write>, number: u32) -> Result<(), Error> {
    let name = NAMES[number as usize % NAMES.len()];
    let known = office.people.at(at).get_key_value(name).map(|(name, _)| name.another(at));
    let owner = match known {
        Some(owner) => owner,
        None => VRc::new(at, VString::new(at, name)?)?,
    };
    let mut people = office.people.at_mut(at);
    *people.entry(owner.another(at)).or_insert(0)? += 1;
    let job = Job { urgency: (number % 7) as u8, number: std::cmp::Reverse(number), owner };
    office.open.at_mut(at).push(job)?;
    Ok(())
}

fn take<'v>(office: &mut Office<'v>, at: &At<Work<'v>, Write>) -> Result<Option<String>, Error> {
    let Some(job) = office.open.at_mut(at).pop() else { return Ok(None) };
    let name = job.owner.get(at);
    let said = format!("{} {} {}", job.number.0, job.urgency, name.at(at));
    let made = || Ok(((name.clone_in(at)?, job.urgency), 0));
    let mut counts = office.counts.at_mut(at);
    *counts.get_or_insert_with(&By((name.at(at), &job.urgency)), made)? += 1;
    let mut done = office.done.at_mut(at);
    done.push_front(VBox::from_text(at, &said)?)?;
    done.truncate(10);
    Ok(Some(said))
}

/// All of it is changed, and an owner is left in a variable.
fn destroy<'v>(office: &mut Office<'v>, at: &At<Work<'v>, Write>) -> Result<(), Error> {
    let kept = office.people.at(at).iter().next().map(|(name, _)| name.to_owned());
    while take(office, at)?.is_some() {}
    office.done.at_mut(at).make_contiguous().reverse();
    office.done.at_mut(at).push_back(VBox::from_text(at, "never")?)?;
    let owners: Vec<_> = office.people.at_mut(at).drain().map(|(name, _)| name).collect();
    owners.iter().for_each(|owner| std::mem::forget(owner.another(at)));
    assert_eq!(kept.is_some(), !owners.is_empty());
    office.counts.at_mut(at).clear();
    Ok(())
}

fn shown<'v>(office: &Office<'v>, at: &At<Work<'v>, spacejmp::Read>) -> String {
    let mut people: Vec<_> =
        office.people.at(at).iter().map(|(name, count)| format!("{name}:{count}")).collect();
    people.sort();
    let owners: usize =
        office.open.at(at).iter().map(|job| job.owner.owners(at)).max().unwrap_or(0);
    let done: Vec<_> = office.done.at(at).iter().map(|said| said.get(at)).collect();
    let counts: Vec<_> = office.counts.at(at).iter().map(|(key, n)| (key.parts(), n)).collect();
    format!("{} open, {owners} owners, {people:?}, {done:?}, {counts:?}", office.open.len())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u32>().expect("a number");
    let [name, ref what @ ..] = args[..] else { panic!("sdk_queues NAME WHAT ...") };
    let space = Space::<Work<'_>>::options().open_or_create(name, |_| {
        Ok(Office {
            open: VBinaryHeap::new(),
            done: VVecDeque::new(),
            people: VHashMap::new(),
            counts: VBTreeMap::new(),
        })
    });
    let space = space.expect("the space");
    match *what {
        ["add", first, count] => {
            for n in number(first)..number(first) + number(count) {
                let added = space.write(|v| {
                    let (office, at) = v.root_mut();
                    add(office, at, n)
                });
                added.expect("a visit");
            }
        }
        ["take", count] => {
            for _ in 0..number(count) {
                let taken = space.write(|v| {
                    let (office, at) = v.root_mut();
                    take(office, at)
                });
                println!("{}", taken.expect("a visit").expect("a job"));
            }
        }
        ["abort"] => {
            let given_up = space.write(|v| {
                let (office, at) = v.root_mut();
                destroy(office, at)?;
                Err::<(), _>(Error::NoRoot { space: "on purpose".to_owned() })
            });
            assert!(matches!(given_up, Err(Error::NoRoot { .. })), "{given_up:?}");
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                space.write(|v| -> Result<(), Error> {
                    let (office, at) = v.root_mut();
                    destroy(office, at)?;
                    std::panic::resume_unwind(Box::new("on purpose"))
                })
            }));
            assert!(unwound.is_err(), "it panics");
        }
        ["show"] => {
            println!("{}", space.read(|v| shown(v.root(), v)).expect("a visit"));
        }
        _ => panic!("what?"),
    }
}
