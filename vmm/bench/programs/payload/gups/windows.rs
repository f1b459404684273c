//! Windows that are segments: each in its own address space, or all at one address and
//! attached one at a time; and the table mapped completely, which none of these may beat.

use abi::objects::Lifetime;
use spacejmp::sys::{self, PagePolicy, Right, SegId, VasHandle, VasId};

use super::Engine;
use super::plan::Plan;
use super::table::Words;
use crate::mapping::Mapping;
use crate::space::{enter, make, sized, tell, unmake};

/// The whole table in one mapping.
pub(crate) struct Flat {
    windows: Vec<Words<'static>>,
}

impl Flat {
    pub(crate) fn new(plan: &Plan) -> Result<Flat, String> {
        let mapping = Mapping::shared_memory(u64::from(plan.windows) * plan.window_bytes)?;
        let mapping = mapping.kept();
        let at = |index| Words::of(mapping, index, plan.window_bytes);
        let windows: Vec<_> = (0..plan.windows).map(at).collect();
        windows.iter().for_each(Words::touch);
        Ok(Flat { windows })
    }
}

impl Engine for Flat {
    #[inline]
    fn apply(&mut self, window: u32, set: &[u64]) -> Result<(), String> {
        self.windows[window as usize].update(set);
        Ok(())
    }

    fn window_sum(&mut self, window: u32) -> Result<u64, String> {
        Ok(self.windows[window as usize].sum(window))
    }
}

/// Memory only, as the alternatives: with a file, dirty pages beyond a tenth of memory would
/// be written back and write-protected all the time.
fn params(plan: &Plan) -> sys::SegParams {
    let pages = if plan.is_small { PagePolicy::Small4K } else { PagePolicy::Largest };
    let lifetime = Lifetime::Volatile as u8;
    sys::SegParams { lifetime, ..sized(plan.window_bytes, pages) }
}

/// Ours: a window is a segment in its own VAS, and reached by a switch. Pending updates are
/// in private memory, which is the same in all.
pub(crate) struct Switched {
    spaces: Vec<(VasHandle, Words<'static>)>,
    made: Vec<(VasId, Vec<SegId>)>,
    inside: Option<u32>,
}

impl Switched {
    pub(crate) fn new(plan: &Plan) -> Result<Switched, String> {
        let mut switched = Switched { spaces: Vec::new(), made: Vec::new(), inside: None };
        for index in 0..plan.windows {
            let (vid, sids) = make(&format!("window-{index}"), 1, &params(plan))?;
            let base = tell("seg_stat", sys::seg_stat(sids[0]))?.base;
            let vh = tell("vas_attach", sys::vas_attach(vid, sys::attach::POPULATE))?;
            switched.spaces.push((vh, Words::in_vas(base, plan.window_bytes)?));
            switched.made.push((vid, sids));
            switched.go(index)?.touch();
        }
        switched.end()?;
        Ok(switched)
    }

    #[inline]
    fn go(&mut self, window: u32) -> Result<Words<'static>, String> {
        let (vh, words) = self.spaces[window as usize];
        if self.inside != Some(window) {
            tell("vas_switch", enter(vh))?;
            self.inside = Some(window);
        }
        Ok(words)
    }
}

impl Engine for Switched {
    #[inline]
    fn apply(&mut self, window: u32, set: &[u64]) -> Result<(), String> {
        self.go(window)?.update(set);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.inside = None;
        tell("vas_switch home", enter(VasHandle::HOME))
    }

    fn window_sum(&mut self, window: u32) -> Result<u64, String> {
        Ok(self.go(window)?.sum(window))
    }

    fn close(&mut self) -> Result<(), String> {
        self.end()?;
        for (vh, _) in self.spaces.drain(..) {
            tell("vas_detach", sys::vas_detach(vh))?;
        }
        self.made.drain(..).try_for_each(|(vid, sids)| unmake(vid, sids))
    }
}

/// Our calls used as one would use `mmap`: one VAS, all windows at one address, one of them
/// attached. No thread may be inside while that changes.
pub(crate) struct Reattached {
    vid: VasId,
    vh: VasHandle,
    // Each window is also attached in its own VAS, so that it survives while detached.
    kept: Vec<(VasId, SegId, VasHandle)>,
    words: Words<'static>,
    attached: Option<u32>,
}

impl Reattached {
    pub(crate) fn new(plan: &Plan) -> Result<Reattached, String> {
        let (vid, _) = make("windows", 0, &params(plan))?;
        let vh = tell("vas_attach", sys::vas_attach(vid, 0))?;
        let (mut kept, mut base) = (Vec::new(), 0);
        for index in 0..plan.windows {
            let params = sys::SegParams { base, ..params(plan) };
            let (vid, sids) = make(&format!("window-{index}"), 1, &params)?;
            let vh = tell("vas_attach", sys::vas_attach(vid, sys::attach::POPULATE))?;
            // All use the first one's address.
            base = tell("seg_stat", sys::seg_stat(sids[0]))?.base;
            kept.push((vid, sids[0], vh));
        }
        let words = Words::in_vas(base, plan.window_bytes)?;
        let mut new = Reattached { vid, vh, kept, words, attached: None };
        for index in 0..plan.windows {
            new.go(index)?;
            new.words.touch();
        }
        Ok(new)
    }

    fn go(&mut self, window: u32) -> Result<(), String> {
        if self.attached == Some(window) {
            return Ok(());
        }
        self.leave()?;
        let (_, sid, _) = self.kept[window as usize];
        tell("seg_attach_local", sys::seg_attach_local(self.vh, sid, Right::Write))?;
        self.attached = Some(window);
        tell("vas_switch", enter(self.vh))
    }

    fn leave(&mut self) -> Result<(), String> {
        tell("vas_switch home", enter(VasHandle::HOME))?;
        if let Some(old) = self.attached.take() {
            let (_, sid, _) = self.kept[old as usize];
            tell("seg_detach_local", sys::seg_detach_local(self.vh, sid))?;
        }
        Ok(())
    }
}

impl Engine for Reattached {
    fn begin(&mut self, _: u32) -> Result<(), String> {
        // With one window nothing is attached again, so it must be there from the start.
        self.go(0)?;
        self.words.touch();
        Ok(())
    }

    fn apply(&mut self, window: u32, set: &[u64]) -> Result<(), String> {
        self.go(window)?;
        self.words.update(set);
        Ok(())
    }

    fn window_sum(&mut self, window: u32) -> Result<u64, String> {
        self.go(window)?;
        Ok(self.words.sum(window))
    }

    fn close(&mut self) -> Result<(), String> {
        self.leave()?;
        tell("vas_detach", sys::vas_detach(self.vh))?;
        unmake(self.vid, Vec::new())?;
        for (vid, sid, vh) in self.kept.drain(..) {
            tell("vas_detach", sys::vas_detach(vh))?;
            unmake(vid, vec![sid])?;
        }
        Ok(())
    }
}
