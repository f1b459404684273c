//! Tests of building: chunk borders, number of threads, odd files. And the directories of texts
//! that the other modules' tests use too.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::index::PLACES;
use crate::scan::{self, Selection};

/// A directory with files.
pub(crate) fn texts(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir
}

fn built(dir: &TempDir, threads: usize, size: u64) -> Index {
    let (files, _) = scan::find(&[dir.path().to_owned()], Selection::Visible);
    let (index, problems) = build_in_chunks(&files, threads, size);
    assert_eq!(problems, []);
    index
}

pub(crate) fn index_of(dir: &TempDir, threads: usize) -> Index {
    built(dir, threads, CHUNK)
}

/// Everything the index knows: word -> (count, files, places).
type Contents = BTreeMap<String, (u64, Vec<u32>, Vec<(u32, u32)>)>;

fn contents(index: &Index) -> (Contents, u64, u64) {
    let words = index.words.iter().map(|(text, word)| {
        let places = word.places.iter().map(|place| (place.file, place.line)).collect();
        (text.to_string(), (word.count, word.files.clone(), places))
    });
    (words.collect(), index.totals.bytes, index.totals.lines)
}

/// The same, computed in the simplest way.
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
    let all = ["a b\nc a\n\n\na d\na\na a\na\nlast", "", "\n\n", "one line", &long, "z\n"];
    let names = ["0", "1", "2", "3", "4", "5"];
    let files: Vec<_> = names.into_iter().zip(all.map(str::as_bytes)).collect();
    let dir = texts(&files);
    let expected = expected(&all);
    for size in [1, 2, 3, 5, 8, 13, 100, 1 << 20] {
        for threads in [1, 2, 5] {
            let index = built(&dir, threads, size);
            assert_eq!(contents(&index), expected, "chunks of {size}, {threads} threads");
        }
    }
}

#[test]
fn a_line_longer_than_a_chunk_is_one_line() {
    let text = ["head\n", &"wide word ".repeat(500_000), "\ntail"].concat();
    let dir = texts(&[("f", text.as_bytes())]);
    for size in [CHUNK, 1 << 20, 999_983] {
        let (words, bytes, lines) = contents(&built(&dir, 2, size));
        assert_eq!((bytes, lines), (text.len() as u64, 3));
        assert_eq!(words["wide"], (500_000, vec![0], vec![(0, 2)]));
        assert_eq!(words["tail"], (1, vec![0], vec![(0, 3)]));
    }
}

#[test]
fn a_file_with_a_nul_byte_is_left_out_with_all_its_words() {
    let binary = [b"binary \0".as_slice(), &b"words of it\n".repeat(100)].concat();
    let dir = texts(&[("a", b"text"), ("b", &binary), ("c", b"text too")]);
    let index = built(&dir, 2, 64);
    assert_eq!(index.files.len(), 2);
    assert!(!index.words.contains_key("words"));
    assert_eq!(index.words["text"].files, [0, 1]);
}

#[test]
fn a_file_that_cannot_be_read_is_named_once_and_the_rest_is_indexed() {
    let dir = texts(&[("a", b"text")]);
    let gone = FoundFile { path: dir.path().join("gone"), size: 100 };
    let here = FoundFile { path: dir.path().join("a"), size: 4 };
    let (index, problems) = build_in_chunks(&[gone, here], 2, 16);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("gone: No such file"));
    assert_eq!((index.files.len(), index.words["text"].count), (1, 1));
}

#[test]
fn nothing_to_index_gives_an_empty_index() {
    let (index, problems) = build(&[], 4);
    assert_eq!(problems, []);
    assert!(index.words.is_empty());
}
