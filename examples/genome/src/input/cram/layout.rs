//! Where things are in a file of CRAM 3, as its specification says: containers as bytes, and how the series in
//! them are encoded.

use std::io::{self, Read};

/// A container as it is in the file, its header included.
pub(super) struct Container {
    pub(super) bytes: Vec<u8>,
    /// Where what is in it begins: with the compression header.
    content: usize,
}

/// How a series of numbers is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// All in the block of this number.
    Block(i32),
    /// Always this one.
    Constant(i32),
    /// As bits among those of other series.
    Bits,
}

/// Reads the next container; `None` at the end of the file.
pub(super) fn read(input: &mut impl Read) -> io::Result<Option<Container>> {
    let mut head = Head { input, bytes: Vec::new() };
    let mut length = [0; 4];
    match head.input.read(&mut length[..1])? {
        0 => return Ok(None),
        _ => head.input.read_exact(&mut length[1..])?,
    }
    head.bytes.extend_from_slice(&length);
    // Reference, first position, positions; reads; number of the first read, bases; blocks.
    for long in [false, false, false, false, true, true, false] {
        head.number(long)?;
    }
    for _ in 0..head.number(false)? {
        head.number(false)?;
    }
    head.take(4)?;
    let Head { input, mut bytes } = head;
    let content = bytes.len();
    let length = u64::from(u32::from_le_bytes(length));
    // Without room for more than there is.
    if input.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Container { bytes, content }))
}

struct Head<'a, R> {
    input: &'a mut R,
    bytes: Vec<u8>,
}

impl<R: Read> Head<'_, R> {
    fn take(&mut self, count: usize) -> io::Result<()> {
        let begin = self.bytes.len();
        self.bytes.resize(begin + count, 0);
        self.input.read_exact(&mut self.bytes[begin..])
    }

    /// A number of at most five bytes, or of at most nine.
    fn number(&mut self, is_long: bool) -> io::Result<i32> {
        let begin = self.bytes.len();
        self.take(1)?;
        let ones = self.bytes[begin].leading_ones() as usize;
        self.take(ones.min(if is_long { 8 } else { 4 }))?;
        Ok(number(&mut &self.bytes[begin..]).unwrap_or(0))
    }
}

/// The number at the begin; `None` if it is cut off.
pub(super) fn number(bytes: &mut &[u8]) -> Option<i32> {
    let (&first, rest) = bytes.split_first()?;
    let more = first.leading_ones().min(4) as usize;
    let (those, rest) = rest.split_at_checked(more)?;
    *bytes = rest;
    let begin = u32::from(first) & (0xff >> more);
    let all = match (more, those) {
        // The last of five bytes has four bits.
        (4, [a, b, c, d]) => {
            (begin & 0xf) << 28
                | u32::from(*a) << 20
                | u32::from(*b) << 12
                | u32::from(*c) << 4
                | u32::from(*d) & 0xf
        }
        _ => those.iter().fold(begin, |sum, byte| sum << 8 | u32::from(*byte)),
    };
    Some(all.cast_signed())
}

fn part<'a>(bytes: &mut &'a [u8], length: i32) -> Option<&'a [u8]> {
    let (part, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(part)
}

impl Container {
    fn compression_header(&self) -> Result<&[u8], &'static str> {
        let bytes = &self.bytes[self.content..];
        match bytes.first() {
            None => Err("the compression header is cut off"),
            Some(0) => Ok(bytes),
            Some(_) => Err("the compression header is compressed itself, which is not read"),
        }
    }

    /// Whether the bases of reads are what differs from a reference, which is not in the file.
    pub(super) fn needs_reference(&self) -> Result<bool, &'static str> {
        let mut bytes = self.compression_header()?;
        needs_reference(&mut bytes).ok_or("the compression header is damaged")
    }

    /// How the series of this name is encoded; `Ok(None)` if there is none.
    pub(super) fn encoding(&self, series: [u8; 2]) -> Result<Option<Encoding>, &'static str> {
        let mut bytes = self.compression_header()?;
        self::encoding(&mut bytes, series).ok_or("the compression header is damaged")
    }
}

/// The part of a compression header that says what is kept, which comes first.
fn preserved<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    // Method and kind of the block, its number and length.
    part(bytes, 2)?;
    for _ in 0..3 {
        number(bytes)?;
    }
    let length = number(bytes)?;
    part(bytes, length)
}

fn needs_reference(bytes: &mut &[u8]) -> Option<bool> {
    let mut preserved = preserved(bytes)?;
    for _ in 0..number(&mut preserved)? {
        let length = match part(&mut preserved, 2)? {
            b"RR" => return Some(part(&mut preserved, 1)? != [0]),
            b"SM" => 5,
            b"TD" => number(&mut preserved)?,
            _ => 1,
        };
        part(&mut preserved, length)?;
    }
    Some(true)
}

fn encoding(bytes: &mut &[u8], series: [u8; 2]) -> Option<Option<Encoding>> {
    preserved(bytes)?;
    number(bytes)?;
    for _ in 0..number(bytes)? {
        let name = part(bytes, 2)?;
        let kind = number(bytes)?;
        let length = number(bytes)?;
        let mut values = part(bytes, length)?;
        if name != series {
            continue;
        }
        return Some(Some(match kind {
            1 => Encoding::Block(number(&mut values)?),
            // The numbers of a code; it needs no bits if there is one.
            3 => match number(&mut values)? {
                1 => Encoding::Constant(number(&mut values)?),
                _ => Encoding::Bits,
            },
            _ => Encoding::Bits,
        }));
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_bytes_as_the_first_one_says() {
        for (bytes, expected) in [
            (&[0x7f][..], Some(0x7f)),
            (&[0x80, 0x80], Some(0x80)),
            (&[0xc1, 0x02, 0x03], Some(0x1_0203)),
            (&[0xe1, 0x02, 0x03, 0x04], Some(0x102_0304)),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Some(-1)),
            (&[0xf1, 0x02, 0x03, 0x04, 0x05], Some(0x1020_3045)),
            (&[0xc1, 0x02], None),
            (&[], None),
        ] {
            assert_eq!(number(&mut &bytes[..]), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn a_series_is_found_in_the_header_and_what_is_cut_off_is_damage() {
        let series = [
            &[b'B', b'F', 1, 1, 5][..],
            &[b'C', b'F', 3, 4, 1, 3, 1, 0],
            &[b'N', b'F', 6, 2, 0, 8],
        ]
        .concat();
        let kept = [&[3][..], b"TD\x02RR", b"RN\x01", b"RR\x00"].concat();
        let head = [&[0, 1, 0, 30, 30, kept.len() as u8][..], &kept].concat();
        let block = [&head[..], &[series.len() as u8 + 1, 3], &series].concat();
        assert_eq!(needs_reference(&mut &block[..]), Some(false));
        let found = |series: &[u8; 2]| encoding(&mut &block[..], *series);
        assert_eq!(found(b"BF"), Some(Some(Encoding::Block(5))));
        assert_eq!(found(b"CF"), Some(Some(Encoding::Constant(3))));
        assert_eq!(found(b"NF"), Some(Some(Encoding::Bits)));
        assert_eq!(found(b"XX"), Some(None));
        assert_eq!(encoding(&mut &block[..block.len() - 1], *b"XX"), None);
    }
}
