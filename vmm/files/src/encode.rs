//! Linux's x86-64 structures as bytes, and back: `stat`, `statx`, `statfs`,
//! `linux_dirent64`, pairs of `timespec`.
//!
//! Layouts: `arch/x86/include/uapi/asm/stat.h`, `include/uapi/linux/stat.h`,
//! `include/uapi/asm-generic/statfs.h`, `include/linux/dirent.h`. Byte order is the CPU's,
//! little-endian.

use rustix::fs::{Stat, StatFs, Statx, StatxTimestamp, Timespec, Timestamps};

/// Access and modification time, as `utimensat` takes them.
pub type Times = Timestamps;

/// Little-endian fields one after another.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn i64(self, value: i64) -> Self {
        self.u64(value.cast_unsigned())
    }

    fn time(self, time: StatxTimestamp) -> Self {
        self.i64(time.tv_sec).u32(time.tv_nsec).u32(0)
    }

    /// The fields, padded with zeros. Every caller's fields fit by construction, which
    /// the tests below check.
    fn pad<const N: usize>(self) -> [u8; N] {
        let mut out = [0; N];
        for (to, from) in out.iter_mut().zip(self.0) {
            *to = from;
        }
        out
    }
}

/// A file's attributes as `struct stat` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinuxStat {
    /// Device of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Links to it.
    pub nlink: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for a device.
    pub rdev: u64,
    /// Bytes.
    pub size: i64,
    /// Preferred transfer size.
    pub blksize: i64,
    /// Blocks of 512 bytes in use.
    pub blocks: i64,
    /// Last access: seconds and nanoseconds.
    pub atime: (i64, u64),
    /// Last modification.
    pub mtime: (i64, u64),
    /// Last change of attributes.
    pub ctime: (i64, u64),
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the host's field types differ between its libraries; the values fit by Linux's ABI"
)]
impl From<Stat> for LinuxStat {
    fn from(stat: Stat) -> LinuxStat {
        LinuxStat {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            mode: stat.st_mode as u32,
            uid: stat.st_uid as u32,
            gid: stat.st_gid as u32,
            rdev: stat.st_rdev as u64,
            size: stat.st_size as i64,
            blksize: stat.st_blksize as i64,
            blocks: stat.st_blocks as i64,
            atime: (stat.st_atime as i64, stat.st_atime_nsec as u64),
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

impl LinuxStat {
    /// `struct stat`.
    #[must_use]
    pub fn encode(&self) -> [u8; 144] {
        let fields = Fields::default()
            .u64(self.dev)
            .u64(self.ino)
            .u64(self.nlink)
            .u32(self.mode)
            .u32(self.uid)
            .u32(self.gid)
            .u32(0)
            .u64(self.rdev)
            .i64(self.size)
            .i64(self.blksize)
            .i64(self.blocks);
        [self.atime, self.mtime, self.ctime]
            .into_iter()
            .fold(fields, |fields, (sec, nsec)| fields.i64(sec).u64(nsec))
            .pad()
    }

    /// `struct statx` with what `stat` knows (`STATX_BASIC_STATS`).
    pub(super) fn encode_statx(&self) -> [u8; 256] {
        let time = |fields: Fields, (sec, nsec): (i64, u64)| {
            fields.i64(sec).u32(u32::try_from(nsec).unwrap_or(0)).u32(0)
        };
        let fields = Fields::default()
            .u32(libc::STATX_BASIC_STATS)
            .u32(u32::try_from(self.blksize).unwrap_or(0))
            .u64(0)
            .u32(u32::try_from(self.nlink).unwrap_or(u32::MAX))
            .u32(self.uid)
            .u32(self.gid)
            .u32(self.mode & 0xffff)
            .u64(self.ino)
            .i64(self.size)
            .i64(self.blocks)
            .u64(0);
        let fields = time(fields, self.atime);
        let fields = time(fields, (0, 0));
        let fields = time(fields, self.ctime);
        time(fields, self.mtime)
            .u32(rustix::fs::major(self.rdev))
            .u32(rustix::fs::minor(self.rdev))
            .u32(rustix::fs::major(self.dev))
            .u32(rustix::fs::minor(self.dev))
            .pad()
    }
}

/// `struct statx`.
pub(super) fn statx(x: &Statx) -> [u8; 256] {
    Fields::default()
        .u32(x.stx_mask)
        .u32(x.stx_blksize)
        .u64(x.stx_attributes.bits())
        .u32(x.stx_nlink)
        .u32(x.stx_uid)
        .u32(x.stx_gid)
        .u16(x.stx_mode)
        .u16(0)
        .u64(x.stx_ino)
        .u64(x.stx_size)
        .u64(x.stx_blocks)
        .u64(x.stx_attributes_mask.bits())
        .time(x.stx_atime)
        .time(x.stx_btime)
        .time(x.stx_ctime)
        .time(x.stx_mtime)
        .u32(x.stx_rdev_major)
        .u32(x.stx_rdev_minor)
        .u32(x.stx_dev_major)
        .u32(x.stx_dev_minor)
        .u64(x.stx_mnt_id)
        .u32(x.stx_dio_mem_align)
        .u32(x.stx_dio_offset_align)
        .pad()
}

/// `struct statfs`. The file system's id is left out: it would tell one host file system
/// from another, which no program needs.
#[allow(clippy::unnecessary_cast, reason = "field types differ between the host's libraries")]
pub(super) fn statfs(s: &StatFs) -> [u8; 120] {
    statfs_of([
        s.f_type as u64,
        s.f_bsize as u64,
        s.f_blocks as u64,
        s.f_bfree as u64,
        s.f_bavail as u64,
        s.f_files as u64,
        s.f_ffree as u64,
        0,
        s.f_namelen as u64,
        s.f_frsize as u64,
        s.f_flags as u64,
    ])
}

/// `struct statfs` from its words in order; the eighth is the id.
pub(super) fn statfs_of(words: [u64; 11]) -> [u8; 120] {
    words.into_iter().fold(Fields::default(), Fields::u64).pad()
}

/// Appends one `struct linux_dirent64` if it and what is there fit in `capacity` bytes.
/// Returns whether it did.
pub(super) fn dirent(
    out: &mut Vec<u8>,
    capacity: usize,
    ino: u64,
    next: u64,
    kind: u8,
    name: &[u8],
) -> bool {
    // Header of 19 bytes, the name, a NUL, then up to the next multiple of 8.
    let len = (19 + name.len() + 1).next_multiple_of(8);
    let Ok(reclen) = u16::try_from(len) else {
        return false;
    };
    if out.len() + len > capacity {
        return false;
    }
    let end = out.len() + len;
    let head = Fields::default().u64(ino).u64(next).u16(reclen);
    out.extend_from_slice(&head.0);
    out.push(kind);
    out.extend_from_slice(name);
    out.resize(end, 0);
    true
}

/// The two `struct timespec` of `utimensat`, word by word.
#[must_use]
pub fn times_of(words: [u64; 4]) -> Times {
    let [a_sec, a_nsec, m_sec, m_nsec] = words.map(u64::cast_signed);
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time(a_sec, a_nsec), last_modification: time(m_sec, m_nsec) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn sample() -> LinuxStat {
        LinuxStat {
            dev: 0x0801,
            ino: 2,
            nlink: 3,
            mode: 0o100_644,
            uid: 5,
            gid: 6,
            rdev: 0x0103,
            size: -8,
            blksize: 9,
            blocks: 10,
            atime: (11, 12),
            mtime: (13, 14),
            ctime: (15, 16),
        }
    }

    #[test]
    fn stat_fields_lie_where_the_c_compiler_puts_them() {
        use std::mem::{offset_of, size_of};
        let bytes = sample().encode();
        assert_eq!(bytes.len(), size_of::<libc::stat>());
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_dev)), 0x0801);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_ino)), 2);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_nlink)), 3);
        assert_eq!(u32_at(&bytes, offset_of!(libc::stat, st_mode)), 0o100_644);
        assert_eq!(u32_at(&bytes, offset_of!(libc::stat, st_uid)), 5);
        assert_eq!(u32_at(&bytes, offset_of!(libc::stat, st_gid)), 6);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_rdev)), 0x0103);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_size)) as i64, -8);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_blksize)), 9);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_blocks)), 10);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_atime)), 11);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_atime_nsec)), 12);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_mtime)), 13);
        assert_eq!(u64_at(&bytes, offset_of!(libc::stat, st_ctime_nsec)), 16);
    }

    #[test]
    fn both_statx_encoders_agree_with_the_c_layout() {
        use std::mem::{offset_of, size_of};
        let native = rustix::fs::statx(
            rustix::fs::CWD,
            "/",
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::BASIC_STATS,
        )
        .unwrap();
        let stat = LinuxStat::from(rustix::fs::stat("/").unwrap());
        let whole = statx(&native);
        let basic = stat.encode_statx();
        assert_eq!(whole.len(), size_of::<libc::statx>());
        for (at, len) in [
            (offset_of!(libc::statx, stx_blksize), 4),
            (offset_of!(libc::statx, stx_nlink), 4),
            (offset_of!(libc::statx, stx_uid), 4),
            (offset_of!(libc::statx, stx_mode), 2),
            (offset_of!(libc::statx, stx_ino), 8),
            (offset_of!(libc::statx, stx_size), 8),
            (offset_of!(libc::statx, stx_blocks), 8),
            (offset_of!(libc::statx, stx_mtime), 12),
            (offset_of!(libc::statx, stx_ctime), 12),
            (offset_of!(libc::statx, stx_rdev_major), 4),
            (offset_of!(libc::statx, stx_dev_major), 4),
            (offset_of!(libc::statx, stx_dev_minor), 4),
        ] {
            assert_eq!(whole[at..at + len], basic[at..at + len], "at {at}");
        }
        assert_eq!(u64_at(&whole, offset_of!(libc::statx, stx_ino)), native.stx_ino);
        assert_eq!(u64_at(&whole, offset_of!(libc::statx, stx_mnt_id)), native.stx_mnt_id);
        assert_eq!(
            u64_at(&whole, offset_of!(libc::statx, stx_mtime)) as i64,
            native.stx_mtime.tv_sec
        );
    }

    #[test]
    fn statfs_words_lie_where_the_c_compiler_puts_them() {
        use std::mem::{offset_of, size_of};
        let bytes = statfs_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(bytes.len(), size_of::<libc::statfs>());
        assert_eq!(u64_at(&bytes, offset_of!(libc::statfs, f_type)), 1);
        assert_eq!(u64_at(&bytes, offset_of!(libc::statfs, f_ffree)), 7);
        assert_eq!(u64_at(&bytes, offset_of!(libc::statfs, f_fsid)), 8);
        assert_eq!(u64_at(&bytes, offset_of!(libc::statfs, f_namelen)), 9);
        assert_eq!(u64_at(&bytes, offset_of!(libc::statfs, f_frsize) + 8), 11);
    }

    #[test]
    fn directory_records_are_multiples_of_eight_and_stop_at_the_room() {
        let mut out = Vec::new();
        assert!(dirent(&mut out, 56, 7, 1, 4, b"abcd"));
        assert_eq!(out.len(), 24);
        assert_eq!((u64_at(&out, 0), u64_at(&out, 8)), (7, 1));
        assert_eq!(out[16..18], [24, 0]);
        assert_eq!(out[18..24], *b"\x04abcd\0");
        assert!(dirent(&mut out, 56, 8, 2, 8, b"abcde"));
        assert_eq!(out.len(), 56);
        assert!(!dirent(&mut out, 79, 9, 3, 8, b"x"));
        assert_eq!(out.len(), 56);
    }

    #[test]
    fn times_are_read_in_order() {
        let times = times_of([1, 2, (-3i64).cast_unsigned(), 4]);
        assert_eq!((times.last_access.tv_sec, times.last_access.tv_nsec), (1, 2));
        assert_eq!(times.last_modification.tv_sec, -3);
        assert_eq!(times.last_modification.tv_nsec, 4);
    }
}
