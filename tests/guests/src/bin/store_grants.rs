//! What a program that was granted only part of the store can do. Lines `ok: ...`, then `done`;
//! status 0.
//!
//! - `calls VID SID`: with `mine`, `new` and, for reading, `library` granted; the numbers
//!   (hexadecimal) are those of VAS `other` and its segment `secret`
//! - `reach DIR`: every file of the store in DIR gives `EACCES`
//! - `barriers`: `membarrier`
//! - `warnings`: a hundred switches, each of which logs a warning

use std::process::ExitCode;

use abi::call;
use abi::layout::VAS_START;
use abi::objects::{seg_ctl, vas_ctl};
use abi::{Errno, SegId, VasId};
use guests::findings::Findings;
use guests::place::{enter, go_home};
use guests::store::{all_segments, all_vases, base_of, segments_of, sized, text};
use spacejmp::sys::{self, Right, SegParams, SegRoot, VasHandle, attach, clone};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut found = Findings::new();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["calls", vid, sid] => {
            let number = |text: &&str| u64::from_str_radix(text, 16).expect("a number");
            let vid = VasId::new(number(vid)).expect("an id");
            let sid = SegId::new(number(sid)).expect("an id");
            foreign(&mut found, vid, sid);
            lists(&mut found);
            read_only(&mut found);
            shared(&mut found);
            own(&mut found, sid);
        }
        ["reach", dir] => reach(&mut found, dir),
        ["barriers"] => barriers(&mut found),
        ["warnings"] => warnings(&mut found),
        other => panic!("there is no mode {other:?}"),
    }
    found.end()
}

