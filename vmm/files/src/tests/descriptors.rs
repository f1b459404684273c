//! Descriptors: numbers, sharing, flags, locks, and calls on contents.

use std::sync::Barrier;

use abi::Errno;

use super::super::{DEFAULT_NOFILE, FileKind, Files, Flock};
use super::World;

fn shared<T: Send + Sync>() {}

#[test]
fn files_may_be_used_from_any_thread() {
    shared::<Files>();
    let w = World::new();
    w.write("f", "");
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..500 {
                    let fd = w.open("f", 0).unwrap();
                    let copy = w.files.dup(fd).unwrap();
                    assert!((3..11).contains(&fd) && (3..11).contains(&copy));
                    w.files.close(fd).unwrap();
                    w.files.close(copy).unwrap();
                }
            });
        }
    });
    assert_eq!(w.open("f", 0), Ok(3));
}

#[test]
fn a_new_descriptor_gets_the_lowest_free_number() {
    let w = World::new();
    w.write("f", "");
    for fd in 3..10 {
        assert_eq!(w.open("f", 0), Ok(fd));
    }
    for fd in [7, 4, 5, 0] {
        w.files.close(fd).unwrap();
        assert_eq!(w.files.close(fd), Err(Errno::EBADF));
    }
    assert_eq!(w.open("f", 0), Ok(0));
    assert_eq!(w.files.pipe2(0), Ok([4, 5]));
    assert_eq!(w.files.eventfd2(0, 0), Ok(7));
    assert_eq!(w.open("f", 0), Ok(10));
    w.files.close(5).unwrap();
    assert_eq!(w.files.fcntl(3, libc::F_DUPFD, 8), Ok(11));
    assert_eq!(w.files.fcntl(3, libc::F_DUPFD, 100), Ok(100));
    assert_eq!(w.files.dup2(3, 50), Ok(50));
    assert_eq!(w.files.dup(3), Ok(5));
    w.files.close_range(6, u32::MAX, 0).unwrap();
    assert_eq!(w.files.get(100).err(), Some(Errno::EBADF));
    assert_eq!(w.open("f", 0), Ok(6));
}

#[test]
fn no_more_descriptors_than_the_limit() {
    let w = World::new();
    w.write("f", "");
    let fd = w.open("f", 0).unwrap();
    assert_eq!(w.files.nofile(), DEFAULT_NOFILE);
    w.files.set_nofile(20);
    for _ in 4..20 {
        w.files.dup(fd).unwrap();
    }
    assert_eq!(w.files.dup(fd), Err(Errno::EMFILE));
    assert_eq!(w.open("created", libc::O_CREAT), Err(Errno::EMFILE));
    assert!(!w.host.path().join("created").exists());
    assert_eq!(w.files.dup2(fd, 20), Err(Errno::EBADF));
    assert_eq!(w.files.dup2(fd, -1), Err(Errno::EBADF));
    assert_eq!(w.files.dup2(fd, 19), Ok(19));
    assert_eq!(w.files.fcntl(fd, libc::F_DUPFD, 20), Err(Errno::EINVAL));
    // A pipe that does not fit leaves nothing behind.
    w.files.close(19).unwrap();
    assert_eq!(w.files.pipe2(0), Err(Errno::EMFILE));
    assert_eq!(w.files.dup(fd), Ok(19));
}

#[test]
fn dup_shares_the_offset_and_open_does_not() {
    let w = World::new();
    w.write("f", "0123456789");
    let fd = w.open("f", 0).unwrap();
    let copy = w.files.dup(fd).unwrap();
    let other = w.open("f", 0).unwrap();
    assert_eq!(w.files.lseek(fd, 7, libc::SEEK_SET), Ok(7));
    assert_eq!(w.files.lseek(copy, 0, libc::SEEK_CUR), Ok(7));
    assert_eq!(w.files.lseek(other, 0, libc::SEEK_CUR), Ok(0));
    // Opening the entry in /dev/fd also opens the file.
    let again = w.open(&format!("/dev/fd/{fd}"), libc::O_RDWR).unwrap();
    assert_eq!(w.files.lseek(again, -2, libc::SEEK_END), Ok(8));
    assert_eq!(w.files.lseek(fd, 0, libc::SEEK_CUR), Ok(7));
    assert!(w.files.get(again).unwrap().can_write().is_ok());
    assert_eq!(w.files.lseek(fd, 0, 99), Err(Errno::EINVAL));
    assert_eq!(w.files.lseek(fd, -1, libc::SEEK_SET), Err(Errno::EINVAL));
    assert_eq!(w.files.lseek(fd, 10, libc::SEEK_DATA), Err(Errno::ENXIO));
    assert_eq!(w.files.lseek(fd, 0, libc::SEEK_HOLE), Ok(10));
}

