//! Nothing outside the grants is ever reached.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;

use super::super::GrantAccess;
use super::{CWD, World, files, grant, open, read};

/// A secret beside the granted directory, both in one temporary directory.
struct Beside {
    outer: tempfile::TempDir,
    files: super::Files,
}

fn beside() -> Beside {
    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("secret"), "secret").unwrap();
    std::fs::create_dir(outer.path().join("vault")).unwrap();
    std::fs::write(outer.path().join("vault/secret"), "secret").unwrap();
    let inner = outer.path().join("granted");
    std::fs::create_dir_all(inner.join("sub/deep")).unwrap();
    std::fs::write(inner.join("mine"), "mine").unwrap();
    let files = files(&[grant(&inner, "/w", GrantAccess::ReadWrite)], "/w/sub");
    Beside { outer, files }
}

#[test]
fn paths_that_climb_end_in_the_guests_own_tree() {
    let b = beside();
    for path in [
        "../../secret",
        "../../../../../../../secret",
        "/w/../secret",
        "/w/sub/../../secret",
        "deep/../../../secret",
        "/../secret",
    ] {
        assert_eq!(read(&b.files, path), Err(Errno::ENOENT), "{path}");
    }
    assert_eq!(read(&b.files, "../../w/mine").unwrap(), "mine");
    assert_eq!(read(&b.files, "/../w/sub/deep/../../mine").unwrap(), "mine");
}

#[test]
fn links_that_lead_out_are_read_in_the_guests_own_tree() {
    let b = beside();
    let inner = b.outer.path().join("granted");
    symlink("../secret", inner.join("relative")).unwrap();
    symlink(b.outer.path().join("secret"), inner.join("absolute")).unwrap();
    symlink(b.outer.path(), inner.join("directory")).unwrap();
    symlink("..", inner.join("up")).unwrap();
    symlink("/proc/self/root/etc/passwd", inner.join("magic")).unwrap();
    symlink("/w/mine", inner.join("inside")).unwrap();
    symlink("/w/sub/../sub", inner.join("way")).unwrap();
    for path in [
        "/w/relative",
        "/w/absolute",
        "/w/directory/secret",
        "/w/up/secret",
        "/w/up/vault/secret",
        "/w/magic",
    ] {
        assert_eq!(read(&b.files, path), Err(Errno::ENOENT), "{path}");
        assert_eq!(b.files.newfstatat(CWD, path.as_bytes(), 0), Err(Errno::ENOENT), "{path}");
    }
    assert_eq!(read(&b.files, "/w/inside").unwrap(), "mine");
    assert_eq!(read(&b.files, "/w/way/../mine").unwrap(), "mine");
    // Up from the grant is `/` of the guest, and the grant is found again from there.
    assert_eq!(read(&b.files, "/w/up/w/mine").unwrap(), "mine");
}

#[test]
fn changing_calls_do_not_follow_links_out() {
    let b = beside();
    let inner = b.outer.path().join("granted");
    let secret = b.outer.path().join("secret");
    symlink(&secret, inner.join("l")).unwrap();
    let before = std::fs::metadata(&secret).unwrap();
    let l = b"/w/l";
    assert_eq!(b.files.truncate(l, 0), Err(Errno::ENOENT));
    assert_eq!(b.files.fchmodat2(CWD, l, 0o777, 0), Err(Errno::ENOENT));
    assert_eq!(b.files.fchownat(CWD, l, 1, 1, 0), Err(Errno::ENOENT));
    assert_eq!(b.files.utimensat(CWD, Some(l), None, 0), Err(Errno::ENOENT));
    assert_eq!(b.files.faccessat2(CWD, l, 4, 0), Err(Errno::ENOENT));
    assert!(open(&b.files, "/w/l", libc::O_WRONLY | libc::O_TRUNC).is_err());
    assert!(open(&b.files, "/w/l", libc::O_WRONLY | libc::O_CREAT).is_err());
    let follow = libc::AT_SYMLINK_FOLLOW as u32;
    assert_eq!(b.files.linkat(CWD, l, CWD, b"/w/hard", follow), Err(Errno::ENOENT));
    // A link to a link: the text is copied, never the secret.
    b.files.linkat(CWD, l, CWD, b"/w/hard", 0).unwrap();
    assert!(inner.join("hard").is_symlink());
    let after = std::fs::metadata(&secret).unwrap();
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    assert_eq!(before.permissions(), after.permissions());
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

/// Stops the other thread even when a check fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The same name is a directory or file of the grant and a link out alternately, as fast as
/// another thread can swap them, while every kind of call goes through it.
#[test]
fn a_link_swapped_in_while_in_use_never_leads_out() {
    let b = beside();
    let outer = b.outer.path();
    let inner = outer.join("granted");
    std::fs::create_dir(inner.join("vault")).unwrap();
    std::fs::write(inner.join("vault/secret"), "mine").unwrap();
    std::fs::write(inner.join("file"), "mine").unwrap();
    symlink(outer.join("vault"), inner.join("vault.link")).unwrap();
    symlink("../vault", inner.join("vault.link2")).unwrap();
    symlink(outer.join("secret"), inner.join("file.link")).unwrap();
    let secret = outer.join("vault/secret");
    let mode = std::fs::metadata(outer.join("secret")).unwrap().permissions();
    let times = |path: &std::path::Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let written = [times(&outer.join("secret")), times(&secret)];
    let stop = AtomicBool::new(false);
    let mut served = 0;
    let mut refused = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let root =
                rustix::fs::open(&inner, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())
                    .unwrap();
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(Ordering::Relaxed) {
                for (a, b) in
                    [("vault", "vault.link"), ("file", "file.link"), ("vault", "vault.link2")]
                {
                    rustix::fs::renameat_with(&root, a, &root, b, exchange).unwrap();
                }
            }
        });
        let _stop = StopOnDrop(&stop);
        for round in 0..4000u32 {
            let path = [
                "/w/vault/secret",
                "/w/file",
                "/w/vault/../vault/secret",
                "../vault/secret",
                "/w/sub/../file",
            ][round as usize % 5];
            match read(&b.files, path) {
                Ok(text) => {
                    assert_eq!(text, "mine", "{path}");
                    served += 1;
                }
                Err(_) => refused += 1,
            }
            let bytes = path.as_bytes();
            // Whatever these hit, it must not be the secrets: checked at the end.
            let _ = b.files.fchmodat2(CWD, bytes, 0o600 | (round % 8), 0);
            let _ = b.files.truncate(bytes, 4);
            let _ = b.files.utimensat(CWD, Some(bytes), None, 0);
            if let Ok(fd) = open(&b.files, path, libc::O_WRONLY | libc::O_CREAT) {
                let file = b.files.get(fd).unwrap();
                rustix::io::pwrite(file.host_fd(), b"mine", 0).unwrap();
                b.files.close(fd).unwrap();
            }
        }
    });
    assert!(served > 0 && refused > 0, "served {served}, refused {refused}");
    for (path, written) in [outer.join("secret"), secret].into_iter().zip(written) {
        assert_eq!(times(&path), written);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), mode);
    }
}

