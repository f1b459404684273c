//! Answering one query. Answers are byte for byte the same wherever the program runs:
//! nothing here depends on time, threads or the order of a hash table.

use std::io::{self, Write};

use crate::index::{Entry, Lookup};
use crate::words::{lower, words};

/// Files listed in an answer to several words.
const LISTED: usize = 20;

/// Answers the query in `line`; returns whether it asked to end. A line without a word or
/// a command has no answer.
pub(crate) fn answer(index: &impl Lookup, line: &[u8], out: &mut impl Write) -> io::Result<bool> {
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
    let line = lower(line);
    let mut asked: Vec<&str> = Vec::new();
    for (word, _) in words(&line) {
        if !asked.contains(&word) {
            asked.push(word);
        }
    }
    match asked.as_slice() {
        [] => {}
        [word] => one_word(index, word, out)?,
        asked => all_words(index, asked, out)?,
    }
    Ok(false)
}

fn one_word(index: &impl Lookup, word: &str, out: &mut impl Write) -> io::Result<()> {
    let Some(Entry { count, files, places }) = index.find(word) else {
        return writeln!(out, "{word}: not found");
    };
    let files = counted(files.len() as u64, "file");
    writeln!(out, "{word}: {} in {files}", counted(count, "time"))?;
    for place in places {
        out.write_all(b"  ")?;
        out.write_all(index.path(place.file))?;
        writeln!(out, ":{}", place.line)?;
    }
    Ok(())
}

fn all_words(index: &impl Lookup, asked: &[&str], out: &mut impl Write) -> io::Result<()> {
    let files = |word: &&str| index.find(word).unwrap_or_default().files;
    let mut lists: Vec<&[u32]> = asked.iter().map(files).collect();
    // The shortest list first: no later one can add to it.
    lists.sort_by_key(|list| list.len());
    let (shortest, others) = lists.split_first().expect("there are words");
    let in_all = |file: &&u32| others.iter().all(|list| list.binary_search(file).is_ok());
    let common: Vec<u32> = shortest.iter().filter(in_all).copied().collect();

    writeln!(out, "{}: all in {}", asked.join(" "), counted(common.len() as u64, "file"))?;
    for file in common.iter().take(LISTED) {
        out.write_all(b"  ")?;
        out.write_all(index.path(*file))?;
        out.write_all(b"\n")?;
    }
    if common.len() > LISTED {
        writeln!(out, "  and {} more", common.len() - LISTED)?;
    }
    Ok(())
}

/// The most frequent words; equally frequent ones in alphabetical order.
fn top(index: &impl Lookup, limit: usize, out: &mut impl Write) -> io::Result<()> {
    let mut all: Vec<(&str, u64)> = index.counts().collect();
    let order = |a: &(&str, u64), b: &(&str, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
    if limit < all.len() {
        all.select_nth_unstable_by(limit, order);
        all.truncate(limit);
    }
    all.sort_unstable_by(order);
    all.iter().try_for_each(|(word, count)| writeln!(out, "{count:>10}  {word}"))
}

fn stats(index: &impl Lookup, out: &mut impl Write) -> io::Result<()> {
    let totals = index.totals();
    writeln!(out, "files:          {}", totals.files)?;
    writeln!(out, "bytes:          {}", totals.bytes)?;
    writeln!(out, "lines:          {}", totals.lines)?;
    writeln!(out, "words:          {}", totals.occurrences)?;
    writeln!(out, "distinct words: {}", totals.distinct)
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tests::{index_of, texts};
    use crate::index::Index;

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
        let dir = texts(&[("a.txt", b"One two\ntwo, TWO!\nthree"), ("b.txt", b"two\nfour\n")]);
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
        let names: Vec<String> = (10..35).map(|n| format!("f{n}")).collect();
        let files: Vec<_> = names.iter().map(|name| (&**name, &b"red green"[..])).collect();
        let dir = texts(&files);
        let answers = ask(&index_of(&dir, 3), "green red");
        assert_eq!(answers.lines().count(), 22);
        assert!(answers.ends_with("\n  and 5 more\n"), "{answers}");
    }
}
