//! CRAM: records by their differences from a reference, in containers.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::num::NonZero;
use std::panic;
use std::path::Path;
use std::sync::Arc;

use noodles_cram as cram;
use noodles_fasta as fasta;
use noodles_sam as sam;
use sam::alignment::io::Write as _;

use super::{Batches, Problem, parallel};
use crate::header::Header;
use crate::record::{Batch, UNMAPPED};
use crate::text;

/// What is needed to decode containers.
struct Decoder {
    header: Header,
    known: sam::Header,
    references: fasta::Repository,
}

/// Where no references are known.
struct NoReferences;

impl fasta::repository::Adapter for NoReferences {
    fn get(&mut self, name: &[u8]) -> Option<io::Result<fasta::Record>> {
        let name = String::from_utf8_lossy(name);
        let what = format!("it needs the bases of {name}: name their file with --reference");
        Some(Err(io::Error::new(io::ErrorKind::NotFound, what)))
    }
}

/// Reads the header, and prepares to read the rest. References are looked for in the FASTA file only.
pub(super) fn open(
    file: BufReader<File>,
    reference: Option<&Path>,
    threads: NonZero<usize>,
) -> Result<(Header, Batches), Problem> {
    let references = match reference {
        None => fasta::Repository::new(NoReferences),
        Some(path) => {
            let opened = fasta::io::indexed_reader::Builder::default().build_from_path(path);
            let reader = opened.map_err(|error| {
                let path = path.display();
                format!("{path}: {error}; a reference needs its index beside it: `samtools faidx {path}`")
            })?;
            fasta::Repository::new(fasta::repository::adapters::IndexedReader::new(reader))
        }
    };
    let mut reader = cram::io::Reader::new(file);
    let text = header(&mut reader).map_err(|error| format!("the header: {error}"))?;
    let header = Header::parse(text).map_err(|(line, what)| match line {
        0 => what,
        line => format!("line {line} of the header: {what}"),
    })?;
    let text = std::str::from_utf8(&header.text).map_err(|_| "the header is no UTF-8")?;
    let decoder = Decoder {
        known: text.parse().map_err(|error| format!("the header: {error}"))?,
        header: Header::new(Vec::new(), header.references.clone())?,
        references,
    };
    let mut is_done = false;
    let containers = std::iter::from_fn(move || {
        if is_done {
            return None;
        }
        let offset = reader.position().unwrap_or(0);
        let mut container = cram::io::reader::Container::default();
        match reader.read_container(&mut container) {
            Ok(0) => None,
            Ok(_) => Some((offset, Ok(container))),
            Err(error) => {
                is_done = true;
                Some((offset, Err(error)))
            }
        }
    });
    let decoder = Arc::new(decoder);
    let decode = move |(offset, container): (u64, io::Result<cram::io::reader::Container>)| {
        // The decoder ends its thread at some kinds of damage.
        let decode = || container.map_err(Problem::from).and_then(|read| decoder.decode(&read));
        let decoded = panic::catch_unwind(panic::AssertUnwindSafe(decode))
            .unwrap_or_else(|_| Err("it is damaged".into()));
        decoded.map_err(|what| Problem::from(format!("the container at offset {offset}: {what}")))
    };
    Ok((header, parallel::map(containers, decode, threads)))
}

/// The text of the header.
fn header(reader: &mut cram::io::Reader<BufReader<File>>) -> io::Result<Vec<u8>> {
    let mut header = reader.header_reader();
    header.read_magic_number()?;
    header.read_format_version()?;
    header.read_file_id()?;
    let mut container = header.container_reader()?;
    let mut text = Vec::new();
    {
        let mut raw = container.raw_sam_header_reader()?;
        raw.read_to_end(&mut text)?;
        raw.discard_to_end()?;
    }
    container.discard_to_end()?;
    Ok(text)
}

impl Decoder {
    /// The reads of a container. As lines in between: so they are checked as those of any other file.
    fn decode(&self, container: &cram::io::reader::Container) -> Result<Batch, Problem> {
        let compression = container.compression_header()?;
        let mut lines = sam::io::Writer::new(Vec::new());
        for slice in container.slices() {
            let slice = slice?;
            let (core, external) = slice.decode_blocks()?;
            let references = self.references.clone();
            let records = slice.records(references, &self.known, &compression, &core, &external)?;
            for record in records {
                lines.write_alignment_record(&self.known, &record)?;
            }
        }
        let mut batch = Batch::default();
        for line in lines.get_ref().split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            text::parse(line, &self.header, &mut batch)?;
        }
        // What has no place has no quality of it in such a file; samtools says 0.
        let unplaced = batch.cores.iter_mut().filter(|(core, _)| core.is(UNMAPPED));
        unplaced.for_each(|(core, _)| core.mapping_quality = 0);
        Ok(batch)
    }
}
