//! Builds what `spacejmp` carries inside itself: the guest kernel, and the programs that the
//! benchmarks time and the demo shows.
//!
//! The kernel needs flags that no other crate may have, so it is built by a cargo of its own
//! in a target directory of its own. The recipe works on the stable toolchain with the
//! host's target: fat LTO compiles the parts of `core` that are used with these flags too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let kernel = root.join("guest-kernel");
    for watched in ["src", "kernel.ld", "flags", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", kernel.join(watched).display());
    }
    for watched in
        ["abi/src", "seg-lock/src", "seg-heap/src", "guest-sdk/src", "guest-sdk/derive/src"]
    {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    // Debug and release carry the same, and this script runs for each: one folder for both, in the
    // one that cargo builds `spacejmp` into (`out` is PROFILE/build/vmm-HASH/out there).
    let target = out.ancestors().nth(4).expect("cargo's folders").join("carried");
    let image = build_kernel(&kernel, &target.join("kernel"));
    fs::copy(&image, out.join("guest-kernel.elf")).expect("copy the kernel image");
    for dir in ["vmm/payload", "examples/wordindex"] {
        for watched in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", root.join(dir).join(watched).display());
        }
    }
    build_programs(&root, &target.join("programs"), &out);
    list_texts(&root, &out);
}

/// The texts the demo reads: the book of this project, as far as it is written.
fn list_texts(root: &Path, out: &Path) {
    let docs = root.join("docs/src");
    println!("cargo::rerun-if-changed={}", docs.display());
    let mut pages = Vec::new();
    let mut folders = vec![docs.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("read the book's folder") {
            let path = entry.expect("read the book's folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    let mut code = String::from("const TEXTS: &[(&str, &str)] = &[\n");
    for page in pages {
        let name = page.strip_prefix(&docs).expect("found below it").display().to_string();
        let name = name.replace('/', "-");
        code += &format!("    ({name:?}, include_str!({:?})),\n", page.display().to_string());
    }
    code += "];\n";
    fs::write(out.join("texts.rs"), code).expect("write the list of texts");
}

/// Builds guest programs as a user would: static, optimised; stripped and compressed to be
/// carried.
fn build_programs(root: &Path, target: &Path, out: &Path) {
    let mut cargo = nested_cargo("-Ctarget-feature=+crt-static");
    cargo
        .args(["build", "--release", "--quiet", "--bins", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .args(["--package", "payload", "--package", "wordindex", "--target-dir"])
        .arg(target)
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        // They are timed, and their numbers are their own.
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false");
    let status = cargo.status().expect("run cargo for the guest programs");
    assert!(status.success(), "the guest programs do not build: {status}");
    let built = target.join("x86_64-unknown-linux-gnu/release");
    let mut all = Vec::new();
    let mut code = String::from("const PROGRAMS: &[(&str, usize)] = &[\n");
    for bin in ["payload", "hello", "wordindex"] {
        let program = fs::read(built.join(bin)).expect("read a guest program");
        code += &format!("    ({bin:?}, {}),\n", program.len());
        all.extend(program);
    }
    code += "];\n";
    fs::write(out.join("programs.rs"), code).expect("write the list of guest programs");
    // As one: most of each is the same two libraries, so that three cost little more than one.
    let packed = zstd::encode_all(&all[..], 19).expect("compress the guest programs");
    fs::write(out.join("programs.zst"), packed).expect("write the guest programs");
}

/// A cargo of its own. What the outer cargo (or clippy) set for its own crates must not reach
/// it.
fn nested_cargo(flags: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    for name in ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    cargo
}

fn build_kernel(kernel: &Path, target: &Path) -> PathBuf {
    // The compiler warns that the feature flags may be refused one day: the toolchain is
    // pinned, and a test disassembles the image. `cargo xtask check clippy-guest-kernel`
    // reads the same file.
    let list = fs::read_to_string(kernel.join("flags")).expect("read guest-kernel/flags");
    let flags = list.replace("{dir}", &kernel.display().to_string());
    let flags = flags.lines().chain(["-Awarnings"]).collect::<Vec<_>>().join("\x1f");
    let mut cargo = nested_cargo(&flags);
    cargo
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(kernel.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .args(["--target", "x86_64-unknown-linux-gnu"]);
    let status = cargo.status().expect("run cargo for the guest kernel");
    assert!(status.success(), "the guest kernel does not build: {status}");
    target.join("x86_64-unknown-linux-gnu/release/guest-kernel")
}
