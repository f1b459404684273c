//! A segment's files and what they have to be read as, as text that can be kept and compared.
//!
//! ```text
//! file NAME BYTES
//! OFFSET COUNT HEX                                  32 bytes, so often; what is not listed is zeros
//! version NUMBER SIZE ROOT FINGERPRINT TIME PID NOTE   it opens; the note as hex, or -
//! entry NUMBER VAS OF-VAS (SEGMENT VERSION TIME)...   what the version before is for a VAS
//! page NUMBER INDEX BYTE                            each byte of a page; others are zeros
//! gone NUMBER                                       it does not open
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use spacejmp_versions::VersionNumber;
use spacejmp_versions::log::entry::{Member, VasEntry};
use spacejmp_versions::log::record::VersionFacts;

const ROW: usize = 32;

/// Files, and the versions in them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Golden {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) versions: BTreeMap<u64, VersionFacts>,
    /// By version and page: the byte that the page is full of.
    pub(crate) pages: BTreeMap<(u64, u64), u8>,
    pub(crate) gone: Vec<u64>,
}

impl Golden {
    /// Takes the files of a folder.
    pub(crate) fn take_files(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let name = entry.file_name().into_string().expect("a name in ASCII");
            self.files.insert(name, fs::read(entry.path()).expect("it can be read"));
        }
    }

    /// Writes the files to a folder.
    pub(crate) fn write_files(&self, folder: &Path) {
        for (name, bytes) in &self.files {
            fs::write(folder.join(name), bytes).expect("it can be written");
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        for (name, bytes) in &self.files {
            writeln!(text, "file {name} {}", bytes.len()).expect("text");
            let mut rows = bytes.chunks(ROW).enumerate().peekable();
            while let Some((at, row)) = rows.next() {
                let mut count = 1;
                while rows.next_if(|(_, next)| *next == row).is_some() {
                    count += 1;
                }
                if row.iter().any(|byte| *byte != 0) {
                    writeln!(text, "{} {count} {}", at * ROW, hex(row)).expect("text");
                }
            }
        }
        for (number, facts) in &self.versions {
            let VersionFacts {
                size_bytes,
                root_address,
                root_fingerprint,
                time_ns,
                pid,
                note,
                entry,
            } = facts;
            let (fingerprint, note) = (hex(root_fingerprint), format!("{}-", hex(note)));
            writeln!(
                text,
                "version {number} {size_bytes} {root_address} {fingerprint} {time_ns} {pid} {note}"
            )
            .expect("text");
            if let Some(VasEntry { vas, number: of_vas, members }) = entry {
                let members = members.iter().map(|Member { segment, version, time_ns }| {
                    format!(" {segment} {version} {time_ns}")
                });
                let members: String = members.collect();
                writeln!(text, "entry {number} {vas} {of_vas}{members}").expect("text");
            }
        }
        for ((version, page), byte) in &self.pages {
            writeln!(text, "page {version} {page} {byte}").expect("text");
        }
        for version in &self.gone {
            writeln!(text, "gone {version}").expect("text");
        }
        text
    }

    pub(crate) fn decode(text: &str) -> Golden {
        let mut golden = Golden::default();
        let mut file = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["file", name, bytes] => {
                    name.clone_into(&mut file);
                    golden.files.insert(file.clone(), vec![0; number(bytes) as usize]);
                }
                ["version", version, size, root, fingerprint, time, pid, note] => {
                    let facts = VersionFacts {
                        size_bytes: number(size),
                        root_address: number(root),
                        root_fingerprint: bytes(fingerprint).try_into().expect("16 bytes"),
                        time_ns: number(time),
                        pid: number(pid) as u32,
                        note: bytes(note.trim_end_matches('-')),
                        entry: None,
                    };
                    golden.versions.insert(number(version), facts);
                }
                ["entry", version, vas, of_vas, ref members @ ..] => {
                    let member = |words: &[&str]| Member {
                        segment: number(words[0]),
                        version: VersionNumber(number(words[1])),
                        time_ns: number(words[2]),
                    };
                    let members = members.chunks(3).map(member).collect();
                    let entry = VasEntry { vas: number(vas), number: number(of_vas), members };
                    let facts = golden.versions.get_mut(&number(version)).expect("a version first");
                    facts.entry = Some(entry);
                }
                ["page", version, page, byte] => {
                    golden.pages.insert((number(version), number(page)), number(byte) as u8);
                }
                ["gone", version] => golden.gone.push(number(version)),
                [offset, count, row] => {
                    let (offset, row) = (number(offset) as usize, bytes(row));
                    let to = golden.files.get_mut(&file).expect("a file first");
                    let to = &mut to[offset..][..row.len() * number(count) as usize];
                    to.chunks_mut(row.len()).for_each(|to| to.copy_from_slice(&row));
                }
                _ => panic!("{line}"),
            }
        }
        golden
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}
