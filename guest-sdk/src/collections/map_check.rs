//! A check of a `VHashMap`: its table byte by byte, then keys, whether each is found where it is, and values.
//!
//! A table is one block: entries, the last one first, and behind them a control byte for each, seven bits of a hash or that
//! there is no entry. The first 16 are repeated at the end, for reads over it. All else about where an entry belongs is
//! asked of `hashbrown`, once the table is such that it can be asked.

use std::mem::offset_of;

use super::key::VKey;
use super::map::VHashMap;
use super::words;
use crate::brand::Brand;
use crate::check::{Checker, Expected, MAX_LISTED, Needed, Place, Problem, Walk};
use crate::storable::Storable;

/// Control bytes that are looked at together.
const GROUP: usize = 16;
const EMPTY: u8 = 0xff;
const DELETED: u8 = 0x80;

/// Phases of the frame of a table.
const KEYS: u8 = 0;
const VALUES: u8 = 1;

/// How many entries a table with so many buckets takes.
fn capacity_of(buckets: usize) -> usize {
    if buckets <= 8 { buckets - 1 } else { buckets / 8 * 7 }
}

/// Looks at a map whose table is at `table`.
pub(super) fn check<K: VKey<V>, T: Storable<V>, V: Brand>(
    map: Place,
    table: usize,
    checker: &mut Checker<'_, V>,
) {
    checker.count("VHashMap");
    let Some(table) = map.part(table, 4 * size_of::<usize>()) else { return };
    let [control, mask, growth, items] = words::in_table(table);
    // `None`: without entries there is no table.
    if control == 0 || checker.is_shallow() {
        return;
    }
    let buckets = mask.wrapping_add(1);
    if !buckets.is_power_of_two() || buckets < 2 {
        return checker.wrong_number("the table's size", buckets, Expected::PowerOfTwo);
    }
    let align = align_of::<(K, T)>().max(GROUP);
    let entries = (buckets as u128 * size_of::<(K, T)>() as u128).next_multiple_of(align as u128);
    let bytes = entries + buckets as u128 + GROUP as u128;
    let start = usize::try_from(entries).ok().and_then(|entries| control.checked_sub(entries));
    let Some(start) = start.filter(|&start| start != 0) else {
        return checker.damaged(Problem::NoBlock { address: control });
    };
    let Some(block) = checker.claim(start, Needed { bytes, align, from_start: true }) else {
        return;
    };
    let entries = control - start;
    let Some(controls) = block.part(entries, buckets + GROUP) else { return };
    if !check_controls(controls.as_bytes(), buckets, growth, items, checker) {
        return;
    }
    let mut walk = Walk::new(block, buckets);
    (walk.mark, walk.numbers, walk.nodes) = (checker.taint(), [entries, 0], vec![map]);
    checker.push(entries_of::<K, T, V>, label::<K, T, V>, walk);
}

/// Whether control bytes are such that a search among them ends, and count as the table does.
fn check_controls<V: Brand>(
    controls: &[u8],
    buckets: usize,
    growth: usize,
    items: usize,
    checker: &mut Checker<'_, V>,
) -> bool {
    let (own, _) = controls.split_at(buckets);
    let is_full = |byte: &u8| byte & 0x80 == 0;
    let full = own.iter().filter(|byte| is_full(byte)).count();
    let deleted = own.iter().filter(|&&byte| byte == DELETED).count();
    let is_known = |byte: &u8| is_full(byte) || matches!(*byte, EMPTY | DELETED);
    if let Some(unknown) = own.iter().find(|byte| !is_known(byte)) {
        checker.no_value("control byte", u128::from(*unknown));
        return false;
    }
    // Between the bytes of a table of fewer than a group and their copies nothing is used.
    let is_copy = |(i, &byte): (usize, &u8)| {
        let of = if buckets < GROUP { i.checked_sub(GROUP) } else { i.checked_sub(buckets) };
        byte == of.and_then(|of| own.get(of)).copied().unwrap_or(EMPTY)
    };
    if !controls.iter().enumerate().skip(buckets).all(is_copy) {
        checker.damaged(Problem::Order("copies of the table's control bytes differ from them"));
        return false;
    }
    if items != full {
        checker.wrong_number("its length", items, Expected::Exactly(full as u128));
        return false;
    }
    let Some(room) = capacity_of(buckets).checked_sub(full + deleted) else {
        let most = Expected::AtMost(capacity_of(buckets) as u128);
        checker.wrong_number("the table's use", full + deleted, most);
        return false;
    };
    if growth != room {
        checker.wrong_number("the room in its table", growth, Expected::Exactly(room as u128));
        return false;
    }
    true
}

/// The entry in a bucket, if it has one, of the table at `block` whose entries end at `entries`.
fn entry_at<K, T>(block: Place, entries: usize, bucket: usize) -> Option<Place> {
    let is_full = block.number(entries.checked_add(bucket)?, 1) & 0x80 == 0;
    let below = (bucket + 1).checked_mul(size_of::<(K, T)>())?;
    let entry = block.part(entries.checked_sub(below)?, size_of::<(K, T)>())?;
    is_full.then_some(entry)
}

