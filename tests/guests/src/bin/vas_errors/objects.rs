//! Ids and handles of nothing, names that are in use, parameters out of range, segments
//! that overlap.

use abi::Errno;
use abi::call::{
    CALL_SEG_ATTACH, CALL_SEG_DELETE, CALL_SEG_STAT, CALL_VAS_ATTACH, CALL_VAS_DELETE,
    CALL_VAS_STAT,
};
use abi::layout::{VAS_END, VAS_START};
use guests::place::{enter, enter_by_hypercall, recover, set_root, try_enter};
use guests::store::sized;
use spacejmp::CallPage;
use spacejmp::sys::{
    self, Attachment, EMPTY_SEG_STAT, EMPTY_VAS_STAT, Right, SegId, SegParams, SegRoot, VasHandle,
    VasId, attach, clone, seg_command, vas_command,
};

use crate::Refusals;

/// What is a change, or a sync, of a versioned segment is refused where it cannot be one.
fn not_attached(r: &mut Refusals, sid: SegId) {
    r.refused("seg_grow from outside", sys::seg_grow(sid, 8192), Errno::EPERM);
    r.refused("seg_reserve from outside", sys::seg_reserve(sid, 0, 4096), Errno::EPERM);
    r.refused("seg_sync from outside", sys::seg_sync(sid), Errno::EPERM);
    let root = SegRoot::default();
    r.refused("seg_root_set from outside", set_root(sid, &root), Errno::EPERM);
    let read = r.need("seg_root_get from outside", sys::seg_root_get(sid));
    assert_eq!(read.address, 0);
}

/// A call on an id that the typed bindings would not let through.
fn raw(number: u32, args: [u64; 3]) -> Result<u64, Errno> {
    let page = CallPage::find().map_err(|_| Errno::ENOSYS)?;
    let [a, b, c] = args;
    // SAFETY: the callers' only addresses are those of buffers they own; no switch is among them.
    unsafe { page.call(number, [a, b, c, 0, 0, 0]) }
}

pub(crate) fn provoke(r: &mut Refusals) {
    let vid = r.need("a VAS", sys::vas_create("objects", 0o600));
    // Not at the region's first address: another is to lie below it.
    let params = SegParams { base: VAS_START.raw() + (8 << 40), ..sized(4 << 20) };
    let sid = r.need("a segment", sys::seg_alloc("objects", &params));
    r.refused("vas_create twice", sys::vas_create("objects", 0o600), Errno::EEXIST);
    r.refused("seg_alloc twice", sys::seg_alloc("objects", &sized(4096)), Errno::EEXIST);
    r.refused("vas_clone onto itself", sys::vas_clone(vid, "objects", 0), Errno::EEXIST);
    r.refused("seg_clone onto itself", sys::seg_clone(sid, "objects"), Errno::EEXIST);
    r.refused("vas_find of nothing", sys::vas_find("nothing"), Errno::ENOENT);
    r.refused("seg_find of nothing", sys::seg_find("nothing"), Errno::ENOENT);
    let versioned = SegParams { lifetime: 2, lockable: 1, ..sized(4096) };
    let versioned = r.need("a versioned segment", sys::seg_alloc("versioned", &versioned));
    not_attached(r, versioned);
    r.need("deleting it", sys::seg_delete(versioned));
    ids(r, vid, sid);
    handles(r, sid);
    parameters(r, vid, sid);
    commands(r, vid, sid);
    overlap(r, vid, sid);
    r.need("they go", sys::vas_delete(vid).and_then(|()| sys::seg_delete(sid)));
    r.refused("an id is not used again", sys::vas_stat(vid), Errno::ENOENT);
}

