//! Invalid names, and addresses that cannot be read or written.

use abi::Errno;
use abi::call::{
    ALL, CALL_SEG_ALLOC, CALL_SEG_LIST, CALL_SEG_ROOT_GET, CALL_SEG_ROOT_SET, CALL_SEG_STAT,
    CALL_VAS_CREATE, CALL_VAS_FIND, CALL_VAS_LIST, CALL_VAS_SEGMENTS, CALL_VAS_STAT,
};
use guests::store::sized;
use spacejmp::CallPage;
use spacejmp::sys::{self, SegId};

use crate::Refusals;

/// Makes a call by hand.
fn raw(number: u32, args: [u64; 6]) -> Result<u64, Errno> {
    let page = CallPage::find().map_err(|_| Errno::ENOSYS)?;
    // SAFETY: the callers pass addresses of memory that nothing else uses, or that the call must
    // refuse; no switch is among their numbers.
    unsafe { page.call(number, args) }
}

pub(crate) fn provoke(r: &mut Refusals) {
    names(r);
    addresses(r);
    // Far away, behind the last one, and behind the last of each group.
    let is_known = |number: &u32| ALL.iter().any(|(known, _)| known == number);
    let behind = ALL.iter().map(|(known, _)| known + 1).filter(|number| !is_known(number));
    for number in [0x534a_7fff, 0x534a_ffff].into_iter().chain(behind) {
        r.refused(&format!("number {number:#x}"), raw(number, [0; 6]), Errno::ENOSYS);
    }
}

fn names(r: &mut Refusals) {
    let longest = "n".repeat(255);
    let bad: [(&str, &[u8], Errno); 8] = [
        ("an empty name", b"", Errno::EINVAL),
        ("the name .", b".", Errno::EINVAL),
        ("the name ..", b"..", Errno::EINVAL),
        ("a name with /", b"a/b", Errno::EINVAL),
        ("a name with NUL", b"a\0b", Errno::EINVAL),
        ("a name that is not UTF-8", b"a\xff", Errno::EINVAL),
        ("a surrogate in a name", b"\xed\xa0\x80", Errno::EINVAL),
        ("a name of 256 bytes", &[b'n'; 256], Errno::ENAMETOOLONG),
    ];
    let vid = r.need("a VAS with a name of 255 bytes", sys::vas_create(&longest, 0o600));
    let sid = r.need("a segment likewise", sys::seg_alloc(&longest, &sized(4096)));
    for (what, name, errno) in bad {
        r.refused(&format!("vas_create {what}"), sys::vas_create(name, 0o600), errno);
        r.refused(&format!("vas_find {what}"), sys::vas_find(name), errno);
        r.refused(&format!("vas_clone {what}"), sys::vas_clone(vid, name, 0), errno);
        r.refused(&format!("seg_alloc {what}"), sys::seg_alloc(name, &sized(4096)), errno);
        r.refused(&format!("seg_find {what}"), sys::seg_find(name), errno);
        r.refused(&format!("seg_clone {what}"), sys::seg_clone(sid, name), errno);
    }
    // What would mean a version or a right: no new object gets it, and nothing is found by it.
    for name in ["a@1", "a@", "@", "a:ro", "a:rw"] {
        let what = format!("a new name {name:?}");
        r.refused(&format!("vas_create {what}"), sys::vas_create(name, 0o600), Errno::EINVAL);
        r.refused(&format!("vas_clone {what}"), sys::vas_clone(vid, name, 0), Errno::EINVAL);
        r.refused(&format!("seg_alloc {what}"), sys::seg_alloc(name, &sized(4096)), Errno::EINVAL);
        r.refused(&format!("seg_clone {what}"), sys::seg_clone(sid, name), Errno::EINVAL);
        r.refused(&format!("vas_find {what}"), sys::vas_find(name), Errno::ENOENT);
        r.refused(&format!("seg_find {what}"), sys::seg_find(name), Errno::ENOENT);
    }
    // Unusual but valid names: the two name spaces are separate, and no such name is special.
    for name in ["...", " ", "-rf", "a\nb", "\u{1f30d}", "manifest", "*", "CON", "\u{7f}"] {
        let vid = r.need(&format!("a VAS named {name:?}"), sys::vas_create(name, 0o600));
        let sid = r.need(&format!("a segment named {name:?}"), sys::seg_alloc(name, &sized(1)));
        r.found.same("they are found", sys::vas_find(name), Ok(vid));
        r.found.same("each of them", sys::seg_find(name), Ok(sid));
        r.need("and go", sys::vas_delete(vid).and_then(|()| sys::seg_delete(sid)));
    }
    r.need("the long ones go", sys::vas_delete(vid).and_then(|()| sys::seg_delete(sid)));
}

