//! Raw calls: one function for each number of `abi::call`, typed but without policy.
//!
//! - null and switching: `switch.rs`
//! - address spaces: `vas.rs`
//! - segments: `seg.rs`
//! - being copied: `ready.rs`
//!
//! Ids, rights, flags and structures are `abi`'s own, re-exported here. What a call means is
//! in the book (`docs/src/address-spaces.md`), numbers and structures in `docs/src/abi.md`.
//!
//! # Errors
//! Every function can give `ENOSYS`, and nothing else, outside a VM. Beyond what a function
//! lists for itself there are two groups:
//!
//! - *name errors*: `EINVAL` for a name that is empty, `.`, `..`, not UTF-8, or holds `/` or
//!   NUL; `ENAMETOOLONG` for one longer than [`NAME_MAX_BYTES`].
//! - *store errors*: `EUCLEAN` when a file of the store is damaged, `ENODATA` when it is shorter
//!   than it must be or a part is missing, `EOPNOTSUPP` when a newer spacejmp or another
//!   architecture made it; `EIO`, `ENOSPC`, `EDQUOT`, `EROFS`, `EMFILE`, `ENFILE` and `ENOMEM` from
//!   the host, when it was asked to read or change the store's files. The VMM's log names the file.
//!
//! A call that fails has changed nothing, except where its documentation says otherwise.
//!
//! # Which are `unsafe`
//! Those that move the thread, and those that declare what content is: [`seg_root_set`] and
//! [`seg_recover`]. The others cannot invalidate what the safe types guarantee: instances that a
//! [`Space`](crate::Space) or an [`Attached`](crate::Attached) uses are its own (`EBUSY` for
//! [`vas_detach`]), and a space notices when the segments of its VAS are changed.

mod growth;
mod ready;
mod seg;
mod switch;
mod vas;

pub use abi::Errno;

use crate::call_page::CallPage;

pub use crate::handle::VasHandle;
pub use abi::objects::{
    Attachment, Durability, LeaseId, Lifetime, MAX_INSTANCES, NAME_MAX_BYTES, PagePolicy, Right,
    SegId, SegParams, SegRoot, SegStat, SyncInterval, UnknownLifetime, VasId, VasStat, attach,
    clone, seg_ctl as seg_command, vas_ctl as vas_command,
};
#[doc(hidden)]
pub use growth::{SegGrowth, remove_pages};
pub use ready::{ready, ready_arguments};
pub use seg::{
    EMPTY_SEG_STAT, seg_alloc, seg_attach, seg_attach_local, seg_clone, seg_ctl, seg_delete,
    seg_detach, seg_detach_local, seg_find, seg_grow, seg_list, seg_mark_inconsistent, seg_recover,
    seg_reserve, seg_root_get, seg_root_set, seg_stat, seg_sync,
};
pub use switch::{
    hyper_null, null, vas_abort, vas_commit, vas_current, vas_message, vas_nest, vas_return,
    vas_switch, vas_switch_timeout, vas_sync, vas_try_switch, vas_version, vas_wait,
};
pub(crate) use vas::vas_detach_owned;
pub use vas::{
    EMPTY_VAS_STAT, vas_attach, vas_clone, vas_create, vas_ctl, vas_delete, vas_detach, vas_find,
    vas_list, vas_segments, vas_stat, vas_tag,
};

/// The name in a [`VasStat`] or [`SegStat`], without the zeros after it.
#[must_use]
pub fn name_bytes(name: &[u8; 256]) -> &[u8] {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    &name[..end]
}

/// Makes a call whose arguments need no more than `args`.
///
/// # Safety
/// As [`CallPage::call`].
#[inline(always)]
unsafe fn call<const N: usize>(number: u32, args: [u64; N]) -> Result<u64, Errno> {
    const { assert!(N <= 6) };
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    let page = CallPage::find().map_err(|_| Errno::ENOSYS)?;
    // SAFETY: the caller's promise.
    unsafe { page.call(number, all) }
}

/// Address and length of what a call reads.
fn bytes(slice: &[u8]) -> [u64; 2] {
    [slice.as_ptr() as u64, slice.len() as u64]
}

/// All of a list that is read from a cursor on.
#[doc(hidden)]
pub fn all<T: Copy>(
    empty: T,
    mut list: impl FnMut(&mut [T], u64) -> Result<usize, Errno>,
) -> Result<Vec<T>, Errno> {
    let mut buffer = vec![empty; 32];
    let mut found = Vec::new();
    loop {
        match list(&mut buffer, found.len() as u64)? {
            count if count < buffer.len() => {
                found.extend(buffer.iter().take(count).copied());
                return Ok(found);
            }
            count => found.extend(buffer.iter().take(count).copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_a_vm_every_call_is_missing() {
        let (vid, sid) = (VasId::new(1).unwrap(), SegId::new(1).unwrap());
        let vh = VasHandle::HOME;
        let missing = |result: Result<(), Errno>| assert_eq!(result, Err(Errno::ENOSYS));
        missing(null());
        missing(vas_create("a", 0o600).map(|_| ()));
        missing(vas_list(&mut [], 0).map(|_| ()));
        missing(vas_attach(vid, 0).map(|_| ()));
        missing(seg_alloc("a", &SegParams::default()).map(|_| ()));
        missing(seg_stat(sid).map(|_| ()));
        missing(seg_attach_local(vh, sid, Right::Read));
        // SAFETY: there is no segment.
        missing(unsafe { seg_root_set(sid, &SegRoot::default()) });
        // SAFETY: there is nothing to switch to.
        missing(unsafe { vas_switch(vh) });
    }

    #[test]
    fn names_end_at_the_first_zero() {
        let mut name = [0; 256];
        name[..3].copy_from_slice(b"abc");
        assert_eq!(name_bytes(&name), b"abc");
        assert_eq!(name_bytes(&[b'x'; 256]).len(), 256);
    }
}