fn ids(r: &mut Refusals, vid: VasId, sid: SegId) {
    let (mut vas, mut segment) = (EMPTY_VAS_STAT, EMPTY_SEG_STAT);
    let (vas_at, segment_at) = (&raw mut vas as u64, &raw mut segment as u64);
    for id in [0, 1, u64::MAX, 1 << 63] {
        let mut missing = |call: &str, result| {
            r.refused(&format!("{call} of id {id:#x}"), result, Errno::ENOENT);
        };
        missing("vas_stat", raw(CALL_VAS_STAT, [id, vas_at, 280]));
        missing("vas_attach", raw(CALL_VAS_ATTACH, [id, 0, 0]));
        missing("vas_delete", raw(CALL_VAS_DELETE, [id, 0, 0]));
        missing("seg_stat", raw(CALL_SEG_STAT, [id, segment_at, 312]));
        missing("seg_delete", raw(CALL_SEG_DELETE, [id, 0, 0]));
        missing("seg_attach (vid)", raw(CALL_SEG_ATTACH, [id, sid.raw(), 1]));
        missing("seg_attach (sid)", raw(CALL_SEG_ATTACH, [vid.raw(), id, 1]));
    }
    // The two kinds of ids are distinct.
    let (not_vid, not_sid) = (VasId::new(sid.raw()), SegId::new(vid.raw()));
    let (not_vid, not_sid) = (not_vid.expect("not 0"), not_sid.expect("not 0"));
    r.refused("vas_attach of a segment", sys::vas_attach(not_vid, 0), Errno::ENOENT);
    r.refused("vas_clone of a segment", sys::vas_clone(not_vid, "x", 0), Errno::ENOENT);
    r.refused(
        "vas_segments",
        sys::vas_segments(not_vid, &mut [Attachment::default()], 0),
        Errno::ENOENT,
    );
    r.refused("vas_ctl", sys::vas_ctl(vas_command::SET_MODE, 1, 0o600), Errno::ENOENT);
    r.refused("seg_ctl", sys::seg_ctl(not_sid, seg_command::SET_MODE, 0o600), Errno::ENOENT);
    r.refused("seg_clone of a VAS", sys::seg_clone(not_sid, "x"), Errno::ENOENT);
    r.refused("seg_grow of a VAS", sys::seg_grow(not_sid, 1 << 30), Errno::ENOENT);
    r.refused("seg_reserve of a VAS", sys::seg_reserve(not_sid, 0, 1), Errno::ENOENT);
    r.refused("seg_sync of a VAS", sys::seg_sync(not_sid), Errno::ENOENT);
    r.refused("seg_root_get of a VAS", sys::seg_root_get(not_sid), Errno::ENOENT);
    let root = SegRoot::default();
    r.refused("seg_root_set of a VAS", set_root(not_sid, &root), Errno::ENOENT);
    r.refused("seg_detach of what is not in", sys::seg_detach(vid, sid), Errno::ENOENT);
}

fn handles(r: &mut Refusals, sid: SegId) {
    for number in [1, 77, 32767, 32768, 1 << 40, u64::MAX, 1 << 58] {
        let vh = VasHandle::from_raw(number);
        let mut bad = |call: &str, result| {
            r.refused(&format!("{call} of handle {number:#x}"), result, Errno::EBADF);
        };
        bad("vas_switch", enter(vh));
        bad("vas_switch by hypercall", enter_by_hypercall(vh));
        bad("vas_try_switch", try_enter(vh));
        bad("vas_detach", sys::vas_detach(vh));
        bad("seg_attach_local", sys::seg_attach_local(vh, sid, Right::Read));
        bad("seg_detach_local", sys::seg_detach_local(vh, sid));
        bad("vas_ctl", sys::vas_ctl(vas_command::SET_INSTANCE_TAGGED, number, 0));
    }
    let home = VasHandle::HOME;
    r.refused("vas_detach of home", sys::vas_detach(home), Errno::EINVAL);
    let attached = sys::seg_attach_local(home, sid, Right::Read);
    r.refused("seg_attach_local at home", attached, Errno::EINVAL);
    r.refused("seg_detach_local at home", sys::seg_detach_local(home, sid), Errno::EINVAL);
    let tagged = sys::vas_ctl(vas_command::SET_INSTANCE_TAGGED, home.raw(), 0);
    r.refused("SET_INSTANCE_TAGGED of home", tagged, Errno::EBADF);
}

fn parameters(r: &mut Refusals, vid: VasId, sid: SegId) {
    let good = sized(4 << 20);
    let end = VAS_END.raw() & !((2 << 20) - 1);
    let bad: [(&str, SegParams); 15] = [
        ("of size 0", SegParams { size_bytes: 0, ..good }),
        ("of all addresses", SegParams { size_bytes: u64::MAX, ..good }),
        ("larger than the region", SegParams { size_bytes: 113 << 40, ..good }),
        ("with a base of 4 KiB alignment", SegParams { base: VAS_START.raw() + 4096, ..good }),
        ("in the private region", SegParams { base: 1 << 40, ..good }),
        ("just below the region", SegParams { base: VAS_START.raw() - (2 << 20), ..good }),
        ("beyond the end", SegParams { base: end, ..good }),
        ("in the kernel", SegParams { base: 0xffff_8000_0000_0000, ..good }),
        ("with a base that overflows", SegParams { base: u64::MAX << 21, ..good }),
        ("with a reserve below its size", SegParams { reserve_bytes: 2 << 20, ..good }),
        ("with a reserve beyond all", SegParams { reserve_bytes: u64::MAX, ..good }),
        ("of no lifetime", SegParams { lifetime: 9, ..good }),
        ("of no page policy", SegParams { pages: 3, ..good }),
        ("twice lockable", SegParams { lockable: 2, ..good }),
        ("with a reserved byte", SegParams { reserved: 1, ..good }),
    ];
    for (what, params) in bad {
        r.refused(&format!("a segment {what}"), sys::seg_alloc("bad", &params), Errno::EINVAL);
    }
    // Two that fill the region, and no space for a third.
    let half = SegParams { size_bytes: 50 << 40, ..good };
    let halves = ["half-1", "half-2"].map(|name| r.need(name, sys::seg_alloc(name, &half)));
    r.refused("a third half", sys::seg_alloc("half-3", &half), Errno::ENOMEM);
    for sid in halves {
        r.need("it goes", sys::seg_delete(sid));
    }
    let odd = SegParams { mode: 0o1_0600, ..good };
    r.refused("a segment of an odd mode", sys::seg_alloc("bad", &odd), Errno::EINVAL);
    r.refused("a VAS of an odd mode", sys::vas_create("bad", 0o1_0600), Errno::EINVAL);
    for flags in [attach::ALL + 1, 1 << 63] {
        r.refused("vas_attach with a flag", sys::vas_attach(vid, flags), Errno::EINVAL);
    }
    for flags in [clone::ALL + 1, clone::ALL | 1 << 63] {
        r.refused("vas_clone with a flag", sys::vas_clone(vid, "bad", flags), Errno::EINVAL);
    }
    for right in [0, 2, 4, 7, u64::MAX] {
        let attached = raw(CALL_SEG_ATTACH, [vid.raw(), sid.raw(), right]);
        r.refused(&format!("seg_attach with right {right:#x}"), attached, Errno::EINVAL);
    }
    r.refused("shrinking", sys::seg_grow(sid, 4096), Errno::EINVAL);
    r.refused("growing beyond the reserve", sys::seg_grow(sid, 8 << 20), Errno::EFBIG);
    r.refused("growing beyond all", sys::seg_grow(sid, u64::MAX), Errno::EFBIG);
    for (offset, bytes) in [(0, 0), (0, 1 << 40), (1 << 40, 1), (u64::MAX, 2)] {
        let reserved = sys::seg_reserve(sid, offset, bytes);
        r.refused(&format!("reserving {bytes:#x} at {offset:#x}"), reserved, Errno::EINVAL);
    }
    let base = sys::seg_stat(sid).map_or(0, |stat| stat.base);
    for address in [1, base - 1, base + (4 << 20), u64::MAX] {
        let root = SegRoot { address, ..SegRoot::default() };
        r.refused("a root object elsewhere", set_root(sid, &root), Errno::EINVAL);
    }
}

