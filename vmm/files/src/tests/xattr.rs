//! Extended attributes: those of the `user` name space are the host's, others do not exist.

use abi::Errno;

use super::super::{GrantAccess, XATTR_MAX, XattrOf};
use super::World;

/// Whether the host's temporary directory supports attributes at all; a memory file system of an
/// older kernel does not.
fn has_attributes(w: &World) -> bool {
    let path = w.host.path().join("probe");
    std::fs::write(&path, "").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let kept = rustix::fs::setxattr(&path, "user.probe", b"1", flags).is_ok();
    std::fs::remove_file(&path).unwrap();
    kept
}

#[test]
fn what_is_not_the_users_is_refused_as_by_a_file_system_without_it() {
    let w = World::new();
    w.write("f", "");
    let f = XattrOf::Path(b"f");
    for (name, read, write) in [
        ("security.selinux", Errno::ENODATA, Errno::EPERM),
        ("trusted.x", Errno::ENODATA, Errno::EPERM),
        ("system.posix_acl_access", Errno::EOPNOTSUPP, Errno::EOPNOTSUPP),
        ("nonsense", Errno::EOPNOTSUPP, Errno::EOPNOTSUPP),
        ("user.", Errno::EOPNOTSUPP, Errno::EOPNOTSUPP),
        ("", Errno::ERANGE, Errno::ERANGE),
        (&"u".repeat(256), Errno::ERANGE, Errno::ERANGE),
    ] {
        let name = name.as_bytes();
        assert_eq!(w.files.getxattr(f, name, 9), Err(read));
        assert_eq!(w.files.setxattr(f, name, b"v", 0), Err(write));
        assert_eq!(w.files.removexattr(f, name), Err(write));
    }
    assert_eq!(w.files.listxattr(f), Ok(Vec::new()));
    assert_eq!(w.files.listxattr(XattrOf::Path(b"none")), Err(Errno::ENOENT));
    assert_eq!(w.files.listxattr(XattrOf::Descriptor(77)), Err(Errno::EBADF));
    assert_eq!(w.files.listxattr(XattrOf::Path(b"/dev")), Ok(Vec::new()));
    assert_eq!(w.files.getxattr(XattrOf::Path(b"/proc"), b"user.x", 9), Err(Errno::EOPNOTSUPP));
    assert_eq!(w.files.setxattr(XattrOf::Path(b"/proc"), b"user.x", b"", 0), Err(Errno::EROFS));
    assert_eq!(w.files.setxattr(f, b"user.x", b"", 4), Err(Errno::EINVAL));
    let long = vec![0; XATTR_MAX + 1];
    assert_eq!(w.files.setxattr(f, b"user.x", &long, 0), Err(Errno::E2BIG));
    // The program may not set attributes on standard input.
    let given = w.files.setxattr(XattrOf::Descriptor(0), b"user.x", b"", 0);
    assert_eq!(given, Err(Errno::EPERM));
}

#[test]
fn nothing_is_changed_in_a_read_only_grant() {
    let w = World::with(GrantAccess::ReadOnly);
    w.write("f", "");
    let f = XattrOf::Path(b"f");
    assert_eq!(w.files.setxattr(f, b"user.x", b"", 0), Err(Errno::EROFS));
    assert_eq!(w.files.removexattr(f, b"user.x"), Err(Errno::EROFS));
    let fd = XattrOf::Descriptor(w.open("f", 0).unwrap());
    assert_eq!(w.files.setxattr(fd, b"user.x", b"", 0), Err(Errno::EROFS));
}

#[test]
fn the_users_attributes_are_the_hosts() {
    let w = World::new();
    if !has_attributes(&w) {
        eprintln!("skipped: the temporary directory keeps no attributes");
        return;
    }
    w.write("f", "");
    std::os::unix::fs::symlink("f", w.host.path().join("l")).unwrap();
    let fd = w.open("f", libc::O_RDWR).unwrap();
    let number = format!("/proc/self/fd/{fd}");
    let ways = [
        XattrOf::Path(b"f"),
        XattrOf::Link(b"f"),
        XattrOf::Path(b"l"),
        XattrOf::Descriptor(fd),
        XattrOf::Path(number.as_bytes()),
    ];
    let (create, replace) = (libc::XATTR_CREATE as u32, libc::XATTR_REPLACE as u32);
    for way in ways {
        let files = &w.files;
        assert_eq!(files.getxattr(way, b"user.a", 99), Err(Errno::ENODATA), "{way:?}");
        assert_eq!(files.setxattr(way, b"user.a", b"one", replace), Err(Errno::ENODATA));
        assert_eq!(files.setxattr(way, b"user.a", b"one", create), Ok(()), "{way:?}");
        assert_eq!(files.setxattr(way, b"user.a", b"two", create), Err(Errno::EEXIST));
        for again in ways {
            assert_eq!(files.getxattr(again, b"user.a", 99).as_deref(), Ok(b"one".as_slice()));
            assert_eq!(files.xattr_len(again, b"user.a"), Ok(3));
            assert_eq!(files.listxattr(again).as_deref(), Ok(b"user.a\0".as_slice()));
        }
        assert_eq!(files.getxattr(way, b"user.a", 2), Err(Errno::ERANGE));
        assert_eq!(files.removexattr(way, b"user.a"), Ok(()), "{way:?}");
        assert_eq!(files.removexattr(way, b"user.a"), Err(Errno::ENODATA));
    }
    // A link itself has no `user` attributes.
    let link = w.files.setxattr(XattrOf::Link(b"l"), b"user.a", b"", 0);
    assert_eq!(link, Err(Errno::EPERM));
}
