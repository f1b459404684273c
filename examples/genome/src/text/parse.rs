//! A line of SAM becomes a read.

use super::number::{signed, unsigned};
use super::tags;
use crate::header::Header;
use crate::record::{Batch, CIGAR_OPERATORS, Core, UNMAPPED, consumes_read};

/// The numbers of bases by their letters.
const NUMBERS: [u8; 256] = numbers();

/// The same for the first of the two bases in a byte.
const HIGH: [u8; 256] = {
    let mut high = NUMBERS;
    let mut letter = 0;
    while letter < 256 {
        high[letter] <<= 4;
        letter += 1;
    }
    high
};

const fn numbers() -> [u8; 256] {
    let mut numbers = [15; 256];
    let mut number = 0;
    while number < 16 {
        let letter = super::BASES[number];
        numbers[letter as usize] = number as u8;
        numbers[letter.to_ascii_lowercase() as usize] = number as u8;
        number += 1;
    }
    let mut digit = 0;
    while digit < 4 {
        numbers[b'0' as usize + digit] = 1 << digit;
        digit += 1;
    }
    numbers
}

/// Appends the read of a line to the batch. Where samtools takes a read for unmapped, so does this.
///
/// # Errors
/// What is wrong with it. The batch is unfinished then.
pub fn parse(line: &[u8], header: &Header, batch: &mut Batch) -> Result<(), &'static str> {
    let mut fields = Fields(Some(line));
    let mut next = || fields.next().ok_or(TOO_FEW);
    let last = batch.cores.last().map_or(-1, |(core, _)| core.reference);
    let body = &mut batch.bytes;
    let begin = body.len();

    let name = next()?;
    let name_length = match name.len() {
        0 => return Err("the name of the read is empty"),
        length @ ..=254 => length as u8,
        _ => return Err("the name of the read has more than 254 bytes"),
    };
    if name.contains(&0) {
        return Err("the name of the read has a zero byte");
    }
    body.extend_from_slice(name);
    let flags = flags(next()?).ok_or("FLAG is no number below 65536")?;
    let reference_name = next()?;
    let (reference, position) = placed(reference_name, next()?, header, last, "POS")?;
    let mapping_quality = unsigned(next()?).and_then(|number| u8::try_from(number).ok());
    let cigar = next()?;
    let cigar_length = if cigar == b"*" { 0 } else { parse_cigar(cigar, body)? };
    let mate_name = next()?;
    let mate_position = next()?;
    let (mate_reference, mate_position) = match mate_name {
        b"=" => {
            let (_, position) = placed(b"*", mate_position, header, last, "PNEXT")?;
            (if position < 0 { -1 } else { reference }, position)
        }
        _ => placed(mate_name, mate_position, header, last, "PNEXT")?,
    };
    let is_unmapped = reference < 0 || cigar_length == 0;
    let template_length = signed(next()?).and_then(|number| i32::try_from(number).ok());

    let sequence = match next()? {
        b"*" => &[][..],
        sequence => sequence,
    };
    let bases = sequence.len();
    let sequence_length = u32::try_from(bases).ok().filter(|length| *length <= i32::MAX as u32);
    let core = Core {
        reference,
        position,
        mate_reference,
        mate_position,
        template_length: template_length.ok_or("TLEN is no number of 32 bits")?,
        flags: if is_unmapped { flags | UNMAPPED } else { flags },
        mapping_quality: mapping_quality.ok_or("MAPQ is no number below 256")?,
        name_length,
        cigar_length,
        sequence_length: sequence_length.ok_or("SEQ is too long")?,
    };
    if cigar_length > 0 && bases > 0 && cigar_covers(&body[begin + name.len()..]) != bases as u64 {
        return Err("CIGAR and SEQ are of different length");
    }
    let (pairs, last) = sequence.as_chunks::<2>();
    body.extend(pairs.iter().map(|[a, b]| HIGH[usize::from(*a)] | NUMBERS[usize::from(*b)]));
    body.extend(last.iter().map(|letter| HIGH[usize::from(*letter)]));

    match fields.next_of(bases).ok_or(TOO_FEW)? {
        b"*" => body.resize(body.len() + bases, 0xff),
        qualities if qualities.len() == bases => {
            // Neither stops early nor can overflow: so it is many at a time.
            let is_wrong = qualities.iter().fold(false, |is, letter| is | (*letter < b'!'));
            if is_wrong {
                return Err("QUAL has a character below !");
            }
            body.extend(qualities.iter().map(|letter| letter.wrapping_sub(b'!')));
        }
        _ => return Err("SEQ and QUAL are of different length"),
    }
    for field in fields {
        tags::parse(field, body)?;
    }
    batch.cores.push((core, batch.bytes.len() - begin));
    Ok(())
}

