//! What the program remembers: ids and handles it has seen, dead ones included, and what its
//! instances contain, so that it touches only memory that exists.

use abi::layout::VAS_START;
use guests::random::Random;
use guests::store::segments_of;
use spacejmp::sys::{self, Right, SegId, VasHandle, VasId, attach};

/// Places where segments are created.
pub(crate) const BASES: u64 = 6;

/// The address of place `n`.
pub(crate) fn base(n: u64) -> u64 {
    VAS_START.raw() + (40 << 40) + n * (2 << 20)
}

/// An instance of this process.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) vh: VasHandle,
    pub(crate) vid: VasId,
    pub(crate) flags: u64,
    pub(crate) local: Vec<(SegId, Right)>,
}

pub(crate) struct State {
    /// No other VM uses the store.
    pub(crate) is_alone: bool,
    pub(crate) random: Random,
    /// All ids ever seen, the latest last.
    pub(crate) vids: Vec<VasId>,
    pub(crate) sids: Vec<SegId>,
    /// Live ones.
    pub(crate) instances: Vec<Instance>,
    pub(crate) current: VasHandle,
    /// What the VAS contained when the thread entered it.
    entered: Vec<u64>,
}

impl State {
    pub(crate) fn new(seed: u64, is_alone: bool) -> State {
        State {
            is_alone,
            random: Random::new(seed),
            vids: Vec::new(),
            sids: Vec::new(),
            instances: Vec::new(),
            current: VasHandle::HOME,
            entered: Vec::new(),
        }
    }

    /// The thread has switched.
    pub(crate) fn arrived(&mut self, vh: VasHandle) {
        if self.current == vh {
            return;
        }
        self.current = vh;
        let segments = self.instance(vh).map(|one| segments_of(one.vid).unwrap_or_default());
        self.entered = segments.unwrap_or_default().iter().map(|one| one.sid).collect();
    }

    pub(crate) fn name(&mut self) -> &'static str {
        ["a", "b", "c", "d", "e"][self.random.below(5) as usize]
    }

    /// One of the latest, so that most exist; sometimes one that never existed.
    pub(crate) fn vid(&mut self) -> VasId {
        let never = VasId::new(12345).expect("not 0");
        if self.random.below(20) == 0 {
            never
        } else {
            late(&self.vids, &mut self.random).unwrap_or(never)
        }
    }

    /// As [`Self::vid`].
    pub(crate) fn sid(&mut self) -> SegId {
        let never = SegId::new(12345).expect("not 0");
        if self.random.below(20) == 0 {
            never
        } else {
            late(&self.sids, &mut self.random).unwrap_or(never)
        }
    }

    /// One of the live handles, or home, or sometimes an invalid one.
    pub(crate) fn vh(&mut self) -> VasHandle {
        match self.random.below(12) {
            0 => VasHandle::from_raw(20_000),
            1 | 2 => VasHandle::HOME,
            _ => {
                let vhs: Vec<VasHandle> = self.instances.iter().map(|one| one.vh).collect();
                late(&vhs, &mut self.random).unwrap_or(VasHandle::HOME)
            }
        }
    }

    pub(crate) fn right(&mut self) -> Right {
        if self.random.below(3) == 0 { Right::Read } else { Right::Write }
    }

    pub(crate) fn instance(&mut self, vh: VasHandle) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|one| one.vh == vh)
    }

    /// A segment that is mapped where the thread is, with the right it has there, and its
    /// base; `None` if there is none. None can be detached while the thread is inside.
    pub(crate) fn mapped(&mut self) -> Option<(SegId, Right, u64)> {
        let current = self.current;
        let one = self.instance(current)?.clone();
        let mut found = one.local;
        // Where the instance has local segments, one of the VAS's may have been left out.
        let shared = if found.is_empty() { segments_of(one.vid).ok()? } else { Vec::new() };
        for attachment in shared {
            let sid = SegId::new(attachment.sid)?;
            // A lockable segment attached later is mapped, and locked, from the next switch on.
            let came_later = !self.entered.contains(&attachment.sid);
            if came_later && sys::seg_stat(sid).ok()?.lockable != 0 {
                continue;
            }
            found.push((sid, Right::from_raw(attachment.right)?));
        }
        let pick = self.random.below(found.len().max(1) as u64) as usize;
        let &(sid, right) = found.get(pick)?;
        let right = if one.flags & attach::READ_ONLY != 0 { Right::Read } else { right };
        Some((sid, right, sys::seg_stat(sid).ok()?.base))
    }
}

/// One of the last eight.
fn late<T: Copy>(all: &[T], random: &mut Random) -> Option<T> {
    let last = all.len().min(8);
    let pick = random.below(last.max(1) as u64) as usize;
    all.iter().rev().nth(pick).copied()
}
