//! One random step: the call, its arguments and its result as text.

use abi::Errno;
use guests::place::{Place, enter, enter_by_hypercall, set_root, try_enter};
use guests::store::{all_segments, all_vases, segments_of, text};
use guests::touch::Seen;
use spacejmp::sys::{self, Right, SegParams, SegRoot, VasHandle, attach};

use crate::state::{BASES, Instance, State, base};

/// Makes a random call and returns it with its result, as text.
pub(crate) fn step(state: &mut State) -> String {
    match state.random.below(100) {
        0..6 => create(state),
        6..8 => {
            let name = state.name();
            let found = sys::vas_find(name);
            state.vids.extend(found);
            format!("vas_find {name} = {}", shown(found))
        }
        8..10 => clone(state),
        10..18 => vas_attach(state),
        18..22 => vas_detach(state),
        22..25 => {
            let vid = state.vid();
            format!("vas_delete {vid} = {}", shown_ok(sys::vas_delete(vid)))
        }
        25..28 => vas_looks(state),
        28..34 => seg_alloc(state),
        34..36 => {
            let name = state.name();
            let found = sys::seg_find(name);
            state.sids.extend(found);
            format!("seg_find {name} = {}", shown(found))
        }
        36..38 => {
            let (sid, name) = (state.sid(), state.name());
            let made = sys::seg_clone(sid, name);
            state.sids.extend(made);
            format!("seg_clone {sid} {name} = {}", shown(made))
        }
        38..46 => {
            let (vid, sid, right) = (state.vid(), state.sid(), state.right());
            let result = sys::seg_attach(vid, sid, right);
            format!("seg_attach {vid} {sid} {} = {}", letter(right), shown_ok(result))
        }
        46..49 => attach_local(state),
        49..52 => {
            let (vid, sid) = (state.vid(), state.sid());
            format!("seg_detach {vid} {sid} = {}", shown_ok(sys::seg_detach(vid, sid)))
        }
        52..54 => detach_local(state),
        54..57 => {
            let sid = state.sid();
            format!("seg_delete {sid} = {}", shown_ok(sys::seg_delete(sid)))
        }
        57..60 => seg_looks(state),
        60..62 => {
            let (sid, bytes) = (state.sid(), (1 + state.random.below(8)) << 20);
            format!("seg_grow {sid} {bytes} = {}", shown_ok(sys::seg_grow(sid, bytes)))
        }
        62..65 => root(state),
        65..80 => switch(state),
        80..82 => {
            let current = sys::vas_current().map(VasHandle::raw);
            format!("vas_current = {}", shown(current))
        }
        _ => touch(state),
    }
}

fn shown<T: std::fmt::Display>(result: Result<T, Errno>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => format!("{error:?}"),
    }
}

fn shown_ok(result: Result<(), Errno>) -> String {
    shown(result.map(|()| "ok"))
}

fn letter(right: Right) -> char {
    match right {
        Right::Read => 'r',
        Right::Write => 'w',
    }
}

fn create(state: &mut State) -> String {
    let name = state.name();
    let made = sys::vas_create(name, 0o600);
    state.vids.extend(made);
    format!("vas_create {name} 600 = {}", shown(made))
}

fn clone(state: &mut State) -> String {
    let (vid, name) = (state.vid(), state.name());
    let made = sys::vas_clone(vid, name, 0);
    state.vids.extend(made);
    format!("vas_clone {vid} {name} = {}", shown(made))
}

fn vas_attach(state: &mut State) -> String {
    let vid = state.vid();
    let flags = match state.random.below(6) {
        0 => attach::READ_ONLY,
        1 => attach::NO_TAG,
        2 => attach::POPULATE,
        3 => attach::READ_ONLY | attach::NO_TAG,
        _ => 0,
    };
    let made = sys::vas_attach(vid, flags);
    if let Ok(vh) = made {
        state.instances.push(Instance { vh, vid, flags, local: Vec::new() });
    }
    format!("vas_attach {vid} {flags} = {}", shown(made.map(VasHandle::raw)))
}

fn vas_detach(state: &mut State) -> String {
    let vh = state.vh();
    let result = sys::vas_detach(vh);
    if result.is_ok() {
        state.instances.retain(|one| one.vh != vh);
    }
    format!("vas_detach {} = {}", vh.raw(), shown_ok(result))
}

fn vas_looks(state: &mut State) -> String {
    let vid = state.vid();
    match state.random.below(3) {
        0 => format!("vas_list = {}", names(all_vases().map(|all| all.map_names(|one| &one.name)))),
        1 => {
            let told = sys::vas_stat(vid).map(|stat| {
                format!("{} {:o} {} {}", text(&stat.name), stat.mode, stat.segments, stat.attachers)
            });
            format!("vas_stat {vid} = {}", shown(told))
        }
        _ => {
            let told = segments_of(vid).map(|mut all| {
                all.sort_unstable_by_key(|one| one.sid);
                let one = |one: &sys::Attachment| {
                    let right = Right::from_raw(one.right).map_or('?', letter);
                    format!("{:016x}:{right}", one.sid)
                };
                all.iter().map(one).collect::<Vec<_>>().join(" ")
            });
            format!("vas_segments {vid} = {}", shown(told))
        }
    }
}