/// What tabs separate.
struct Fields<'a>(Option<&'a [u8]>);

/// Most fields are shorter, and looked through at once.
const SHORT: usize = 8;

/// Where the first tab is.
fn tab_in(bytes: [u8; SHORT]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; SHORT]);
    // Zero where there is a tab; the lowest bit that is set then is the highest of that byte.
    let others = u64::from_le_bytes(bytes) ^ (ONES * b'\t' as u64);
    let tabs = others.wrapping_sub(ONES) & !others & (ONES << 7);
    (tabs != 0).then(|| tabs.trailing_zeros() as usize / 8)
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let end = match rest.split_first_chunk::<SHORT>() {
            Some((short, long)) => {
                tab_in(*short).or_else(|| Some(SHORT + memchr::memchr(b'\t', long)?))
            }
            None => rest.iter().position(|byte| *byte == b'\t'),
        };
        self.end(rest, end)
    }
}

impl<'a> Fields<'a> {
    fn end(&mut self, rest: &'a [u8], end: Option<usize>) -> Option<&'a [u8]> {
        let Some(end) = end else {
            self.0 = None;
            return Some(rest);
        };
        self.0 = rest.get(end + 1..);
        rest.get(..end)
    }

    /// The next field, which is likely to have so many bytes. It may have a tab in it, if somebody has put one
    /// there.
    #[inline]
    fn next_of(&mut self, length: usize) -> Option<&'a [u8]> {
        let rest = self.0?;
        match rest.get(length) {
            Some(b'\t') if rest[0] != b'*' => self.end(rest, Some(length)),
            _ => self.next(),
        }
    }
}

const TOO_FEW: &str = "the line has fewer than 11 fields";

/// Flags: in decimal, or as `0x1f`, or in octal with a zero in front.
#[must_use]
pub fn flags(text: &[u8]) -> Option<u16> {
    let number = match text {
        [b'0', b'x' | b'X', digits @ ..] => {
            u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
        }
        [b'0', digits @ ..] if !digits.is_empty() => {
            u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?
        }
        _ => unsigned(text)?,
    };
    u16::try_from(number).ok()
}

/// The number of a reference, which is likely to be the last one's, and a position counted from 0.
fn placed(
    name: &[u8],
    position: &[u8],
    header: &Header,
    last: i32,
    field: &str,
) -> Result<(i32, i32), &'static str> {
    let position = unsigned(position).and_then(|number| i32::try_from(number).ok());
    let position = position.ok_or(match field {
        "POS" => "POS is no number below 2147483648",
        _ => "PNEXT is no number below 2147483648",
    })?;
    // A place without a position is none, and so is a reference that the header does not have.
    if name == b"*" {
        return Ok((-1, position - 1));
    }
    if header.references.is_empty() {
        return Err("the header has no lines @SQ, and the read is on a reference");
    }
    let is_last = |last: i32| {
        let last = usize::try_from(last).ok().and_then(|last| header.references.get(last));
        last.is_some_and(|last| last.name == name)
    };
    let number = if is_last(last) { Some(last) } else { header.number(name) };
    let reference = number.filter(|_| position > 0);
    Ok((reference.unwrap_or(-1), position - 1))
}

/// Appends the operators, and says how many they are.
fn parse_cigar(text: &[u8], out: &mut Vec<u8>) -> Result<u32, &'static str> {
    let mut count = 0;
    let mut digits = 0;
    let mut length: u64 = 0;
    for &byte in text {
        if byte.is_ascii_digit() {
            length = length * 10 + u64::from(byte - b'0');
            digits += 1;
            if length >= 1 << 28 {
                return Err("an operator of CIGAR is 268435456 or longer");
            }
            continue;
        }
        let operator = CIGAR_OPERATORS.iter().position(|letter| *letter == byte);
        let operator = operator.ok_or("CIGAR has an operator that is none of MIDNSHP=X")?;
        if digits == 0 {
            return Err("an operator of CIGAR has no length");
        }
        out.extend_from_slice(&((length << 4) as u32 | operator as u32).to_le_bytes());
        (length, digits, count) = (0, 0, count + 1);
    }
    match (count, digits) {
        (0, _) => Err("CIGAR has no operator"),
        (_, 0) => Ok(count),
        _ => Err("CIGAR ends with a number"),
    }
}

/// Bases of the read that encoded operators cover.
pub(crate) fn cigar_covers(cigar: &[u8]) -> u64 {
    let (words, _) = cigar.as_chunks::<4>();
    let words = words.iter().map(|word| u32::from_le_bytes(*word));
    words.filter(|word| consumes_read((word & 15) as u8)).map(|word| u64::from(word >> 4)).sum()
}
