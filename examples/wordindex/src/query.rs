//! Answering one query. Answers end up byte for byte the same wherever the program runs:
//! nothing here depends on time, threads or the order of a hash table.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use crate::index::Index;
use crate::words::Splitter;

/// Files listed of an answer to several words.
const LISTED: usize = 20;

/// Answers the query in `line`; returns whether it asked to end. A line without a word or
/// a command has no answer.
pub(crate) fn answer(index: &Index, line: &[u8], out: &mut impl Write) -> io::Result<bool> {
    let line = line.trim_ascii();
    if let Some(command) = line.strip_prefix(b":") {
        let command = String::from_utf8_lossy(command);
        let mut parts = command.split_whitespace();
        match (parts.next(), parts.next(), parts.next()) {
            (Some("quit"), None, None) => return Ok(true),
            (Some("stats"), None, None) => stats(index, out)?,
            (Some("top"), None, None) => top(index, 10, out)?,
            (Some("top"), Some(limit), None) if limit.parse::<usize>().is_ok() => {
                top(index, limit.parse().unwrap_or(usize::MAX), out)?;
            }
            _ => writeln!(out, "unknown command :{command} (:top N, :stats, :quit)")?,
        }
        return Ok(false);
    }
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut splitter = Splitter::default();
    let mut add = |word: &[u8], _| {
        if !words.iter().any(|known| known == word) {
            words.push(word.to_vec());
        }
    };
    splitter.push(line, &mut add);
    splitter.finish(&mut add);
    match words.as_slice() {
        [] => {}
        [word] => one_word(index, word, out)?,
        words => all_words(index, words, out)?,
    }
    Ok(false)
}

fn one_word(index: &Index, word: &[u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(word)?;
    let Some(id) = index.find(word) else {
        return writeln!(out, ": not found");
    };
    let files = index.files_of(id).len();
    writeln!(out, ": {} in {}", counted(index.count(id), "time"), counted(files as u64, "file"))?;
    for place in index.places_of(id) {
        out.write_all(b"  ")?;
        path(index, place.file, out)?;
        writeln!(out, ":{}", place.line)?;
    }
    Ok(())
}

fn all_words(index: &Index, words: &[Vec<u8>], out: &mut impl Write) -> io::Result<()> {
    let mut lists: Vec<&[u32]> = words
        .iter()
        .map(|word| index.find(word).map_or(&[][..], |id| index.files_of(id)))
        .collect();
    // The shortest list first: no later one can add to it.
    lists.sort_by_key(|list| list.len());
    let (shortest, others) = lists.split_first().expect("there are words");
    let in_all = |file: &&u32| others.iter().all(|list| list.binary_search(file).is_ok());
    let common: Vec<u32> = shortest.iter().filter(in_all).copied().collect();

    out.write_all(&words.join(&b' '))?;
    writeln!(out, ": all in {}", counted(common.len() as u64, "file"))?;
    for file in common.iter().take(LISTED) {
        out.write_all(b"  ")?;
        path(index, *file, out)?;
        out.write_all(b"\n")?;
    }
    if common.len() > LISTED {
        writeln!(out, "  and {} more", common.len() - LISTED)?;
    }
    Ok(())
}

fn top(index: &Index, limit: usize, out: &mut impl Write) -> io::Result<()> {
    for id in index.top(limit) {
        write!(out, "{:>10}  ", index.count(id))?;
        out.write_all(index.word(id))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn stats(index: &Index, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "files:          {}", index.files.len())?;
    writeln!(out, "bytes:          {}", index.bytes)?;
    writeln!(out, "lines:          {}", index.lines)?;
    writeln!(out, "words:          {}", index.occurrences)?;
    writeln!(out, "distinct words: {}", index.distinct())
}

/// The path's own bytes, whether they are UTF-8 or not.
fn path(index: &Index, file: u32, out: &mut impl Write) -> io::Result<()> {
    out.write_all(index.files[file as usize].path.as_os_str().as_bytes())
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tests::{TempDir, index_of};

    fn ask(index: &Index, queries: &str) -> String {
        let mut out = Vec::new();
        for line in queries.lines() {
            if answer(index, line.as_bytes(), &mut out).unwrap() {
                out.extend_from_slice(b"bye\n");
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn queries_are_answered_as_the_help_says() {
        let dir = TempDir::new("query");
        dir.write("a.txt", b"One two\ntwo, TWO!\nthree");
        dir.write("b.txt", b"two\nfour\n");
        let index = index_of(&dir, 2);
        let root = dir.path().to_str().unwrap();
        let answers =
            ask(&index, "two\nnone\nFour\nTwo one\nfour one two one\n\n?!\n").replace(root, "D");
        let expected = "\
two: 4 times in 2 files\n  D/a.txt:1\n  D/a.txt:2\n  D/b.txt:1
none: not found
four: 1 time in 1 file\n  D/b.txt:2
two one: all in 1 file\n  D/a.txt
four one two: all in 0 files
";
        assert_eq!(answers, expected);
        let expected = "         4  two\n         1  four
files:          2\nbytes:          32\nlines:          5\nwords:          7\ndistinct words: 4
unknown command :tip (:top N, :stats, :quit)\nbye\n";
        assert_eq!(ask(&index, ":top 2\n:stats\n:tip\n:quit\ntwo\n"), expected);
    }

    #[test]
    fn a_long_list_of_files_is_cut() {
        let dir = TempDir::new("many");
        for n in 10..35 {
            dir.write(&format!("f{n}"), b"red green");
        }
        let answers = ask(&index_of(&dir, 3), "green red");
        assert_eq!(answers.lines().count(), 22);
        assert!(answers.ends_with("\n  and 5 more\n"), "{answers}");
    }
}
