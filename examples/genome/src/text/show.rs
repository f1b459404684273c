//! A read becomes a line of SAM.

use super::number::push;
use super::tags::{self, Tags};
use crate::record::{CIGAR_OPERATORS, Record};

/// The letters of two bases by their byte.
const PAIRS: [[u8; 2]; 256] = pairs();

const fn pairs() -> [[u8; 2]; 256] {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [super::BASES[byte >> 4], super::BASES[byte & 15]];
        byte += 1;
    }
    pairs
}

/// Appends the line of a read, its end included.
pub fn show<'n>(record: &Record<'_>, name_of: impl Fn(i32) -> &'n [u8], out: &mut Vec<u8>) {
    let core = record.core;
    out.extend_from_slice(record.name());
    out.push(b'\t');
    push(out, core.flags.into());
    out.push(b'\t');
    out.extend_from_slice(if core.reference < 0 { b"*" } else { name_of(core.reference) });
    out.push(b'\t');
    push(out, i64::from(core.position) + 1);
    out.push(b'\t');
    push(out, core.mapping_quality.into());
    out.push(b'\t');
    if core.cigar_length == 0 {
        out.push(b'*');
    }
    for (length, operator) in record.cigar() {
        push(out, length.into());
        out.push(CIGAR_OPERATORS.get(usize::from(operator)).copied().unwrap_or(b'?'));
    }
    out.push(b'\t');
    out.extend_from_slice(match core.mate_reference {
        ..0 => b"*",
        mate if mate == core.reference => b"=",
        mate => name_of(mate),
    });
    out.push(b'\t');
    push(out, i64::from(core.mate_position) + 1);
    out.push(b'\t');
    push(out, core.template_length.into());
    out.push(b'\t');
    let bases = core.sequence_length as usize;
    if bases == 0 {
        out.extend_from_slice(b"*\t*");
    } else {
        let begin = out.len();
        out.extend(record.sequence().iter().flat_map(|byte| PAIRS[usize::from(*byte)]));
        out.truncate(begin + bases);
        out.push(b'\t');
        match record.qualities() {
            [0xff, ..] => out.push(b'*'),
            qualities => out.extend(qualities.iter().map(|quality| quality.wrapping_add(b'!'))),
        }
    }
    for tag in Tags(record.tags()) {
        // Tags that were read are whole: `Batch` takes no others.
        let Ok((name, kind, value)) = tag else { break };
        out.push(b'\t');
        tags::show(name, kind, value, out);
    }
    out.push(b'\n');
}
