//! The name space as mounts: our own tree, and each granted directory.

use std::fmt::Write;

use super::{Content, Subject};
use crate::files::Mount;

/// Escapes a path as the kernel does in these files: what would split a field becomes an octal
/// escape.
fn escaped(path: &[u8]) -> String {
    let mut text = String::new();
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\{byte:03o}");
            }
            0x21..=0x7e => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:03o}");
            }
        }
    }
    text
}

/// Names of file systems by their magic numbers (`include/uapi/linux/magic.h`); programs hardly use
/// the name for more than telling network and memory from disk.
fn type_name(magic: u64) -> &'static str {
    match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        0x2fc1_2fc1 => "zfs",
        0x9fa0 => "proc",
        0x6265_6572 => "sysfs",
        _ => "unknown",
    }
}

fn options(mount: &Mount) -> &'static str {
    if mount.read_only { "ro" } else { "rw" }
}

/// The source of a mount. A grant's host directory is not revealed.
fn source(mount: &Mount) -> &'static str {
    match type_name(mount.magic) {
        "proc" => "proc",
        "sysfs" => "sysfs",
        _ if mount.granted => "grant",
        _ => "spacejmp",
    }
}

pub(super) fn mounts(of: &Subject<'_>) -> Content {
    let mut text = String::new();
    for mount in of.process.files.mounts() {
        let (path, kind) = (escaped(&mount.path), type_name(mount.magic));
        let _ = writeln!(text, "{} {path} {kind} {},relatime 0 0", source(&mount), options(&mount));
    }
    Ok(text.into_bytes())
}

/// `proc_pid_mountinfo(5)`.
pub(super) fn mountinfo(of: &Subject<'_>) -> Content {
    let mut text = String::new();
    for (id, mount) in (1..).zip(of.process.files.mounts()) {
        let (path, kind) = (escaped(&mount.path), type_name(mount.magic));
        let parent = if id == 1 { 0 } else { 1 };
        let (major, minor) = mount.device;
        let _ = writeln!(
            text,
            "{id} {parent} {major}:{minor} / {path} {},relatime - {kind} {} {}",
            options(&mount),
            source(&mount),
            options(&mount)
        );
    }
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn a_path_stays_one_field() {
        assert_eq!(escaped(b"/a b\\c\n#"), "/a\\040b\\134c\\012\\043");
        assert_eq!(escaped("/\u{e4}".as_bytes()), "/\\303\\244");
        assert_eq!(escaped(b"/plain-1.2_x"), "/plain-1.2_x");
    }
}
