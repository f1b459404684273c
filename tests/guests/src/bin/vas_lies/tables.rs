//! Page tables that the guest has tampered with: the VMM's path to a table leads to a page of a
//! read-only file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;

use guests::findings::Findings;

use crate::Steps;

const PAGE: usize = 4096;
/// Nothing is mapped in these 2 MiB; something is in the next.
const BENT: usize = 0x600_0000_0000;
const NEXT: usize = BENT + (2 << 20);

fn map(at: usize, prot: i32, flags: i32, fd: i32) -> Result<usize, i32> {
    let at = ptr::with_exposed_provenance_mut(at);
    // SAFETY: the addresses are chosen by the system, or nothing else is mapped there.
    let mapped = unsafe { libc::mmap(at, PAGE, prot, flags, fd, 0) };
    if mapped == libc::MAP_FAILED {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(mapped.expose_provenance())
    }
}

pub(crate) fn tables(found: &mut Findings, steps: &Steps) {
    let file = File::open(steps.0.join("read-only")).expect("the test has made it");
    let (rw, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let anonymous = private | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let shown = map(0, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd());
    found.check("the file is mapped", shown.is_ok());
    found.same("the next slot", map(NEXT, rw, anonymous, -1), Ok(NEXT));
    println!("file at {:#x}", shown.unwrap_or(0));
    steps.wait("bend");
    // Each makes the VMM store into the table it finds.
    println!("mmap is served: {}", map(BENT, rw, anonymous, -1).is_ok());
    let bent = ptr::with_exposed_provenance_mut(BENT);
    // SAFETY: no Rust object lives there.
    let protected = unsafe { libc::mprotect(bent, PAGE, libc::PROT_READ) };
    println!("mprotect is served: {}", protected == 0);
    // SAFETY: as above.
    let unmapped = unsafe { libc::munmap(bent, PAGE) };
    println!("munmap is served: {}", unmapped == 0);
}
