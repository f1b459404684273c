//! Size classes: what a small block's size is rounded up to.
//!
//! Steps of 16 bytes up to 128, then four per doubling: rounding never wastes more than a
//! fifth. A span has enough pages that less than an eighth of it is left over.

use crate::geometry::PAGE_BYTES;

/// How many classes there are.
pub const CLASSES: usize = 40;
/// Version of the table in this file; the header has it.
pub const TABLE_VERSION: u32 = 1;
/// Blocks larger than this get whole pages.
pub const SMALL_MAX: usize = 32 << 10;
/// Every block's size and offset is a multiple of this.
pub const GRANULE: usize = 16;

const EVEN_CLASSES: usize = 8;

/// Bytes of a block by class.
pub const SIZES: [u32; CLASSES] = {
    let mut sizes = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        sizes[class] = if class < EVEN_CLASSES {
            16 * (class as u32 + 1)
        } else {
            let above = (class - EVEN_CLASSES) as u32;
            (5 + above % 4) << (above / 4 + 5)
        };
        class += 1;
    }
    sizes
};

/// Pages of a span by class.
pub const SPAN_PAGES: [u8; CLASSES] = {
    let mut pages = [1; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        while (pages[class] as u32 * PAGE_BYTES as u32 % SIZES[class]) * 8
            >= pages[class] as u32 * PAGE_BYTES as u32
        {
            pages[class] *= 2;
        }
        class += 1;
    }
    pages
};

/// Blocks in a span by class.
pub const CAPACITIES: [u16; CLASSES] = {
    let mut capacities = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let bytes = SPAN_PAGES[class] as u32 * PAGE_BYTES as u32;
        capacities[class] = (bytes / SIZES[class]) as u16;
        class += 1;
    }
    capacities
};

/// The most blocks in a span.
pub const MAX_CAPACITY: usize = PAGE_BYTES as usize / GRANULE;

/// By size in granules: the class of sizes up to 1 KiB, the most common ones.
const QUICK: [u8; 65] = {
    let mut quick = [0; 65];
    let mut granules = 0;
    while granules < 65 {
        let mut class = 0;
        while (SIZES[class] as usize) < granules * GRANULE {
            class += 1;
        }
        quick[granules] = class as u8;
        granules += 1;
    }
    quick
};

/// A size class; always one that exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Class(u8);

impl Class {
    /// The class of the smallest blocks that hold `bytes`, if there is one.
    #[inline]
    #[must_use]
    pub const fn of(bytes: usize) -> Option<Class> {
        if bytes <= 1024 {
            return Some(Class(QUICK[bytes.div_ceil(GRANULE)]));
        }
        if bytes > SMALL_MAX {
            return None;
        }
        // The highest bit says which doubling, the next two which quarter of it.
        let last = bytes - 1;
        let doubling = last.ilog2();
        let quarter = (last >> (doubling - 2)) & 3;
        Some(Class((EVEN_CLASSES + (doubling as usize - 7) * 4 + quarter) as u8))
    }

    /// The class of the smallest blocks that hold `bytes` and all lie at multiples of `align`, a
    /// power of two.
    #[inline]
    #[must_use]
    pub fn of_aligned(bytes: usize, align: usize) -> Option<Class> {
        let mut class = Class::of(bytes)?;
        // Spans begin at page boundaries.
        if align > PAGE_BYTES as usize {
            return None;
        }
        while !class.size().is_multiple_of(align) {
            class = Class::from_raw(class.0 + 1)?;
        }
        Some(class)
    }

    /// From its number.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Class> {
        if (raw as usize) < CLASSES { Some(Class(raw)) } else { None }
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// Its index in tables of [`CLASSES`] entries.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Bytes of a block.
    #[inline]
    #[must_use]
    pub const fn size(self) -> usize {
        SIZES[self.0 as usize] as usize
    }

    /// Pages of a span.
    #[inline]
    #[must_use]
    pub const fn span_pages(self) -> u32 {
        SPAN_PAGES[self.0 as usize] as u32
    }

    /// Blocks in a span.
    #[inline]
    #[must_use]
    pub const fn capacity(self) -> u16 {
        CAPACITIES[self.0 as usize]
    }
}

const _: () = {
    // The format: change it only with a new TABLE_VERSION.
    assert!(SIZES[0] == 16 && SIZES[7] == 128 && SIZES[8] == 160 && SIZES[11] == 256);
    assert!(SIZES[CLASSES - 1] as usize == SMALL_MAX);
    assert!(CAPACITIES[0] as usize == MAX_CAPACITY);
    let mut class = 0;
    while class < CLASSES {
        assert!(SPAN_PAGES[class] <= 4);
        assert!(SIZES[class].is_multiple_of(GRANULE as u32));
        assert!(class == 0 || SIZES[class - 1] < SIZES[class]);
        class += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_the_smallest_class_that_holds_it() {
        for bytes in 0..=SMALL_MAX {
            let expected = SIZES.iter().position(|&size| size as usize >= bytes).unwrap();
            assert_eq!(Class::of(bytes).unwrap().index(), expected, "{bytes} bytes");
        }
        assert_eq!(Class::of(SMALL_MAX + 1), None);
    }

    #[test]
    fn aligned_classes_hold_the_size_at_multiples_of_the_alignment() {
        for shift in 0..=15 {
            for bytes in [0, 1, 16, 17, 100, 1000, 3000, 5000, 20000] {
                let align = 1 << shift;
                let Some(class) = Class::of_aligned(bytes, align) else {
                    assert!(bytes.next_multiple_of(align) > SMALL_MAX);
                    continue;
                };
                assert!(class.size() >= bytes && class.size().is_multiple_of(align));
            }
        }
        assert_eq!(Class::of_aligned(1, 1 << 20), None);
    }

    #[test]
    fn rounding_loses_at_most_a_fifth_beyond_the_smallest() {
        for pair in SIZES.windows(2).skip(3) {
            assert!(f64::from(pair[1]) / f64::from(pair[0] + 1) <= 1.25);
        }
    }
}