/// Names out of a list of statistics.
trait MapNames<T> {
    fn map_names(&self, name: impl Fn(&T) -> &[u8; 256]) -> Vec<String>;
}

impl<T> MapNames<T> for Vec<T> {
    fn map_names(&self, name: impl Fn(&T) -> &[u8; 256]) -> Vec<String> {
        self.iter().map(|one| text(name(one))).collect()
    }
}

fn names(list: Result<Vec<String>, Errno>) -> String {
    shown(list.map(|names| names.join(" ")))
}

fn seg_alloc(state: &mut State) -> String {
    let name = state.name();
    let place = state.random.below(BASES);
    let params = SegParams {
        base: base(place),
        size_bytes: (1 + state.random.below(3)) << 20,
        reserve_bytes: [0, 4 << 20, 6 << 20][state.random.below(3) as usize],
        mode: 0o600,
        lifetime: 0,
        pages: state.random.below(3) as u8,
        lockable: u8::from(state.random.below(3) == 0),
        reserved: 0,
        durability: 0,
        reserved_end: [0; 6],
    };
    let made = sys::seg_alloc(name, &params);
    state.sids.extend(made);
    let SegParams { size_bytes, reserve_bytes, lockable, .. } = params;
    let result = shown(made);
    format!("seg_alloc {name} {place} {size_bytes} {reserve_bytes} {lockable} = {result}")
}

fn attach_local(state: &mut State) -> String {
    let (vh, sid, right) = (state.vh(), state.sid(), state.right());
    let result = sys::seg_attach_local(vh, sid, right);
    if let (Ok(()), Some(one)) = (result, state.instance(vh)) {
        one.local.push((sid, right));
    }
    let result = shown_ok(result);
    format!("seg_attach_local {} {sid} {} = {result}", vh.raw(), letter(right))
}

fn detach_local(state: &mut State) -> String {
    // Mostly one that is attached.
    let (mut vh, mut sid) = (state.vh(), state.sid());
    if let Some(one) = state.instances.iter().rev().find(|one| !one.local.is_empty()) {
        (vh, sid) = (one.vh, one.local[0].0);
    }
    let result = sys::seg_detach_local(vh, sid);
    if let (Ok(()), Some(one)) = (result, state.instance(vh)) {
        one.local.retain(|local| local.0 != sid);
    }
    format!("seg_detach_local {} {sid} = {}", vh.raw(), shown_ok(result))
}

fn seg_looks(state: &mut State) -> String {
    let sid = state.sid();
    if state.random.below(3) == 0 {
        let list = all_segments().map(|all| all.map_names(|one| &one.name));
        return format!("seg_list = {}", names(list));
    }
    let told = sys::seg_stat(sid).map(|stat| {
        format!(
            "{} {} {} {} {} {}",
            text(&stat.name),
            stat.base,
            stat.size_bytes,
            stat.reserve_bytes,
            stat.lockable,
            stat.attachers
        )
    });
    format!("seg_stat {sid} = {}", shown(told))
}

fn root(state: &mut State) -> String {
    let sid = state.sid();
    if state.random.below(2) == 0 {
        let told =
            sys::seg_root_get(sid).map(|root| format!("{} {}", root.address, root.fingerprint[0]));
        return format!("seg_root_get {sid} = {}", shown(told));
    }
    let address = base(state.random.below(BASES)) + state.random.below(3) * (1 << 20);
    let mark = state.random.below(1000);
    let root = SegRoot { address, fingerprint: [mark, 0] };
    let result = shown_ok(set_root(sid, &root));
    format!("seg_root_set {sid} {address} {mark} = {result}")
}

fn switch(state: &mut State) -> String {
    let vh = state.vh();
    let (call, result) = match state.random.below(4) {
        // Never waits: the other VMs of a lockstep test do nothing in the meantime.
        0..3 => ("vas_try_switch", try_enter(vh)),
        // Where no lock can be contended, the other two calls.
        _ if vh == VasHandle::HOME => ("vas_switch", enter(vh)),
        _ if vh == state.current => ("vas_switch_hyper", enter_by_hypercall(vh)),
        _ => ("vas_try_switch", try_enter(vh)),
    };
    if result.is_ok() {
        state.arrived(vh);
    }
    format!("{call} {} = {}", vh.raw(), shown_ok(result))
}

/// Writes or reads the first or last word of a page of a mapped segment.
fn touch(state: &mut State) -> String {
    let Some((sid, right, base)) = state.mapped() else {
        return "touch = nothing".to_owned();
    };
    // Within the smallest size of a segment.
    let offset = state.random.below(256) * 4096 + state.random.below(2) * 4088;
    let place = Place::at(base + offset);
    let (what, seen) = if right == Right::Write && state.random.below(2) == 0 {
        let value = state.random.below(1_000_000);
        (format!("write {sid} {offset} {value}"), place.put(value))
    } else {
        (format!("read {sid} {offset}"), place.look())
    };
    match seen {
        Seen::Value(value) => format!("{what} = {value}"),
        Seen::NotMapped | Seen::Forbidden if !state.is_alone => format!("{what} = {seen:?}"),
        odd => panic!("{what} = {odd:?}"),
    }
}
