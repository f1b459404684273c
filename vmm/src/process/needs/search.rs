//! Where a dynamic loader would find a library: in the order of glibc's (ld.so(8)), which is also
//! musl's as far as it goes.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::linked::Linked;
use crate::files::Files;
use crate::process::libraries::LIST;

/// Where loaders look when nothing else names a directory.
const USUAL: [&str; 7] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];
/// The longest list of libraries that is read.
const LIST_BYTES: u64 = 16 << 20;

/// Where a library is.
pub(super) enum Found {
    /// Among what the program may see.
    Visible { path: Vec<u8>, file: Arc<File> },
    /// On the host, but not among that.
    OnHost(PathBuf),
    /// In none of the places.
    Nowhere,
}

/// Whether a library is the system's, which contains calls that this program does not make.
pub(super) fn is_systems(path: &[u8]) -> bool {
    let dir = path.rsplitn(2, |byte| *byte == b'/').last().unwrap_or_default();
    USUAL.iter().any(|usual| usual.as_bytes() == dir)
}

/// What decides where libraries are found.
pub(super) struct Search<'a> {
    files: &'a Files,
    /// LD_LIBRARY_PATH as the program gets it.
    named: Vec<u8>,
    /// Name and path of each library in the loader's list.
    list: Vec<(Vec<u8>, Vec<u8>)>,
    /// Without a tree, what is on the host can be granted.
    host_too: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(files: &'a Files, env: &[Vec<u8>], host_too: bool) -> Search<'a> {
        let named = env.iter().find_map(|line| line.strip_prefix(b"LD_LIBRARY_PATH="));
        let list = files.open_to_read(LIST.as_bytes()).ok().and_then(|it| read(&it.file));
        let list = parse_list(&list.unwrap_or_default()).unwrap_or_default();
        Search { files, named: named.unwrap_or_default().to_vec(), list, host_too }
    }

    /// Looks for library `name`, which the file at `path` needs.
    pub(super) fn library(&self, name: &[u8], path: &[u8], needs: &Linked) -> Found {
        let mut places = Vec::new();
        if name.contains(&b'/') {
            places.push(name.to_vec());
        } else {
            let origin = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            let origin = path.get(..origin).unwrap_or_default();
            let own = [&*needs.rpath, &*self.named, &*needs.runpath];
            for dir in own.iter().flat_map(|list| list.split(|byte| matches!(byte, b':' | b';'))) {
                if !dir.is_empty() {
                    places.push([&with_origin(dir, origin), &b"/"[..], name].concat());
                }
            }
            let listed = self.list.iter().filter(|(listed, _)| listed == name);
            places.extend(listed.map(|(_, path)| path.clone()));
            places.extend(USUAL.iter().map(|dir| [dir.as_bytes(), b"/", name].concat()));
        }
        for place in &places {
            if let Ok(found) = self.files.open_to_read(place)
                && is_for_us(&found.file)
            {
                return Found::Visible { path: place.clone(), file: found.file };
            }
        }
        let on_host = places.iter().map(|place| Path::new(OsStr::from_bytes(place)));
        let on_host = on_host.filter(|_| self.host_too);
        let mut files = on_host.filter(|place| File::open(place).is_ok_and(|it| is_for_us(&it)));
        files.next().map_or(Found::Nowhere, |place| Found::OnHost(place.to_owned()))
    }
}

fn with_origin(dir: &[u8], origin: &[u8]) -> Vec<u8> {
    for name in [&b"${ORIGIN}"[..], b"$ORIGIN"] {
        if let Some(at) = dir.windows(name.len()).position(|part| part == name) {
            let (before, rest) = dir.split_at(at);
            return [before, origin, rest.get(name.len()..).unwrap_or_default()].concat();
        }
    }
    dir.to_vec()
}

/// Whether it is an ELF file for 64-bit x86: loaders pass over others.
fn is_for_us(file: &File) -> bool {
    const X86_64: [u8; 2] = [62, 0];
    let mut head = [0; 20];
    file.metadata().is_ok_and(|facts| facts.is_file())
        && file.read_exact_at(&mut head, 0).is_ok()
        && head.starts_with(b"\x7fELF\x02")
        && head.ends_with(&X86_64)
}

fn read(file: &File) -> Option<Vec<u8>> {
    let bytes = file.metadata().ok()?.len().min(LIST_BYTES);
    let mut all = vec![0; bytes as usize];
    file.read_exact_at(&mut all, 0).ok()?;
    Some(all)
}

/// The entries of `/etc/ld.so.cache` for 64-bit x86 (glibc's `dl-cache.h`, format 1.1).
fn parse_list(list: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER_BYTES: usize = 48;
    const ENTRY_BYTES: usize = 24;
    /// FLAG_X8664_LIB64 | FLAG_ELF_LIBC6.
    const FOR_X86_64: u32 = 0x0303;
    let word = |at: usize| {
        let bytes = list.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let text = |at: u32| {
        let rest = list.get(at as usize..)?;
        rest.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
    };
    list.starts_with(MAGIC).then_some(())?;
    let most = list.len() / ENTRY_BYTES;
    let entries = 0..(word(MAGIC.len())? as usize).min(most);
    let found = entries.filter_map(|index| {
        let at = HEADER_BYTES + index * ENTRY_BYTES;
        (word(at)? == FOR_X86_64).then_some(())?;
        Some((text(word(at + 4)?)?, text(word(at + 8)?)?))
    });
    Some(found.collect())
}

#[cfg(test)]
mod tests {
    use super::{is_systems, parse_list, with_origin};

    fn list(entries: &[(u32, &str, &str)]) -> Vec<u8> {
        let mut bytes = b"glibc-ld.so.cache1.1".to_vec();
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.resize(48, 0);
        let mut strings = Vec::new();
        for (flags, name, path) in entries {
            let at = |len: usize| (48 + entries.len() * 24 + len) as u32;
            let name_at = at(strings.len());
            strings.extend(name.bytes().chain([0]));
            let path_at = at(strings.len());
            strings.extend(path.bytes().chain([0]));
            for word in [*flags, name_at, path_at, 0, 0, 0] {
                bytes.extend(word.to_le_bytes());
            }
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn the_loaders_list_is_read_and_other_processors_libraries_are_passed_over() {
        let bytes = list(&[(0x303, "liba.so", "/lib/liba.so"), (3, "liba.so", "/lib32/liba.so")]);
        let found = parse_list(&bytes).unwrap();
        assert_eq!(found, [(b"liba.so".to_vec(), b"/lib/liba.so".to_vec())]);
    }

    #[test]
    fn a_list_with_any_byte_changed_or_cut_off_is_read_without_a_panic() {
        let bytes = list(&[(0x303, "liba.so", "/lib/liba.so")]);
        for at in 0..bytes.len() {
            let _any = parse_list(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] = 0xff;
            let _any = parse_list(&changed);
        }
        assert_eq!(parse_list(b"no list"), None);
    }

    #[test]
    fn origin_is_the_folder_of_the_file_that_asks() {
        assert_eq!(with_origin(b"$ORIGIN/../lib", b"/a/bin"), b"/a/bin/../lib");
        assert_eq!(with_origin(b"${ORIGIN}", b"/a"), b"/a");
        assert_eq!(with_origin(b"/usr/lib", b"/a"), b"/usr/lib");
        assert!(is_systems(b"/lib/libc.so.6") && !is_systems(b"/opt/lib/libc.so.6"));
        assert!(is_systems(b"/usr/lib/x86_64-linux-gnu/libz.so.1") && !is_systems(b"libz.so.1"));
    }
}
