//! Random changes to every collection: what a space's own methods have made is clean.

use std::cmp::Reverse;

use super::world::{Link, Person, Shape, User, World, empty, read_all};
use crate::{At, Error, Space, Total, VBox, VRc, VString, VVec, Write};

/// One change, which `what` and `number` choose.
fn change<'v>(
    all: &mut super::world::Everything<'v>,
    at: &At<World<'v>, Write>,
    what: u8,
    number: u32,
) -> Result<(), Error> {
    let text = |of: u32| VString::new(at, &format!("text {}", of % 200));
    let key = number % 150;
    match what % 24 {
        0 | 1 => {
            let tags = VVec::try_collect(at, (0..number % 5).map(text))?;
            let shape = Shape::Circle { radius: number, is_filled: number.is_multiple_of(2) };
            all.users.at_mut(at).insert(text(key)?, User { tags, shape })?;
        }
        2 => drop(all.users.at_mut(at).remove(&format!("text {key}"))),
        3 => all.users.at_mut(at).retain(|_, user| !user.tags.at(at).is_empty()),
        4..=6 => drop(all.days.at_mut(at).insert(key, text(number)?)?),
        7 => drop(all.days.at_mut(at).remove(&key)),
        8 => all.days.at_mut(at).retain(|day, _| day % 7 != number % 7),
        9 | 10 => drop(all.sales.at_mut(at).insert((text(key % 9)?, number))?),
        11 => drop(all.sales.at_mut(at).take(&crate::By((&*format!("text {}", key % 9), &number)))),
        12 | 13 => {
            let name = VVec::from_slice(at, &key.to_le_bytes())?;
            all.linear.at_mut(at).insert(name, [None, Some(true)][number as usize % 2])?;
        }
        14 => drop(all.linear.at_mut(at).remove(&key.to_le_bytes())),
        15 => drop(all.levels.at_mut(at).insert(Reverse(Total(f64::from(key))))?),
        16 => drop(all.levels.at_mut(at).remove(&Reverse(Total(f64::from(key))))),
        17 if number.is_multiple_of(2) => all.queue.at_mut(at).push_front(text(number)?)?,
        17 => all.queue.at_mut(at).push_back(text(number)?)?,
        18 => drop((all.queue.at_mut(at).pop_front(), all.heap.at_mut(at).pop())),
        19 => all.heap.at_mut(at).push(text(number)?)?,
        20 => {
            let friend = all.people.at(at).iter().map(|(id, _)| id).nth(number as usize % 7);
            all.people.at_mut(at).insert(Person { name: text(number)?, friend })?;
        }
        21 => {
            let gone = all.people.at(at).iter().map(|(id, _)| id).nth(number as usize % 11);
            gone.map(|gone| all.people.at_mut(at).remove(gone));
        }
        22 => {
            let next = if number.is_multiple_of(20) { None } else { all.list.take() };
            all.list = Some(VBox::new(at, Link { value: number.into(), next })?);
        }
        _ if all.shared.is_empty() || number.is_multiple_of(4) => {
            let owner = VRc::new(at, text(number)?)?;
            all.shared.at_mut(at).push(owner)?;
        }
        _ if number % 4 == 1 => drop(all.shared.at_mut(at).pop()),
        _ => {
            let which = number as usize % all.shared.len();
            let owner = all.shared.at(at)[which].another(at);
            all.shared.at_mut(at).push(owner)?;
        }
    }
    Ok(())
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 24 },
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn what_the_types_have_made_is_clean(
        changes in proptest::collection::vec(
            proptest::prelude::any::<(u8, u32)>(),
            0..if cfg!(miri) { 40 } else { 900 },
        )
    ) {
        let space = Space::<World<'_>>::in_memory(1 << 26, empty).unwrap();
        for changes in changes.chunks(100) {
            let changed = space.write(|v| {
                let (all, at) = v.root_mut();
                changes.iter().try_for_each(|&(what, number)| change(all, at, what, number))
            });
            changed.unwrap();
            let report = space.check().unwrap();
            let leaks = report.leaks.as_ref().map(|leaks| leaks.blocks);
            let is_whole = report.is_clean() && leaks == Some(0) && report.lost_owners == 0;
            proptest::prop_assert!(is_whole && report.unknown.is_empty(), "{report}");
            proptest::prop_assert_eq!(report.blocks, space.blocks() as u64);
        }
        space.read(|v| read_all(v)).unwrap();
    }
}
