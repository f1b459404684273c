//! The manifest: the text file that is a VAS.
//!
//! ```text
//! spacejmp vas 1
//! vid 00c0ffee00c0ffee
//! name mmap
//! tagged yes
//! segment 0123456789abcdef write graph
//! segment 0fedcba987654321 read dictionary
//! checksum 89abcdef
//! ```
//!
//! Version 2 has a line `numbers 17` before the segments: commits through the VAS have had numbers up to
//! that which its segments do not know of, because they were in others.
//!
//! A segment is known by its id; the name beside it is for people and may be out of date.
//! The permission bits are those of the folder the manifest lies in.

use std::collections::HashSet;
use std::path::Path;

use abi::objects::{Right, SegId, VasId};

use crate::format::error::StoreError;
use crate::format::escape::{escape, parse_id, unescape};
use crate::format::name::Name;
use crate::format::record::VasSegment;
use crate::format::text::{Reader, Writer};

/// Maximum number of segments of one VAS: as many as a lease can list.
pub(crate) const MAX_SEGMENTS: usize = 65536;
/// Longest manifest: every name byte escaped to three.
pub(crate) const MAX_BYTES: u64 = MAX_SEGMENTS as u64 * 1024;

/// The latest version of manifests.
const VERSION: u32 = 2;

/// What a manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    pub(crate) vid: VasId,
    pub(crate) name: Name,
    pub(crate) tagged: bool,
    /// No commit through the VAS gets a number up to this one.
    pub(crate) numbers_after: u64,
    pub(crate) segments: Vec<VasSegment>,
}

impl Manifest {
    pub(crate) fn encode(&self) -> String {
        let has_numbers = self.numbers_after > 0;
        let mut text = Writer::new("vas", if has_numbers { VERSION } else { 1 });
        text.line("vid", self.vid);
        text.line("name", &self.name);
        text.line("tagged", if self.tagged { "yes" } else { "no" });
        if has_numbers {
            text.line("numbers", self.numbers_after);
        }
        for segment in &self.segments {
            let right = match segment.right {
                Right::Read => "read",
                Right::Write => "write",
            };
            let name = escape(segment.name.as_str());
            text.line("segment", format_args!("{} {right} {name}", segment.sid));
        }
        text.finish()
    }

    pub(crate) fn decode(bytes: &[u8], file: &Path) -> Result<Manifest, StoreError> {
        let mut text = Reader::new(file, bytes, "vas", VERSION)?;
        let vid = text.value("vid")?;
        let vid = parse_id(vid)
            .and_then(VasId::new)
            .ok_or_else(|| text.bad("vid", vid, "16 hexadecimal digits of a positive number"))?;
        let name = text.value("name")?;
        let name = parse_name(name).ok_or_else(|| text.bad("name", name, "a name"))?;
        let tagged = match text.value("tagged")? {
            "yes" => true,
            "no" => false,
            other => return Err(text.bad("tagged", other, "yes or no")),
        };
        let numbers = text.optional("numbers");
        let numbers_after = numbers.map_or(Ok(0), |numbers| {
            let number = numbers.parse().ok().filter(|number: &u64| number.to_string() == numbers);
            number.filter(|number| *number > 0).ok_or_else(|| {
                text.bad("numbers", numbers, "a positive number without leading zeros")
            })
        })?;
        let mut segments = Vec::new();
        let mut seen = HashSet::new();
        while let Some(line) = text.optional("segment") {
            let segment = parse_segment(line)
                .filter(|segment| seen.insert(segment.sid) && segments.len() < MAX_SEGMENTS)
                .ok_or_else(|| text.bad("segment", line, "a new id, read or write, a name"))?;
            segments.push(segment);
        }
        text.end()?;
        Ok(Manifest { vid, name, tagged, numbers_after, segments })
    }
}

fn parse_name(text: &str) -> Option<Name> {
    Name::new(&unescape(text)?).ok()
}

fn parse_segment(line: &str) -> Option<VasSegment> {
    let (sid, rest) = line.split_once(' ')?;
    let (right, name) = rest.split_once(' ')?;
    let right = match right {
        "read" => Right::Read,
        "write" => Right::Write,
        _ => return None,
    };
    Some(VasSegment { sid: SegId::new(parse_id(sid)?)?, right, name: parse_name(name)? })
}
