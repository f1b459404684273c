//! How the compiler writes `None` of a type: in a value that the type does not have, or in a tag.
//!
//! The language promises that for a few types only. For others it is seen in one `None`, which is written over bytes of one pattern and
//! of another: the bytes that are the same afterwards are those that make it. If that is no number,
//! nothing is known, and the check says so.
//!
//! A `None` that is assigned is written alone where the program is optimised. Where it is not, it is made elsewhere and copied as a
//! whole, with what is there by chance; but a variable that is made of it is written in its place, which the next round of a loop has
//! again. Neither writes too little, so what both have written is what makes a `None`, however the program is compiled.
use std::alloc::Layout;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::place::settle;

/// Where it is seen that there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoneForm {
    /// The number that says it: where, its bytes, and its value for `None`.
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) none: u128,
    /// Whether it is a tag, of 1 if there is a value.
    pub(crate) is_tag: bool,
    /// Where the value is.
    pub(crate) content: usize,
}

/// Of larger types nothing is known: a `None` would be on the stack, all of it.
const MOST_BYTES: usize = 1 << 20;

/// That of `Option<T>`.
pub(crate) fn form_of<T>() -> Option<NoneForm> {
    if cfg!(miri) || size_of::<Option<T>>() > MOST_BYTES {
        return None;
    }
    let patterns = [0xa5, 0x5a];
    let assigned = patterns.map(|pattern| assigned_over::<T>(pattern));
    let made = patterns.map(|pattern| made_over::<T>(pattern));
    let [(one, content), _] = &assigned;
    let content = *content;
    let written: Vec<(usize, u8)> = (0..one.len())
        .map(|offset| (offset, one[offset]))
        .filter(|&(offset, byte)| {
            let is_same = |bytes: &Vec<u8>| bytes[offset] == byte;
            assigned.iter().all(|(bytes, _)| is_same(bytes)) && made.iter().all(is_same)
        })
        .collect();
    let &(offset, _) = written.first()?;
    let bytes = written.len();
    let is_one_piece = written.iter().enumerate().all(|(i, &(at, _))| at == offset + i);
    if !is_one_piece || !matches!(bytes, 1 | 2 | 4 | 8 | 16) || !offset.is_multiple_of(bytes) {
        return None;
    }
    let mut none = [0; 16];
    none.iter_mut().zip(&written).for_each(|(byte, &(_, written))| *byte = written);
    let none = u128::from_le_bytes(none);
    let is_tag = size_of::<Option<T>>() > size_of::<T>();
    let (start, end) = (content, content.checked_add(size_of::<T>())?);
    let fits = if is_tag {
        // Beside the value, and 0.
        none == 0 && (offset + bytes <= start || offset >= end)
    } else {
        start == 0
    };
    (fits && end <= size_of::<Option<T>>() && start.is_multiple_of(align_of::<T>()))
        .then_some(NoneForm { offset, bytes, none, is_tag, content })
}

/// The bytes of a `None` that was assigned over bytes of `pattern`, and where a value would be.
fn assigned_over<T>(pattern: u8) -> (Vec<u8>, usize) {
    let layout = Layout::new::<Option<ManuallyDrop<T>>>();
    let mut memory = vec![pattern; layout.size() + layout.align()];
    let start = memory.as_ptr().align_offset(layout.align()).min(memory.len());
    let room = &mut memory[start..];
    let place: NonNull<Option<ManuallyDrop<T>>> = NonNull::from(&mut *room).cast();
    // SAFETY: there is room, aligned, as `align_offset` has made it; what was there needs no drop.
    unsafe { *place.as_ptr() = None };
    // SAFETY: it was just written.
    let none = unsafe { place.as_ref() };
    let content = none.as_slice().as_ptr().addr().wrapping_sub(place.addr().get());
    settle(place.cast());
    (room[..layout.size()].to_vec(), content)
}

/// A `T` that is no number or pair of numbers, whose `None` would be one, too, and be copied from a register: with bytes behind
/// it that have all values, it has the same values that it does not have.
#[repr(C)]
struct InMemory<T> {
    value: ManuallyDrop<T>,
    more: [u8; 24],
}

