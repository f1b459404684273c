//! Reads become a file again.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::NonZero;
use std::path::Path;

use noodles_bgzf as bgzf;
use spacejmp::{In, Mode};

use crate::data::{Genome, Reads};
use crate::record::Record;
use crate::text;

/// How much text is collected before it is written.
const TEXT_BYTES: usize = 1 << 18;
/// BAM has a field of 16 bits for the number of operators.
const OPERATORS: u32 = 0xffff;

/// Writes lines of SAM.
///
/// # Errors
/// Those of the output.
pub fn lines<'a, 'v: 'a, M: Mode>(
    v: &'a In<Reads<'v>, M>,
    reads: impl Iterator<Item = &'a crate::data::Read<'v>>,
    out: &mut impl Write,
) -> io::Result<()> {
    let root = v.root();
    let mut text = Vec::with_capacity(TEXT_BYTES + (1 << 16));
    for read in reads {
        text::show(&read.get(v), |reference| root.name(v, reference), &mut text);
        if text.len() >= TEXT_BYTES {
            out.write_all(&text)?;
            text.clear();
        }
    }
    out.write_all(&text)
}

/// Writes all as a file: BAM if its name ends so, else SAM. What was there under that name stays until all is
/// written.
///
/// # Errors
/// Those of the file.
pub fn save<M: Mode>(v: &In<Reads<'_>, M>, path: &Path, threads: NonZero<usize>) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = File::create(&part).and_then(|file| {
        let is_bam = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("bam"));
        match (is_bam, threads.get()) {
            (false, _) => {
                let mut file = file;
                file.write_all(v.root().header.at(v))?;
                lines(v, v.root().reads(v), &mut file)
            }
            (true, 1) => {
                let mut out = bgzf::io::Writer::new(BufWriter::with_capacity(TEXT_BYTES, file));
                bam(v, &mut out)?;
                out.finish()?.into_inner()?;
                Ok(())
            }
            (true, _) => {
                let file = BufWriter::with_capacity(TEXT_BYTES, file);
                let mut out = bgzf::io::MultithreadedWriter::with_worker_count(threads, file);
                bam(v, &mut out)?;
                out.finish()?.into_inner()?;
                Ok(())
            }
        }
    });
    let written = written.and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // The error that counts is the first.
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn bam<M: Mode>(v: &In<Reads<'_>, M>, out: &mut impl Write) -> io::Result<()> {
    let root: &Genome<'_> = v.root();
    let length = |length: usize| u32::try_from(length).map_err(io::Error::other);
    out.write_all(b"BAM\x01")?;
    let header = root.header.at(v);
    out.write_all(&length(header.len())?.to_le_bytes())?;
    out.write_all(header)?;
    out.write_all(&length(root.references.len())?.to_le_bytes())?;
    for reference in root.references.at(v) {
        let name = reference.name.at(v);
        out.write_all(&length(name.len() + 1)?.to_le_bytes())?;
        out.write_all(name)?;
        out.write_all(&[0])?;
        out.write_all(&reference.length.to_le_bytes())?;
    }
    let mut bytes = Vec::new();
    for read in root.reads(v) {
        bytes.clear();
        encode(&read.get(v), &mut bytes);
        out.write_all(&length(bytes.len())?.to_le_bytes())?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// A record without its length in front.
fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let core = record.core;
    let is_long = core.cigar_length > OPERATORS;
    let operators = if is_long { 2 } else { core.cigar_length as u16 };
    out.extend_from_slice(&core.reference.to_le_bytes());
    out.extend_from_slice(&core.position.to_le_bytes());
    out.push(core.name_length + 1);
    out.push(core.mapping_quality);
    out.extend_from_slice(&bin(core.position.into(), record.end()).to_le_bytes());
    out.extend_from_slice(&operators.to_le_bytes());
    out.extend_from_slice(&core.flags.to_le_bytes());
    out.extend_from_slice(&core.sequence_length.to_le_bytes());
    out.extend_from_slice(&core.mate_reference.to_le_bytes());
    out.extend_from_slice(&core.mate_position.to_le_bytes());
    out.extend_from_slice(&core.template_length.to_le_bytes());
    out.extend_from_slice(record.name());
    out.push(0);
    let [name, cigar, _, qualities] = core.ends();
    if is_long {
        // As the format has it: all bases as not there, a skip as long as the read, and the rest in a tag.
        let covers = record.reference_length().min((1 << 28) - 1) as u32;
        out.extend_from_slice(&(core.sequence_length << 4 | 4).to_le_bytes());
        out.extend_from_slice(&(covers << 4 | 3).to_le_bytes());
        out.extend_from_slice(&record.body[cigar..]);
        out.extend_from_slice(b"CGBI");
        out.extend_from_slice(&core.cigar_length.to_le_bytes());
        out.extend_from_slice(&record.body[name..cigar]);
    } else {
        out.extend_from_slice(&record.body[name..qualities]);
        out.extend_from_slice(record.tags());
    }
}

/// The smallest bin of the format's index that has the range.
fn bin(from: i64, to: i64) -> u16 {
    let to = to - 1;
    let level = [(14, 4681), (17, 585), (20, 73), (23, 9), (26, 1)];
    let found = level.iter().find(|(bits, _)| from >> bits == to >> bits);
    found.map_or(0, |(bits, first)| (first + (from >> bits)) as u16)
}