/// Every call, on objects that were not granted.
fn foreign(found: &mut Findings, vid: VasId, sid: SegId) {
    let mine = found.need("find what is granted", sys::vas_find("mine"));
    let vh = found.need("attach it", sys::vas_attach(mine, attach::READ_ONLY));
    let sized = sized(4096);
    let unit = |result: Result<VasId, Errno>| result.map(drop);
    let seg = |result: Result<SegId, Errno>| result.map(drop);
    let mut attempts: Vec<(u32, Result<(), Errno>)> = vec![
        (call::CALL_VAS_CREATE, unit(sys::vas_create("unknown", 0o600))),
        (call::CALL_VAS_CREATE, unit(sys::vas_create("other", 0o600))),
        (call::CALL_VAS_FIND, unit(sys::vas_find("other"))),
        (call::CALL_VAS_FIND, unit(sys::vas_find("unknown"))),
        (call::CALL_VAS_CLONE, unit(sys::vas_clone(vid, "new", 0))),
        (call::CALL_VAS_CLONE, unit(sys::vas_clone(mine, "unknown", 0))),
        (call::CALL_VAS_CLONE, unit(sys::vas_clone(mine, "library", 0))),
        (call::CALL_VAS_TAG, unit(sys::vas_tag(vid, "t"))),
        (call::CALL_VAS_ATTACH, sys::vas_attach(vid, 0).map(drop)),
        (call::CALL_VAS_ATTACH, sys::vas_attach(vid, attach::READ_ONLY).map(drop)),
        (call::CALL_VAS_DELETE, sys::vas_delete(vid)),
        (call::CALL_VAS_STAT, sys::vas_stat(vid).map(drop)),
        (call::CALL_VAS_SEGMENTS, guests::store::segments_of(vid).map(drop)),
        (call::CALL_SEG_ALLOC, seg(sys::seg_alloc("secret", &sized))),
        (call::CALL_SEG_FIND, seg(sys::seg_find("secret"))),
        (call::CALL_SEG_CLONE, seg(sys::seg_clone(sid, "copy"))),
        (call::CALL_SEG_DELETE, sys::seg_delete(sid)),
        (call::CALL_SEG_STAT, sys::seg_stat(sid).map(drop)),
        (call::CALL_SEG_GROW, sys::seg_grow(sid, 8192)),
        (call::CALL_SEG_RESERVE, sys::seg_reserve(sid, 0, 4096)),
        (call::CALL_SEG_SYNC, sys::seg_sync(sid)),
        (call::CALL_SEG_ROOT_GET, sys::seg_root_get(sid).map(drop)),
        (call::CALL_SEG_ROOT_SET, root_set(sid)),
        (call::CALL_SEG_DETACH, sys::seg_detach(vid, sid)),
    ];
    for right in [Right::Read, Right::Write] {
        attempts.push((call::CALL_SEG_ATTACH, sys::seg_attach(mine, sid, right)));
        attempts.push((call::CALL_SEG_ATTACH, sys::seg_attach(vid, sid, right)));
        attempts.push((call::CALL_SEG_ATTACH_LOCAL, sys::seg_attach_local(vh, sid, right)));
    }
    for command in [vas_ctl::SET_MODE, vas_ctl::SET_TAGGED] {
        attempts.push((call::CALL_VAS_CTL, sys::vas_ctl(command, vid.raw(), 0)));
    }
    for command in [
        seg_ctl::SET_MODE,
        seg_ctl::SET_LOCKABLE,
        seg_ctl::SET_PAGES,
        seg_ctl::SET_LIFETIME,
        seg_ctl::SET_DURABILITY,
    ] {
        attempts.push((call::CALL_SEG_CTL, sys::seg_ctl(sid, command, 0)));
    }
    // SAFETY: nothing reads the content, whatever is declared about it.
    attempts.push((call::CALL_SEG_CTL, unsafe { sys::seg_recover(sid) }));
    // SAFETY: likewise.
    attempts.push((call::CALL_SEG_CTL, unsafe { sys::seg_mark_inconsistent(sid) }));
    // Of handles, not of objects; or lists, which have a test of their own.
    let others = [
        call::CALL_NULL,
        call::CALL_HYPER_NULL,
        call::CALL_VAS_SWITCH,
        call::CALL_VAS_TRY_SWITCH,
        call::CALL_VAS_SWITCH_TIMEOUT,
        call::CALL_VAS_CURRENT,
        call::CALL_VAS_COMMIT,
        call::CALL_VAS_ABORT,
        call::CALL_VAS_SYNC,
        call::CALL_VAS_VERSION,
        call::CALL_VAS_WAIT,
        call::CALL_VAS_NEST,
        call::CALL_VAS_RETURN,
        call::CALL_VAS_MESSAGE,
        call::CALL_READY,
        call::CALL_READY_ARGUMENTS,
        call::CALL_VAS_DETACH,
        call::CALL_VAS_LIST,
        call::CALL_SEG_LIST,
        call::CALL_SEG_DETACH_LOCAL,
    ];
    for &(number, name) in call::ALL {
        let tried: Vec<_> = attempts.iter().filter(|(call, _)| *call == number).collect();
        let is_known = tried.is_empty() == others.contains(&number);
        found.check(&format!("{name} has a place in this test"), is_known);
        for (_, result) in tried {
            found.refused(&format!("{name} on what is not granted"), *result, Errno::EACCES);
        }
    }
    found.refused("a segment's name that is free", sys::seg_find("nothing"), Errno::ENOENT);
    found.need("detach it", sys::vas_detach(vh));
}

fn root_set(sid: SegId) -> Result<(), Errno> {
    // SAFETY: removes the root object, if anything; nothing reads one here.
    unsafe { sys::seg_root_set(sid, &SegRoot::default()) }
}

fn lists(found: &mut Findings) {
    let vases = found.need("vas_list", all_vases());
    let names: Vec<String> = vases.iter().map(|stat| text(&stat.name)).collect();
    found.same("only what is granted is listed", names, vec!["library".into(), "mine".into()]);
    let access: Vec<u8> = vases.iter().map(|stat| stat.access).collect();
    found.same("with the right it was granted with", access, vec![1, 3]);
    let segments = found.need("seg_list", all_segments());
    let listed: Vec<(String, u8)> =
        segments.iter().map(|stat| (text(&stat.name), stat.access)).collect();
    let expected = [("both", 1), ("data", 3), ("words", 1)];
    let expected: Vec<_> = expected.map(|(name, access)| (name.to_owned(), access)).into();
    found.same("and the segments in it", listed, expected);
}