/// The bytes of a `None` that was made where the last one was, which was then filled with `pattern`.
fn made_over<T>(pattern: u8) -> Vec<u8> {
    let mut seen = vec![0; size_of::<Option<ManuallyDrop<T>>>()];
    for _ in 0..2 {
        let mut none: Option<InMemory<T>> = None;
        let place = NonNull::from(&mut none).cast::<u8>();
        settle(place);
        // SAFETY: as many bytes are there at least; `settle` has given each a value.
        unsafe { place.copy_to_nonoverlapping(NonNull::from(&mut *seen).cast(), seen.len()) };
        // SAFETY: as many bytes are there, and nobody looks at the option again, which needs no drop.
        unsafe { place.write_bytes(pattern, size_of::<Option<InMemory<T>>>()) };
        settle(place);
    }
    seen
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::num::NonZero;
    use std::time::Duration;

    use super::*;
    use crate::{Storable, VBTreeMap, VBox, VHashMap, VId, VRc, VString, VVec};

    crate::brand! { Vas => u8 }

    #[derive(Storable)]
    #[repr(u8)]
    enum Shape {
        Point,
        Circle { radius: u32 },
    }

    #[expect(dead_code, reason = "only its form matters")]
    struct Mixed {
        one: VBox<u64, Vas>,
        other: VBox<u64, Vas>,
        flags: [bool; 3],
        number: u32,
    }

    /// Checks the form of `T` with a value of it, and with `None` among other bytes.
    fn holds<T>(values: impl IntoIterator<Item = T>, is_tag: bool) {
        let name = std::any::type_name::<T>();
        let form = form_of::<T>().unwrap_or_else(|| panic!("{name} has no form"));
        assert_eq!(form.is_tag, is_tag, "{name}: {form:?}");
        let number = |option: &Option<T>| {
            let start = std::ptr::from_ref(option).cast::<u8>().wrapping_add(form.offset);
            let mut bytes = [0; 16];
            // SAFETY: bytes of the option that are its tag or niche, and so are written in each.
            let seen = unsafe { std::slice::from_raw_parts(start, form.bytes) };
            bytes[..form.bytes].copy_from_slice(seen);
            u128::from_le_bytes(bytes)
        };
        assert_eq!(number(&None), form.none, "{name}");
        for value in values {
            let some = Some(value);
            let found = number(&some);
            assert!(if is_tag { found == 1 } else { found != form.none }, "{name}: {found}");
            let content = some.as_slice().as_ptr().addr() - std::ptr::from_ref(&some).addr();
            assert_eq!(content, form.content, "{name}");
        }
    }

    #[test]
    fn none_is_told_from_each_value() {
        holds([false, true], false);
        holds([Some(false), Some(true), None], false);
        holds(['a', char::MAX, '\0'], false);
        holds([0_u8, 1, 255], true);
        holds([0_u64, u64::MAX], true);
        holds([0_u128, u128::MAX], true);
        holds([(), ()], true);
        holds([Some(1_u32), None], false);
        holds([Some(Some(1_u64)), Some(None), None], false);
        holds([NonZero::<u64>::MIN, NonZero::<u64>::MAX], false);
        holds([Ordering::Less, Ordering::Equal, Ordering::Greater], false);
        holds([Duration::ZERO, Duration::MAX], false);
        holds([[0_u8; 5], [7; 5]], true);
        holds([(1_u8, 2_u16), (0, 0)], true);
        holds([(true, 7_u64), (false, 0)], false);
        holds([Shape::Point, Shape::Circle { radius: 0x0505_0505 }], false);
        holds::<VBox<u64, Vas>>([], false);
        holds::<Option<VBox<u64, Vas>>>([None], true);
        holds::<VRc<u64, Vas>>([], false);
        holds([VVec::<u64, Vas>::new()], false);
        holds([VString::<Vas>::empty()], false);
        holds([VHashMap::<u8, u8, Vas>::new()], true);
        holds([VBTreeMap::<u8, u8, Vas>::new()], false);
        holds::<VId<u8>>([], false);
        holds([(VString::<Vas>::empty(), VString::<Vas>::empty())], false);
        holds::<Mixed>([], false);
        holds([(true, true), (false, false)], false);
        holds([('a', 7_u32), (char::MAX, u32::MAX)], false);
        holds([(NonZero::<u32>::MIN, 0_u32), (NonZero::<u32>::MAX, 0)], false);
        holds([(7_u64, 'a', [1_u16; 3])], false);
        holds([[u64::MAX; 512]], true);
    }
}
