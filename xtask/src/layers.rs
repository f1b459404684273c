//! Imports go downwards only: `xtask/layers.txt` lists the modules of a crate from the lowest
//! layer to the highest, and no module may name one above its own. Cargo separates crates; this
//! does the same inside them. Tests may import anything.
//!
//! It reads paths that begin with `crate::`, `super::` or `self::`, in `use` lines and elsewhere;
//! it does not resolve re-exports: only the path as written counts.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::workspace::{Workspace, files, read};

/// The list, in the checkout.
const LIST: &str = "xtask/layers.txt";

/// The layers of one crate, from the lowest up. Modules of one layer may import each other.
#[derive(Debug, Default)]
struct Crate {
    /// Its folder of sources, from the root of the checkout.
    source: String,
    layers: Vec<Vec<String>>,
    /// Imports from a module to a higher one that are allowed, each with its reason in the list.
    allowed: Vec<(String, String)>,
}

/// # Errors
/// When a module imports a higher one, when a module is in no layer, and when the list names
/// something that does not exist or allows an import that does not occur.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let text = read(&workspace.file(LIST))?;
    let crates = parse(&text)?;
    let mut findings = Vec::new();
    for one in &crates {
        let root = workspace.file(&one.source);
        let mut sources = Vec::new();
        for path in files(&root)? {
            let inside = path.strip_prefix(&root).unwrap_or(&path).to_owned();
            if is_code(&inside) {
                sources.push((inside, read(&path)?));
            }
        }
        ensure!(!sources.is_empty(), "{LIST}: {} has no sources", one.source);
        findings.extend(one.findings(&sources));
    }
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "{} imports or modules do not obey {LIST}", findings.len());
    Ok(())
}

/// Rust that is neither a test nor a program, which is a separate crate.
fn is_code(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_test = name == "tests.rs" || name == "testing.rs" || name.ends_with("_tests.rs");
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    name.ends_with(".rs") && !is_test && !in_tests && !path.starts_with("bin")
}

fn parse(text: &str) -> Result<Vec<Crate>> {
    let mut crates: Vec<Crate> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{LIST}:{}", number + 1);
        let (entry, reason) = line.split_once('#').unwrap_or((line, ""));
        let entry = entry.trim();
        if entry.is_empty() {
            continue;
        }
        if let Some(source) = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            crates.push(Crate { source: source.to_owned(), ..Crate::default() });
            continue;
        }
        let Some(last) = crates.last_mut() else { bail!("{}: no [folder] before it", at()) };
        let explained = !reason.trim().is_empty();
        if let Some((from, to)) = entry.split_once(" -> ") {
            ensure!(explained, "{}: an upward import needs a reason (# ...)", at());
            last.allowed.push((from.trim().to_owned(), to.trim().to_owned()));
            continue;
        }
        let layer: Vec<String> = entry.split_whitespace().map(str::to_owned).collect();
        let twice = layer.iter().find(|name| last.layers.iter().flatten().any(|old| &old == name));
        ensure!(twice.is_none(), "{}: {} is listed already", at(), twice.map_or("", |name| name));
        ensure!(layer.len() == 1 || explained, "{}: a tie needs a reason (# ...)", at());
        last.layers.push(layer);
    }
    Ok(crates)
}

impl Crate {
    /// The violations in `sources`, paths with their texts.
    fn findings(&self, sources: &[(PathBuf, String)]) -> Vec<String> {
        let mut findings = Vec::new();
        let mut used = vec![false; self.allowed.len()];
        let modules: Vec<_> = sources.iter().map(|(path, _)| module_of(path)).collect();
        for ((path, text), module) in sources.iter().zip(&modules) {
            // The root declares and re-exports; it is above everything.
            if module.is_empty() {
                continue;
            }
            let place = format!("{}/{}", self.source, path.display());
            let Some((own, from)) = self.layer_of(module) else {
                findings.push(format!("{place}: in no layer"));
                continue;
            };
            for target in imports(text, module) {
                let Some((layer, to)) = self.layer_of(&target) else { continue };
                if layer <= own {
                    continue;
                }
                let pair = |(a, b): &(String, String)| a == from && b == to;
                match self.allowed.iter().position(pair) {
                    Some(index) => used[index] = true,
                    None => findings.push(format!("{place}: {from} imports {to}, which is above")),
                }
            }
        }
        for name in self.layers.iter().flatten() {
            if !modules.iter().any(|module| is_within(module, name)) {
                findings.push(format!("{LIST}: {}: no module {name}", self.source));
            }
        }
        for ((from, to), _) in self.allowed.iter().zip(used).filter(|(_, used)| !used) {
            findings.push(format!("{LIST}: {}: {from} does not import {to}", self.source));
        }
        findings.sort();
        findings.dedup();
        findings
    }

    /// The layer that a path belongs to, by the longest name that fits.
    fn layer_of(&self, path: &str) -> Option<(usize, &str)> {
        let named = self.layers.iter().enumerate();
        let named = named.flat_map(|(layer, names)| names.iter().map(move |name| (layer, name)));
        let fitting = named.filter(|(_, name)| is_within(path, name));
        fitting.max_by_key(|(_, name)| name.len()).map(|(layer, name)| (layer, name.as_str()))
    }
}