#[test]
fn rights_are_those_the_descriptor_was_opened_with() {
    let w = World::new();
    w.write("f", "");
    let check = |flags| {
        let file = w.files.get(w.open("f", flags).unwrap()).unwrap();
        (file.can_read(), file.can_write())
    };
    assert_eq!(check(libc::O_RDONLY), (Ok(()), Err(Errno::EBADF)));
    assert_eq!(check(libc::O_WRONLY), (Err(Errno::EBADF), Ok(())));
    assert_eq!(check(libc::O_RDWR), (Ok(()), Ok(())));
    assert_eq!(check(libc::O_PATH), (Err(Errno::EBADF), Err(Errno::EBADF)));
    for path in [".", "/", "/dev"] {
        let dir = w.files.get(w.open(path, 0).unwrap()).unwrap();
        assert_eq!(dir.can_read(), Err(Errno::EISDIR), "{path}");
        assert_eq!(dir.can_write(), Err(Errno::EBADF), "{path}");
    }
    let path = w.open("f", libc::O_PATH).unwrap();
    assert_eq!(w.files.lseek(path, 0, 0), Err(Errno::EBADF));
    assert_eq!(w.files.fsync(path), Err(Errno::EBADF));
    assert_eq!(w.files.fchmod(path, 0), Err(Errno::EBADF));
    assert_eq!(w.files.ftruncate(path, 0), Err(Errno::EBADF));
    assert_eq!(w.files.fstat(path).unwrap().mode & libc::S_IFMT, libc::S_IFREG);
}

#[test]
fn status_flags_are_kept_and_the_hosts_own_are_not_touched() {
    let w = World::new();
    w.write("f", "");
    let fd = w.open("f", libc::O_WRONLY | libc::O_APPEND).unwrap();
    let flags = |fd| w.files.fcntl(fd, libc::F_GETFL, 0).unwrap() as i32;
    assert_eq!(flags(fd) & libc::O_ACCMODE, libc::O_WRONLY);
    assert_eq!(flags(fd) & (libc::O_APPEND | libc::O_NONBLOCK), libc::O_APPEND);
    w.files.fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK as u64).unwrap();
    assert_eq!(flags(fd) & (libc::O_APPEND | libc::O_NONBLOCK), libc::O_NONBLOCK);
    // Standard input belongs to the host: the flag is only recorded.
    w.files.fcntl(0, libc::F_SETFL, libc::O_NONBLOCK as u64).unwrap();
    let stdin = w.files.get(0).unwrap();
    assert!(stdin.nonblocking() && flags(0) & libc::O_NONBLOCK != 0);
    let host = rustix::fs::fcntl_getfl(stdin.host_fd()).unwrap();
    assert!(!host.contains(rustix::fs::OFlags::NONBLOCK));
    assert_eq!(w.files.fchmod(0, 0o777), Err(Errno::EPERM));
    let null = w.open("/dev/null", libc::O_RDWR).unwrap();
    assert_eq!(w.files.fchmod(null, 0o666), Err(Errno::EPERM));
}

#[test]
fn close_on_exec_belongs_to_the_descriptor() {
    let w = World::new();
    w.write("f", "");
    let fd = w.open("f", libc::O_CLOEXEC).unwrap();
    let copy = w.files.dup(fd).unwrap();
    let get = |fd| w.files.fcntl(fd, libc::F_GETFD, 0).unwrap();
    assert_eq!((get(fd), get(copy)), (1, 0));
    w.files.fcntl(copy, libc::F_SETFD, 1).unwrap();
    w.files.dup3(copy, 9, 0).unwrap();
    assert_eq!((get(copy), get(9)), (1, 0));
    w.files.close_range(0, u32::MAX, 4).unwrap();
    assert_eq!((get(0), get(9)), (1, 1));
    assert_eq!(w.files.dup3(9, 9, 0), Err(Errno::EINVAL));
    assert_eq!(w.files.close_range(2, 1, 0), Err(Errno::EINVAL));
}

#[test]
fn kinds_tell_what_may_wait() {
    let w = World::new();
    w.write("f", "");
    let kind = |fd| {
        let file = w.files.get(fd).unwrap();
        (file.kind(), file.may_block())
    };
    assert_eq!(kind(w.open("f", 0).unwrap()), (FileKind::Regular, false));
    assert_eq!(kind(w.open(".", 0).unwrap()), (FileKind::Directory, false));
    assert_eq!(kind(w.open("/", 0).unwrap()), (FileKind::SyntheticDirectory, false));
    assert_eq!(kind(w.files.pipe2(0).unwrap()[0]), (FileKind::Pipe, true));
    assert_eq!(kind(w.files.eventfd2(1, 0).unwrap()), (FileKind::EventFd, true));
    assert_eq!(kind(w.files.memfd_create(b"m", 0).unwrap()), (FileKind::Regular, false));
    for name in ["null", "zero", "full", "random", "urandom"] {
        let fd = w.open(&format!("/dev/{name}"), libc::O_RDONLY).unwrap();
        assert_eq!(kind(fd), (FileKind::Memory, false), "{name}");
    }
}

