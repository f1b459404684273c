//! Pairs of which a file says only that they are: the reads of a template in the same slice, whose lengths of template
//! follow from where they lie. The library gives them another sign than samtools where the right read comes first.

use super::layout::{Container, Encoding, number};
use crate::record::{Core, FIRST, MATE_UNMAPPED, UNMAPPED};

/// In the flags of a record: what it says of its mate is all there.
const DETACHED: i32 = 2;
/// Its mate comes later in the slice.
const MATE_FOLLOWS: i32 = 4;

/// How the two series are encoded that say which reads belong together.
pub(super) struct Mates {
    flags: Option<Encoding>,
    distances: Option<Encoding>,
}

impl Mates {
    pub(super) fn of(container: &Container) -> Result<Mates, &'static str> {
        let [flags, distances] = [*b"CF", *b"NF"].map(|series| container.encoding(series));
        Ok(Mates { flags: flags?, distances: distances? })
    }

    /// Sets the lengths of templates of the reads of a slice that the file has none of. `ends` are where the reads
    /// end, `block` gives the content of a block.
    pub(super) fn set_lengths<'a>(
        &self,
        reads: &mut [(Core, usize)],
        ends: &[i64],
        block: impl Fn(i32) -> &'a [u8],
    ) -> Result<(), &'static str> {
        let mut flags = Series::new(self.flags, &block)?;
        let mut distances = Series::new(self.distances, &block)?;
        // Of each read the next one of its template.
        let mut next = vec![None; reads.len()];
        for (index, next) in next.iter_mut().enumerate() {
            if flags.next()? & (DETACHED | MATE_FOLLOWS) == MATE_FOLLOWS {
                let distance = usize::try_from(distances.next()?).ok();
                let mate =
                    distance.and_then(|distance| index.checked_add(distance)?.checked_add(1));
                let mate = mate.filter(|mate| *mate < reads.len());
                *next = Some(mate.ok_or("the mate of a read is beyond its slice")?);
            }
        }
        let mut is_done = vec![false; reads.len()];
        for index in 0..reads.len() {
            if next[index].is_none() || is_done[index] {
                continue;
            }
            let template: Vec<usize> =
                std::iter::successors(Some(index), |index| next[*index]).collect();
            template.iter().for_each(|index| is_done[*index] = true);
            set_lengths(reads, ends, &template);
        }
        Ok(())
    }
}

/// As htslib does it: the read that lies left has a positive length, of several the first of the pair.
fn set_lengths(reads: &mut [(Core, usize)], ends: &[i64], template: &[usize]) {
    let begins = || template.iter().map(|index| i64::from(reads[*index].0.position) + 1);
    let left = begins().min().unwrap_or(0);
    let right = template.iter().map(|index| ends[*index]).max().unwrap_or(0);
    let lie_left = begins().filter(|begin| *begin == left).count();
    let reference = reads[template[0]].0.reference;
    let is_on_one = template.iter().all(|index| reads[*index].0.reference == reference);
    let length = i32::try_from(right - left + 1).unwrap_or(0);
    for index in template {
        let core = &mut reads[*index].0;
        let lies_left = i64::from(core.position) + 1 == left;
        core.template_length = match lies_left && (lie_left == 1 || core.is(FIRST)) {
            _ if !is_on_one || core.is(UNMAPPED | MATE_UNMAPPED) => 0,
            true => length,
            false => -length,
        };
    }
}

/// Numbers, one after another.
enum Series<'a> {
    None,
    Constant(i32),
    Block(&'a [u8]),
}

impl<'a> Series<'a> {
    fn new(
        encoding: Option<Encoding>,
        block: impl Fn(i32) -> &'a [u8],
    ) -> Result<Series<'a>, &'static str> {
        match encoding {
            None => Ok(Series::None),
            Some(Encoding::Constant(number)) => Ok(Series::Constant(number)),
            Some(Encoding::Block(id)) => Ok(Series::Block(block(id))),
            Some(Encoding::Bits) => Err(
                "which reads are pairs is encoded in bits, as samtools does not, and is not read",
            ),
        }
    }

    fn next(&mut self) -> Result<i32, &'static str> {
        match self {
            Series::None => Err("the series that says which reads are pairs is missing"),
            Series::Constant(number) => Ok(*number),
            Series::Block(rest) => number(rest).ok_or("the series of pairs is cut off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(position: i32, flags: u16) -> (Core, usize) {
        let core = Core {
            reference: 0,
            position,
            mate_reference: 0,
            mate_position: 0,
            template_length: 99,
            flags,
            mapping_quality: 0,
            name_length: 1,
            cigar_length: 1,
            sequence_length: 10,
        };
        (core, 0)
    }

    #[test]
    fn the_read_that_lies_left_has_the_positive_length_wherever_it_is_in_the_file() {
        // Pairs of 0 and 2, of 1 and 4; the third read has all it needs.
        let mut reads = [read(50, FIRST), read(7, 0), read(20, 0), read(1, FIRST), read(7, FIRST)];
        let ends: Vec<i64> = reads.iter().map(|(core, _)| i64::from(core.position) + 10).collect();
        let mates = Mates { flags: Some(Encoding::Block(1)), distances: Some(Encoding::Block(2)) };
        let block = |id: i32| if id == 1 { &[4, 5, 0, 2, 0][..] } else { &[1, 2] };
        mates.set_lengths(&mut reads, &ends, block).expect("whole series");
        let lengths = reads.map(|(core, _)| core.template_length);
        assert_eq!(lengths, [-40, -10, 40, 99, 10]);
    }

    #[test]
    fn a_mate_beyond_the_slice_and_series_in_bits_are_refused() {
        let mut reads = [read(50, FIRST)];
        let mates =
            Mates { flags: Some(Encoding::Constant(4)), distances: Some(Encoding::Constant(0)) };
        assert!(mates.set_lengths(&mut reads, &[60], |_| &[]).is_err());
        let mates = Mates { flags: Some(Encoding::Bits), distances: None };
        assert!(mates.set_lengths(&mut reads, &[60], |_| &[]).is_err());
        assert_eq!(reads[0].0.template_length, 99);
    }
}
