//! The life of one VAS and one segment: made, found, attached, entered, written, left, read,
//! cloned, detached, deleted. Lines `ok: ...`, then `done`; status 0.

use std::process::ExitCode;

use abi::Errno;
use abi::layout::{VAS_END, VAS_START};
use guests::findings::Findings;
use guests::place::{Place, enter, enter_by_hypercall, go_home, set_root, try_enter};
use guests::store::{all_segments, all_vases, segments_of, sized, text};
use spacejmp::sys::{self, Attachment, Right, SegId, SegRoot, VasHandle, VasId, attach, clone};

const SIZE: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut found = Findings::new();
    let vid = found.need("vas_create", sys::vas_create("basic", 0o640));
    found.same("vas_find finds it", sys::vas_find("basic"), Ok(vid));
    let sid = found.need("seg_alloc", sys::seg_alloc("basic-data", &sized(SIZE)));
    found.same("seg_find finds it", sys::seg_find("basic-data"), Ok(sid));
    let base = looks(&mut found, vid, sid);

    found.need("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    let expected = Attachment { sid: sid.raw(), right: Right::Write.raw() };
    found.same("vas_segments lists it", segments_of(vid), Ok(vec![expected]));

    let vh = found.need("vas_attach", sys::vas_attach(vid, 0));
    found.check("a handle is not home", vh != VasHandle::HOME);
    goes_in_and_out(&mut found, vh, base);
    reads_only(&mut found, vid, vh, base);
    clones(&mut found, vid, sid, base);
    grows(&mut found, vh, base);

    let root = SegRoot { address: base + 64, fingerprint: [7, 8] };
    found.same("no root object at first", sys::seg_root_get(sid), Ok(SegRoot::default()));
    found.need("seg_root_set", set_root(sid, &root));
    found.same("seg_root_get gives it back", sys::seg_root_get(sid), Ok(root));
    found.need("seg_sync", sys::seg_sync(sid));

    found.need("vas_detach", sys::vas_detach(vh));
    found.refused("the handle is gone", enter(vh), Errno::EBADF);
    found.need("seg_detach", sys::seg_detach(vid, sid));
    found.need("vas_delete", sys::vas_delete(vid));
    found.refused("the VAS is gone", sys::vas_find("basic"), Errno::ENOENT);
    found.need("seg_delete", sys::seg_delete(sid));
    found.refused("the segment is gone", sys::seg_find("basic-data"), Errno::ENOENT);
    found.end()
}

/// What `stat` and `list` say; the segment's base.
fn looks(found: &mut Findings, vid: VasId, sid: SegId) -> u64 {
    let vas = found.need("vas_stat", sys::vas_stat(vid));
    found.same("its id", vas.vid, vid.raw());
    found.same("its name", text(&vas.name), "basic".to_owned());
    found.same("its mode", vas.mode & 0o777, 0o640);
    found.same("no segments yet", vas.segments, 0);
    found.same("access of the owner", vas.access, 3);
    let listed = all_vases().map(|all| all.iter().any(|stat| stat.vid == vid.raw()));
    found.same("vas_list has it", listed, Ok(true));

    let segment = found.need("seg_stat", sys::seg_stat(sid));
    found.same("the segment's name", text(&segment.name), "basic-data".to_owned());
    found.same("the segment's size", segment.size_bytes, SIZE);
    found.check("the reserve is not less", segment.reserve_bytes >= SIZE);
    found.check("the base is aligned", segment.base.is_multiple_of(2 << 20) && segment.base != 0);
    let region = VAS_START.raw()..=VAS_END.raw() - SIZE;
    found.check("the base is in the VAS region", region.contains(&segment.base));
    let listed = all_segments().map(|all| all.iter().any(|stat| stat.sid == sid.raw()));
    found.same("seg_list has it", listed, Ok(true));
    segment.base
}

fn goes_in_and_out(found: &mut Findings, vh: VasHandle, base: u64) {
    found.same("a thread starts at home", sys::vas_current(), Ok(VasHandle::HOME));
    found.need("vas_switch", enter(vh));
    found.same("vas_current says so", sys::vas_current(), Ok(vh));
    let (first, last) = (Place::at(base), Place::at(base + SIZE - 8));
    found.same("a new segment is full of zeros", (first.read(), last.read()), (0, 0));
    first.write(1234);
    last.write(5678);
    // Allocates and prints inside: heap and standard output work as before.
    found.same("the heap is usable inside", vec![7_u64; 100_000].iter().sum(), 700_000);
    found.same("switching to where we are", enter(vh), Ok(()));
    found.need("vas_switch home", enter(VasHandle::HOME));
    found.same("vas_current says home", sys::vas_current(), Ok(VasHandle::HOME));
    found.same("home to home", enter(VasHandle::HOME), Ok(()));
    found.need("vas_switch again", enter(vh));
    found.same("what was written is there", (first.read(), last.read()), (1234, 5678));
    go_home();
    found.need("vas_try_switch", try_enter(vh));
    found.same("it is there", first.read(), 1234);
    found.need("home by hypercall", enter_by_hypercall(VasHandle::HOME));
    found.need("in by hypercall", enter_by_hypercall(vh));
    found.same("it is still there", last.read(), 5678);
    found.refused("detaching from inside", sys::vas_detach(vh), Errno::EBUSY);
    go_home();
}