/// The step of a check that goes through keys, then through values.
fn entries_of<K: VKey<V>, T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) -> bool {
    loop {
        let walk = checker.walk();
        let (block, entries, bucket, phase) = (walk.place, walk.numbers[0], walk.next, walk.phase);
        if bucket >= walk.count {
            if phase == VALUES {
                return false;
            }
            check_keys::<K, T, V>(checker);
            let walk = checker.walk();
            (walk.phase, walk.next) = (VALUES, if T::ANY_BITS { walk.count } else { 0 });
            continue;
        }
        walk.next += 1;
        let Some(entry) = entry_at::<K, T>(block, entries, bucket) else { continue };
        match phase {
            KEYS => checker.part::<K>(entry, offset_of!((K, T), 0)),
            _ => checker.part::<T>(entry, offset_of!((K, T), 1)),
        }
        if checker.has_more_below() {
            return true;
        }
    }
}

/// Whether each entry is found by its key, if that can be asked: keys are sound, and values are values.
fn check_keys<K: VKey<V>, T: Storable<V>, V: Brand>(checker: &mut Checker<'_, V>) {
    let (at, taint) = (checker.at(), checker.taint());
    let walk = checker.walk();
    let (block, entries, count) = (walk.place, walk.numbers[0], walk.count);
    let Some(&map) = walk.nodes.first() else { return };
    if taint != walk.mark {
        return;
    }
    let all = || {
        (0..count).filter_map(|bucket| Some((bucket, entry_at::<K, T>(block, entries, bucket)?)))
    };
    let are_values = T::ANY_BITS
        || checker.could_be(|checker| {
            all().for_each(|(_, entry)| checker.part::<T>(entry, offset_of!((K, T), 1)));
        });
    if !are_values || size_of::<(K, T)>() == 0 {
        return;
    }
    // SAFETY: seed and table are numbers and an address that is not null. The table's block has the size that it says,
    // and its control bytes are sound.
    let map = unsafe { map.value::<VHashMap<K, T, V>>() };
    let problems = checker.guarded(|| {
        let problem = |(bucket, entry): (usize, Place)| {
            // SAFETY: key and value were looked at, the key with all that it owns, and found to be values.
            let entry = unsafe { entry.value::<(K, T)>() };
            let key = entry.0.borrowed(at);
            let hash = words::hash_of(map.seed, key);
            let found = map.table()?.find(hash, |(stored, _)| stored.borrowed(at) == key);
            match found {
                Some(found) if std::ptr::eq(found, entry) => None,
                Some(_) => Some((bucket, "another entry has the same key")),
                None => Some((bucket, "it is not where the hash of its key leads")),
            }
        };
        all().filter_map(problem).take(MAX_LISTED).collect::<Vec<_>>()
    });
    let Some(problems) = problems else { return checker.damaged(Problem::Panicked) };
    for (bucket, problem) in problems {
        checker.walk().next = bucket + 1;
        checker.damaged(Problem::Order(problem));
    }
}

/// An entry's key in brackets.
fn label<K: VKey<V>, T: Storable<V>, V: Brand>(
    checker: &mut Checker<'_, V>,
    frame: usize,
) -> Option<String> {
    let walk = checker.walk_of(frame)?;
    let bucket = walk.next.checked_sub(1)?;
    let entry = entry_at::<K, T>(walk.place, walk.numbers[0], bucket)?;
    let key = entry.part(offset_of!((K, T), 0), size_of::<K>())?;
    let key = K::show_stored(key, checker).unwrap_or_else(|| format!("entry {bucket}"));
    Some(format!("[{key}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Space};

    crate::brand! { Table => VHashMap<u32, u64, Table> }

    /// What is known here of `hashbrown`'s tables is so.
    #[test]
    fn entries_lie_where_the_table_says_and_room_is_what_is_left() {
        let space = Space::<Table>::in_memory(1 << 24, |_| Ok(VHashMap::new())).unwrap();
        let checked = space.write(|v| {
            let (map, at) = v.root_mut();
            let mut seen = std::collections::BTreeSet::new();
            for number in 0..3000_u32 {
                map.at_mut(at).insert(number, number.into())?;
                if number % 3 == 1 {
                    map.at_mut(at).remove(&(number / 2));
                }
                let table = map.table().expect("it has entries");
                let [control, mask, growth, items] = words::of_table_in(table);
                seen.insert(mask + 1);
                assert!((mask + 1).is_power_of_two() && items == table.len());
                assert!(growth <= capacity_of(mask + 1) - items);
                // Addresses count down from the control bytes.
                for entry in table.iter().take(4) {
                    let below = control - std::ptr::from_ref(entry).addr();
                    assert!(below.is_multiple_of(size_of::<(u32, u64)>()));
                    assert!(below / size_of::<(u32, u64)>() <= mask + 1);
                }
            }
            assert!(seen.len() > 5 && seen.contains(&4), "{seen:?}");
            Ok::<_, Error>(())
        });
        checked.unwrap();
        assert!(space.check().unwrap().is_clean());
    }
}
