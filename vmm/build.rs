//! Builds what is embedded in `spacejmp`: the guest kernel.
//!
//! All sources are in the folder `carried`, by symbolic links: in a packaged crate they are regular
//! files. `rustc` is run without cargo: the kernel needs flags that no other crate may have, and
//! only `core` and two crates of ours, so there is nothing to resolve, download or lock. This works
//! on the stable toolchain with the host's target: fat LTO also compiles the parts of `core` that
//! are used with these flags.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let carried = root.join("carried");
    for watched in fs::read_dir(&carried).expect("read the folder of what is carried") {
        let path = watched.expect("read the folder of what is carried").path();
        // Cargo checks the modification time of a link, not of its target.
        let path = path.canonicalize().expect("what is carried is there");
        println!("cargo::rerun-if-changed={}", path.display());
    }
    for watched in ["src", "kernel.ld", "flags"] {
        let path = carried.join("guest-kernel").join(watched).canonicalize();
        println!("cargo::rerun-if-changed={}", path.expect("it is there").display());
    }
    build_kernel(&carried, &out);
}

/// The kernel and the two crates of ours that it needs, optimised as in `guest-kernel/Cargo.toml`.
fn build_kernel(carried: &Path, out: &Path) {
    let kernel = carried.join("guest-kernel");
    // The compiler warns that the feature flags may be rejected one day: the toolchain is
    // pinned, and a test disassembles the image. `cargo xtask check clippy-guest-kernel`
    // reads the same file.
    let list = fs::read_to_string(kernel.join("flags")).expect("read guest-kernel/flags");
    let flags = list.replace("{dir}", &kernel.display().to_string());
    let build = |name: &str, source: &Path, more: &[&str]| {
        let mut rustc = rustc(source);
        rustc.args(flags.lines()).args(["--crate-name", name, "-Cpanic=abort", "-Copt-level=s"]);
        rustc.args(["-Ccodegen-units=1", "-Coverflow-checks=no", "-Cembed-bitcode=yes"]);
        rustc.arg("-L").arg(out).args(more);
        succeed(rustc);
    };
    let out_dir = format!("--out-dir={}", out.display());
    build("abi", &carried.join("abi/lib.rs"), &["--crate-type=rlib", &out_dir]);
    let abi = ["--crate-type=rlib", &out_dir, "--extern=abi"];
    build("seg_lock", &carried.join("seg-lock/lib.rs"), &abi);
    let image = format!("-o{}", out.join("guest-kernel.elf").display());
    let rest = ["-Clto=fat", "-Cstrip=debuginfo", "--extern=abi", "--extern=seg_lock", &image];
    build("guest_kernel", &kernel.join("src/main.rs"), &rest);
}

/// A compiler without the flags that cargo or clippy sets for the crates of this workspace.
fn rustc(source: &Path) -> Command {
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc.arg(source).args(["--edition=2024", "--target", TARGET, "-Awarnings"]);
    rustc
}

fn succeed(mut command: Command) {
    let status = command.status().expect("run rustc");
    assert!(status.success(), "{command:?} failed: {status}");
}
