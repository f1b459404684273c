//! Following a pointer of a VAS is following a pointer: the same machine code as for a plain
//! reference, instruction for instruction.
//!
//! `codegen/lib.rs` is compiled optimised, to assembly, as a package of its own, so that nothing but
//! the library's own code takes part.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the pairs; the assembly.
fn assembly() -> String {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("codegen");
    fs::create_dir_all(folder.join("src")).expect("cargo has made the folder around it");
    let manifest = format!(
        "[package]\nname = \"codegen\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\nspacejmp = {{ path = {sdk:?} }}\n\n\
         [profile.release]\ncodegen-units = 1\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest).expect("written");
    fs::copy(sdk.join("../Cargo.lock"), folder.join("Cargo.lock")).expect("the workspace has one");
    fs::copy(sdk.join("tests/codegen/lib.rs"), folder.join("src/lib.rs")).expect("it is here");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let target = folder.join("target");
    let mut command = Command::new(cargo);
    command.current_dir(&folder).env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS");
    command.args(["rustc", "--release", "--offline", "--quiet", "--lib"]);
    command.args(["--target", "x86_64-unknown-linux-gnu", "--", "--emit=asm"]);
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    newest(&target.join("x86_64-unknown-linux-gnu/release/deps"))
}

/// The assembly written last: an older compiler's may lie beside it.
fn newest(folder: &Path) -> String {
    let paths = fs::read_dir(folder).expect("cargo has made it").map(|entry| {
        let path: PathBuf = entry.expect("it can be listed").path();
        let time = fs::metadata(&path).and_then(|meta| meta.modified()).expect("it has a time");
        (time, path)
    });
    let is_assembly = |path: &Path| path.extension().is_some_and(|kind| kind == "s");
    let (_, path) = paths.filter(|(_, path)| is_assembly(path)).max().expect("there is assembly");
    fs::read_to_string(path).expect("assembly is text")
}

/// The functions of the assembly: the instructions of each, with local labels renumbered.
struct Functions {
    bodies: HashMap<String, Vec<String>>,
    /// Functions that the compiler found to be others.
    same: HashMap<String, String>,
}

impl Functions {
    fn of(assembly: &str) -> Functions {
        let mut functions = Functions { bodies: HashMap::new(), same: HashMap::new() };
        let mut current: Option<String> = None;
        for line in assembly.lines().map(|line| line.split('#').next().unwrap_or("").trim_end()) {
            let text = line.trim_start();
            if let Some(label) = line.strip_suffix(':').filter(|label| !label.starts_with('.')) {
                current = Some(label.to_owned());
            } else if let Some((alias, other)) =
                text.strip_prefix(".set").and_then(|rest| rest.split_once(','))
            {
                functions.same.insert(alias.trim().to_owned(), other.trim().to_owned());
            } else if text.starts_with(".Lfunc_end") {
                current = None;
            } else if let Some(name) = &current
                && !text.is_empty()
                && (!text.starts_with('.') || text.ends_with(':'))
            {
                functions.bodies.entry(name.clone()).or_default().push(text.to_owned());
            }
        }
        for body in functions.bodies.values_mut() {
            let labels: Vec<_> =
                body.iter().filter_map(|line| line.strip_suffix(':')).map(str::to_owned).collect();
            for (number, label) in labels.iter().enumerate() {
                body.iter_mut().for_each(|line| *line = line.replace(label, &format!("L{number}")));
            }
        }
        functions
    }

    /// The instructions of the function `name`, whose symbol is a mangled one.
    fn body(&self, name: &str) -> &[String] {
        let part = format!("{}{name}", name.len());
        let symbols = self.bodies.keys().chain(self.same.keys());
        let mut symbol = symbols
            .filter(|symbol| symbol.contains(&part))
            .max()
            .unwrap_or_else(|| panic!("{name} was not compiled: {:?}", self.bodies.keys()));
        while let Some(other) = self.same.get(symbol) {
            symbol = other;
        }
        &self.bodies[symbol]
    }
}

#[test]
fn a_pointer_of_a_vas_compiles_to_what_a_reference_compiles_to() {
    let functions = Functions::of(&assembly());
    for (of_a_vas, plain) in [
        ("vptr_read", "plain_read"),
        ("vbox_read", "plain_box_read"),
        ("vptr_write", "plain_write"),
        ("vptr_walk", "plain_walk"),
        ("vbox_walk", "plain_walk"),
    ] {
        let body = functions.body(of_a_vas);
        assert!(body.len() >= 2 && body.iter().any(|line| line.starts_with("ret")), "{body:?}");
        assert_eq!(body, functions.body(plain), "{of_a_vas} against {plain}");
    }
    let (checked, plain) = (functions.body("checked_read"), functions.body("plain_read"));
    assert_ne!(checked, plain, "a check would be seen");
}
