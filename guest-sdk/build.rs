//! Tells the crate which compiler builds it: where the language leaves a layout open, only programs
//! built by the same compiler may share data.
//!
//! A build script is also required for `links` in `Cargo.toml`: a program can contain only one
//! version of a crate that has it. Two versions of this crate would each have a table of brands,
//! and with them two brands for one type.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(&compiler).arg("--version").output();
    let said = said.unwrap_or_else(|error| panic!("cannot run {}: {error}", compiler.display()));
    let text = String::from_utf8_lossy(&said.stdout);
    // `rustc 1.95.0 (59807616e 2026-04-14)`: the name and the number.
    let name = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert!(name.starts_with("rustc "), "{} --version says {text:?}", compiler.display());
    println!("cargo::rustc-env=SPACEJMP_COMPILER={name}");
}
