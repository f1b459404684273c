//! Tests of building: chunk borders, number of threads, odd files. And the temporary
//! directory that the other modules' tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::scan::{self, Selection};

/// A directory that is removed with its contents.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wordindex-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn index_of(dir: &TempDir, threads: usize) -> Index {
    let (files, _) = scan::find(&[dir.path().to_owned()], Selection::Visible);
    let (index, problems) = build(files, threads);
    assert_eq!(problems, []);
    index
}

/// Everything the index knows: word -> (count, files, places).
type Contents = BTreeMap<String, (u64, Vec<u32>, Vec<(u32, u32)>)>;

fn contents(index: &Index) -> (Contents, u64, u64) {
    let words = index.top(usize::MAX).into_iter().map(|id| {
        let places = index.places_of(id).iter().map(|place| (place.file, place.line)).collect();
        let word = String::from_utf8(index.word(id).to_vec()).unwrap();
        (word, (index.count(id), index.files_of(id).to_vec(), places))
    });
    (words.collect(), index.bytes, index.lines)
}

/// The same by the simplest means.
fn expected(texts: &[&str]) -> (Contents, u64, u64) {
    let mut words = Contents::new();
    let (mut bytes, mut lines) = (0, 0);
    for (file, text) in (0..).zip(texts) {
        bytes += text.len() as u64;
        for (line, content) in (1..).zip(text.lines()) {
            lines += 1;
            for word in content.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
                let entry = words.entry(word.to_lowercase()).or_default();
                entry.0 += 1;
                if entry.1.last() != Some(&file) {
                    entry.1.push(file);
                }
                if entry.2.len() < PLACES && entry.2.last() != Some(&(file, line)) {
                    entry.2.push((file, line));
                }
            }
        }
    }
    (words, bytes, lines)
}

#[test]
fn chunks_of_any_size_and_any_number_of_threads_give_the_same_index() {
    let long = "x ".repeat(60) + "\nx y\n";
    let texts = ["a b\nc a\n\n\na d\na\na a\na\nlast", "", "\n\n", "one line", &long, "z\n"];
    let dir = TempDir::new("chunks");
    for (number, text) in texts.iter().enumerate() {
        dir.write(&format!("{number}"), text.as_bytes());
    }
    let expected = expected(&texts);
    for size in [1, 2, 3, 5, 8, 13, 100, 1 << 20] {
        for threads in [1, 2, 5] {
            let (files, _) = scan::find(&[dir.path().to_owned()], Selection::Visible);
            let (index, problems) = build_in_chunks(files, threads, size);
            assert_eq!(problems, []);
            assert_eq!(contents(&index), expected, "chunks of {size}, {threads} threads");
        }
    }
}

#[test]
fn a_line_longer_than_many_buffers_is_one_line() {
    let dir = TempDir::new("huge");
    let mut text = b"head\n".to_vec();
    text.extend("wide word ".repeat(500_000).bytes());
    text.extend(b"\ntail");
    dir.write("f", &text);
    for size in [CHUNK, 1 << 20, 999_983] {
        let (files, _) = scan::find(&[dir.path().to_owned()], Selection::Visible);
        let (index, _) = build_in_chunks(files, 2, size);
        let (words, bytes, lines) = contents(&index);
        assert_eq!((bytes, lines), (text.len() as u64, 3));
        assert_eq!(words["wide"], (500_000, vec![0], vec![(0, 2)]));
        assert_eq!(words["tail"], (1, vec![0], vec![(0, 3)]));
    }
}

#[test]
fn a_file_with_a_nul_byte_is_left_out_with_all_its_words() {
    let dir = TempDir::new("binary");
    dir.write("a", b"text");
    dir.write("b", &[b"binary \0".as_slice(), &b"words of it\n".repeat(100)].concat());
    dir.write("c", b"text too");
    let (files, _) = scan::find(&[dir.path().to_owned()], Selection::Visible);
    let (index, problems) = build_in_chunks(files, 2, 64);
    assert_eq!(problems, []);
    assert_eq!(index.files.len(), 2);
    assert_eq!(index.find(b"words"), None);
    assert_eq!(contents(&index).0["text"].1, [0, 1]);
}

#[test]
fn a_file_that_cannot_be_read_is_named_once_and_the_rest_is_indexed() {
    let dir = TempDir::new("unread");
    dir.write("a", b"text");
    let gone = FoundFile { path: dir.path().join("gone"), size: 100 };
    let here = FoundFile { path: dir.path().join("a"), size: 4 };
    let (index, problems) = build_in_chunks(vec![here, gone], 2, 16);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("gone: No such file"));
    assert_eq!(contents(&index).0["text"].0, 1);
}

#[test]
fn nothing_to_index_gives_an_empty_index() {
    let (index, problems) = build(Vec::new(), 4);
    assert_eq!(problems, []);
    assert_eq!(index.distinct(), 0);
    assert_eq!(index.find(b"x"), None);
    assert_eq!(index.top(3), [0_u32; 0]);
}
