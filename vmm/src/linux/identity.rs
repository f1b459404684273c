//! The program's environment: host name, memory, randomness.

use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;

use super::time::{checked, last_errno};
use super::{CallResult, Fail, done, value};
use crate::access::MemoryAccess;
use crate::linux::task::ThreadCtx;

/// `uname(2)`: the host's kernel release, since the program gets that kernel's calls.
pub(super) fn uname(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let host = rustix::system::uname();
    let mut release = host.release().to_string_lossy().into_owned();
    if ctx.process.settings.has_old_release() {
        release = old_release(&release);
    }
    let machine = if ctx.process.settings.has_small_machine() { "i686" } else { "x86_64" };
    let fields: [&[u8]; 6] = [
        b"Linux",
        host.nodename().to_bytes(),
        release.as_bytes(),
        b"spacejmp",
        machine.as_bytes(),
        b"(none)",
    ];
    let mut bytes = vec![0; 65 * 6];
    for (field, text) in bytes.chunks_exact_mut(65).zip(fields) {
        field.iter_mut().take(64).zip(text).for_each(|(s, b)| *s = *b);
    }
    done(ctx.user().copy_out(a[0], &bytes))
}

/// A release for programs that know nothing newer than 2.6 (`override_release` of Linux 4 and
/// later): the second number plus 60 becomes the third.
fn old_release(release: &str) -> String {
    let digits = |part: &str| {
        part.chars()
            .map_while(|c| c.to_digit(10))
            .fold(0u32, |n, d| n.saturating_mul(10).saturating_add(d))
    };
    let second = release.split('.').nth(1).map_or(0, digits);
    let numbers = release.char_indices().scan(0, |dots, (at, c)| {
        *dots += u32::from(c == '.');
        ((c == '.' && *dots < 3) || c.is_ascii_digit()).then_some(at + 1)
    });
    let rest = release.get(numbers.last().unwrap_or(0)..).unwrap_or_default();
    format!("2.6.{}{rest}", second.saturating_add(60))
}

/// `sysinfo(2)`: the VM's memory, the host's load and uptime.
pub(super) fn sysinfo(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let host = rustix::system::sysinfo();
    let private = &ctx.process.private;
    let total = private.limit_bytes();
    let free = total.saturating_sub(private.held_bytes());
    let [one, five, fifteen] = host.loads;
    let threads = u64::from(ctx.process.threads.counts().0 as u16);
    // The unit of memory, in the last word, is a byte. There is neither swap nor high memory.
    let uptime = host.uptime as u64;
    let words = [uptime, one, five, fifteen, total, free, 0, 0, 0, 0, threads, 0, 0, 1];
    done(ctx.user().write_words(a[0], words))
}

/// `getrandom(2)`: the host's, straight into the program's memory.
pub(super) fn getrandom(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [at, len, flags, ..] = *a;
    // The argument is an int on Linux.
    let flags = u64::from(flags as u32);
    if flags & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut done = 0;
    let buffer = ctx.user().ranges(at, len.min(32 << 20), MemoryAccess::Write)?;
    for range in buffer.ranges() {
        let (at, len) = (range.as_ptr(), range.len());
        // SAFETY: guest memory, which may change at any time and stays mapped as long as
        // `buffer`.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, at, len, flags as u32) };
        match got {
            n if n >= 0 => done += n as u64,
            _ if done > 0 => break,
            _ if last_errno() == Errno::EINTR => return Err(Fail::Restart),
            _ => return Err(last_errno().into()),
        }
    }
    value(done)
}

/// Set once the VMM has registered for private expedited barriers, and for those that also
/// serialise instruction fetch. The host counts them for the process, and so do we.
static REGISTERED: AtomicU32 = AtomicU32::new(0);

/// Commands of `membarrier(2)`, as `linux/membarrier.h` numbers them.
mod barrier {
    pub(super) const QUERY: u32 = 0;
    pub(super) const GLOBAL: u32 = 1;
    pub(super) const GLOBAL_EXPEDITED: u32 = 1 << 1;
    pub(super) const REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;
    pub(super) const PRIVATE: u32 = 1 << 3;
    pub(super) const REGISTER_PRIVATE: u32 = 1 << 4;
    pub(super) const SYNC_CORE: u32 = 1 << 5;
    pub(super) const REGISTER_SYNC_CORE: u32 = 1 << 6;
    pub(super) const OFFERED: u32 = PRIVATE | REGISTER_PRIVATE | SYNC_CORE | REGISTER_SYNC_CORE;
}

/// `membarrier(2)`, for the threads of the program: they are threads of the VMM's process, and a
/// vCPU that runs guest code is a running host thread, so the host's private barrier reaches
/// all of them.
///
/// The global commands would make the host interrupt every processor, or wait for every program,
/// whenever the guest asks. They get the private barrier, which is what they promise as far as
/// the program's own threads are concerned; `QUERY` does not offer them.
///
/// # Errors
/// `EINVAL` for other commands and any flag, `EPERM` without registration.
pub(super) fn membarrier(_ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (command, flags) = (a[0] as u32, a[1] as u32);
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        barrier::QUERY => {
            let offered = host_barrier(barrier::QUERY)? as u32 & barrier::OFFERED;
            value(u64::from(offered))
        }
        barrier::REGISTER_GLOBAL_EXPEDITED => value(0),
        barrier::GLOBAL | barrier::GLOBAL_EXPEDITED => {
            host_barrier(barrier::REGISTER_PRIVATE)?;
            value(host_barrier(barrier::PRIVATE)?)
        }
        barrier::REGISTER_PRIVATE | barrier::REGISTER_SYNC_CORE => {
            let done = host_barrier(command)?;
            REGISTERED.fetch_or(command, Ordering::Relaxed);
            value(done)
        }
        barrier::PRIVATE | barrier::SYNC_CORE => {
            // The registration's bit is the one above the command's.
            if REGISTERED.load(Ordering::Relaxed) & command << 1 == 0 {
                return Err(Errno::EPERM.into());
            }
            value(host_barrier(command)?)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

fn host_barrier(command: u32) -> Result<u64, Errno> {
    // SAFETY: takes no pointers.
    checked(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) })
}

#[cfg(test)]
mod tests {
    use super::old_release;

    #[test]
    fn an_old_release_keeps_what_follows_the_numbers() {
        assert_eq!(old_release("6.18.44-fc-v595"), "2.6.78-fc-v595");
        assert_eq!(old_release("5.15.0"), "2.6.75");
        assert_eq!(old_release("6.1.2.3-x"), "2.6.61.3-x");
        assert_eq!(old_release("6.19-rc1"), "2.6.79-rc1");
        assert_eq!(old_release(""), "2.6.60");
    }
}
