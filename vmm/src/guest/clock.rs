//! What the clock page says, and how it is kept true.
//!
//! Ring 3 reads the time-stamp counter and computes `ns = (tsc - base) * mult >> 32 + offset`.
//! Whether the guest sees the host's counter, or one with an offset, differs between kinds of
//! KVM; so the program's first call tells (R8, R9: see `vdso.rs`), and only then is the clock
//! switched on. Programs that never ask for the time cost nothing.
//!
//! The host disciplines its clock (NTP); ours follows: once a second the slope is measured
//! again and bent so that the difference vanishes over the next second. Time never steps
//! back: the new line starts where the old one is.

use std::arch::x86_64::_rdtsc;

use abi::GuestPhys;

use crate::vm::{GuestMem, MemoryError};

/// In R8 of a call made by the vDSO: R9 holds the time-stamp counter.
pub const HINT_MAGIC: i64 = 0x534a_7473_6321_0001;
/// Byte offset of the eight clocks' offsets in the page.
pub const OFFSETS_AT: usize = 32;
/// Words of the page that are used.
pub const PAGE_WORDS: usize = OFFSETS_AT / 8 + CLOCKS;
const CLOCKS: usize = 8;

const NS: u64 = 1_000_000_000;
/// A hint this much older than the VMM's own reading is still from the call being served.
const HINT_AGE_MAX_MS: u64 = 200;
/// Most the slope is bent: half a percent, far above any real drift.
const BEND_MAX: f64 = 0.005;

/// The page's content but for the sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPage {
    base_tsc: u64,
    /// Nanoseconds per tick, 32.32 fixed point.
    mult: u64,
    /// Nanoseconds at `base_tsc`, by clock number.
    offsets: [u64; CLOCKS],
}

impl ClockPage {
    /// The page's words; the first is the sequence number's place.
    #[must_use]
    pub fn words(&self) -> [u64; PAGE_WORDS] {
        let mut words = [0; PAGE_WORDS];
        let head = [0, 1, self.base_tsc, self.mult];
        let all = head.iter().chain(&self.offsets);
        words.iter_mut().zip(all).for_each(|(word, value)| *word = *value);
        words
    }

    /// What the vDSO's code computes.
    #[must_use]
    pub fn read(&self, tsc: u64, clock: usize) -> u64 {
        let delta = u128::from(tsc.saturating_sub(self.base_tsc));
        let ns = (delta * u128::from(self.mult)) >> 32;
        (ns as u64).wrapping_add(self.offsets.get(clock).copied().unwrap_or(0))
    }
}

/// The host's time-stamp counter.
#[must_use]
pub fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction and user space may use it.
    unsafe { _rdtsc() }
}

fn host_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure it is given.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    (ts.tv_sec as u64).wrapping_mul(NS).wrapping_add(ts.tv_nsec as u64)
}

/// Counter and monotonic clock at the same moment, as near as a few tries get.
fn pair() -> (u64, u64) {
    let once = || {
        let before = host_tsc();
        let ns = host_ns(libc::CLOCK_MONOTONIC);
        let after = host_tsc();
        (after.wrapping_sub(before), before.wrapping_add(after.wrapping_sub(before) / 2), ns)
    };
    let best = (0..5).map(|_| once()).min_by_key(|(width, ..)| *width);
    best.map_or((0, 0), |(_, tsc, ns)| (tsc, ns))
}

/// Whether the counter runs at one rate, in sleep too (CPUID 0x80000007 EDX bit 8, or the
/// host's own choice of it as its clock).
fn is_constant() -> bool {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let trusted = std::fs::read_to_string(source).is_ok_and(|s| s.trim() == "tsc");
    trusted || std::arch::x86_64::__cpuid(0x8000_0007).edx & (1 << 8) != 0
}

/// Writes `page` into guest memory at `gpa` under its sequence lock: odd, content, even.
///
/// # Errors
/// When `gpa` is not guest memory.
pub fn publish(mem: &GuestMem, gpa: GuestPhys, page: &ClockPage) -> Result<(), MemoryError> {
    let sequence = mem.load(gpa)?;
    // Release stores in this order are what the reader's loads in program order rely on.
    mem.store(gpa, sequence | 1)?;
    for (index, word) in page.words().iter().enumerate().skip(1) {
        mem.store(gpa.offset(index as u64 * 8), *word)?;
    }
    mem.store(gpa, ((sequence | 1) + 1) & u64::from(u32::MAX))
}

/// The VMM's side of the clock.
#[derive(Debug)]
pub struct GuestClock {
    start: (u64, u64),
    /// The counter's rate as KVM states it.
    khz: Option<u32>,
    /// Guest's counter minus the host's.
    offset: u64,
    page: Option<ClockPage>,
}

impl GuestClock {
    /// Notes the time; `khz` is the counter's rate where KVM knows it.
    #[must_use]
    pub fn new(khz: Option<u32>) -> GuestClock {
        GuestClock { start: pair(), khz, offset: 0, page: None }
    }

