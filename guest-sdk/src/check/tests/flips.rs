//! Random damage: a check ends whatever it finds, and what it finds clean can be read.

use super::world::{World, read_all, world};
use crate::{Error, Space};

/// Random numbers, the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn bytes_of(space: &Space<World<'static>>) -> Vec<usize> {
    let blocks = space.all_blocks();
    blocks.iter().flat_map(|block| (0..block.bytes).map(|at| block.address() + at)).collect()
}

fn read(at: usize) -> u8 {
    // SAFETY: a byte of a block of the space, which no other thread uses.
    unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() }
}

fn write(at: usize, byte: u8) {
    // SAFETY: as above; what it damages is put right again before anything but the check relies on it, or the check
    // has found nothing.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(byte) };
}

#[test]
fn what_is_clean_after_random_damage_can_be_read() {
    let space = world();
    let all = space.read(|v| read_all(v)).unwrap();
    let places = bytes_of(&space);
    let rounds = if cfg!(miri) { 20 } else { 6000 };
    let (mut random, mut clean, mut damaged) = (Random(0x9e37_79b9_7f4a_7c15), 0, 0);
    for round in 0..rounds {
        // One bit most often, sometimes several bytes, sometimes a plausible address.
        let count = if round % 4 == 3 { 1 + random.below(8) } else { 1 };
        let mut before = Vec::new();
        for _ in 0..count {
            let at = places[random.below(places.len())];
            before.push((at, read(at)));
            let byte = match random.below(4) {
                0 => read(at) ^ (1 << random.below(8)),
                1 => random.next() as u8,
                2 => read(places[random.below(places.len())]),
                _ => [0, 1, 2, 0x7f, 0x80, 0xff][random.below(6)],
            };
            write(at, byte);
        }
        if random.below(8) == 0 {
            // One word becomes another one of the space.
            let to = places[random.below(places.len() - 16)] & !7;
            let from = places[random.below(places.len() - 16)] & !7;
            if places.binary_search(&to).is_ok() && places.binary_search(&from).is_ok() {
                for byte in 0..8 {
                    if places.binary_search(&(to + byte)).is_ok()
                        && places.binary_search(&(from + byte)).is_ok()
                    {
                        before.push((to + byte, read(to + byte)));
                        write(to + byte, read(from + byte));
                    }
                }
            }
        }
        let report = space.check().unwrap();
        assert!(report.findings.iter().all(|finding| finding.path.len() < 4000));
        if report.is_clean() {
            clean += 1;
            space.read(|v| std::hint::black_box(read_all(v))).unwrap();
        } else {
            damaged += 1;
        }
        for &(at, byte) in before.iter().rev() {
            write(at, byte);
        }
    }
    assert_eq!(space.read(|v| read_all(v)).unwrap(), all);
    // Neither of them is the rule: much of a space is numbers, of which any will do, and room that is not used.
    assert!(clean > rounds / 20 && damaged > rounds / 20, "{clean} clean, {damaged} damaged");
}

#[test]
fn a_space_of_noise_is_damaged_and_no_more() {
    let space = world();
    let mut random = Random(7);
    for at in bytes_of(&space) {
        write(at, random.next() as u8);
    }
    let report = space.check().unwrap();
    assert!(!report.is_clean());
    for at in bytes_of(&space) {
        write(at, 0);
    }
    assert!(!space.check().unwrap().is_clean());
    let _: Result<(), Error> = Ok(());
}