/// Text is mapped read-only.
static CONSTANT: [u64; 64] = [1; 64];

fn addresses(r: &mut Refusals) {
    let vid = r.need("a VAS to look at", sys::vas_create("addresses", 0o600));
    let sid = r.need("a segment", sys::seg_alloc("addresses", &sized(4096)));
    let (v, s) = (vid.raw(), sid.raw());
    let name = b"addresses".as_ptr() as u64;
    let params = sized(4096);
    let params_at = &raw const params as u64;
    let unreadable = [
        ("page 0", 0),
        ("the VAS region, where nothing is", 0x2000_0000_0000),
        ("the kernel", 0xffff_ffff_8000_0000),
        ("an address that is none", 0x8000_0000_0000_0000),
    ];
    for (what, at) in unreadable {
        let mut fault = |call: &str, result| {
            r.refused(&format!("{call} at {what}"), result, Errno::EFAULT);
        };
        fault("vas_create", raw(CALL_VAS_CREATE, [at, 4, 0o600, 0, 0, 0]));
        fault("vas_find", raw(CALL_VAS_FIND, [at, 4, 0, 0, 0, 0]));
        fault("seg_alloc's name", raw(CALL_SEG_ALLOC, [at, 4, params_at, 32, 0, 0]));
        fault("seg_alloc", raw(CALL_SEG_ALLOC, [name, 4, at, 32, 0, 0]));
        fault("seg_root_set", raw(CALL_SEG_ROOT_SET, [s, at, 0, 0, 0, 0]));
    }
    // Invalid lengths: code that trusts one allocates that much.
    for len in [257, 1 << 20, 1 << 60, !0] {
        let result = raw(CALL_VAS_FIND, [name, len, 0, 0, 0, 0]);
        r.refused(&format!("a name of {len:#x} bytes"), result, Errno::ENAMETOOLONG);
    }
    // Hidden from the optimiser, which would otherwise know its content.
    let constant = std::hint::black_box(&CONSTANT).as_ptr() as u64;
    for (what, at) in unreadable.into_iter().chain([("read-only memory", constant)]) {
        let mut fault = |call: &str, result| {
            r.refused(&format!("{call} to {what}"), result, Errno::EFAULT);
        };
        fault("vas_stat", raw(CALL_VAS_STAT, [v, at, 280, 0, 0, 0]));
        fault("seg_stat", raw(CALL_SEG_STAT, [s, at, 312, 0, 0, 0]));
        fault("vas_list", raw(CALL_VAS_LIST, [at, 280, 0, 0, 0, 0]));
        fault("seg_list", raw(CALL_SEG_LIST, [at, 312, 0, 0, 0, 0]));
        fault("seg_root_get", raw(CALL_SEG_ROOT_GET, [s, at, 0, 0, 0, 0]));
    }
    r.found.same("read-only memory is as it was", CONSTANT, [1; 64]);
    let mut room = [0_u64; 64];
    let at = room.as_mut_ptr() as u64;
    r.refused("vas_stat too short", raw(CALL_VAS_STAT, [v, at, 7, 0, 0, 0]), Errno::EINVAL);
    r.refused("seg_stat too short", raw(CALL_SEG_STAT, [s, at, 7, 0, 0, 0]), Errno::EINVAL);
    r.refused("vas_list without room", raw(CALL_VAS_LIST, [at, 279, 0, 0, 0, 0]), Errno::EINVAL);
    r.refused("seg_list without room", raw(CALL_SEG_LIST, [at, 311, 0, 0, 0, 0]), Errno::EINVAL);
    let segments = raw(CALL_VAS_SEGMENTS, [v, at, 15, 0, 0, 0]);
    r.refused("vas_segments without room", segments, Errno::EINVAL);
    let short = raw(CALL_SEG_ALLOC, [name, 4, at, 15, 0, 0]);
    r.refused("seg_alloc with half a structure", short, Errno::EINVAL);
    r.found.same("nothing was written", room, [0; 64]);
    // A caller that knows only base and size.
    let made = raw(CALL_SEG_ALLOC, [name, 4, params_at, 16, 0, 0]);
    let made = r.need("seg_alloc with the first 16 bytes", made);
    let made = SegId::new(made).expect("an id");
    r.found.same("the rest is zeros", sys::seg_stat(made).map(|stat| stat.mode), Ok(0));
    r.need("it goes", sys::seg_delete(made));
    // A caller that knows fewer fields gets fewer.
    let less = raw(CALL_VAS_STAT, [v, at, 8, 0, 0, 0]);
    r.found.same("vas_stat of 8 bytes", (less.is_ok(), room[0], room[1]), (true, v, 0));
    r.need("they go", sys::vas_delete(vid).and_then(|()| sys::seg_delete(sid)));
}
