//! CRAM: records by their differences from a reference, in containers. What is in them is decoded by a library;
//! lengths of templates are computed here.
//!
//! - `differences`: tags that are left out; `layout`: bytes of containers and their headers; `mates`: pairs of which a file says only that they are pairs

mod differences;
mod layout;
mod mates;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::num::NonZero;
use std::panic;
use std::path::Path;
use std::sync::Arc;

use noodles_cram as cram;
use noodles_fasta as fasta;
use noodles_sam as sam;
use sam::alignment::io::Write as _;

use self::layout::Container;
use self::mates::Mates;
use super::{Batches, Problem, parallel};
use crate::header::{Header, Reference};
use crate::record::{Batch, UNMAPPED};
use crate::text;

/// What is needed to decode containers.
struct Decoder {
    header: Header,
    known: sam::Header,
    references: fasta::Repository,
    unneeded: fasta::Repository,
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

/// For files that need none. The decoder asks for parts of them all the same, without any base.
struct Unneeded(Vec<Reference>);

impl fasta::repository::Adapter for Unneeded {
    fn get(&mut self, name: &[u8]) -> Option<io::Result<fasta::Record>> {
        let reference = self.0.iter().find(|reference| reference.name == name)?;
        let bases = fasta::record::Sequence::from(vec![b'N'; reference.length as usize]);
        let definition = fasta::record::Definition::new(name, None);
        Some(Ok(fasta::Record::new(definition, bases)))
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
        unneeded: fasta::Repository::new(Unneeded(header.references.clone())),
    };
    let mut file = reader.into_inner();
    let mut offset = file.stream_position()?;
    let mut is_done = false;
    let containers = std::iter::from_fn(move || {
        if is_done {
            return None;
        }
        let begin = offset;
        let read = layout::read(&mut file);
        is_done = !matches!(read, Ok(Some(_)));
        match read {
            Ok(Some(container)) => {
                offset += container.bytes.len() as u64;
                Some((begin, Ok(container)))
            }
            Ok(None) => None,
            Err(error) => Some((begin, Err(error))),
        }
    });
    let decoder = Arc::new(decoder);
    let decode = move |(offset, container): (u64, io::Result<Container>)| {
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
    let version = header.read_format_version()?;
    if version.major() != 3 {
        let (major, minor) = (version.major(), version.minor());
        let what = format!(
            "CRAM {major}.{minor} is not read, 3.0 and 3.1 are: `samtools view -C --output-fmt-option version=3.0` \
             makes one"
        );
        return Err(io::Error::other(what));
    }
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
    fn decode(&self, raw: &Container) -> Result<Batch, Problem> {
        let mut container = cram::io::reader::Container::default();
        let mut batch = Batch::default();
        if cram::io::Reader::new(&raw.bytes[..]).read_container(&mut container)? == 0 {
            return Ok(batch);
        }
        let compression = container.compression_header()?;
        let mates = Mates::of(raw)?;
        let needs_reference = raw.needs_reference()?;
        let references = if needs_reference { &self.references } else { &self.unneeded };
        let mut lines = sam::io::Writer::new(Vec::new());
        for slice in container.slices() {
            let slice = slice?;
            let (core, external) = slice.decode_blocks()?;
            let references = references.clone();
            let records = slice.records(references, &self.known, &compression, &core, &external)?;
            let count = records.len();
            lines.get_mut().clear();
            for record in records {
                lines.write_alignment_record(&self.known, &record)?;
            }
            let first = batch.cores.len();
            for line in lines.get_ref().split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
            {
                text::parse(line, &self.header, &mut batch)?;
                if needs_reference {
                    self.complete(&mut batch)?;
                }
            }
            if batch.cores.len() - first != count {
                return Err("a record is no line".into());
            }
            let block = |id: i32| {
                let found = external.iter().find(|(found, _)| *found == id);
                found.map_or(&[][..], |(_, content)| &content[..])
            };
            let ends: Vec<i64> = batch.records().skip(first).map(|read| read.end()).collect();
            mates.set_lengths(&mut batch.cores[first..], &ends, block)?;
        }
        // What has no place has no quality of it in such a file; samtools says 0.
        let unplaced = batch.cores.iter_mut().filter(|(core, _)| core.is(UNMAPPED));
        unplaced.for_each(|(core, _)| core.mapping_quality = 0);
        Ok(batch)
    }

    /// Adds to the last read what follows from its reference.
    fn complete(&self, batch: &mut Batch) -> Result<(), Problem> {
        let number = batch.cores.last().map(|(core, _)| usize::try_from(core.reference));
        let Some(Ok(number)) = number else { return Ok(()) };
        let Some(reference) = self.header.references.get(number) else { return Ok(()) };
        if let Some(bases) = self.references.get(&reference.name).transpose()? {
            differences::complete(batch, (*bases).as_ref());
        }
        Ok(())
    }
}
