//! Writes the archive format Linux unpacks at boot (newc, `Documentation/driver-api/
//! early-userspace/buffer-format.rst`). It contains no dates and no inode numbers of the
//! host, so the same files make the same archive and a machine's run can be repeated
//! exactly.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

struct Entry {
    mode: u32,
    data: Vec<u8>,
}

/// The tree of files to archive; paths are absolute in the machine.
#[derive(Default)]
pub(super) struct Archive {
    /// Sorted by path, which puts folders before what is in them, as unpacking needs.
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds an empty folder and those above it.
    pub(super) fn folder(&mut self, path: &str) {
        self.put(path, DIRECTORY | 0o755, Vec::new());
    }

    /// Adds a file; `permissions` are the lower nine mode bits.
    pub(super) fn file(&mut self, path: &str, permissions: u32, data: impl Into<Vec<u8>>) {
        self.put(path, REGULAR | permissions & 0o777, data.into());
    }

    /// Adds a symbolic link with the text `to`.
    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.put(path, LINK | 0o777, to.as_bytes().to_vec());
    }

    /// Adds a file or a whole folder of the host. Links inside a folder stay links.
    ///
    /// # Errors
    /// What cannot be read, is neither file, folder nor link, or has a name that is not UTF-8.
    pub(super) fn host_tree(&mut self, host: &Path, path: &str) -> Result<()> {
        let metadata =
            fs::metadata(host).with_context(|| format!("cannot add {}", host.display()))?;
        self.host_entry(host, path, &metadata)
    }

    fn host_entry(&mut self, host: &Path, path: &str, metadata: &fs::Metadata) -> Result<()> {
        let why = || format!("cannot add {}", host.display());
        let permissions = metadata.permissions().mode();
        if metadata.is_file() {
            self.file(path, permissions, fs::read(host).with_context(why)?);
        } else if metadata.is_symlink() {
            let to = fs::read_link(host).with_context(why)?;
            self.link(path, to.to_str().with_context(why)?);
        } else if metadata.is_dir() {
            self.put(path, DIRECTORY | permissions & 0o777, Vec::new());
            for entry in fs::read_dir(host).with_context(why)? {
                let entry = entry.with_context(why)?;
                let name = entry.file_name();
                let name = name.to_str().with_context(why)?;
                let metadata = entry.metadata().with_context(why)?;
                self.host_entry(&entry.path(), &format!("{path}/{name}"), &metadata)?;
            }
        } else {
            bail!("cannot add {}: neither a file nor a folder", host.display());
        }
        Ok(())
    }

    fn put(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            let above = Entry { mode: DIRECTORY | 0o755, data: Vec::new() };
            self.entries.entry(path[..end].to_owned()).or_insert(above);
        }
        self.entries.insert(path.to_owned(), Entry { mode, data });
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// When a file does not fit the format's 32-bit sizes.
    pub(super) fn into_bytes(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let Ok(size) = u32::try_from(entry.data.len()) else {
                bail!("{path} is too large for an initramfs");
            };
            push_entry(&mut bytes, number, path, entry.mode, size, &entry.data);
        }
        push_entry(&mut bytes, 0, "TRAILER!!!", 0, 0, &[]);
        Ok(bytes)
    }
}

fn push_entry(bytes: &mut Vec<u8>, number: u32, path: &str, mode: u32, size: u32, data: &[u8]) {
    let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
    bytes.extend_from_slice(b"070701");
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    for field in [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(path.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(data);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back by the format's description: path, mode, data of each entry.
    fn parse(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..][..8]).expect("ASCII");
                u32::from_str_radix(text, 16).expect("eight hexadecimal digits")
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            assert_eq!(bytes[at + 110 + name_size - 1], 0);
            let name = String::from_utf8(name.to_vec()).expect("UTF-8");
            let data = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), data);
                return found;
            }
            found.push((name, mode, bytes[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
    }

    #[test]
    fn what_goes_in_comes_out_in_an_order_that_can_be_unpacked() {
        let mut archive = Archive::default();
        archive.file("/bin/tool", 0o755, *b"12345");
        archive.link("bin/sh", "tool");
        archive.folder("/a/b");
        archive.file("/a/b/c-d", 0o100_644, *b"");
        let found = parse(&archive.into_bytes().expect("small files"));
        let expected: [(&str, u32, &[u8]); 6] = [
            ("a", 0o040_755, b""),
            ("a/b", 0o040_755, b""),
            ("a/b/c-d", 0o100_644, b""),
            ("bin", 0o040_755, b""),
            ("bin/sh", 0o120_777, b"tool"),
            ("bin/tool", 0o100_755, b"12345"),
        ];
        let expected = expected.map(|(path, mode, data)| (path.to_owned(), mode, data.to_vec()));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_folder_of_the_host_comes_with_its_links_and_rights() {
        let host = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(host.path().join("inner")).expect("create a folder");
        fs::write(host.path().join("inner/x"), "data").expect("write a file");
        let rights = fs::Permissions::from_mode(0o751);
        fs::set_permissions(host.path().join("inner/x"), rights).expect("chmod");
        std::os::unix::fs::symlink("inner/x", host.path().join("y")).expect("link");

        let mut archive = Archive::default();
        archive.host_tree(host.path(), "/work/t").expect("readable files");
        let found = parse(&archive.into_bytes().expect("small files"));
        assert!(found.contains(&("work/t/inner/x".into(), 0o100_751, b"data".to_vec())));
        assert!(found.contains(&("work/t/y".into(), 0o120_777, b"inner/x".to_vec())));
    }

    #[test]
    fn what_is_neither_file_nor_folder_is_refused() {
        let refused = Archive::default().host_tree(Path::new("/dev/null"), "/null");
        assert!(refused.is_err_and(|error| error.to_string().contains("/dev/null")));
    }
}
