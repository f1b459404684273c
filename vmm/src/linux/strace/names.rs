//! Names of constants, as programs write them.
#![forbid(unsafe_code)]

/// The names of one argument's values: some bits hold one value of several, the others are flags.
#[derive(Debug)]
pub(super) struct Names {
    /// The bits that hold one value.
    mask: u64,
    values: &'static [(u64, &'static str)],
    flags: &'static [(u64, &'static str)],
}

impl Names {
    /// The word by names, with what has none in hexadecimal.
    pub(super) fn render(&self, word: u64) -> String {
        let mut parts = Vec::new();
        let value = word & self.mask;
        let mut left = word & INT & !self.mask;
        match self.values.iter().find(|(known, _)| *known == value) {
            // Without bits for values, a value is the whole word.
            Some((_, name)) if self.mask != 0 || left == 0 => parts.push((*name).to_owned()),
            None if value != 0 => parts.push(format!("{value:#x}")),
            _ => {}
        }
        for (bits, name) in self.flags {
            if *bits != 0 && left & bits == *bits {
                parts.push((*name).to_owned());
                left &= !bits;
            }
        }
        if left != 0 {
            parts.push(format!("{left:#x}"));
        }
        if parts.is_empty() { "0".to_owned() } else { parts.join("|") }
    }
}

/// An argument of C's type `int`, whatever the upper half of the register has.
const INT: u64 = u32::MAX as u64;

// Braces keep rustfmt from putting each entry on a separate line.
macro_rules! names {
    ($($name:ident: $mask:expr, { $($value:ident)* }, { $($flag:ident)* };)*) => {
        /// The names that a signature calls so.
        pub(super) fn by_name(name: &str) -> Option<&'static Names> {
            $(if name == stringify!($name) {
                static NAMES: Names = Names {
                    mask: $mask,
                    values: &[$((word(libc::$value as i64), stringify!($value)),)*],
                    flags: &[$((word(libc::$flag as i64), stringify!($flag)),)*],
                };
                return Some(&NAMES);
            })*
            None
        }
    };
}

/// A constant as the register of an `int` has it: not extended by its sign.
const fn word(constant: i64) -> u64 {
    constant as u64 & INT
}

