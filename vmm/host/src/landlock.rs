//! Whether the host's kernel lets a process confine itself to files.

/// The version of Landlock that the host has, if it has any.
#[must_use]
pub fn landlock_version() -> Option<i64> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: asks for the version, for which there is no structure.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
    (version > 0).then_some(version)
}
