//! Lists of strings in the program's memory: `argv` and `envp`, as `execve` gets them.
//!
//! Another thread may change them meanwhile: each string is read once, into our own memory, and
//! nothing is looked at again.
#![forbid(unsafe_code)]

use abi::{Errno, PAGE_SIZE};

/// The longest single string, its end included (MAX_ARG_STRLEN).
pub const STRING_MAX: usize = 128 << 10;
/// Bytes of a pointer.
const WORD: u64 = 8;

/// Reads the program's memory, all or nothing.
pub type ReadFn<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), Errno>;

/// Reads the strings whose addresses are listed at `at`, up to a null pointer; there are none if
/// `at` is null. `budget` is the number of bytes that they and their pointers may still take, and is
/// reduced.
///
/// # Errors
/// `E2BIG` for more, or a string that is too long; `EFAULT`.
pub fn read_strings(read: ReadFn<'_>, at: u64, budget: &mut u64) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if at == 0 {
        return Ok(strings);
    }
    let mut place = at;
    loop {
        let mut word = [0; WORD as usize];
        read(place, &mut word)?;
        let pointer = u64::from_le_bytes(word);
        if pointer == 0 {
            return Ok(strings);
        }
        take(budget, WORD)?;
        strings.push(read_string(read, pointer, budget)?);
        place = place.checked_add(WORD).ok_or(Errno::EFAULT)?;
    }
}

fn take(budget: &mut u64, bytes: u64) -> Result<(), Errno> {
    *budget = budget.checked_sub(bytes).ok_or(Errno::from_raw(libc::E2BIG))?;
    Ok(())
}

fn read_string(read: ReadFn<'_>, at: u64, budget: &mut u64) -> Result<Vec<u8>, Errno> {
    let mut string = Vec::new();
    let mut place = at;
    while string.len() < STRING_MAX {
        // Up to the end of the page: the next one may not be accessible.
        let left = (PAGE_SIZE - place % PAGE_SIZE).min((STRING_MAX - string.len()) as u64);
        let mut piece = vec![0; (left as usize).min(256)];
        read(place, &mut piece)?;
        let end = piece.iter().position(|byte| *byte == 0);
        piece.truncate(end.unwrap_or(piece.len()));
        take(budget, piece.len() as u64 + u64::from(end.is_some()))?;
        place = place.checked_add(piece.len() as u64).ok_or(Errno::EFAULT)?;
        string.extend(piece);
        if end.is_some() {
            return Ok(string);
        }
    }
    Err(Errno::from_raw(libc::E2BIG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Memory that begins at this address.
    const BASE: u64 = 0x1_0000;

    fn memory(bytes: &[u8]) -> impl Fn(u64, &mut [u8]) -> Result<(), Errno> + '_ {
        move |at, into| {
            let from = at.checked_sub(BASE).ok_or(Errno::EFAULT)? as usize;
            let end = from.checked_add(into.len()).ok_or(Errno::EFAULT)?;
            into.copy_from_slice(bytes.get(from..end).ok_or(Errno::EFAULT)?);
            Ok(())
        }
    }

    fn list(strings: &[&[u8]]) -> Vec<u8> {
        let mut at = BASE + (strings.len() as u64 + 1) * WORD;
        let mut bytes = Vec::new();
        for string in strings {
            bytes.extend(at.to_le_bytes());
            at += string.len() as u64 + 1;
        }
        bytes.extend([0; 8]);
        for string in strings {
            bytes.extend(*string);
            bytes.push(0);
        }
        // A string's end is looked for in pieces.
        bytes.extend([0; 256]);
        bytes
    }

    #[test]
    fn strings_are_read_and_paid_for() {
        let bytes = list(&[b"one", b"", b"three"]);
        let mut budget = 100;
        let read = memory(&bytes);
        let strings = read_strings(&read, BASE, &mut budget).unwrap();
        assert_eq!(strings, [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
        assert_eq!(budget, 100 - 3 * 8 - 4 - 1 - 6);
        assert_eq!(read_strings(&read, 0, &mut budget).unwrap(), Vec::<Vec<u8>>::new());
        let too_big = Err(Errno::from_raw(libc::E2BIG));
        assert_eq!(read_strings(&read, BASE, &mut 34), too_big);
        assert!(read_strings(&read, BASE, &mut 35).is_ok());
    }

    #[test]
    fn a_string_without_an_end_is_too_long_and_a_list_without_one_is_a_fault() {
        let mut endless = list(&[]);
        endless.splice(..8, (BASE + 8).to_le_bytes());
        endless.extend(vec![b'x'; STRING_MAX + 512]);
        endless.splice(8..264, [b'x'; 256]);
        let read = memory(&endless);
        let too_big = Err(Errno::from_raw(libc::E2BIG));
        assert_eq!(read_strings(&read, BASE, &mut u64::MAX.clone()), too_big);
        let same: Vec<u8> =
            std::iter::repeat_n(BASE + 4096, 64).flat_map(u64::to_le_bytes).collect();
        let read = memory(&same);
        assert_eq!(read_strings(&read, BASE, &mut u64::MAX.clone()), Err(Errno::EFAULT));
    }

    proptest! {
        #[test]
        fn whatever_is_in_memory_is_read_within_the_budget(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..2048),
            pointers in proptest::collection::vec(0_u64..2500, 0..40),
            at in 0_u64..2100,
            mut budget in 0_u64..4096,
        ) {
            for (place, pointer) in bytes.chunks_exact_mut(8).zip(pointers) {
                place.copy_from_slice(&(BASE + pointer).to_le_bytes());
            }
            let before = budget;
            let read = memory(&bytes);
            if let Ok(strings) = read_strings(&read, BASE + at, &mut budget) {
                let taken: usize = strings.iter().map(|string| string.len() + 1 + 8).sum();
                prop_assert_eq!(taken as u64, before - budget);
                prop_assert!(strings.iter().all(|string| !string.contains(&0)));
            }
        }
    }
}