fn reads_only(found: &mut Findings, vid: VasId, other: VasHandle, base: u64) {
    let vh = found.need("vas_attach read-only", sys::vas_attach(vid, attach::READ_ONLY));
    found.check("another instance, another handle", vh != other);
    found.need("switch into it", enter(vh));
    found.same("it sees the same", Place::at(base).read(), 1234);
    found.need("straight into the other", enter(other));
    Place::at(base + 8).write(99);
    found.need("and back", enter(vh));
    found.same("it sees what was written there", Place::at(base + 8).read(), 99);
    go_home();
    found.need("vas_detach", sys::vas_detach(vh));
}

fn clones(found: &mut Findings, vid: VasId, sid: SegId, base: u64) {
    let twin = found.need("vas_clone", sys::vas_clone(vid, "basic-twin", 0));
    found.same("it has the same segments", segments_of(twin), segments_of(vid));
    let copy = found.need("seg_clone", sys::seg_clone(sid, "basic-copy"));
    found.check("a copy has an id of its own", copy != sid);
    let stat = found.need("seg_stat of the copy", sys::seg_stat(copy));
    found.same("at the same base", stat.base, base);

    let other = found.need("vas_clone with copies", sys::vas_clone(vid, "apart", clone::COPY));
    let copies = found.need("vas_segments of it", segments_of(other));
    found.same("it has a copy of each", copies.len(), segments_of(vid).map_or(0, |all| all.len()));
    let own = found.need("which has a name of its own", sys::seg_find("apart.basic-data"));
    found.same("and an id", (copies[0].sid, own != sid), (own.raw(), true));
    let vh = found.need("vas_attach what has copies", sys::vas_attach(other, 0));
    found.need("switch into it", enter(vh));
    found.same("it has the content", Place::at(base).read(), 1234);
    Place::at(base).write(5);
    go_home();
    found.need("vas_detach", sys::vas_detach(vh));
    found.need("it goes", sys::vas_delete(other).and_then(|()| sys::seg_delete(own)));

    found.need("the twin loses its segment", sys::seg_detach(twin, sid));
    let vh = found.need("vas_attach the twin", sys::vas_attach(twin, 0));
    found.need("the copy, locally", sys::seg_attach_local(vh, copy, Right::Write));
    found.same("the twin itself stays empty", segments_of(twin), Ok(Vec::new()));
    found.need("switch into the twin", enter(vh));
    found.same("the copy has the content", Place::at(base).read(), 1234);
    Place::at(base).write(4321);
    go_home();
    found.need("seg_detach_local", sys::seg_detach_local(vh, copy));
    found.need("vas_detach the twin", sys::vas_detach(vh));
    found.need("vas_delete the twin", sys::vas_delete(twin));
    found.need("seg_delete the copy", sys::seg_delete(copy));

    let vh = found.need("the first again", sys::vas_attach(vid, attach::POPULATE));
    found.need("switch into it", enter(vh));
    found.same("the copy's change is not here", Place::at(base).read(), 1234);
    go_home();
    found.need("vas_detach", sys::vas_detach(vh));
}

fn grows(found: &mut Findings, vh: VasHandle, base: u64) {
    let mut params = sized(4096);
    // Directly behind the other segment's reserve.
    params.base = (base + SIZE).next_multiple_of(2 << 20);
    params.reserve_bytes = 64 << 20;
    let sid = found.need("a segment that can grow", sys::seg_alloc("basic-grows", &params));
    found.need("locally attached", sys::seg_attach_local(vh, sid, Right::Write));
    found.need("switch in", enter(vh));
    let first = Place::at(params.base);
    first.write(1);
    found.need("seg_grow", sys::seg_grow(sid, 32 << 20));
    let last = Place::at(params.base + (32 << 20) - 8);
    found.same("the new part is zeros", last.read(), 0);
    last.write(2);
    found.same("the old part is as it was", (first.read(), last.read()), (1, 2));
    go_home();
    found.need("seg_detach_local", sys::seg_detach_local(vh, sid));
    found.need("seg_delete", sys::seg_delete(sid));
}