fn is_within(path: &str, name: &str) -> bool {
    path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `vas/tables/mod.rs` is `vas::tables`; the crate's root is empty.
fn module_of(path: &Path) -> String {
    let mut parts: Vec<_> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts.join("::")
}

/// The paths inside the crate that the code of `module` names, from the crate's root.
fn imports(text: &str, module: &str) -> Vec<String> {
    let code = match text.find("#[cfg(test)]\nmod tests") {
        Some(end) => &text[..end],
        None => text,
    };
    let lines = code.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | ':' | '$')) {
                tree(&code[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found.iter().filter_map(|path| from_root(path, module)).collect()
}

/// Reads one path at the start of `text`, with its braces expanded; returns the text
/// after it.
fn tree<'a>(text: &'a str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let mut text = text.trim_start();
    let depth = prefix.len();
    loop {
        if let Some(mut inside) = text.strip_prefix('{') {
            loop {
                inside = inside.trim_start().trim_start_matches(',').trim_start();
                let Some(next) = inside.chars().next() else { break };
                if next == '}' {
                    inside = &inside[1..];
                    break;
                }
                let rest = tree(inside, prefix, found);
                // Not a path: the braces were not those of a `use`.
                if rest.len() == inside.len() {
                    break;
                }
                inside = rest;
            }
            prefix.truncate(depth);
            return inside;
        }
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        prefix.push(name.to_owned());
        match rest.strip_prefix("::") {
            Some(behind) => text = behind,
            None => {
                found.push(prefix.clone());
                prefix.truncate(depth);
                let rest = rest.strip_prefix('*').unwrap_or(rest);
                // `as NAME`
                let renamed = rest.trim_start().strip_prefix("as ").map(str::trim_start);
                return match renamed {
                    Some(rest) => {
                        rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                    }
                    None => rest,
                };
            }
        }
    }
}

fn from_root(path: &[String], module: &str) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut names = path.iter().map(String::as_str).peekable();
    match names.next()? {
        "crate" => base.clear(),
        "super" => {
            base.pop();
        }
        _ => {}
    }
    while names.peek() == Some(&"super") {
        names.next();
        base.pop();
    }
    base.extend(names.filter(|name| !name.is_empty() && *name != "self"));
    Some(base.join("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "[a/src]\nlow\nmiddle::part\nmiddle\nhigh\n";

    fn findings(list: &str, sources: &[(&str, &str)]) -> Vec<String> {
        let crates = parse(list).expect("a list");
        let sources: Vec<_> =
            sources.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        crates[0].findings(&sources)
    }

    fn with(text: &str) -> Vec<String> {
        let rest = [("low.rs", ""), ("middle/mod.rs", ""), ("high.rs", "")];
        findings(THREE, &[&rest[..], &[("middle/part.rs", text)]].concat())
    }

    #[test]
    fn an_import_goes_down_or_stays() {
        let text = "use crate::low::{A, b::{C, D as E}};\nfn f() { self::x(); super::part::y() }";
        assert_eq!(with(text), [""; 0]);
    }

    #[test]
    fn an_upward_import_is_found_however_it_is_written() {
        let found = "a/src/middle/part.rs: middle::part imports high, which is above";
        for text in [
            "use crate::high::X;",
            "use crate::{low::{A, B}, high};",
            "use crate::{low::A as B, high::{self, C}};",
            "use super::super::high::X;",
            "fn f() -> crate::high::X { todo() }",
        ] {
            assert_eq!(with(text), [found], "{text}");
        }
        let to_parent = "a/src/middle/part.rs: middle::part imports middle, which is above";
        assert_eq!(with("use super::Whole;"), [to_parent]);
    }

    #[test]
    fn tests_and_comments_may_name_what_they_like() {
        assert_eq!(
            with("// crate::high\n#[cfg(test)]\nmod tests { use crate::high::X; }"),
            [""; 0]
        );
        assert!(!is_code(Path::new("vas/tests/all.rs")) && !is_code(Path::new("bin/x/main.rs")));
        assert!(is_code(Path::new("vas/all.rs")));
    }

    #[test]
    fn an_upward_import_may_be_listed_with_its_reason_and_must_then_exist() {
        let list = format!("{THREE}low -> high # one table of both\n");
        let sources = |text| {
            [("low.rs", text), ("middle/part.rs", ""), ("middle/mod.rs", ""), ("high.rs", "")]
        };
        assert_eq!(findings(&list, &sources("use crate::high::X;")), [""; 0]);
        let unused = "xtask/layers.txt: a/src: low does not import high";
        assert_eq!(findings(&list, &sources("")), [unused]);
        assert!(parse(&format!("{THREE}low -> high\n")).is_err());
        assert!(parse("[a/src]\nlow high\n").is_err());
        assert!(parse("[a/src]\nlow\nhigh\nlow\n").is_err());
    }

    #[test]
    fn a_module_in_no_layer_and_a_layer_without_modules_are_found() {
        let found = findings("[a/src]\nlow\nmiddle\n", &[("low.rs", ""), ("other.rs", "")]);
        let none = "xtask/layers.txt: a/src: no module middle";
        assert_eq!(found, ["a/src/other.rs: in no layer", none]);
    }
}
