//! `/proc/sys` and `/sys`: settings that programs read. None of them can be changed from
//! inside. What has no meaning in a VM has the value that indicates this.

use super::{Content, Subject};
use crate::files::NOFILE_MAX;

fn line(text: impl std::fmt::Display) -> Content {
    Ok(format!("{text}\n").into_bytes())
}

pub(super) fn nothing(_: &Subject<'_>) -> Content {
    Ok(b"\n".to_vec())
}

pub(super) fn file_max(_: &Subject<'_>) -> Content {
    line(NOFILE_MAX)
}

pub(super) fn nr_open(_: &Subject<'_>) -> Content {
    line(NOFILE_MAX)
}

/// The host's value, because the pipes are the host's; otherwise Linux's initial value.
fn of_pipes(path: &str, first: u64) -> Content {
    let host = std::fs::read_to_string(path).unwrap_or_default();
    line(host.trim().parse::<u64>().unwrap_or(first))
}

pub(super) fn pipe_max_size(_: &Subject<'_>) -> Content {
    of_pipes("/proc/sys/fs/pipe-max-size", 1 << 20)
}

pub(super) fn pipe_user_pages_hard(_: &Subject<'_>) -> Content {
    of_pipes("/proc/sys/fs/pipe-user-pages-hard", 0)
}

pub(super) fn pipe_user_pages_soft(_: &Subject<'_>) -> Content {
    of_pipes("/proc/sys/fs/pipe-user-pages-soft", 16384)
}

/// `CAP_CHECKPOINT_RESTORE`, the last one that exists.
pub(super) fn cap_last_cap(_: &Subject<'_>) -> Content {
    line(40)
}

pub(super) fn domainname(_: &Subject<'_>) -> Content {
    line("(none)")
}

pub(super) fn hostname(_: &Subject<'_>) -> Content {
    line(rustix::system::uname().nodename().to_string_lossy())
}

pub(super) fn ngroups_max(_: &Subject<'_>) -> Content {
    line(65536)
}

pub(super) fn osrelease(_: &Subject<'_>) -> Content {
    line(rustix::system::uname().release().to_string_lossy())
}

pub(super) fn ostype(_: &Subject<'_>) -> Content {
    line("Linux")
}

pub(super) fn version(_: &Subject<'_>) -> Content {
    line("spacejmp")
}

pub(super) fn overflow_id(_: &Subject<'_>) -> Content {
    line(65534)
}

/// Linux's highest, `PID_MAX_LIMIT`: no number a process can have is above it.
pub(super) fn pid_max(_: &Subject<'_>) -> Content {
    line(4 << 20)
}

pub(super) fn threads_max(of: &Subject<'_>) -> Content {
    line(of.process.machine.max_vcpus())
}

/// The host's: programs of several VMs recognise by it that files they share are from before the
/// last boot, and the clocks count from there.
pub(super) fn boot_id(_: &Subject<'_>) -> Content {
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    let id = host.trim();
    if id.len() == 36 && id.chars().all(is_id) { line(id) } else { Err(abi::Errno::ENOENT) }
}

pub(super) fn entropy_avail(_: &Subject<'_>) -> Content {
    line(256)
}

/// A new one each time it is opened.
pub(super) fn uuid(_: &Subject<'_>) -> Content {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
        .map_err(|error| abi::Errno::from_raw(error.raw_os_error()))?;
    line(uuid_of(u128::from_be_bytes(bytes)))
}

/// Random bits as a UUID of version 4 (RFC 9562, 5.4).
fn uuid_of(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
    let digits = format!("{bits:032x}");
    let part = |range| digits.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// Linux's default. Areas are not limited by number here, only by what they hold.
pub(super) fn max_map_count(_: &Subject<'_>) -> Content {
    line(65530)
}

pub(super) fn mmap_min_addr(_: &Subject<'_>) -> Content {
    line(abi::layout::PRIVATE_START.raw())
}

pub(super) fn overcommit_ratio(_: &Subject<'_>) -> Content {
    line(50)
}

/// Large pages are used automatically, and cannot be switched off.
pub(super) fn huge_enabled(_: &Subject<'_>) -> Content {
    line("[always] madvise never")
}

pub(super) fn huge_defrag(_: &Subject<'_>) -> Content {
    line("always defer defer+madvise [madvise] never")
}

pub(super) fn huge_size(_: &Subject<'_>) -> Content {
    line(abi::PAGE_SIZE_2M)
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
