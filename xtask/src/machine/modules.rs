//! Kernel modules and other ELF files as they come from packages: which modules must be
//! loaded before which, unpacking them, and whether a program runs without a loader.
//! (`modules.dep` is made when a kernel is installed, which ours is not.)

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// A module file found by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// `root` and all it depends on below `folder`, in the order to load them.
///
/// # Errors
/// When a module is missing or cannot be read.
pub(super) fn load_order(folder: &Path, root: &str) -> Result<Vec<Module>> {
    let mut all = Vec::new();
    collect(folder, &mut all).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut order = Vec::new();
    visit(root, &all, &mut order)?;
    Ok(order)
}

fn visit(name: &str, all: &[PathBuf], order: &mut Vec<Module>) -> Result<()> {
    if order.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let found = all.iter().find(|path| module_name(path).as_deref() == Some(name));
    let path = found.with_context(|| format!("the kernel package has no module {name}"))?;
    for needed in depends(&read(path)?) {
        visit(&needed, all, order)?;
    }
    order.push(Module { name: name.to_owned(), path: path.clone() });
    Ok(())
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// `kvm-intel.ko.xz` -> `kvm_intel`: file names may use either character, the kernel uses
/// one.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// The module's bytes, unpacked.
///
/// # Errors
/// When it cannot be read or is packed in a way this does not know.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    match path.extension().and_then(OsStr::to_str) {
        Some("ko") => fs::read(path).with_context(|| format!("cannot read {shown}")),
        Some("xz") => {
            let output =
                Command::new("xz").arg("-dc").arg(path).output().context("cannot start xz")?;
            if !output.status.success() {
                bail!("xz cannot unpack {shown}");
            }
            Ok(output.stdout)
        }
        _ => bail!("{shown} is compressed in an unknown format"),
    }
}

/// Names in the `depends=` entry of the module's `.modinfo` section: strings that each end
/// with a zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let rest = &module[at + key.len()..];
    let value = rest.split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// Whether a 64-bit ELF executable asks for a dynamic loader, which the machines do not
/// have; `None` for other files.
pub(super) fn interpreter_is_needed(data: &[u8]) -> Option<bool> {
    let header = FileHeader64::<Endianness>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, data).ok()?;
    Some(segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(folder: &Path, name: &str, depends: &str) {
        let info = format!("\x7fELF...license=GPL\0depends={depends}\0retpoline=Y\0");
        fs::write(folder.join(name), info).expect("write a module");
    }

    #[test]
    fn modules_are_loaded_after_what_they_depend_on_and_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("virt")).expect("a folder");
        module(&folder.path().join("virt"), "irqbypass.ko", "");
        module(folder.path(), "kvm.ko", "irqbypass");
        module(folder.path(), "ccp.ko", "");
        module(folder.path(), "kvm-amd.ko", "kvm,ccp,irqbypass");
        let order = load_order(folder.path(), "kvm_amd").expect("all modules are there");
        let names: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["irqbypass", "kvm", "ccp", "kvm_amd"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        module(folder.path(), "kvm.ko", "irqbypass");
        let error = load_order(folder.path(), "kvm").expect_err("irqbypass is missing");
        assert!(error.to_string().contains("irqbypass"));
    }

    #[test]
    fn this_test_program_needs_no_loader_and_a_text_is_no_program() {
        let ourselves = std::env::current_exe().and_then(fs::read).expect("our own file");
        assert_eq!(interpreter_is_needed(&ourselves), Some(false));
        assert_eq!(interpreter_is_needed(b"#!/bin/sh"), None);
    }
}
