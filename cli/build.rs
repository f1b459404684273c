//! Links statically where no flag says so: after `cargo install`.
//!
//! In the checkout, `.cargo/config.toml` has `-C target-feature=+crt-static`. Cargo takes no settings from a package
//! that it installs, and would link the system's libraries dynamically: a file that only runs where these are, and that
//! finds none of them in a VM, where `spacejmp demo` runs it.
//!
//! A build script can give arguments to the linker only. `-static-pie` is what `rustc` gives it with the flag, too. But
//! without the flag it also names shared libraries. So a folder that the linker searches first has a linker script under
//! each of their names, which leads to the archives that `rustc` names with the flag.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What `rustc` names for a dynamic executable, and what is linked instead.
const REPLACED: [(&str, &[&str]); 7] = [
    ("gcc_s", &["gcc_eh", "gcc", "c"]),
    ("c", &["c", "gcc_eh", "gcc"]),
    ("m", &["m"]),
    ("rt", &["rt"]),
    ("pthread", &["pthread"]),
    ("util", &["util"]),
    ("dl", &["dl"]),
];

fn main() {
    // The script itself is compiled anew when it changes; without this line cargo would run it whenever any file of
    // the package changes.
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let has = |key, value| env::var(key).is_ok_and(|list| list.split(',').any(|one| one == value));
    if !has("CARGO_CFG_TARGET_ENV", "gnu") || has("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        return;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    match replace(&folder) {
        Ok(()) => {
            println!("cargo::rustc-link-search=native={}", folder.display());
            println!("cargo::rustc-link-arg=-static-pie");
        }
        Err(error) => println!("cargo::error={error}"),
    }
}

/// Writes the linker scripts.
fn replace(folder: &Path) -> Result<(), String> {
    for (shared, archives) in REPLACED {
        let files = archives.iter().map(|name| archive(name)).collect::<Result<Vec<_>, _>>()?;
        let files: Vec<_> = files.iter().map(|path| format!("\"{}\"", path.display())).collect();
        let path = folder.join(format!("lib{shared}.so"));
        fs::write(&path, format!("GROUP ( {} )\n", files.join(" ")))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Where the compiler that links has an archive.
fn archive(name: &str) -> Result<PathBuf, String> {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let file = format!("lib{name}.a");
    let asked = Command::new(&linker).arg(format!("-print-file-name={file}")).output();
    let said = asked.map_err(|error| format!("cannot run {}: {error}", linker.display()))?;
    let path = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    // Of a file that is not there it repeats the name.
    if !path.is_absolute() {
        return Err(format!(
            "{} has no {file}, and spacejmp is one static file: install a static C library (Debian: gcc \
             libc6-dev; Fedora: gcc glibc-static)",
            linker.display()
        ));
    }
    Ok(path)
}
