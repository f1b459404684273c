//! Permission bits, for a user subject to them.

use abi::Errno;
use guests::place::{Place, enter, go_home, set_root};
use guests::store::{base_of, sized};
use spacejmp::sys::{self, Right, SegId, VasId, attach, seg_command, vas_command};

use crate::Refusals;

fn assert_not_root() {
    // SAFETY: reads a number.
    let user = unsafe { libc::geteuid() };
    assert_ne!(user, 0, "permission bits do not stop root: run as another user");
}

fn set(r: &mut Refusals, vid: VasId, sid: SegId, vas_mode: u64, segment_mode: u64) {
    let what = format!("modes {vas_mode:o} and {segment_mode:o}");
    let set = sys::vas_ctl(vas_command::SET_MODE, vid.raw(), vas_mode);
    r.need(&what, set.and_then(|()| sys::seg_ctl(sid, seg_command::SET_MODE, segment_mode)));
}

/// On objects of the user's own.
pub(crate) fn provoke(r: &mut Refusals) {
    assert_not_root();
    let vid = r.need("a VAS", sys::vas_create("mine", 0o600));
    let sid = r.need("a segment", sys::seg_alloc("mine", &sized(4096)));
    let other = r.need("another", sys::seg_alloc("mine-too", &sized(4096)));
    r.need("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    // Attached once: state cached from that must not override the bits later.
    let vh = r.need("writable attach while permitted", sys::vas_attach(vid, 0));
    r.need("vas_detach", sys::vas_detach(vh));
    segment_bits(r, vid, sid, other);

    set(r, vid, sid, 0o400, 0o400);
    r.refused("writable attach", sys::vas_attach(vid, 0), Errno::EACCES);
    let vh = r.need("read-only attach", sys::vas_attach(vid, attach::READ_ONLY));
    r.need("switch in", enter(vh));
    r.found.same("reading", Place::at(base_of(sid)).read(), 0);
    go_home();
    r.settle();
    r.need("vas_detach", sys::vas_detach(vh));
    r.refused("seg_attach", sys::seg_attach(vid, other, Right::Read), Errno::EACCES);
    r.refused("seg_detach", sys::seg_detach(vid, sid), Errno::EACCES);
    r.refused("vas_delete", sys::vas_delete(vid), Errno::EACCES);
    r.refused("seg_delete", sys::seg_delete(sid), Errno::EACCES);
    r.refused("seg_grow", sys::seg_grow(sid, 8192), Errno::EACCES);
    r.refused("seg_reserve", sys::seg_reserve(sid, 0, 4096), Errno::EACCES);
    r.refused("seg_sync", sys::seg_sync(sid), Errno::EACCES);
    let root = sys::SegRoot { address: base_of(sid), fingerprint: [0; 2] };
    r.refused("seg_root_set", set_root(sid, &root), Errno::EACCES);
    let tagged = sys::vas_ctl(vas_command::SET_TAGGED, vid.raw(), 0);
    r.refused("SET_TAGGED", tagged, Errno::EACCES);
    for (what, command, arg) in CHANGES {
        r.refused(what, sys::seg_ctl(sid, command, arg), Errno::EACCES);
    }

    set(r, vid, sid, 0o600, 0o600);
    r.need("all go", sys::vas_delete(vid));
    r.need("all", sys::seg_delete(sid).and_then(|()| sys::seg_delete(other)));
}

/// Commands that write a segment's header.
const CHANGES: [(&str, u64, u64); 2] =
    [("SET_LOCKABLE", seg_command::SET_LOCKABLE, 1), ("SET_PAGES", seg_command::SET_PAGES, 1)];

/// A VAS that may be changed, and a segment that may only be read.
fn segment_bits(r: &mut Refusals, vid: VasId, inside: SegId, other: SegId) {
    let vh = r.need("vas_attach", sys::vas_attach(vid, 0));
    let mode = |r: &mut Refusals, mode: u64| {
        r.need("a mode", sys::seg_ctl(other, seg_command::SET_MODE, mode));
    };
    mode(r, 0o400);
    let attached = sys::seg_attach(vid, other, Right::Write);
    r.refused("seg_attach to write what may be read", attached, Errno::EACCES);
    let local = sys::seg_attach_local(vh, other, Right::Write);
    r.refused("seg_attach_local to write what may be read", local, Errno::EACCES);
    r.need("to read", sys::seg_attach_local(vh, other, Right::Read));
    r.need("and out", sys::seg_detach_local(vh, other));
    mode(r, 0o600);
    r.need("lockable", sys::seg_ctl(other, seg_command::SET_LOCKABLE, 1));
    mode(r, 0o400);
    // Taking a shared lock is a write, too.
    let local = sys::seg_attach_local(vh, other, Right::Read);
    r.refused("seg_attach_local of a lock that may be read", local, Errno::EACCES);
    mode(r, 0o600);
    r.need("not lockable", sys::seg_ctl(other, seg_command::SET_LOCKABLE, 0));
    r.need("vas_detach", sys::vas_detach(vh));
    r.found.same("the other is in as before", sys::seg_stat(inside).map(|s| s.access), Ok(3));
}

/// On VASes and segments that belong to another user: `secret` (600) and `readable` (644,
/// the segment in the VAS with the right to write).
pub(crate) fn provoke_foreign(r: &mut Refusals) {
    assert_not_root();
    r.refused("vas_find", sys::vas_find("secret"), Errno::EACCES);
    r.refused("seg_find", sys::seg_find("secret"), Errno::EACCES);

    let vid = r.need("vas_find of what may be read", sys::vas_find("readable"));
    let sid = r.need("seg_find of what may be read", sys::seg_find("readable"));
    r.refused("writable attach", sys::vas_attach(vid, 0), Errno::EACCES);
    let vh = r.need("read-only attach", sys::vas_attach(vid, attach::READ_ONLY));
    r.need("switch in", enter(vh));
    let word = Place::at(base_of(sid)).read();
    r.found.same("reading works", Place::at(base_of(sid)).read(), word);
    go_home();
    r.settle();
    r.need("vas_detach", sys::vas_detach(vh));
    let access = sys::vas_stat(vid).map(|stat| stat.access);
    r.found.same("vas_stat says read", access, Ok(1));
    let access = sys::seg_stat(sid).map(|stat| stat.access);
    r.found.same("seg_stat says read", access, Ok(1));
    r.refused("seg_attach", sys::seg_attach(vid, sid, Right::Read), Errno::EACCES);
    r.refused("seg_detach", sys::seg_detach(vid, sid), Errno::EACCES);
    r.refused("seg_grow", sys::seg_grow(sid, 1 << 20), Errno::EACCES);
    r.refused("seg_reserve", sys::seg_reserve(sid, 0, 4096), Errno::EACCES);
    r.refused("seg_sync", sys::seg_sync(sid), Errno::EACCES);
    let root = sys::SegRoot { address: base_of(sid), fingerprint: [0; 2] };
    r.refused("seg_root_set", set_root(sid, &root), Errno::EACCES);
    for (what, command, arg) in CHANGES {
        r.refused(what, sys::seg_ctl(sid, command, arg), Errno::EACCES);
    }
    let tagged = sys::vas_ctl(vas_command::SET_TAGGED, vid.raw(), 0);
    r.refused("SET_TAGGED", tagged, Errno::EACCES);
    // The store's folders belong to another user.
    r.refused("vas_create", sys::vas_create("new", 0o600), Errno::EACCES);
    r.refused("seg_alloc", sys::seg_alloc("new", &sized(4096)), Errno::EACCES);
    r.refused("vas_clone", sys::vas_clone(vid, "new", 0), Errno::EACCES);
    r.refused("seg_clone", sys::seg_clone(sid, "new"), Errno::EACCES);
    let mode = sys::vas_ctl(vas_command::SET_MODE, vid.raw(), 0o666);
    r.refused("SET_MODE of the VAS", mode, Errno::EPERM);
    let mode = sys::seg_ctl(sid, seg_command::SET_MODE, 0o666);
    r.refused("SET_MODE of the segment", mode, Errno::EPERM);
    r.refused("vas_delete", sys::vas_delete(vid), Errno::EACCES);
    r.refused("seg_delete", sys::seg_delete(sid), Errno::EACCES);
}