#[test]
fn record_locks_go_through_as_the_programs_words() {
    let w = World::new();
    w.write("f", "0123456789");
    let (a, b) = (w.open("f", libc::O_RDWR).unwrap(), w.open("f", libc::O_RDWR).unwrap());
    let lock = |kind: i32, start: i64, len: i64| {
        let padding = 0xabcd_ef01_u64 << 32;
        [padding | kind as u64, start.cast_unsigned(), len.cast_unsigned(), padding]
    };
    assert_eq!(std::mem::size_of::<libc::flock>(), std::mem::size_of::<Flock>());
    let write = lock(libc::F_WRLCK, 2, 3);
    w.files.fcntl_lock(a, libc::F_OFD_SETLK, write).unwrap();
    let refused = w.files.fcntl_lock(b, libc::F_OFD_SETLK, lock(libc::F_RDLCK, 4, 1));
    assert_eq!(refused, Err(Errno::EAGAIN));
    w.files.fcntl_lock(b, libc::F_OFD_SETLK, lock(libc::F_RDLCK, 5, 1)).unwrap();
    let told = w.files.fcntl_lock(b, libc::F_OFD_GETLK, lock(libc::F_RDLCK, 0, 0)).unwrap();
    assert_eq!(told[..3], write[..3]);
    assert_eq!(told[3] >> 32, write[3] >> 32);
    w.files.close(a).unwrap();
    w.files.fcntl_lock(b, libc::F_SETLK, write).unwrap();
    assert!(Files::is_lock_command(libc::F_SETLKW) && !Files::is_lock_command(libc::F_GETFL));
}

#[test]
fn whole_file_locks_belong_to_the_description() {
    let w = World::new();
    w.write("f", "");
    let (a, b) = (w.open("f", 0).unwrap(), w.open("f", 0).unwrap());
    w.files.flock(a, libc::LOCK_EX).unwrap();
    let try_lock = libc::LOCK_EX | libc::LOCK_NB;
    assert_eq!(w.files.flock(b, try_lock), Err(Errno::EAGAIN));
    let copy = w.files.dup(a).unwrap();
    w.files.close(a).unwrap();
    assert_eq!(w.files.flock(b, try_lock), Err(Errno::EAGAIN));
    w.files.close(copy).unwrap();
    w.files.flock(b, try_lock).unwrap();
    assert_eq!(w.files.flock(b, 0), Err(Errno::EINVAL));
}

#[test]
fn contents_are_copied_between_descriptors_and_offsets_advance() {
    let w = World::new();
    w.write("f", "0123456789");
    let from = w.open("f", 0).unwrap();
    let to = w.open("t", libc::O_RDWR | libc::O_CREAT).unwrap();
    let mut at = 4;
    assert_eq!(w.files.copy_file_range(from, Some(&mut at), to, None, 3, 0), Ok(3));
    assert_eq!(at, 7);
    assert_eq!(w.files.sendfile(to, from, None, usize::MAX), Err(Errno::EINVAL));
    assert_eq!(w.files.sendfile(to, from, None, 1 << 30), Ok(10));
    let mut at = 8;
    assert_eq!(w.files.sendfile(to, from, Some(&mut at), 100), Ok(2));
    assert_eq!(at, 10);
    assert_eq!(super::read(&w.files, "t").unwrap(), "456012345678989");
    assert_eq!(w.files.sendfile(from, to, None, 1), Err(Errno::EBADF));
    w.files.ftruncate(to, 1).unwrap();
    assert_eq!(w.files.ftruncate(to, -1), Err(Errno::EINVAL));
    assert_eq!(w.files.fallocate(to, 0, 0, 100), Ok(()));
    assert_eq!(w.files.fallocate(to, 0, 0, 0), Err(Errno::EINVAL));
    assert_eq!(w.files.fstat(to).unwrap().size, 100);
    w.files.fsync(to).unwrap();
    w.files.fdatasync(to).unwrap();
    w.files.sync_file_range(to, 0, 0, 7).unwrap();
    w.files.fadvise64(to, 0, 0, libc::POSIX_FADV_RANDOM).unwrap();
    let [_, pipe] = w.files.pipe2(0).unwrap();
    assert_eq!(w.files.fadvise64(pipe, 0, 0, 0), Err(Errno::ESPIPE));
    assert_eq!(w.files.lseek(pipe, 0, 0), Err(Errno::ESPIPE));
    assert_eq!(w.files.fcntl(pipe, libc::F_SETPIPE_SZ, 8192), Ok(8192));
    assert_eq!(w.files.fcntl(pipe, libc::F_GETPIPE_SZ, 0), Ok(8192));
}

#[test]
fn a_temporary_file_can_be_given_a_name() {
    let w = World::new();
    let fd = w.open(".", libc::O_TMPFILE | libc::O_RDWR).unwrap();
    rustix::io::write(w.files.get(fd).unwrap().host_fd(), b"text").unwrap();
    let empty = libc::AT_EMPTY_PATH as u32;
    w.files.linkat(fd, b"", super::CWD, b"named", empty).unwrap();
    assert_eq!(super::read(&w.files, "named").unwrap(), "text");
    // A file that is not in the grant cannot be linked into it.
    let memory = w.files.memfd_create(b"m", 0).unwrap();
    for fd in [memory, 0] {
        let linked = w.files.linkat(fd, b"", super::CWD, b"other", empty);
        assert_eq!(linked, Err(Errno::EXDEV));
    }
}