names! {
    prot: 0, { PROT_NONE }, { PROT_READ PROT_WRITE PROT_EXEC PROT_GROWSDOWN };
    map: 0xf, { MAP_SHARED MAP_PRIVATE MAP_SHARED_VALIDATE }, { MAP_FIXED MAP_ANONYMOUS
        MAP_NORESERVE MAP_STACK MAP_POPULATE MAP_LOCKED MAP_GROWSDOWN MAP_HUGETLB MAP_NONBLOCK
        MAP_DENYWRITE MAP_FIXED_NOREPLACE MAP_SYNC };
    mremap: 0, {}, { MREMAP_MAYMOVE MREMAP_FIXED MREMAP_DONTUNMAP };
    madvise: INT, { MADV_NORMAL MADV_RANDOM MADV_SEQUENTIAL MADV_WILLNEED MADV_DONTNEED MADV_FREE
        MADV_REMOVE MADV_DONTFORK MADV_DOFORK MADV_HUGEPAGE MADV_NOHUGEPAGE MADV_DONTDUMP
        MADV_DODUMP MADV_POPULATE_READ MADV_POPULATE_WRITE MADV_COLD MADV_PAGEOUT }, {};
    msync: 0, {}, { MS_ASYNC MS_SYNC MS_INVALIDATE };
    clone: 0xff, { SIGCHLD }, { CLONE_VM CLONE_FS CLONE_FILES CLONE_SIGHAND CLONE_PIDFD CLONE_VFORK
        CLONE_PARENT CLONE_THREAD CLONE_SYSVSEM CLONE_SETTLS CLONE_PARENT_SETTID
        CLONE_CHILD_CLEARTID CLONE_DETACHED CLONE_CHILD_SETTID };
    at: 0, {}, { AT_SYMLINK_NOFOLLOW AT_REMOVEDIR AT_SYMLINK_FOLLOW AT_NO_AUTOMOUNT
        AT_EMPTY_PATH };
    unlinkat: 0, {}, { AT_REMOVEDIR };
    wait: 0, {}, { WNOHANG WUNTRACED WEXITED WCONTINUED WNOWAIT };
    futex: INT & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u64, { FUTEX_WAIT
        FUTEX_WAKE FUTEX_REQUEUE FUTEX_CMP_REQUEUE FUTEX_WAKE_OP FUTEX_LOCK_PI FUTEX_UNLOCK_PI
        FUTEX_TRYLOCK_PI FUTEX_WAIT_BITSET FUTEX_WAKE_BITSET FUTEX_WAIT_REQUEUE_PI
        FUTEX_CMP_REQUEUE_PI FUTEX_LOCK_PI2 }, { FUTEX_PRIVATE_FLAG FUTEX_CLOCK_REALTIME };
    mask_how: INT, { SIG_BLOCK SIG_UNBLOCK SIG_SETMASK }, {};
    cloexec: 0, {}, { O_CLOEXEC O_NONBLOCK };
    pipe: 0, {}, { O_CLOEXEC O_NONBLOCK O_DIRECT };
    clock: INT, { CLOCK_REALTIME CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID CLOCK_THREAD_CPUTIME_ID
        CLOCK_MONOTONIC_RAW CLOCK_REALTIME_COARSE CLOCK_MONOTONIC_COARSE CLOCK_BOOTTIME
        CLOCK_REALTIME_ALARM CLOCK_BOOTTIME_ALARM CLOCK_TAI }, {};
    prctl: INT, { PR_SET_PDEATHSIG PR_GET_PDEATHSIG PR_GET_DUMPABLE PR_SET_DUMPABLE PR_GET_KEEPCAPS
        PR_SET_KEEPCAPS PR_SET_NAME PR_GET_NAME PR_GET_SECCOMP PR_SET_SECCOMP PR_CAPBSET_READ
        PR_SET_TIMERSLACK PR_GET_TIMERSLACK PR_SET_CHILD_SUBREAPER PR_SET_NO_NEW_PRIVS
        PR_GET_NO_NEW_PRIVS PR_CAP_AMBIENT PR_SET_VMA }, {};
    resource: INT, { RLIMIT_CPU RLIMIT_FSIZE RLIMIT_DATA RLIMIT_STACK RLIMIT_CORE RLIMIT_RSS
        RLIMIT_NPROC RLIMIT_NOFILE RLIMIT_MEMLOCK RLIMIT_AS RLIMIT_LOCKS RLIMIT_SIGPENDING
        RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME }, {};
    ioctl: INT, { TCGETS TCSETS TCSETSW TCSETSF TIOCGWINSZ TIOCSWINSZ TIOCGPGRP TIOCSPGRP TIOCSCTTY
        TIOCNOTTY FIONREAD FIONBIO FIOASYNC FIOCLEX FIONCLEX }, {};
    epoll_ctl: INT, { EPOLL_CTL_ADD EPOLL_CTL_DEL EPOLL_CTL_MOD }, {};
    epoll: 0, {}, { EPOLLIN EPOLLPRI EPOLLOUT EPOLLERR EPOLLHUP EPOLLRDHUP EPOLLEXCLUSIVE
        EPOLLWAKEUP EPOLLONESHOT EPOLLET };
    poll: 0, {}, { POLLIN POLLPRI POLLOUT POLLERR POLLHUP POLLNVAL POLLRDHUP };
    open: libc::O_ACCMODE as u64, { O_RDONLY O_WRONLY O_RDWR }, { O_CREAT O_EXCL O_NOCTTY O_TRUNC
        O_APPEND O_NONBLOCK O_SYNC O_DSYNC O_TMPFILE O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_PATH
        O_NOATIME O_DIRECT };
    access: 0, { F_OK }, { R_OK W_OK X_OK };
    fcntl: INT, { F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_SETOWN
        F_GETOWN F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW F_DUPFD_CLOEXEC
        F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS F_GET_SEALS F_SETLEASE F_GETLEASE }, {};
    flock: 0, {}, { LOCK_SH LOCK_EX LOCK_UN LOCK_NB };
    whence: INT, { SEEK_SET SEEK_CUR SEEK_END SEEK_DATA SEEK_HOLE }, {};
    family: INT, { AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET }, {};
    socket: 0xf, { SOCK_STREAM SOCK_DGRAM SOCK_RAW SOCK_SEQPACKET }, { SOCK_CLOEXEC
        SOCK_NONBLOCK };
    socket_flags: 0, {}, { SOCK_CLOEXEC SOCK_NONBLOCK };
    msg: 0, {}, { MSG_OOB MSG_PEEK MSG_DONTROUTE MSG_CTRUNC MSG_TRUNC MSG_DONTWAIT MSG_EOR
        MSG_WAITALL MSG_CONFIRM MSG_ERRQUEUE MSG_NOSIGNAL MSG_MORE MSG_CMSG_CLOEXEC };
    file_type: libc::S_IFMT as u64, { S_IFSOCK S_IFLNK S_IFREG S_IFBLK S_IFDIR S_IFCHR S_IFIFO },
        { S_ISUID S_ISGID S_ISVTX };
    action: 0, {}, { SA_NOCLDSTOP SA_NOCLDWAIT SA_SIGINFO SA_ONSTACK SA_RESTART SA_NODEFER
        SA_RESETHAND };
}

#[cfg(test)]
mod tests {
    use super::by_name;

    fn render(name: &str, word: i32) -> String {
        by_name(name).expect("the name is known").render(word as u32 as u64)
    }

    #[test]
    fn a_word_is_its_value_and_its_flags() {
        assert_eq!(render("open", libc::O_CREAT | libc::O_WRONLY), "O_WRONLY|O_CREAT");
        assert_eq!(render("open", 0), "O_RDONLY");
        assert_eq!(render("prot", 0), "PROT_NONE");
        assert_eq!(render("prot", libc::PROT_READ), "PROT_READ");
        assert_eq!(render("at", 0), "0");
        assert_eq!(render("whence", 99), "0x63");
        assert_eq!(render("flock", 0x100 | libc::LOCK_EX), "LOCK_EX|0x100");
        assert_eq!(
            render("futex", libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG),
            "FUTEX_WAKE|FUTEX_PRIVATE_FLAG"
        );
        // The sign of O_TMPFILE's and EPOLLET's constant does not reach the upper half.
        assert_eq!(render("epoll", libc::EPOLLET | libc::EPOLLIN), "EPOLLIN|EPOLLET");
    }

    #[test]
    fn what_has_no_name_is_told_in_hexadecimal() {
        assert!(by_name("no such names").is_none());
        assert_eq!(render("clock", 77), "0x4d");
        assert_eq!(render("map", libc::MAP_PRIVATE | 1 << 30), "MAP_PRIVATE|0x40000000");
    }
}
