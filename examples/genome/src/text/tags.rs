//! The tags of a read: as text `NM:i:3`, encoded as in BAM.

use super::number::{float, push, push_float, push_float_of_array, signed};

/// Encodes one tag.
pub(super) fn parse(field: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let [a, b, b':', kind, b':', value @ ..] = field else {
        return Err("a tag is no XX:TYPE:VALUE");
    };
    out.extend_from_slice(&[*a, *b]);
    match kind {
        b'A' => match value {
            [letter] => out.extend_from_slice(&[b'A', *letter]),
            _ => return Err("a tag of type A has one character"),
        },
        b'i' => push_integer(signed(value).ok_or("a tag of type i is no number")?, out)?,
        b'f' => {
            let number = float(value).ok_or("a tag of type f is no number")?;
            out.push(b'f');
            out.extend_from_slice(&(number as f32).to_le_bytes());
        }
        b'd' => {
            let number = float(value).ok_or("a tag of type d is no number")?;
            out.push(b'd');
            out.extend_from_slice(&number.to_le_bytes());
        }
        b'Z' | b'H' => {
            if *kind == b'H' && !value.len().is_multiple_of(2) {
                return Err("a tag of type H has an odd number of digits");
            }
            if value.contains(&0) {
                return Err("a tag has a zero byte");
            }
            out.push(*kind);
            out.extend_from_slice(value);
            out.push(0);
        }
        b'B' => parse_array(value, out)?,
        _ => return Err("the type of a tag is none of A, i, f, d, Z, H, B"),
    }
    Ok(())
}

/// As the smallest type that has it.
fn push_integer(number: i64, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let bytes = number.to_le_bytes();
    let (kind, length) = match number {
        -0x80..0 => (b'c', 1),
        -0x8000..0 => (b's', 2),
        -0x8000_0000..0 => (b'i', 4),
        0..=0xff => (b'C', 1),
        0x100..=0xffff => (b'S', 2),
        0x1_0000..=0xffff_ffff => (b'I', 4),
        _ => return Err("a tag of type i has no 32 bits"),
    };
    out.push(kind);
    out.extend_from_slice(&bytes[..length]);
    Ok(())
}

fn parse_array(value: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let (&kind, mut rest) = value.split_first().ok_or("a tag of type B has no type of numbers")?;
    let (low, high, length) = match kind {
        b'c' => (-0x80, 0x7f, 1),
        b'C' => (0, 0xff, 1),
        b's' => (-0x8000, 0x7fff, 2),
        b'S' => (0, 0xffff, 2),
        b'i' => (-0x8000_0000, 0x7fff_ffff, 4),
        b'I' => (0, 0xffff_ffff, 4),
        b'f' => (0, 0, 4),
        _ => return Err("the numbers of a tag of type B are none of c, C, s, S, i, I, f"),
    };
    out.extend_from_slice(&[b'B', kind]);
    let count_at = out.len();
    out.extend_from_slice(&[0; 4]);
    while let Some((b',', numbers)) = rest.split_first() {
        let end = numbers.iter().position(|&byte| byte == b',').unwrap_or(numbers.len());
        let (number, others) = numbers.split_at(end);
        rest = others;
        if kind == b'f' {
            let number = float(number).ok_or("a tag of type B has something that is no number")?;
            out.extend_from_slice(&(number as f32).to_le_bytes());
        } else {
            let number: i64 =
                signed(number).ok_or("a tag of type B has something that is no number")?;
            if !(low..=high).contains(&number) {
                return Err("a number in a tag of type B is out of range");
            }
            out.extend_from_slice(&number.to_le_bytes()[..length]);
        }
    }
    if !rest.is_empty() {
        return Err("a tag of type B needs a comma before each number");
    }
    let count = (out.len() - count_at - 4) / length;
    let count = u32::try_from(count).map_err(|_| "a tag of type B has too many numbers")?;
    out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    Ok(())
}

/// How many bytes numbers of this type have.
fn size(kind: u8) -> Option<usize> {
    match kind {
        b'A' | b'c' | b'C' => Some(1),
        b's' | b'S' => Some(2),
        b'i' | b'I' | b'f' => Some(4),
        b'd' => Some(8),
        _ => None,
    }
}

/// The tags of encoded bytes, one after another: their names, types and encoded values.
pub(crate) struct Tags<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Result<([u8; 2], u8, &'a [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = length(self.0);
        let Some((tag, rest)) = length.and_then(|length| self.0.split_at_checked(length)) else {
            self.0 = &[];
            return Some(Err("a tag is damaged"));
        };
        self.0 = rest;
        Some(Ok(([tag[0], tag[1]], tag[2], &tag[3..])))
    }
}

/// How many bytes the first tag has: name, type and value.
fn length(bytes: &[u8]) -> Option<usize> {
    let (&[_, _, kind], rest) = bytes.split_first_chunk::<3>()?;
    let value = match kind {
        b'Z' | b'H' => rest.iter().position(|&byte| byte == 0)? + 1,
        b'B' => {
            let (&[of, c0, c1, c2, c3], _) = rest.split_first_chunk::<5>()?;
            let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
            size(of).filter(|_| !matches!(of, b'A' | b'd'))?.checked_mul(count)?.checked_add(5)?
        }
        _ => size(kind)?,
    };
    value.checked_add(3)
}

/// Appends a tag as text.
pub(super) fn show(name: [u8; 2], kind: u8, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[name[0], name[1], b':']);
    match kind {
        b'A' => out.extend_from_slice(&[b'A', b':', value[0]]),
        b'Z' | b'H' => {
            out.extend_from_slice(&[kind, b':']);
            out.extend_from_slice(&value[..value.len() - 1]);
        }
        b'B' => {
            out.extend_from_slice(&[b'B', b':', value[0]]);
            for number in value[5..].chunks_exact(size(value[0]).unwrap_or(1)) {
                out.push(b',');
                match number.try_into().map(f32::from_le_bytes) {
                    Ok(number) if value[0] == b'f' => push_float_of_array(out, number.into()),
                    _ => show_number(value[0], number, out),
                }
            }
        }
        b'f' | b'd' => {
            out.extend_from_slice(&[kind, b':']);
            show_number(kind, value, out);
        }
        _ => {
            out.extend_from_slice(b"i:");
            show_number(kind, value, out);
        }
    }
}

fn show_number(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    match (kind, value) {
        (b'f', &[a, b, c, d]) => push_float(out, f64::from(f32::from_le_bytes([a, b, c, d]))),
        (b'd', value) => {
            push_float(out, value.try_into().map_or(f64::NAN, f64::from_le_bytes));
        }
        _ => push(out, integer(kind, value).unwrap_or(0)),
    }
}

/// The value of an encoded integer.
pub(crate) fn integer(kind: u8, value: &[u8]) -> Option<i64> {
    Some(match (kind, value) {
        (b'c', &[a]) => i64::from(a.cast_signed()),
        (b'C', &[a]) => i64::from(a),
        (b's', &[a, b]) => i64::from(i16::from_le_bytes([a, b])),
        (b'S', &[a, b]) => i64::from(u16::from_le_bytes([a, b])),
        (b'i', &[a, b, c, d]) => i64::from(i32::from_le_bytes([a, b, c, d])),
        (b'I', &[a, b, c, d]) => i64::from(u32::from_le_bytes([a, b, c, d])),
        _ => return None,
    })
}
