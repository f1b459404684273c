//! The blocks of the book and README that are no commands: Rust is compiled as tests of the SDK's documentation (`guest-sdk/src/book.rs`),
//! C, C++ and Python here, and JSON and TOML are read. What cannot be compiled is listed, with the reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::book::{self, Block};
use tests::{guests, kvm};

/// Rust that is not compiled: the page, how the block begins, and why.
const IGNORED: [(&str, &str, &str); 0] = [];

/// Blocks that are whole only with something around them: the page, how they begin, what is before and after.
const AROUND: [(&str, &str, &str, &str); 5] = [
    (
        "docs/src/address-spaces.md",
        "vasid_t vid",
        "#include <spacejmp.h>\nstatic int numbers[1], *root = numbers;\nstatic void count(const int *of) { (void)of; }\nint main(void) {\n",
        "return 0; }\n",
    ),
    (
        "docs/src/snapshots.md",
        "int main",
        "#define _GNU_SOURCE\n#include <spacejmp.h>\n#include <stdio.h>\n#include <stdlib.h>\n\
         #include <unistd.h>\n\
         struct table *load(const char *);\nint serve(struct table *, int);\n",
        "",
    ),
    ("docs/src/cxx.md", "#include", "", ""),
    (
        "docs/src/cxx.md",
        "sj::writing",
        "#include <spacejmp.hpp>\n\
         struct bank { sj::map<sj::string, int> accounts; };\nSJ_FIELDS(bank, accounts)\n\
         static bool still_wanted() { return true; }\n\
         void around(sj::space<bank> &space) {\n",
        "}\n",
    ),
    ("docs/src/cxx.md", "auto space", "#include <spacejmp.hpp>\nvoid around() {\n", "}\n"),
];

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace")
}

fn pages_in(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("a folder of ours");
    for path in entries.map(|entry| entry.expect("readable").path()) {
        if path.is_dir() {
            pages_in(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "md") {
            found.push(path);
        }
    }
}

/// All blocks, with the pages that they are on.
fn blocks() -> Vec<(String, Block)> {
    let mut pages = vec![checkout().join("README.md")];
    pages_in(&checkout().join("docs/src"), &mut pages);
    assert!(pages.len() > 50, "the book has lost its pages");
    let mut all = Vec::new();
    for path in pages {
        let text = fs::read_to_string(&path).expect("a page of ours");
        let name = path.strip_prefix(checkout()).expect("it is in there").to_str().expect("ASCII");
        all.extend(book::blocks(&text).into_iter().map(|block| (name.to_owned(), block)));
    }
    all
}

/// Those of a language; there have to be some.
fn blocks_of(language: &str) -> Vec<(String, Block)> {
    let found: Vec<_> = blocks()
        .into_iter()
        .filter(|(_, block)| block.kind.split(',').next() == Some(language))
        .collect();
    assert!(!found.is_empty(), "the book shows no {language}");
    found
}

#[test]
fn each_block_says_what_it_is() {
    let known = ["console", "text", "rust", "c", "cpp", "python", "json", "toml"];
    for (page, block) in blocks() {
        let language = block.kind.split(',').next().expect("one at least");
        assert!(known.contains(&language), "{page}:{}: {:?}", block.line, block.kind);
    }
}

#[test]
fn all_rust_is_compiled_but_for_what_is_listed() {
    let harness =
        fs::read_to_string(checkout().join("guest-sdk/src/book.rs")).expect("it is there");
    let mut ignored = Vec::new();
    for (page, block) in blocks_of("rust") {
        let place = format!("{page}:{}", block.line);
        assert!(harness.contains(&format!("include_str!(\"../../{page}\")")), "{place}");
        let mut how = block.kind.split(',').skip(1);
        if how.any(|it| !["no_run", "compile_fail", "should_panic"].contains(&it)) {
            let listed = IGNORED.iter().position(|(of, begin, reason)| {
                *of == page && block.text.starts_with(begin) && reason.len() > 10
            });
            ignored.push(listed.unwrap_or_else(|| panic!("{place} is {}: why?", block.kind)));
        }
    }
    ignored.sort_unstable();
    assert_eq!(ignored, Vec::from_iter(0..IGNORED.len()), "a page no longer has what is listed");
}

/// Has `compiler` look at each block of the language.
fn compile(language: &str, compiler: &str, standard: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("block");
    let mut seen = 0;
    for (page, block) in blocks_of(language) {
        let around =
            AROUND.iter().find(|(of, begin, ..)| *of == page && block.text.starts_with(begin));
        seen += usize::from(around.is_some());
        let (before, after) = around.map_or(("", ""), |(_, _, before, after)| (before, after));
        fs::write(&file, format!("{before}{}{after}", block.text)).expect("written");
        let mut command = Command::new(compiler);
        command.args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable"]);
        command.args(["-Wno-unused-but-set-variable", standard, "-x"]);
        command.arg(if language == "c" { "c" } else { "c++" }).arg("-I");
        let output = command.arg(checkout().join("guest-sdk/include")).arg(&file).output();
        let output = output.unwrap_or_else(|err| panic!("{compiler}: {err}"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{page}:{}: {told}", block.line);
    }
    let listed =
        AROUND.iter().filter(|(page, ..)| (*page == "docs/src/cxx.md") == (language == "cpp"));
    assert_eq!(seen, listed.count(), "a page no longer has what is listed");
}

#[test]
fn all_c_is_compiled() {
    compile("c", "cc", "-std=gnu11");
}

#[test]
fn all_cxx_is_compiled() {
    if !guests::has_cxx() {
        kvm::other_kind_of_host("the book's C++", "there is no C++ compiler");
        return;
    }
    compile("cpp", "c++", "-std=c++17");
}

#[test]
fn all_python_is_compiled() {
    let python = || Command::new("python3");
    if !python().arg("--version").output().is_ok_and(|output| output.status.success()) {
        kvm::other_kind_of_host("the book's Python", "there is no python3");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("block.py");
    for (page, block) in blocks_of("python") {
        fs::write(&file, &block.text).expect("written");
        let code = "import sys; compile(open(sys.argv[1]).read(), 'block', 'exec')";
        let output =
            python().args(["-c", code]).arg(&file).output().expect("it has started before");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{page}:{}: {told}", block.line);
    }
}

#[test]
fn all_json_and_toml_is_well_formed() {
    for (page, block) in blocks_of("json") {
        for line in block.text.lines() {
            let read = serde_json::from_str::<serde_json::Value>(line);
            assert!(read.is_ok(), "{page}:{}: {read:?}", block.line);
        }
    }
    for (page, block) in blocks_of("toml") {
        let read = block.text.parse::<toml_edit::DocumentMut>();
        assert!(read.is_ok(), "{page}:{}: {read:?}", block.line);
    }
}