fn commands(r: &mut Refusals, vid: VasId, sid: SegId) {
    use abi::objects::{Lifetime, seg_ctl, vas_ctl};
    let vas: [(&str, u64, u64); 5] = [
        ("command 0", 0, 0),
        ("command 99", 99, 0),
        ("an odd mode", vas_ctl::SET_MODE, 0o1_0000),
        ("a mode of 64 bits", vas_ctl::SET_MODE, 1 << 32 | 0o600),
        ("tagged 2", vas_ctl::SET_TAGGED, 2),
    ];
    for (what, cmd, arg) in vas {
        let result = sys::vas_ctl(cmd, vid.raw(), arg);
        r.refused(&format!("vas_ctl {what}"), result, Errno::EINVAL);
    }
    let segment: [(&str, u64, u64); 6] = [
        ("command 0", 0, 0),
        ("command 99", 99, 0),
        ("an odd mode", seg_ctl::SET_MODE, 0o1_0000),
        ("lockable 2", seg_ctl::SET_LOCKABLE, 2),
        ("page policy 3", seg_ctl::SET_PAGES, 3),
        ("lifetime 7", seg_ctl::SET_LIFETIME, 7),
    ];
    for (what, cmd, arg) in segment {
        r.refused(&format!("seg_ctl {what}"), sys::seg_ctl(sid, cmd, arg), Errno::EINVAL);
    }
    let volatile = sys::seg_ctl(sid, seg_ctl::SET_LIFETIME, Lifetime::Volatile as u64);
    r.refused("from persistent to volatile", volatile, Errno::EOPNOTSUPP);
    let recovered = recover(sid);
    r.refused("RECOVER without the lock", recovered, Errno::EPERM);
}

fn overlap(r: &mut Refusals, vid: VasId, sid: SegId) {
    r.need("seg_attach", sys::seg_attach(vid, sid, Right::Read));
    let twice = sys::seg_attach(vid, sid, Right::Read);
    r.refused("the same segment again", twice, Errno::EEXIST);
    let other_right = sys::seg_attach(vid, sid, Right::Write);
    r.refused("the same with another right", other_right, Errno::EEXIST);
    let base = sys::seg_stat(sid).map_or(0, |stat| stat.base);
    // Its size ends below the other segment, its reserve overlaps it: the reserve counts.
    let params =
        SegParams { base: base - (4 << 20), size_bytes: 4096, reserve_bytes: 6 << 20, ..sized(0) };
    let below = r.need("a segment whose reserve overlaps", sys::seg_alloc("overlaps", &params));
    r.refused("seg_attach of it", sys::seg_attach(vid, below, Right::Read), Errno::EEXIST);
    let vh = r.need("vas_attach", sys::vas_attach(vid, 0));
    let local = sys::seg_attach_local(vh, below, Right::Write);
    r.refused("seg_attach_local of it", local, Errno::EEXIST);
    let local = sys::seg_attach_local(vh, sid, Right::Read);
    r.refused("seg_attach_local of what is there", local, Errno::EEXIST);
    r.refused("seg_detach_local of what is not", sys::seg_detach_local(vh, sid), Errno::ENOENT);
    r.need("vas_detach", sys::vas_detach(vh));
    r.need("seg_detach", sys::seg_detach(vid, sid));
    r.need("the other goes", sys::seg_delete(below));
}
