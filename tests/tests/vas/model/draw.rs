//! Turns random numbers into a step that is meaningful in the current state. A step that would
//! wait for a lock is not drawn: in lockstep no thread could release it.

use abi::layout::VAS_START;

use super::call::{Call, How, Params, Step};
use super::inside::Found;
use super::state::{Model, READ, WRITE};

/// Raw material of a step.
pub(super) type Raw = [u32; 6];

const MIB: u64 = 1 << 20;
/// Places where segments are created, 2 MiB apart, so that larger ones overlap.
const PLACES: u64 = 5;

fn place(n: u64) -> u64 {
    VAS_START.raw() + (40 << 40) + n * 2 * MIB
}

/// An address where nothing is ever mapped.
pub(super) const NOWHERE: u64 = VAS_START.raw() + (41 << 40);

/// Draws from the numbers of one step.
struct Draw<'a> {
    model: &'a Model,
    raw: [u64; 3],
    vm: usize,
    thread: usize,
}

fn pick<T: Copy>(from: &[T], number: u64) -> Option<T> {
    (!from.is_empty()).then(|| from[(number % from.len() as u64) as usize])
}

impl Draw<'_> {
    /// One of those that exist; occasionally one that was deleted, or never existed.
    fn id(&self, live: &[u64], ever: &[u64], number: u64) -> u64 {
        match number % 16 {
            0 => pick(ever, number / 16).unwrap_or(12_345),
            1 if (number / 16).is_multiple_of(4) => 12_345,
            _ => pick(live, number / 16).unwrap_or(12_345),
        }
    }

    /// Segments with a property, the oldest first: ids are random, and the same numbers must
    /// mean the same step in every run.
    fn by_age(&self, wanted: impl Fn(&u64) -> bool) -> Vec<u64> {
        self.model.sids.iter().copied().filter(wanted).collect()
    }

    fn vid(&self, n: usize) -> u64 {
        let live = self.model.live_vids();
        self.id(&live, &self.model.vids, self.raw[n])
    }

    fn sid(&self, n: usize) -> u64 {
        let live = self.model.live_sids();
        self.id(&live, &self.model.sids, self.raw[n])
    }

    fn vh(&self, n: usize) -> u64 {
        let ours: Vec<u64> = self.model.vms[self.vm].instances.keys().copied().collect();
        match self.raw[n] % 12 {
            0 => 0,
            1 => self.raw[n] / 12 % 7,
            _ => pick(&ours, self.raw[n] / 12).unwrap_or(0),
        }
    }

    fn name(&self, n: usize) -> char {
        char::from(b'a' + (self.raw[n] % 6) as u8)
    }

    fn right(&self, n: usize) -> u64 {
        if (self.raw[n] / 7).is_multiple_of(3) { READ } else { WRITE }
    }

    fn half(&self, n: usize) -> bool {
        (self.raw[n] / 5).is_multiple_of(2)
    }

    /// A word: mostly in a segment of the VAS the thread is in.
    fn address(&self) -> u64 {
        let [which, offset, _] = self.raw;
        let here = self.model.instance(self.vm, self.model.vms[self.vm].threads[self.thread]);
        let members: Vec<u64> =
            here.map(|one| self.by_age(|sid| one.members.contains_key(sid))).unwrap_or_default();
        let ever = self.model.live_sids();
        let sid = if which.is_multiple_of(5) {
            pick(&ever, which / 5)
        } else {
            pick(&members, which / 5)
        };
        let Some(segment) = sid.and_then(|sid| self.model.segments.get(&sid)) else {
            return place(which % PLACES) + 8;
        };
        let offsets = [
            0,
            8,
            4088,
            4096,
            MIB - 8,
            2 * MIB - 8,
            segment.size - 8,
            segment.size,
            segment.reserve - 8,
            segment.reserve,
        ];
        segment.base + pick(&offsets, offset).unwrap_or(0)
    }

    fn params(&self) -> Params {
        let [shape, what, _] = self.raw;
        Params {
            base: if shape.is_multiple_of(5) { 0 } else { place(shape / 5 % PLACES) },
            size: [4096, MIB, 2 * MIB, 3 * MIB + 1][(shape / 64 % 4) as usize],
            reserve: [0, 0, 4 * MIB, 2 * MIB][(shape / 256 % 4) as usize],
            volatile: what.is_multiple_of(5),
            pages: what / 8 % 3,
            lockable: (what / 32).is_multiple_of(2),
        }
    }

    fn switch(&self) -> Call {
        let vh = self.vh(0);
        let how = [How::Wait, How::Hyper, How::Try, How::Try, How::Within];
        let how = pick(&how, self.raw[1]).unwrap_or(How::Try);
        let mut later = self.model.clone();
        let blocked = later.switch(self.vm, self.thread, vh) == Err(abi::Errno::EAGAIN);
        match how {
            How::Wait | How::Hyper if blocked => Call::Switch { how: How::Try, vh },
            how => Call::Switch { how, vh },
        }
    }

    /// An access, if it does not wait and if it is certain which state of its VAS the instance has
    /// seen: an access that finds memory does not check the VAS, one that finds none does.
    fn access(&self) -> Call {
        let (vm, thread, at) = (self.vm, self.thread, self.address());
        let (is_write, by_call) = (self.half(2), self.raw[2].is_multiple_of(5));
        let found = self.model.look(vm, thread, at, is_write);
        let vh = self.model.vms[vm].threads[thread];
        let (at, is_write) = match found {
            Found::Nothing => (at, is_write),
            _ if self.model.is_behind(vm, vh) => (NOWHERE, false),
            _ => (at, is_write),
        };
        let mut later = self.model.clone();
        later.catch_up(vm, vh);
        let waits = later.look(vm, thread, at, is_write) == Found::Nothing
            && later.touch_would_wait(vm, thread);
        let value = self.raw[2];
        match (is_write, by_call || waits) {
            (false, false) => Call::Read { at },
            (true, false) => Call::Write { at, value },
            (false, true) => Call::Out { at },
            (true, true) => Call::In { at, value },
        }
    }

    fn call(&self, kind: u32) -> Call {
        match kind % 100 {
            0..4 => Call::VasCreate { name: self.name(0) },
            4 => Call::VasFind { name: self.name(0) },
            5 => Call::VasClone { vid: self.vid(0), name: self.name(1) },
            6..12 => {
                let flags = pick(&[0, 0, 0, 1, 2, 4, 3, 5], self.raw[1]).unwrap_or(0);
                Call::VasAttach { vid: self.vid(0), flags }
            }
            12..14 => Call::VasDetach { vh: self.vh(0) },
            14..16 => Call::VasDelete { vid: self.vid(0) },
            16 => {
                let mode = pick(&[0o600, 0o640, 0o644, 0o755], self.raw[1]).unwrap_or(0o600);
                if self.half(2) {
                    Call::VasMode { vid: self.vid(0), mode }
                } else {
                    Call::SegMode { sid: self.sid(0), mode }
                }
            }
            17 if self.half(2) => Call::VasTagged { vid: self.vid(0), tagged: self.half(1) },
            17 => Call::InstanceTagged { vh: self.vh(0), tagged: self.half(1) },
            18 => Call::VasStat { vid: self.vid(0) },
            19 if self.half(0) => Call::VasList,
            19 => Call::SegList,
            20 => Call::VasSegments { vid: self.vid(0) },
            21..27 => Call::SegAlloc { name: self.name(2), params: self.params() },
            27 => Call::SegFind { name: self.name(0) },
            // One that would wait for a lock, perhaps of a thread waiting for us, is never drawn.
            28 if self.model.clone_would_wait(self.vm, self.thread, self.sid(0)) => {
                Call::SegStat { sid: self.sid(0) }
            }
            28 => Call::SegClone { sid: self.sid(0), name: self.name(1) },
            29..37 => Call::SegAttach { vid: self.vid(0), sid: self.sid(1), right: self.right(2) },
            37..41 => {
                Call::SegAttachLocal { vh: self.vh(0), sid: self.sid(1), right: self.right(2) }
            }
            41..45 => {
                // Mostly one that is attached to it.
                let vid = self.vid(0);
                let listed: Vec<u64> = self.model.vases.get(&vid).map_or_else(Vec::new, |vas| {
                    vas.segments.iter().map(|(sid, _)| *sid).collect()
                });
                let one = pick(&listed, self.raw[2]).filter(|_| !self.raw[1].is_multiple_of(8));
                Call::SegDetach { vid, sid: one.unwrap_or(self.sid(1)) }
            }
            45..48 => {
                let vh = self.vh(0);
                let one = self.model.instance(self.vm, vh).and_then(|one| {
                    let local = |sid: &u64| one.members.get(sid).is_some_and(|m| m.local);
                    self.by_age(local).first().copied()
                });
                let one = one.filter(|_| !self.raw[1].is_multiple_of(8));
                Call::SegDetachLocal { vh, sid: one.unwrap_or(self.sid(1)) }
            }
            48 => Call::SegLockable { sid: self.sid(0), lockable: self.half(1) },
            49 if self.half(2) => Call::SegPages { sid: self.sid(0), pages: self.raw[1] % 3 },
            49 => Call::SegLifetime { sid: self.sid(0), volatile: self.raw[1].is_multiple_of(3) },
            50..52 => {
                let held = self.model.held(self.vm, self.thread);
                let held = self.by_age(|sid| held.contains_key(sid));
                let one = pick(&held, self.raw[0]).filter(|_| !self.raw[1].is_multiple_of(8));
                Call::SegRecover { sid: one.unwrap_or(self.sid(0)) }
            }
            52..54 => Call::SegDelete { sid: self.sid(0) },
            54..58 => Call::SegStat { sid: self.sid(0) },
            58..60 => {
                let sizes = [4096, MIB, 2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB];
                Call::SegGrow { sid: self.sid(0), size: pick(&sizes, self.raw[1]).unwrap_or(0) }
            }
            60 => Call::SegSync { sid: self.sid(0) },
            61 => Call::RootGet { sid: self.sid(0) },
            62 => {
                let sid = self.sid(0);
                let base = self.model.segments.get(&sid).map_or(0, |segment| segment.base);
                let address = match self.raw[1] % 4 {
                    0 => 0,
                    1 => base + 3 * MIB,
                    _ => base + 8,
                };
                Call::RootSet { sid, root: [address, self.raw[1], self.raw[2]] }
            }
            63 => Call::Current,
            64..80 => self.switch(),
            _ => self.access(),
        }
    }
}

/// The step that these numbers encode in the current state.
pub(super) fn step(model: &Model, raw: &Raw) -> Step {
    let [who, kind, a, b, c, d] = *raw;
    let vm = who as usize % model.vms.len();
    let thread = who as usize / 16 % model.vms[vm].threads.len();
    // Rarely enough that some state has built up by then.
    match d % 256 {
        0 => return Step::Kill { vm },
        1 => return Step::Exit { vm },
        _ => {}
    }
    let raw = [a, b, c].map(u64::from);
    let draw = Draw { model, raw, vm, thread };
    Step::Call { vm, thread, call: draw.call(kind) }
}
