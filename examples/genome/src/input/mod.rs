//! Files of reads, as batches on their way into the space.
//!
//! - [`sam`], [`bam`], `cram`: the formats; `compressed`: blocks of compressed data; `parallel`: several threads
//!   that work on pieces of a file
//!
//! An error says what is wrong, with the line or the offset.

pub mod bam;
mod compressed;
mod cram;
mod parallel;
pub mod sam;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::num::NonZero;
use std::path::Path;

use crate::header::Header;
use crate::record::Batch;

/// Why a file is not loaded.
pub type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The reads of a file, in its order.
pub type Batches = Box<dyn Iterator<Item = Result<Batch, Problem>>>;

/// How much of a file makes a batch.
const BATCH_BYTES: usize = 2 << 20;

/// Opens a file of whichever format: its first bytes tell. CRAM may need the references, as FASTA.
///
/// # Errors
/// If it cannot be read, or begins with something else.
pub fn open(
    path: &Path,
    reference: Option<&Path>,
    threads: NonZero<usize>,
) -> Result<(Header, Batches), Problem> {
    let file = File::open(path).map_err(|error| format!("cannot open the file: {error}"))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let begin = file.fill_buf().map_err(|error| format!("cannot read the file: {error}"))?;
    match begin {
        [b'C', b'R', b'A', b'M', ..] => cram::open(file, reference, threads),
        [0x1f, 0x8b, ..] => {
            let mut inner: Box<dyn BufRead + Send> = Box::new(compressed::open(file, threads));
            let begin = inner.fill_buf()?;
            if begin.starts_with(b"BAM\x01") { bam::open(inner) } else { sam::open(inner, threads) }
        }
        _ => sam::open(Box::new(file), threads),
    }
}

/// Reads until the buffer is full or the file at its end, and says how much.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