#[test]
fn a_directory_moved_out_of_its_grant_is_a_dead_end_upwards() {
    let b = beside();
    let fd = open(&b.files, "/w/sub/deep", libc::O_DIRECTORY).unwrap();
    let deep = b.outer.path().join("granted/sub/deep");
    std::fs::rename(deep, b.outer.path().join("vault/deep")).unwrap();
    assert_eq!(b.files.openat(fd, b"../secret", 0, 0), Err(Errno::ENOENT));
    assert_eq!(b.files.openat(fd, b"..", 0, 0), Err(Errno::ENOENT));
    b.files.fchdir(fd).unwrap();
    assert_eq!(b.files.getcwd(), Err(Errno::ENOENT));
    assert_eq!(read(&b.files, "../secret"), Err(Errno::ENOENT));
}

#[test]
fn a_procfs_below_a_grant_is_not_opened() {
    let files = files(&[grant("/".as_ref(), "/host", GrantAccess::ReadWrite)], "/");
    for path in ["/host/proc/self/mem", "/host/proc/1/environ", "/host/proc"] {
        assert_eq!(open(&files, path, 0), Err(Errno::EACCES), "{path}");
    }
    let w = World::new();
    assert_eq!(w.open("/proc/self/mem", 0), Err(Errno::ENOENT));
    let refused = super::Namespace::new(
        &[grant("/proc/self".as_ref(), "/p", GrantAccess::ReadOnly)],
        super::OffLimits::none(),
        super::TEXTS.to_vec(),
    );
    assert!(matches!(refused, Err(super::super::NamespaceError::Procfs { .. })));
}

#[test]
fn a_fifo_waits_for_its_other_end_unless_that_is_not_wanted() {
    let w = World::new();
    w.files.mknodat(CWD, b"fifo", libc::S_IFIFO | 0o600).unwrap();
    assert_eq!(w.open("fifo", libc::O_WRONLY | libc::O_NONBLOCK), Err(Errno::ENXIO));
    let early = w.open("fifo", libc::O_RDONLY | libc::O_NONBLOCK).unwrap();
    w.files.close(early).unwrap();
    // Whichever comes first waits for the other.
    for _ in 0..20 {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| w.open("fifo", libc::O_WRONLY).unwrap());
            let reader = w.open("fifo", libc::O_RDONLY).unwrap();
            w.files.close(writer.join().unwrap()).unwrap();
            w.files.close(reader).unwrap();
        });
    }
    let both = w.open("fifo", libc::O_RDWR).unwrap();
    let fd = w.open("fifo", libc::O_RDONLY).unwrap();
    w.files.close(both).unwrap();
    let file = w.files.get(fd).unwrap();
    assert_eq!(file.kind(), super::super::FileKind::Pipe);
    assert!(file.may_block() && !file.nonblocking());
    assert_eq!(w.files.fcntl(fd, libc::F_GETFL, 0).unwrap() & libc::O_NONBLOCK as u64, 0);
    w.open("fifo", libc::O_WRONLY).unwrap();
}
