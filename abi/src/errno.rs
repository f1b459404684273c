//! Linux error numbers, defined once.
//!
//! The numbers are Linux's own for x86-64 (`include/uapi/asm-generic/errno*.h`): a program
//! compiled for Linux must read the value it expects. SpaceJMP's own calls use the same
//! numbers, so that C programs need only one `errno`. Zero is success and never an `Errno`.

use core::fmt;
use core::num::NonZeroU16;

/// A Linux error number, 1 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU16);

macro_rules! errno_table {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno(NonZeroU16::new($number).unwrap());)*

            /// The symbolic name, or `None` for a number this table does not hold.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0.get() { $($number => Some(stringify!($name)),)* _ => None }
            }

            /// What the error means, in Linux's words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self.0.get() { $($number => $text,)* _ => "unknown error" }
            }
        }
    };
}

errno_table! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    ESRCH = 3, "no such process";
    EINTR = 4, "interrupted system call";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "argument list too long";
    ENOEXEC = 8, "executable format error";
    EBADF = 9, "bad file descriptor";
    ECHILD = 10, "no child processes";
    EAGAIN = 11, "resource temporarily unavailable";
    ENOMEM = 12, "cannot allocate memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    ENOTBLK = 15, "block device required";
    EBUSY = 16, "device or resource busy";
    EEXIST = 17, "file exists";
    EXDEV = 18, "invalid cross-device link";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in system";
    EMFILE = 24, "too many open files";
    ENOTTY = 25, "inappropriate ioctl for device";
    ETXTBSY = 26, "text file busy";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left on device";
    ESPIPE = 29, "illegal seek";
    EROFS = 30, "read-only file system";
    EMLINK = 31, "too many links";
    EPIPE = 32, "broken pipe";
    EDOM = 33, "numerical argument out of domain";
    ERANGE = 34, "numerical result out of range";
    EDEADLK = 35, "resource deadlock avoided";
    ENAMETOOLONG = 36, "file name too long";
    ENOLCK = 37, "no locks available";
    ENOSYS = 38, "function not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many levels of symbolic links";
    ENODATA = 61, "no data available";
    EOVERFLOW = 75, "value too large for defined data type";
    ENOTSOCK = 88, "socket operation on non-socket";
    EOPNOTSUPP = 95, "operation not supported";
    ETIMEDOUT = 110, "connection timed out";
    ESTALE = 116, "stale file handle";
    EUCLEAN = 117, "structure needs cleaning";
    EDQUOT = 122, "disk quota exceeded";
    EOWNERDEAD = 130, "owner died";
    ENOTRECOVERABLE = 131, "state not recoverable";
}

impl Errno {
    /// The error for a raw number; numbers outside 1..=4095 become `EIO`, because a system call's
    /// result cannot carry them.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Errno {
        match NonZeroU16::new(raw as u16) {
            Some(n) if raw >= 1 && raw <= 4095 => Errno(n),
            _ => Errno::EIO,
        }
    }

    /// The number, as in C's `errno`.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0.get() as i32
    }

    /// The value a system call leaves in RAX: the negated number.
    #[must_use]
    pub const fn as_result(self) -> u64 {
        (-(self.raw() as i64)) as u64
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.raw()),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self:?})", self.text())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_register_holds_the_negated_number() {
        assert_eq!(Errno::ENOSYS.as_result() as i64, -38);
    }

    #[test]
    fn numbers_no_register_could_carry_become_eio() {
        for raw in [0, -1, 4096, i32::MAX, i32::MIN] {
            assert_eq!(Errno::from_raw(raw), Errno::EIO);
        }
    }

    #[test]
    fn known_numbers_print_their_names() {
        assert_eq!(format!("{:?}", Errno::from_raw(2)), "ENOENT");
        assert_eq!(format!("{:?}", Errno::from_raw(4000)), "Errno(4000)");
    }
}
