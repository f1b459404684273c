//! The text that says which segments a VAS has.
//!
//! ```text
//! spacejmp vas 1
//! vid 00000000000000ff
//! name genome
//! tagged yes
//! segment 0123456789abcdef write reads
//! checksum 89abcdef
//! ```
//!
//! Names are escaped to one word. The checksum is over all bytes before its line.

use std::path::Path;

use abi::{Right, SegId, VasId};

use super::StoreError;
use super::name::Name;
use super::vas::VasSegment;

/// A manifest larger than this is damaged.
pub const MANIFEST_MAX_BYTES: u64 = 16 << 20;
const FIRST_LINE: &str = "spacejmp vas 1";

/// What a manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The VAS.
    pub vid: VasId,
    /// Its name when it was made.
    pub name: Name,
    /// Whether instances get a TLB tag.
    pub tagged: bool,
    /// Its segments.
    pub segments: Vec<VasSegment>,
}

impl Manifest {
    /// As text.
    #[must_use]
    pub fn encode(&self) -> String {
        let tagged = if self.tagged { "yes" } else { "no" };
        let mut text = format!(
            "{FIRST_LINE}\nvid {}\nname {}\ntagged {tagged}\n",
            self.vid,
            self.name.escaped()
        );
        for segment in &self.segments {
            let right = match segment.right {
                Right::Read => "read",
                Right::Write => "write",
            };
            text += &format!("segment {} {right} {}\n", segment.sid, segment.name.escaped());
        }
        let sum = crc32fast::hash(text.as_bytes());
        text + &format!("checksum {sum:08x}\n")
    }

    /// Checks the bytes found in `file`.
    ///
    /// # Errors
    /// [`StoreError::BadField`].
    pub fn decode(bytes: &[u8], file: &Path) -> Result<Manifest, StoreError> {
        let bad = |field, found: &str, expected: &str| StoreError::BadField {
            file: file.to_owned(),
            field,
            found: format!("`{}`", found.chars().take(80).collect::<String>().escape_debug()),
            expected: expected.to_owned(),
        };
        let text = std::str::from_utf8(bytes).map_err(|_| bad("text", "no UTF-8", "UTF-8"))?;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        if first != FIRST_LINE {
            return Err(bad("version", first, &format!("`{FIRST_LINE}`")));
        }
        let (body, sum) = text
            .trim_end_matches('\n')
            .rsplit_once("\nchecksum ")
            .ok_or_else(|| bad("checksum", "missing", "a last line `checksum`"))?;
        let right_sum = format!("{:08x}", checksum_of(body));
        if sum != right_sum {
            return Err(bad("checksum", sum, &format!("`{right_sum}`")));
        }
        let mut lines = body.lines().skip(1);
        let mut field = |name: &'static str| {
            let line = lines.next().unwrap_or_default();
            match line.split_once(' ') {
                Some((key, value)) if key == name => Ok(value.to_owned()),
                _ => Err(bad(name, line, &format!("`{name} ...`"))),
            }
        };
        let (vid, name, tagged) = (field("vid")?, field("name")?, field("tagged")?);
        let mut manifest = Manifest {
            vid: id(&vid).and_then(VasId::new).ok_or_else(|| bad("vid", &vid, "16 hex digits"))?,
            name: Name::unescape(&name).ok_or_else(|| bad("name", &name, "an escaped name"))?,
            tagged: match tagged.as_str() {
                "yes" => true,
                "no" => false,
                other => return Err(bad("tagged", other, "`yes` or `no`")),
            },
            segments: Vec::new(),
        };
        for line in lines {
            let segment = segment(line)
                .ok_or_else(|| bad("segment", line, "`segment SID read|write NAME`"))?;
            if manifest.segments.iter().any(|other| other.sid == segment.sid) {
                return Err(bad("segment", line, "each segment once"));
            }
            manifest.segments.push(segment);
        }
        Ok(manifest)
    }
}

fn checksum_of(body: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body.as_bytes());
    hasher.update(b"\n");
    hasher.finalize()
}

fn id(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn segment(line: &str) -> Option<VasSegment> {
    let mut words = line.strip_prefix("segment ")?.split(' ');
    let sid = SegId::new(id(words.next()?)?)?;
    let right = match words.next()? {
        "read" => Right::Read,
        "write" => Right::Write,
        _ => return None,
    };
    let name = Name::unescape(words.next()?)?;
    words.next().is_none().then_some(VasSegment { sid, name, right })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Manifest {
        Manifest {
            vid: VasId::new(0xff).unwrap(),
            name: Name::new(b"two words").unwrap(),
            tagged: true,
            segments: vec![
                VasSegment {
                    sid: SegId::new(1).unwrap(),
                    name: Name::new("\u{e9}\n%".as_bytes()).unwrap(),
                    right: Right::Write,
                },
                VasSegment {
                    sid: SegId::new(2).unwrap(),
                    name: Name::new(b"b").unwrap(),
                    right: Right::Read,
                },
            ],
        }
    }

    #[test]
    fn the_text_of_the_format_does_not_change() {
        let text = sample().encode();
        let expected = "spacejmp vas 1\nvid 00000000000000ff\nname two%20words\ntagged yes\n\
            segment 0000000000000001 write \u{e9}%0A%25\nsegment 0000000000000002 read b\n";
        assert_eq!(
            text,
            format!("{expected}checksum {:08x}\n", crc32fast::hash(expected.as_bytes()))
        );
        assert_eq!(Manifest::decode(text.as_bytes(), Path::new("m")).unwrap(), sample());
    }

    fn resealed(text: &str) -> String {
        let (body, _) = text.rsplit_once("checksum").unwrap();
        format!("{body}checksum {:08x}\n", crc32fast::hash(body.as_bytes()))
    }

    #[test]
    fn every_damaged_field_is_named() {
        let good = sample().encode();
        for (from, to, field) in [
            ("spacejmp vas 1", "spacejmp vas 2", "version"),
            ("vid 00000000000000ff", "vid ff", "vid"),
            ("vid 00000000000000ff", "vid 0000000000000000", "vid"),
            ("name two%20words", "name ..", "name"),
            ("name two%20words", "nome x", "name"),
            ("tagged yes", "tagged maybe", "tagged"),
            ("0001 write", "0001 wrote", "segment"),
            ("0000000000000002 read b", "0000000000000001 read b", "segment"),
            ("read b", "read b c", "segment"),
            ("read b", "read a/b", "segment"),
        ] {
            let text = resealed(&good.replace(from, to));
            match Manifest::decode(text.as_bytes(), Path::new("m")) {
                Err(StoreError::BadField { field: named, .. }) => assert_eq!(named, field, "{to}"),
                other => panic!("{to}: {other:?}"),
            }
        }
        let text = good.replace("read", "reed");
        let error = Manifest::decode(text.as_bytes(), Path::new("m")).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
        assert!(Manifest::decode(&[0xff; 20], Path::new("m")).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*", cut in 0usize..200) {
            let _ = Manifest::decode(text.as_bytes(), Path::new("m"));
            let good = sample().encode();
            let cut = good.char_indices().map(|(i, _)| i).take_while(|&i| i <= cut).last().unwrap_or(0);
            let _ = Manifest::decode(&good.as_bytes()[..cut], Path::new("m"));
            let glued = format!("{FIRST_LINE}\n{text}\nchecksum 0\n");
            let _ = Manifest::decode(resealed(&glued).as_bytes(), Path::new("m"));
        }
    }
}
