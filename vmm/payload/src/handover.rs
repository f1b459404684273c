//! `handover` and `handover-futex`: how long it takes to pass a turn to somebody who sleeps.
//!
//! Two parties, each a process of its own, are started with the same name or file. In a VM
//! both take the lock of a segment again and again; it is fair, so it changes hands. What
//! counts is how often it really did, and the time until the last change. Natively a word in a
//! shared file says whose turn it is, and who has it not sleeps in a futex on it.

use std::fs::File;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use abi::Errno;
use rustix::thread::futex::{self, Flags};
use spacejmp::sys::{self, PagePolicy, Right, SegId, VasHandle, VasId};

use crate::json::Object;
use crate::mapping::Mapping;
use crate::space::{Word, enter, sized, tell};

/// Longest wait for the other party to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// In a VM: `count` acquisitions.
pub(crate) fn by_lock(name: &str, count: u64) -> Result<Object, String> {
    let (vid, sid) = find_or_make(name)?;
    let base = tell("seg_stat", sys::seg_stat(sid))?.base;
    let (arrived, last) = (Word::at(base)?, Word::at(base + 8)?);
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
        std::thread::sleep(Duration::from_millis(1));
        inside(&mut || here = arrived.read())?;
    }
    let (mut handovers, mut first, mut end) = (0_u64, None, Instant::now());
    for _ in 0..count {
        inside(&mut || {
            if last.read() != me {
                last.write(me);
                end = Instant::now();
                handovers += u64::from(first.is_some());
                first.get_or_insert(end);
            }
        })?;
    }
    tell("vas_detach", sys::vas_detach(vh))?;
    let ns = first.map_or(0, |first| (end - first).as_nanos() as u64);
    // From mine to my next it has gone there and come back.
    Ok(Object::new("handover")
        .number("count", count)
        .number("handovers", 2 * handovers)
        .number("ns_per_handover", ns / (2 * handovers).max(1)))
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
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(|err| format!("cannot open {path}: {err}"))?;
    let page = Mapping::new(&file, 4096)?;
    let (arrived, turn) = (page.word(0), page.word(16));
    let me = arrived.fetch_add(1, SeqCst);
    let began = Instant::now();
    while arrived.load(SeqCst) < 2 {
        if began.elapsed() > PATIENCE {
            return Err("the other process did not come".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let began = Instant::now();
    for _ in 0..count {
        let mut now = turn.load(SeqCst);
        while now != me {
            // Whatever it returns, the word decides.
            let _ = futex::wait(turn, Flags::empty(), now, None);
            now = turn.load(SeqCst);
        }
        turn.store(1 - me, SeqCst);
        let _ = futex::wake(turn, Flags::empty(), 1);
    }
    let ns = began.elapsed().as_nanos() as u64;
    Ok(Object::new("handover-futex")
        .number("count", count)
        .number("handovers", 2 * count)
        .number("ns_per_handover", ns / (2 * count).max(1)))
}
