//! `paths`: how long single calls take, and the distribution of that: each is timed by itself,
//! between two fenced readings of the time-stamp counter, and goes into a histogram.
//!
//! What the readings cost with nothing between them is subtracted from every figure, and
//! reported. `switching` is about ratios, where batches are steadier; this is about the tail.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use spacejmp::sys::{self, Lifetime, PagePolicy, VasHandle, attach};

use crate::json::Object;
use crate::space::{cycles, enter, enter_by_hypercall, fence, make, sized, tell, unmake};

/// The statistics reported for each path, and their names.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];

/// Cycles of single calls.
struct Spread(Histogram<u64>);

impl Spread {
    fn new() -> Result<Spread, String> {
        Histogram::new(3).map(Spread).map_err(|error| error.to_string())
    }

    fn note(&mut self, cycles: u64) -> Result<(), String> {
        self.0.record(cycles).map_err(|error| error.to_string())
    }

    fn told(&self, object: Object, path: &str, overhead: u64) -> Object {
        QUANTILES.iter().fold(object, |object, (name, quantile)| {
            let cycles = self.0.value_at_quantile(*quantile).saturating_sub(overhead);
            object.number(&format!("{path}_{name}"), cycles)
        })
    }
}

#[inline]
fn timed(work: impl FnOnce() -> Result<(), String>) -> Result<u64, String> {
    fence();
    let began = cycles();
    fence();
    work()?;
    fence();
    let ended = cycles();
    fence();
    Ok(ended.saturating_sub(began))
}

/// What two readings with nothing between them cost: the median of many.
fn overhead() -> Result<u64, String> {
    let mut spread = Spread::new()?;
    for _ in 0..10_000 {
        spread.note(timed(|| Ok(()))?)?;
    }
    Ok(spread.0.value_at_quantile(0.5))
}

/// An extra tenth at the beginning, which warms up, is left out.
fn repeat(
    count: u64,
    divisor: u64,
    mut work: impl FnMut() -> Result<(), String>,
) -> Result<Spread, String> {
    let mut spread = Spread::new()?;
    for n in 0..count + count / 10 {
        let spent = timed(&mut work)?;
        if n >= count / 10 {
            spread.note(spent / divisor)?;
        }
    }
    Ok(spread)
}

/// Calls and switches in a VM.
pub(crate) fn in_vm(count: u64) -> Result<Object, String> {
    let overhead = overhead()?;
    let object = Object::new("paths").number("count", count).number("overhead", overhead);
    let spread = repeat(count, 1, || tell("null", sys::null()))?;
    let object = spread.told(object, "null", overhead);
    let spread = repeat(count, 1, || tell("hyper_null", sys::hyper_null()))?;
    let mut object = spread.told(object, "exit", overhead);
    let home = || tell("vas_switch home", enter(VasHandle::HOME));
    for locks in [0, 1, 2, 4, 8] {
        let name = format!("locks_{locks}");
        let mut params = sized(4096, PagePolicy::Largest);
        // Even without locks it has a segment: a switch into an empty VAS would not be
        // representative.
        params.lockable = u8::from(locks > 0);
        let (vid, sids) = make(&name, locks.max(1), &params)?;
        let vh = tell("vas_attach", sys::vas_attach(vid, 0))?;
        let there_and_back = || tell("vas_switch", enter(vh)).and_then(|()| home());
        object = repeat(count, 2, there_and_back)?.told(object, &name, overhead / 2);
        if locks == 0 {
            let untagged = tell("vas_attach", sys::vas_attach(vid, attach::NO_TAG))?;
            let spread =
                repeat(count, 2, || tell("vas_switch", enter(untagged)).and_then(|()| home()))?;
            object = spread.told(object, "untagged", overhead / 2);
            tell("vas_detach", sys::vas_detach(untagged))?;
            let by_hypercall = || {
                tell("vas_switch", enter_by_hypercall(vh))?;
                tell("vas_switch home", enter_by_hypercall(VasHandle::HOME))
            };
            object = repeat(count, 2, by_hypercall)?.told(object, "hypercall", overhead / 2);
        }
        tell("vas_detach", sys::vas_detach(vh))?;
        unmake(vid, sids)?;
    }
    Ok(object)
}

/// Switches into a versioned segment to read, with nothing new, beside plain ones: there and back.
pub(crate) fn entering(name: &str, count: u64) -> Result<Object, String> {
    let overhead = overhead()?;
    let mut object = Object::new("store-enter").number("count", count);
    for (path, lifetime) in [("plain", Lifetime::Persistent), ("read", Lifetime::Versioned)] {
        let is_versioned = lifetime == Lifetime::Versioned;
        let mut params = sized(4096, PagePolicy::Largest);
        (params.lifetime, params.lockable) = (lifetime as u8, u8::from(is_versioned));
        let (vid, sids) = make(&format!("{name}-{path}"), 1, &params)?;
        // Neither has a tag: a view has none.
        let flags = if is_versioned { attach::READ_ONLY } else { attach::NO_TAG };
        let vh = tell("vas_attach", sys::vas_attach(vid, flags))?;
        let there_and_back = || {
            tell("vas_switch", enter(vh))?;
            tell("vas_switch home", enter(VasHandle::HOME))
        };
        object = repeat(count, 1, there_and_back)?.told(object, path, overhead);
        tell("vas_detach", sys::vas_detach(vh))?;
        unmake(vid, sids)?;
    }
    Ok(object)
}

/// The host's own calls, and a switch between two of its processes.
pub(crate) fn native(count: u64) -> Result<Object, String> {
    let overhead = overhead()?;
    let object = Object::new("paths-native").number("count", count).number("overhead", overhead);
    let call = || {
        std::hint::black_box(rustix::process::getppid());
        Ok(())
    };
    let object = repeat(count, 1, call)?.told(object, "call", overhead);
    // Both on one processor, so that each byte is one switch and nothing is woken elsewhere.
    let mine = sched_getaffinity(None).map_err(|error| format!("sched_getaffinity: {error}"))?;
    let first = (0..CpuSet::MAX_CPU).find(|cpu| mine.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(first.ok_or("no processor may be used")?);
    sched_setaffinity(None, &one).map_err(|error| format!("sched_setaffinity: {error}"))?;
    let failed = |error: std::io::Error| format!("the other process: {error}");
    let own = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(own)
        .arg("paths-party")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(mut to), Some(mut from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the other process has no pipes".into());
    };
    let there_and_back = || {
        to.write_all(&[1]).map_err(failed)?;
        from.read_exact(&mut [0]).map_err(failed)
    };
    let spread = repeat(count, 2, there_and_back);
    drop(to);
    child.wait().map_err(failed)?;
    Ok(spread?.told(object, "process", overhead / 2))
}

/// Echoes every byte.
pub(crate) fn party() -> Result<(), String> {
    let (mut from, mut to) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut byte = [0];
    while from.read(&mut byte).map_err(|error| error.to_string())? == 1 {
        to.write_all(&byte).and_then(|()| to.flush()).map_err(|error| error.to_string())?;
    }
    Ok(())
}
