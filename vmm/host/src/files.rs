//! Reading the small text files of `/proc` and `/sys` below a root.
//!
//! The root is `/`; tests pass their own folder, so that every kind of host can be
//! described on any host. A file that is missing or unreadable is `None`, never an error:
//! the reports say "not available" for it.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The files of one host.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    root: PathBuf,
}

impl Files {
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file without the white space around it.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A boolean module parameter: the kernel prints `Y`/`N`, older ones `1`/`0`.
    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        match self.text(path)?.as_str() {
            "Y" | "1" => Some(true),
            "N" | "0" => Some(false),
            _ => None,
        }
    }

    /// The choice in brackets: `always [madvise] never`.
    pub(crate) fn choice(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_, rest) = text.split_once('[')?;
        let (chosen, _) = rest.split_once(']')?;
        Some(chosen.to_owned())
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a folder, sorted; empty when it cannot be read.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The first `flags` line of `/proc/cpuinfo`.
    pub(crate) fn cpu_flags(&self) -> Option<Vec<String>> {
        let text = self.text("/proc/cpuinfo")?;
        let line = text.lines().find(|line| line.starts_with("flags"))?;
        let (_, flags) = line.split_once(':')?;
        Some(flags.split_whitespace().map(str::to_owned).collect())
    }

    /// `Some(true)` if the kernel's table of devices has `kvm`, whether or not a node
    /// for it exists here.
    pub(crate) fn kernel_has_kvm_device(&self) -> Option<bool> {
        let text = self.text("/proc/misc")?;
        Some(text.lines().any(|line| line.split_whitespace().nth(1) == Some("kvm")))
    }

    /// Whether anything indicates that we are inside a container.
    pub(crate) fn in_container(&self) -> bool {
        ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"]
            .iter()
            .any(|path| self.exists(path))
            || self.text("/proc/1/environ").is_some_and(|environment| {
                environment.split('\0').any(|entry| entry.starts_with("container="))
            })
    }
}

impl AsRef<Path> for Files {
    fn as_ref(&self) -> &Path {
        &self.root
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A made-up host for tests.

    use super::Files;
    use std::fs;

    /// A host that has just these files. The folder is removed when the guard is dropped.
    pub(crate) fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let files = Files::at(folder.path());
        (folder, files)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::host;

    #[test]
    fn values_are_read_or_absent_but_never_invented() {
        let (_guard, files) =
            host(&[("/a", "Y\n"), ("/b", "always [madvise] never\n"), ("/c", "x")]);
        assert_eq!(files.flag("/a"), Some(true));
        assert_eq!(files.flag("/c"), None);
        assert_eq!(files.choice("/b").as_deref(), Some("madvise"));
        assert_eq!(files.choice("/c"), None);
        assert_eq!(files.number("/c"), None);
        assert_eq!(files.text("/none"), None);
        assert!(files.names("/none").is_empty());
        assert_eq!(files.cpu_flags(), None);
        assert_eq!(files.kernel_has_kvm_device(), None);
    }

    #[test]
    fn the_device_is_known_from_the_kernels_table() {
        let (_guard, files) = host(&[("/proc/misc", " 57 userfaultfd\n232 kvm\n")]);
        assert_eq!(files.kernel_has_kvm_device(), Some(true));
        let (_guard, files) = host(&[("/proc/misc", "57 kvm-like\n")]);
        assert_eq!(files.kernel_has_kvm_device(), Some(false));
    }
}
