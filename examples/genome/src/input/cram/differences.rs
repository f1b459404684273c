//! The tags MD and NM, which a file leaves out if they say nothing but how a read differs from its reference. Who
//! reads it makes them again.

use crate::record::{Batch, CIGAR_OPERATORS, Record, UNMAPPED};
use crate::text::BASES;
use crate::text::push;
use crate::text::tags::Tags;

/// Appends the tags that the last read of the batch does not have. `reference` are the bases of its reference.
pub(super) fn complete(batch: &mut Batch, reference: &[u8]) {
    let Some((core, length)) = batch.cores.last_mut() else { return };
    let begin = batch.bytes.len() - *length;
    let record = Record { core, body: &batch.bytes[begin..] };
    let tags = record.tags();
    let has = |wanted: [u8; 2]| Tags(tags).flatten().any(|(name, ..)| name == wanted);
    let (has_text, has_count) = (has(*b"MD"), has(*b"NM"));
    if record.core.is(UNMAPPED) || record.core.sequence_length == 0 || has_text && has_count {
        return;
    }
    let Some((text, count)) = differences(&record, reference) else { return };
    let mut new = Vec::new();
    if !has_text {
        new.extend_from_slice(b"MDZ");
        new.extend_from_slice(&text);
        new.push(0);
    }
    if !has_count {
        new.extend_from_slice(b"NMI");
        new.extend_from_slice(&count.to_le_bytes());
    }
    // The group of the read is not among its tags in the file, and comes last.
    let last = Tags(tags).flatten().last().filter(|(name, ..)| name == b"RG");
    let behind = last.map_or(0, |(.., value)| 3 + value.len());
    let at = batch.bytes.len() - behind;
    *length += new.len();
    batch.bytes.splice(at..at, new);
}

/// The text of MD and the number of NM; `None` if the read reaches beyond its reference.
fn differences(record: &Record<'_>, reference: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut reference = reference.get(usize::try_from(record.core.position).ok()?..)?;
    let bases = record.sequence();
    let base = |at: usize| BASES[usize::from(bases[at / 2] >> (4 * (1 - at % 2)) & 15)];
    let (mut text, mut same, mut count, mut at) = (Vec::new(), 0, 0, 0);
    for (length, operator) in record.cigar() {
        let length = length as usize;
        match CIGAR_OPERATORS[usize::from(operator)] {
            b'M' | b'=' | b'X' => {
                let (aligned, behind) = reference.split_at_checked(length)?;
                for expected in aligned.iter().map(u8::to_ascii_uppercase) {
                    // What is unknown is the same as nothing.
                    if expected == base(at) && expected != b'N' {
                        same += 1;
                    } else {
                        push(&mut text, same);
                        text.push(expected);
                        (same, count) = (0, count + 1);
                    }
                    at += 1;
                }
                reference = behind;
            }
            b'D' => {
                let (deleted, behind) = reference.split_at_checked(length)?;
                push(&mut text, same);
                text.push(b'^');
                text.extend(deleted.iter().map(u8::to_ascii_uppercase));
                (same, count, reference) = (0, count + length as u32, behind);
            }
            b'N' => reference = reference.get(length..)?,
            b'I' => (at, count) = (at + length, count + length as u32),
            b'S' => at += length,
            _ => {}
        }
    }
    push(&mut text, same);
    Some((text, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::{Header, Reference};

    #[test]
    fn what_differs_is_said_before_the_group_of_the_read() {
        let references = vec![Reference { name: b"a".to_vec(), length: 20 }];
        let header = Header::new(Vec::new(), references).expect("one name");
        let mut batch = Batch::default();
        let line = "r\t0\ta\t3\t9\t1S3M1I2D2N2M\t*\t0\t0\tTGACCCT\t*\tXX:i:1\tRG:Z:g";
        crate::text::parse(line.as_bytes(), &header, &mut batch).expect("a right line");
        complete(&mut batch, b"ccgtcaattctc");
        let mut shown = Vec::new();
        let record = batch.records().next().expect("one read");
        crate::text::show(&record, |_| b"a", &mut shown);
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.ends_with("\tXX:i:1\tMD:Z:1T1^AA2\tNM:i:4\tRG:Z:g\n"), "{shown}");
        // Nothing is said twice, nor of a read beyond the reference.
        let before = batch.bytes.clone();
        complete(&mut batch, b"ccgtcaattctc");
        assert_eq!(batch.bytes, before);
    }
}
