//! Where `unsafe` may be: `unsafe-files.txt` lists every file that contains the word, and how
//! often. It is counted in code, not in comments or literals, by a scanner that knows just
//! enough of Rust for that. Whether a block is sound is for reviewers and clippy; this ensures
//! that none is added unnoticed. `global_asm!`, which needs no `unsafe`, is not counted.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::workspace::{Workspace, files, read};

const LIST: &str = "xtask/unsafe-files.txt";

type Counts = BTreeMap<String, usize>;

/// Compares all source with the list.
///
/// # Errors
/// When a file has more `unsafe` than the list says, or less (the list must not leave room
/// for more to come back); the text says which lines to change.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let allowed = parse(&read(&workspace.file(LIST))?)?;
    let found = count_all(workspace.root())?;
    let complaints = compare(&allowed, &found);
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    let total: usize = found.values().sum();
    println!("unsafe: {total} in {} files, all of them listed", found.len());
    Ok(())
}

fn parse(text: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let entry = line.split_once(' ').and_then(|(count, path)| {
            Some((path.trim_start().to_owned(), count.parse::<usize>().ok()?))
        });
        let Some((path, count)) = entry else { bail!("{LIST}: not `COUNT PATH`: {line}") };
        if counts.insert(path, count).is_some() {
            bail!("{LIST}: listed twice: {line}");
        }
    }
    Ok(counts)
}

fn count_all(root: &Path) -> Result<Counts> {
    let mut counts = Counts::new();
    for path in files(root)? {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let count = count(&read(&path)?);
        if count > 0 {
            let name = path.strip_prefix(root).unwrap_or(&path);
            counts.insert(name.display().to_string(), count);
        }
    }
    Ok(counts)
}

fn compare(allowed: &Counts, found: &Counts) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, &has) in found {
        match allowed.get(path) {
            None => complaints.push(format!(
                "{path} has `unsafe` and is not in {LIST}: do without, or argue for `{has} {path}`"
            )),
            Some(&may) if has > may => complaints.push(format!(
                "{path} has {has} `unsafe`, {may} allowed: do without, or argue for a new count"
            )),
            Some(&may) if has < may => {
                complaints.push(format!("{path} got better: write `{has} {path}` into {LIST}"));
            }
            Some(_) => {}
        }
    }
    let gone = allowed.keys().filter(|path| !found.contains_key(*path));
    complaints.extend(gone.map(|path| format!("{path} has no `unsafe`: strike it from {LIST}")));
    complaints
}

/// How often the word `unsafe` occurs in the code of `source`.
fn count(source: &str) -> usize {
    let code = code_of(source);
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|&word| word == "unsafe").count()
}

/// `source` with a blank for each comment and each literal.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skip = comment(rest).or_else(|| {
            // A prefix belongs to the literal only if it is not the end of a longer word.
            let in_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            (if in_word { None } else { raw_string(rest) }).or_else(|| quoted(rest))
        });
        match skip {
            Some(length) => {
                code.push(' ');
                rest = rest.get(length..).unwrap_or("");
            }
            None => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    code
}

/// The length of the comment `text` begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if depth == 0 {
            return None;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            let Some(next) = rest.chars().next() else { return Some(at) };
            at += next.len_utf8();
        }
    }
}

/// The length of the raw string, `r#"..."#` with a prefix or not, `text` begins with.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let body = hashes.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(hashes.len() - body.len()));
    let body = body.strip_prefix('"')?;
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(text.len() - body.len() + length)
}

/// The length of the string or character literal `text` begins with. A lifetime is neither.
fn quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut characters = text.char_indices().skip(1);
    if quote == '\'' {
        // One character, or an escape of any length.
        return match characters.next()? {
            (_, '\\') => text.get(3..)?.find('\'').map(|at| 3 + at + 1),
            _ => characters.next().filter(|&(_, c)| c == '\'').map(|(at, _)| at + 1),
        };
    }
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some(at + 1),
            '\\' => drop(characters.next()),
            _ => {}
        }
    }
    Some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_counted_in_code_only() {
        let source = r###"
            //! unsafe in a comment /* unsafe
            #![forbid(unsafe_code)] // unsafe
            /* unsafe /* unsafe */ unsafe */
            const A: &str = "unsafe \" unsafe // "; const B: char = '"'; const C: char = '\'';
            const D: &str = r#"unsafe " unsafe"#; const E: &[u8] = b"unsafe"; const F: u8 = b'"';
            struct S<'a>(&'a str); // unsafe
            #[unsafe(no_mangle)]
            unsafe extern "C" fn f() { let four = "\\"; unsafe { g::<'static>() } }
        "###;
        assert_eq!(count(source), 3);
    }

    #[test]
    fn text_that_ends_in_the_middle_of_something_is_scanned_to_its_end() {
        for end in ["/* x", "\"x", "\"x\\", "r#\"x\"", "'", "'\\", "'x", "'\\''", "r", "br#", "/"] {
            assert_eq!(count(&format!("unsafe {end}")), 1, "{end}");
        }
    }

    #[test]
    fn a_file_may_have_what_the_list_says_neither_more_nor_less() {
        let allowed = parse("# why\n\n2 a.rs\n1 b.rs\n").expect("a good list");
        let found = |entries: &[(&str, usize)]| {
            entries.iter().map(|&(path, count)| (path.to_owned(), count)).collect::<Counts>()
        };
        let complain = |entries| compare(&allowed, &found(entries));
        assert_eq!(complain(&[("a.rs", 2), ("b.rs", 1)]), [""; 0]);
        for bad in [
            &[("a.rs", 3), ("b.rs", 1)][..],
            &[("a.rs", 1), ("b.rs", 1)],
            &[("a.rs", 2)],
            &[("a.rs", 2), ("b.rs", 1), ("c.rs", 1)],
        ] {
            assert_eq!(complain(bad).len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn a_list_that_is_not_understood_is_refused() {
        for bad in ["a.rs\n", "x a.rs\n", "1 a.rs\n2 a.rs\n", "-1 a.rs\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
