//! `/proc/sys` and `/sys`: settings that programs read. None of them can be changed from
//! inside. What has no meaning in a VM has the value that indicates this.

use super::{Content, Subject, line};
use crate::files::host;

/// The host's value, because the pipes and what `inotify` queues are the host's; otherwise Linux's initial
/// value.
pub(super) fn of_host(name: &str, first: u64) -> Content {
    let host = std::fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap_or_default();
    line(host.trim().parse::<u64>().unwrap_or(first))
}

pub(super) fn hostname(_: &Subject<'_>) -> Content {
    line(rustix::system::uname().nodename().to_string_lossy())
}

pub(super) fn osrelease(_: &Subject<'_>) -> Content {
    line(rustix::system::uname().release().to_string_lossy())
}

/// The host's: programs of several VMs recognise by it that files they share are from before the
/// last boot, and the clocks count from there.
pub(super) fn boot_id(_: &Subject<'_>) -> Content {
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    let id = host.trim();
    if id.len() == 36 && id.chars().all(is_id) { line(id) } else { Err(abi::Errno::ENOENT) }
}

/// A new one each time it is opened.
pub(super) fn uuid(_: &Subject<'_>) -> Content {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
        .map_err(host)?;
    line(uuid_of(u128::from_be_bytes(bytes)))
}

/// Random bits as a UUID of version 4 (RFC 9562, 5.4).
fn uuid_of(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
    let digits = format!("{bits:032x}");
    let part = |range| digits.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

pub(super) fn huge_defrag(_: &Subject<'_>) -> Content {
    line("always defer defer+madvise [madvise] never")
}

#[cfg(test)]
mod tests {
    use super::uuid_of;

    #[test]
    fn a_uuid_says_that_it_is_random() {
        assert_eq!(uuid_of(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid_of(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