/// `library` was granted for reading.
fn read_only(found: &mut Findings) {
    let away = Errno::EACCES;
    let vid = found.need("vas_find", sys::vas_find("library"));
    let sid = found.need("seg_find", sys::seg_find("words"));
    let mine = found.need("vas_find", sys::vas_find("mine"));
    found.refused("it is not attached to be written", sys::vas_attach(vid, 0), away);
    let vh = found.need("only to be read", sys::vas_attach(vid, attach::READ_ONLY));
    found.need("and entered", enter(vh));
    // SAFETY: the segment is mapped for reading.
    let word = unsafe { std::ptr::read_volatile(base_of(sid) as *const u64) };
    go_home();
    found.same("its content is there", word, 0);
    found.need("vas_detach", sys::vas_detach(vh));
    found.refused("vas_create", sys::vas_create("library", 0o600), away);
    found.refused("vas_delete", sys::vas_delete(vid), away);
    found.refused("vas_ctl", sys::vas_ctl(vas_ctl::SET_MODE, vid.raw(), 0o600), away);
    found.refused("seg_detach", sys::seg_detach(vid, sid), away);
    found.refused("seg_grow", sys::seg_grow(sid, 1 << 20), away);
    found.refused("seg_delete", sys::seg_delete(sid), away);
    found.refused("seg_ctl", sys::seg_ctl(sid, seg_ctl::SET_MODE, 0o600), away);
    found.refused("seg_root_set", root_set(sid), away);
    found.refused("into another VAS", sys::seg_attach(mine, sid, Right::Read), away);
    found.refused("the VAS cloned", sys::vas_clone(vid, "new", 0), away);
    let copy = found.need("its content copied", sys::vas_clone(vid, "new", clone::COPY));
    let copies = found.need("vas_segments", segments_of(copy));
    found.need("the copy goes", sys::vas_delete(copy));
    for sid in copies.iter().filter_map(|copy| SegId::new(copy.sid)) {
        found.need("and what was in it, the program's own", sys::seg_delete(sid));
    }
    found.need("seg_root_get", sys::seg_root_get(sid));
    found.need("seg_stat", sys::seg_stat(sid));
    let copy = found.need("a copy of the content", sys::seg_clone(sid, "copy"));
    found.need("is the program's own", sys::seg_grow(copy, 1 << 20));
    found.need("and goes", sys::seg_delete(copy));
}

/// `both` is in `mine` and in `library`.
fn shared(found: &mut Findings) {
    let away = Errno::EACCES;
    let mine = found.need("vas_find", sys::vas_find("mine"));
    let sid = found.need("seg_find", sys::seg_find("both"));
    found.refused("no writing by the other way in", sys::seg_grow(sid, 1 << 20), away);
    found.refused("nor by attaching", sys::vas_attach(mine, 0), away);
    let vh = found.need("but reading", sys::vas_attach(mine, attach::READ_ONLY));
    found.need("vas_detach", sys::vas_detach(vh));
    found.need("it can be taken out", sys::seg_detach(mine, sid));
    let vh = found.need("and then all that is left written", sys::vas_attach(mine, 0));
    found.refused("local, to be written", sys::seg_attach_local(vh, sid, Right::Write), away);
    found.need("local, to be read", sys::seg_attach_local(vh, sid, Right::Read));
    found.need("vas_detach", sys::vas_detach(vh));
    found.refused("it does not come back", sys::seg_attach(mine, sid, Right::Read), away);
}

