//! `handover` and `handover-futex`: how long it takes to pass a turn to a sleeping party.
//!
//! Two parties, each a separate process, are started with the same name or file. Each
//! alternately holds what the other waits for, long enough that the other sleeps, notes the
//! time, and releases it. The other reads the clock as soon as it has acquired it; each party
//! reports its median of the difference. In a VM that is a segment's lock and a switch out of
//! and into it, natively a word in a shared file with a futex.

use std::sync::atomic::Ordering::SeqCst;
use std::thread::sleep;
use std::time::{Duration, Instant};

use abi::Errno;
use rustix::thread::futex::{self, Flags};
use rustix::time::{ClockId, clock_gettime};
use spacejmp::sys::{self, PagePolicy, Right, SegId, VasHandle, VasId};

use crate::json::Object;
use crate::mapping::{Mapping, open};
use crate::space::{Word, enter, median, sized, tell};

/// Longest wait for the other party to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a party holds it: the other has asked for it by then, and sleeps.
const HOLD: Duration = Duration::from_millis(1);
/// How long a party stays away from it, so that it does not overtake the other.
const PAUSE: Duration = Duration::from_micros(300);

/// The host's monotonic clock, the same for all processes and VMs.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// In a VM: `count` acquisitions.
pub(crate) fn by_lock(name: &str, count: u64) -> Result<Object, String> {
    let (vid, sid) = find_or_make(name)?;
    let base = tell("seg_stat", sys::seg_stat(sid))?.base;
    let (arrived, last, stamp) = (Word::at(base)?, Word::at(base + 8)?, Word::at(base + 16)?);
    let vh = tell("vas_attach", sys::vas_attach(vid, 0))?;
    let inside = |work: &mut dyn FnMut()| {
        tell("vas_switch", enter(vh))?;
        work();
        tell("vas_switch home", enter(VasHandle::HOME))
    };
    let (mut me, mut here) = (0, 0);
    inside(&mut || {
        me = arrived.read() + 1;
        arrived.write(me);
    })?;
    let began = Instant::now();
    while here < 2 {
        if began.elapsed() > PATIENCE {
            return Err("the other VM did not come".into());
        }
        sleep(Duration::from_millis(1));
        inside(&mut || here = arrived.read())?;
    }
    let mut waits = Vec::new();
    for _ in 0..count {
        inside(&mut || {
            let now = now_ns();
            if last.read() != me && stamp.read() != 0 {
                waits.push(now.saturating_sub(stamp.read()));
            }
            last.write(me);
            sleep(HOLD);
            stamp.write(now_ns());
        })?;
        sleep(PAUSE);
    }
    tell("vas_detach", sys::vas_detach(vh))?;
    Ok(Object::new("handover")
        .number("count", count)
        .number("handovers", waits.len() as u64)
        .number("ns_per_handover", median(waits)))
}

fn find_or_make(name: &str) -> Result<(VasId, SegId), String> {
    let mut params = sized(4096, PagePolicy::Largest);
    params.lockable = 1;
    let sid = match sys::seg_alloc(name, &params) {
        Err(Errno::EEXIST) => sys::seg_find(name),
        made => made,
    };
    let vid = match sys::vas_create(name, 0o600) {
        Err(Errno::EEXIST) => sys::vas_find(name),
        made => made,
    };
    let (vid, sid) = (tell("vas_create", vid)?, tell("seg_alloc", sid)?);
    match sys::seg_attach(vid, sid, Right::Write) {
        Err(Errno::EEXIST) => {}
        attached => tell("seg_attach", attached)?,
    }
    Ok((vid, sid))
}

/// Natively: `count` turns of each party, in a shared file of one page.
pub(crate) fn by_futex(path: &str, count: u64) -> Result<Object, String> {
    let page = Mapping::new(&open(path)?, 0, 4096)?;
    let (arrived, turn) = (page.word(0), page.word(16));
    let me = arrived.fetch_add(1, SeqCst);
    let began = Instant::now();
    while arrived.load(SeqCst) < 2 {
        if began.elapsed() > PATIENCE {
            return Err("the other process did not come".into());
        }
        sleep(Duration::from_millis(1));
    }
    let stamp = (page.word(32), page.word(33));
    let mut waits = Vec::new();
    for round in 0..count {
        let mut owner = turn.load(SeqCst);
        while owner != me {
            // Whatever it returns, the word is checked again.
            let _ = futex::wait(turn, Flags::empty(), owner, None);
            owner = turn.load(SeqCst);
        }
        let now = now_ns();
        // The first party's first turn was not handed over.
        if round > 0 || me == 1 {
            let given = u64::from(stamp.0.load(SeqCst)) | u64::from(stamp.1.load(SeqCst)) << 32;
            waits.push(now.saturating_sub(given));
        }
        sleep(HOLD);
        let now = now_ns();
        stamp.0.store(now as u32, SeqCst);
        stamp.1.store((now >> 32) as u32, SeqCst);
        turn.store(1 - me, SeqCst);
        let _ = futex::wake(turn, Flags::empty(), 1);
    }
    Ok(Object::new("handover-futex")
        .number("count", count)
        .number("handovers", waits.len() as u64)
        .number("ns_per_handover", median(waits)))
}