    /// Whether the page has been switched on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.page.is_some()
    }

    /// Switches the clock on. `hint` is what ring 3 read just before its call; `vcpu_tsc` is
    /// the counter KVM would show the vCPU now. `None` when neither explains the hint, or the
    /// counter is not constant: then programs go on making the call.
    pub fn calibrate(&mut self, hint: u64, vcpu_tsc: Option<u64>) -> Option<ClockPage> {
        if !is_constant() {
            return None;
        }
        let host = host_tsc();
        let slope = self.slope()?;
        let age_max = (HINT_AGE_MAX_MS as f64 * 1e6 / slope) as u64;
        let explains = |now: u64| now.wrapping_sub(hint) < age_max;
        self.offset = match vcpu_tsc {
            _ if explains(host) => 0,
            Some(guest) if explains(guest) => guest.wrapping_sub(host),
            _ => return None,
        };
        let (tsc, mono) = pair();
        let page = ClockPage {
            base_tsc: tsc.wrapping_add(self.offset),
            mult: fixed(slope),
            offsets: offsets(mono, mono),
        };
        self.page = Some(page);
        Some(page)
    }

    /// Nanoseconds per tick: measured when the VM has run long enough for that to be exact,
    /// as KVM states it before.
    fn slope(&self) -> Option<f64> {
        let (tsc, ns) = pair();
        let (ticks, elapsed) = (tsc.wrapping_sub(self.start.0), ns.wrapping_sub(self.start.1));
        let stated = self.khz.filter(|&khz| khz > 0).map(|khz| 1e6 / f64::from(khz));
        let measured = (elapsed > NS / 100 && ticks > 0).then(|| elapsed as f64 / ticks as f64);
        match (stated, measured) {
            (Some(stated), _) if elapsed < NS / 2 => Some(stated),
            // A rate that does not fit what is seen belongs to another counter.
            (_, Some(measured)) => Some(measured),
            (Some(stated), None) => Some(stated),
            (None, None) => {
                std::thread::sleep(std::time::Duration::from_millis(11));
                let (tsc, ns) = pair();
                let ticks = tsc.wrapping_sub(self.start.0);
                (ticks > 0).then(|| ns.wrapping_sub(self.start.1) as f64 / ticks as f64)
            }
        }
    }

    /// The next page: starts where the last one is and meets the host's clock in a second.
    pub fn refresh(&mut self) -> ClockPage {
        let (tsc, mono) = pair();
        let tsc = tsc.wrapping_add(self.offset);
        let old = self.page.unwrap_or(ClockPage { base_tsc: tsc, mult: 0, offsets: [0; CLOCKS] });
        let slope = self.slope().unwrap_or(old.mult as f64 / 4_294_967_296.0);
        let page = bend(&old, tsc, mono, slope);
        self.page = Some(page);
        page
    }
}

/// From the line `old`, at `tsc`, towards the truth `mono`.
fn bend(old: &ClockPage, tsc: u64, mono: u64, slope: f64) -> ClockPage {
    let ours = old.read(tsc, libc::CLOCK_MONOTONIC as usize);
    let ahead = mono.wrapping_sub(ours) as i64;
    // Far behind (the machine slept): jump forward. Ahead: only ever slow down.
    let start = if ahead > (NS / 10) as i64 { mono } else { ours };
    let error = mono.wrapping_sub(start) as i64 as f64 / NS as f64;
    let mult = fixed(slope * (1.0 + error.clamp(-BEND_MAX, BEND_MAX)));
    // A base below the old one would let a slow processor's reading go back.
    let base_tsc = tsc.max(old.base_tsc);
    ClockPage { base_tsc, mult, offsets: offsets(start, mono) }
}

fn fixed(slope: f64) -> u64 {
    (slope * 4_294_967_296.0) as u64
}

/// All clocks at a moment when ours says `ours` and the host's monotonic clock `mono`.
fn offsets(ours: u64, mono: u64) -> [u64; CLOCKS] {
    let shifted =
        |clock| ours.wrapping_add(host_ns(clock).wrapping_sub(host_ns(libc::CLOCK_MONOTONIC)));
    let _ = mono;
    let real = shifted(libc::CLOCK_REALTIME);
    let boot = shifted(libc::CLOCK_BOOTTIME);
    // The raw clock differs from the monotonic one by the discipline's corrections only; here
    // it is the same clock, which is monotonic too.
    [real, ours, 0, 0, ours, real, ours, boot]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn time_never_goes_back_over_any_sequence_of_refreshes(
            steps in prop::collection::vec((1_000u64..10_000_000_000, -200_000i64..200_000), 1..50),
        ) {
            let slope = 0.385;
            let mut page = ClockPage { base_tsc: 1 << 40, mult: fixed(slope), offsets: offsets(1 << 50, 1 << 50) };
            let (mut tsc, mut mono, mut last) = (1u64 << 40, 1u64 << 50, 0);
            for (ticks, jitter) in steps {
                tsc += ticks;
                mono = mono + ((ticks as f64 * slope) as u64).saturating_add_signed(jitter).max(1);
                let before = page.read(tsc, 1);
                prop_assert!(before >= last);
                page = bend(&page, tsc, mono, slope);
                let after = page.read(tsc, 1);
                prop_assert!(after >= before, "{after} < {before}");
                last = after;
            }
        }

        #[test]
        fn any_counter_value_gives_a_time(tsc: u64, base: u64, mult: u64) {
            let page = ClockPage { base_tsc: base, mult, offsets: [7; CLOCKS] };
            let _ = page.read(tsc, 1);
            prop_assert!(tsc >= base || page.read(tsc, 1) == 7);
        }
    }

    #[test]
    fn a_difference_is_gone_after_a_second() {
        let slope = 0.5;
        let page = ClockPage { base_tsc: 0, mult: fixed(slope), offsets: offsets(1_000_000, 0) };
        // The host is 2 ms ahead.
        let bent = bend(&page, 0, 3_000_000, slope);
        let later = bent.read(2 * NS, 1);
        assert!((later as i64 - (3_000_000 + NS as i64)).abs() < 20_000, "{later}");
    }
}