/// `new` does not exist yet: its complete life cycle.
fn own(found: &mut Findings, secret: SegId) {
    found.refused("not there yet", sys::vas_find("new"), Errno::ENOENT);
    let vid = found.need("vas_create", sys::vas_create("new", 0o600));
    let sid = found.need("seg_alloc", sys::seg_alloc("new-data", &sized(4096)));
    found.same("seg_find", sys::seg_find("new-data"), Ok(sid));
    found.need("seg_attach", sys::seg_attach(vid, sid, Right::Write));
    let vh: VasHandle = found.need("vas_attach", sys::vas_attach(vid, 0));
    found.need("enter", enter(vh));
    // SAFETY: the segment is mapped for writing, and nothing else uses it.
    unsafe { std::ptr::write_volatile(base_of(sid) as *mut u64, 7) };
    go_home();
    found.refused(
        "no stranger joins it",
        sys::seg_attach_local(vh, secret, Right::Read),
        Errno::EACCES,
    );
    found.need("vas_detach", sys::vas_detach(vh));
    let copy = found.need("vas_clone", sys::vas_clone(vid, "mine2", 0));
    found.need("vas_delete of the clone", sys::vas_delete(copy));
    found.need("seg_detach", sys::seg_detach(vid, sid));
    found.need("still its own", sys::seg_root_get(sid));
    found.need("seg_attach again", sys::seg_attach(vid, sid, Right::Read));
    found.need("vas_delete", sys::vas_delete(vid));
    found.need("seg_delete", sys::seg_delete(sid));
    found.refused("gone", sys::seg_find("new-data"), Errno::ENOENT);
}

fn reach(found: &mut Findings, dir: &str) {
    for name in ["", "format", "lock", "live", "vas", "segments/s", "vms/new", "tmp", "no/such"] {
        let path = format!("{dir}/{name}");
        let opened = std::fs::File::open(&path).map(drop);
        let error = opened.expect_err("must fail").raw_os_error();
        found.same(&format!("open /{name}"), error, Some(libc::EACCES));
        let made = std::fs::write(&path, "x").expect_err("must fail").raw_os_error();
        found.same(&format!("write /{name}"), made, Some(libc::EACCES));
    }
    let moved = std::fs::rename(dir, format!("{dir}2")).expect_err("must fail").raw_os_error();
    found.same("rename", moved, Some(libc::EACCES));
    // The store itself works.
    found.need("vas_create", sys::vas_create("made", 0o600));
}

fn barriers(found: &mut Findings) {
    let call = |command: i32, flags: u32| -> Result<i64, i32> {
        // SAFETY: takes no pointers.
        let done = unsafe { libc::syscall(libc::SYS_membarrier, command, flags, 0) };
        if done < 0 {
            Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
        } else {
            Ok(done)
        }
    };
    let offered = call(0, 0).unwrap_or(-1);
    found.check("nothing that concerns other processes is offered", offered & 0b111 == 0);
    found.check("nothing for rseq is offered", offered & 0b1_1000_0000 == 0);
    found.check("the private barrier is", offered & 0b11000 == 0b11000);
    found.same("it wants registration", call(1 << 3, 0), Err(libc::EPERM));
    found.same("the global one is served", call(1, 0), Ok(0));
    found.same("so is the expedited one", call(1 << 1, 0), Ok(0));
    found.same("and its registration", call(1 << 2, 0), Ok(0));
    found.same("which is not the private one's", call(1 << 3, 0), Err(libc::EPERM));
    found.same("registration", call(1 << 4, 0), Ok(0));
    found.same("and then the barrier", call(1 << 3, 0), Ok(0));
    for command in [0, 1, 1 << 3, 1 << 4] {
        found.same("a flag", call(command, 1), Err(libc::EINVAL));
    }
    for command in [1 << 7, 1 << 8, 1 << 9, -1, 3] {
        found.same("another command", call(command, 0), Err(libc::EINVAL));
    }
}

/// Each check of a VAS with a segment that overlaps one of the instance's own logs a
/// warning.
fn warnings(found: &mut Findings) {
    let params = SegParams { base: VAS_START.raw() + (1 << 40), ..sized(4096) };
    let vid = found.need("vas_create", sys::vas_create("v", 0o600));
    let [own, other] =
        ["own", "other"].map(|name| found.need("seg_alloc", sys::seg_alloc(name, &params)));
    let vh = found.need("vas_attach", sys::vas_attach(vid, 0));
    found.need("seg_attach_local", sys::seg_attach_local(vh, own, Right::Read));
    found.need("seg_attach", sys::seg_attach(vid, other, Right::Read));
    for round in 0..100 {
        found.need("a change", sys::vas_ctl(vas_ctl::SET_TAGGED, vid.raw(), round & 1));
        found.need("enter", enter(vh));
        go_home();
    }
}
