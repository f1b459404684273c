//! The clock page's contents: a piecewise-linear function from the time-stamp counter to
//! nanoseconds.
//!
//! ```text
//!  ns |              .'   after the bend: the host's rate
//!     |          _.-'
//!     |     _.--'         for a second: the rate that makes the error vanish
//!     |  .-'
//!     +--|---------|----- counter
//!       base      base + bend_ticks
//! ```
//!
//! It has two pieces, so that after a late or missing refresh the clock runs at the host's rate
//! instead of overshooting. Arithmetic only: `clock.rs` reads the host's clocks and stores the
//! words; `vdso_code.rs` is the machine-code counterpart of [`ClockPage::read`].

#![forbid(unsafe_code)]

/// Number of clocks that the page has words for: 0 to `CLOCK_TAI`.
pub(crate) const CLOCKS: usize = 12;

/// Offsets in the page, in words of eight bytes.
pub(crate) mod word {
    /// Sequence number in the lower half: odd while the rest is being written.
    pub(crate) const SEQUENCE: usize = 0;
    /// 1 if the function below is to be used, 0 if the system call is to be made.
    pub(crate) const MODE: usize = 1;
    /// Counter at the start of the function.
    pub(crate) const BASE_TSC: usize = 2;
    /// Nanoseconds per tick up to the bend, 32.32 fixed point.
    pub(crate) const MULT: usize = 3;
    /// Ticks from the base to the bend.
    pub(crate) const BEND_TICKS: usize = 4;
    /// Nanoseconds per tick after the bend.
    pub(crate) const MULT_AFTER: usize = 5;
    /// Nanoseconds from the base to the bend.
    pub(crate) const BEND_NS: usize = 6;
    /// Nanoseconds at the base, one word per clock.
    pub(crate) const OFFSETS: usize = 8;
}

/// Words of the page that are used.
pub(crate) const PAGE_WORDS: usize = word::OFFSETS + CLOCKS;

const _: () = assert!(PAGE_WORDS * 8 <= abi::PAGE_SIZE as usize, "the clock page is one page");

pub(crate) const NS: u64 = 1_000_000_000;
/// Maximum rate adjustment: half a percent, far above any real drift.
const BEND_MAX: f64 = 0.005;
/// An error is spread over this time.
const BEND_FOR_NS: f64 = NS as f64;
/// If it is further behind than this (a paused VM), the clock jumps forward instead.
const JUMP_NS: i64 = 100_000_000;
/// Wall clocks stop following the monotonic function when it is further off than this.
const WALL_ERROR_MAX_NS: u64 = 1_000_000;
/// A counter behind the base by less is another processor's; one behind by more has been reset.
const SKEW_TICKS: u64 = 1 << 20;

const REALTIME: usize = libc::CLOCK_REALTIME as usize;
const MONOTONIC: usize = libc::CLOCK_MONOTONIC as usize;
const MONOTONIC_RAW: usize = libc::CLOCK_MONOTONIC_RAW as usize;
const REALTIME_COARSE: usize = libc::CLOCK_REALTIME_COARSE as usize;
const MONOTONIC_COARSE: usize = libc::CLOCK_MONOTONIC_COARSE as usize;
const BOOTTIME: usize = libc::CLOCK_BOOTTIME as usize;
const TAI: usize = libc::CLOCK_TAI as usize;

/// Nanoseconds per tick; positive and plausible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slope(f64);

impl Slope {
    /// `None` for implausible rates: below 1 MHz, above 1 THz, not a number.
    pub(crate) fn new(ns_per_tick: f64) -> Option<Slope> {
        (1e-3..=1e3).contains(&ns_per_tick).then_some(Slope(ns_per_tick))
    }

    /// For a counter whose rate is `khz`.
    pub(crate) fn from_khz(khz: u32) -> Option<Slope> {
        Slope::new(1e6 / f64::from(khz))
    }

    /// Measured between two points `ticks` and `ns` apart.
    pub(crate) fn measured(ticks: u64, ns: u64) -> Option<Slope> {
        Slope::new(ns as f64 / ticks as f64)
    }

    /// `ticks` as nanoseconds.
    pub(crate) fn ns(self, ticks: u64) -> u64 {
        (ticks as f64 * self.0) as u64
    }

    /// `ns` as ticks.
    pub(crate) fn ticks(self, ns: f64) -> u64 {
        (ns / self.0) as u64
    }

    /// The relative deviation of `other`.
    pub(crate) fn deviation(self, other: Slope) -> f64 {
        (other.0 / self.0 - 1.0).abs()
    }

    fn bent(self, by: f64) -> u64 {
        fixed(self.0 * (1.0 + by))
    }
}

fn fixed(slope: f64) -> u64 {
    (slope * 4_294_967_296.0) as u64
}

fn scale(ticks: u64, mult: u64) -> u64 {
    ((u128::from(ticks) * u128::from(mult)) >> 32) as u64
}

/// A consistent snapshot of the host's clocks. The differences wrap: added to the monotonic clock
/// they give the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) monotonic_ns: u64,
    pub(crate) ahead: Ahead,
}

/// How far other clocks are ahead of the monotonic one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) real_ns: u64,
    pub(crate) boot_ns: u64,
    pub(crate) tai_ns: u64,
    pub(crate) raw_ns: u64,
}

/// The page's contents, except the sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockPage {
    base_tsc: u64,
    mult: u64,
    bend_ticks: u64,
    mult_after: u64,
    bend_ns: u64,
    offsets: [u64; CLOCKS],
    /// The raw clock's offset, fixed when the clock starts: see [`ClockPage::offsets`].
    raw_ahead_ns: u64,
}

impl ClockPage {
    /// The first page: the host's clocks at counter `tsc`.
    pub(crate) fn start(tsc: u64, truth: &Truth, slope: Slope) -> ClockPage {
        let raw_ahead_ns = truth.ahead.raw_ns;
        ClockPage::line(tsc, truth.monotonic_ns, truth, slope, raw_ahead_ns)
    }

    /// The page that replaces this one at counter `tsc` and approaches `truth`.
    ///
    /// At its base no clock except the wall clocks reads less than by this page, so time does not
    /// go backwards, provided that no reader uses this page with a counter above `tsc`.
    pub(crate) fn next(&self, tsc: u64, truth: &Truth, slope: Slope) -> ClockPage {
        let set_anew = tsc.saturating_add(SKEW_TICKS) < self.base_tsc;
        // A base below the old one would let a lagging processor's reading go backwards.
        let base_tsc = if set_anew { tsc } else { tsc.max(self.base_tsc) };
        let ours = self.read(base_tsc, MONOTONIC);
        let behind_ns = truth.monotonic_ns.wrapping_sub(ours) as i64;
        let jump = behind_ns > if set_anew { 0 } else { JUMP_NS };
        let start = if jump { truth.monotonic_ns } else { ours };
        let mut next = ClockPage::line(base_tsc, start, truth, slope, self.raw_ahead_ns);
        let boot = self.read(base_tsc, BOOTTIME);
        if let Some(slot) = next.offsets.get_mut(BOOTTIME) {
            *slot = boot.max(*slot);
        }
        next
    }

    fn line(base_tsc: u64, start: u64, truth: &Truth, slope: Slope, raw_ahead: u64) -> ClockPage {
        let error_ns = truth.monotonic_ns.wrapping_sub(start) as i64;
        let bend = (error_ns as f64 / BEND_FOR_NS).clamp(-BEND_MAX, BEND_MAX);
        let (mult, bend_ticks) = (slope.bent(bend), slope.ticks(BEND_FOR_NS));
        ClockPage {
            base_tsc,
            mult,
            bend_ticks,
            mult_after: slope.bent(0.0),
            bend_ns: scale(bend_ticks, mult),
            offsets: ClockPage::offsets(start, truth, raw_ahead),
            raw_ahead_ns: raw_ahead,
        }
    }

    /// All clocks at the time when ours reads `start`.
    ///
    /// Wall clocks follow the monotonic function, which has no jumps, unless it is far off after a
    /// suspension: accuracy then matters more. The raw clock differs from the monotonic one in rate
    /// by the host's corrections, parts per million; here it keeps its initial offset, because two
    /// rates in one page would not be worth it.
    fn offsets(start: u64, truth: &Truth, raw_ahead: u64) -> [u64; CLOCKS] {
        let is_near = truth.monotonic_ns.abs_diff(start) < WALL_ERROR_MAX_NS;
        let wall = if is_near { start } else { truth.monotonic_ns };
        let real = wall.wrapping_add(truth.ahead.real_ns);
        let mut offsets = [0; CLOCKS];
        for (clock, value) in [
            (REALTIME, real),
            (MONOTONIC, start),
            (MONOTONIC_RAW, start.wrapping_add(raw_ahead)),
            (REALTIME_COARSE, real),
            (MONOTONIC_COARSE, start),
            (BOOTTIME, wall.wrapping_add(truth.ahead.boot_ns)),
            (TAI, wall.wrapping_add(truth.ahead.tai_ns)),
        ] {
            if let Some(slot) = offsets.get_mut(clock) {
                *slot = value;
            }
        }
        offsets
    }

    /// The value that the vDSO's code computes, for any counter; a counter below the base reads as
    /// the base.
    pub(crate) fn read(&self, tsc: u64, clock: usize) -> u64 {
        let ticks = tsc.saturating_sub(self.base_tsc);
        let ns = match ticks.checked_sub(self.bend_ticks) {
            Some(after) => scale(after, self.mult_after).wrapping_add(self.bend_ns),
            None => scale(ticks, self.mult),
        };
        ns.wrapping_add(self.offsets.get(clock).copied().unwrap_or(0))
    }

    /// The page's words; the sequence number is 0.
    pub(crate) fn words(&self) -> [u64; PAGE_WORDS] {
        let mut words = [0; PAGE_WORDS];
        let (head, offsets) = words.split_at_mut(word::OFFSETS);
        for (at, value) in [
            (word::MODE, 1),
            (word::BASE_TSC, self.base_tsc),
            (word::MULT, self.mult),
            (word::BEND_TICKS, self.bend_ticks),
            (word::MULT_AFTER, self.mult_after),
            (word::BEND_NS, self.bend_ns),
        ] {
            if let Some(slot) = head.get_mut(at) {
                *slot = value;
            }
        }
        offsets.copy_from_slice(&self.offsets);
        words
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const SERVED: [usize; 7] =
        [REALTIME, MONOTONIC, MONOTONIC_RAW, REALTIME_COARSE, MONOTONIC_COARSE, BOOTTIME, TAI];

    impl ClockPage {
        /// An arbitrary page, for comparing the code with [`ClockPage::read`].
        pub(crate) fn arbitrary(parts: [u64; 4], bend_ns: u64, offset: u64) -> ClockPage {
            let [base_tsc, mult, bend_ticks, mult_after] = parts;
            let offsets = [offset; CLOCKS];
            ClockPage { base_tsc, mult, bend_ticks, mult_after, bend_ns, offsets, raw_ahead_ns: 0 }
        }
    }

    fn slope(ns: f64) -> Slope {
        Slope::new(ns).unwrap()
    }

    fn truth(monotonic_ns: u64) -> Truth {
        let (real_ns, raw_ns) = (1 << 60, 1 << 30);
        Truth { monotonic_ns, ahead: Ahead { real_ns, boot_ns: 50, tai_ns: 1 << 61, raw_ns } }
    }

    proptest! {
        #[test]
        fn no_steady_clock_goes_back_over_any_sequence_of_refreshes(
            steps in prop::collection::vec((0u64..10 * NS, -200_000_000i64..200_000_000), 1..50),
        ) {
            let slope = slope(0.385);
            let (mut tsc, mut mono) = (1u64 << 40, 1u64 << 50);
            let mut page = ClockPage::start(tsc, &truth(mono), slope);
            let mut last = [0; CLOCKS];
            for (ticks, jitter) in steps {
                tsc += ticks;
                mono = (mono + slope.ns(ticks)).saturating_add_signed(jitter);
                let next = page.next(tsc, &truth(mono), slope);
                for clock in [MONOTONIC, MONOTONIC_RAW, MONOTONIC_COARSE, BOOTTIME] {
                    let (before, after) = (page.read(tsc, clock), next.read(tsc, clock));
                    prop_assert!(before >= last[clock], "clock {clock}: within a page");
                    prop_assert!(after >= before, "clock {clock}: {after} after {before}");
                    last[clock] = after;
                }
                page = next;
            }
        }

        #[test]
        fn later_counters_never_read_less(
            parts: [u32; 4], error in -1_000_000_000i64..1_000_000_000, ticks: [u64; 2],
        ) {
            let [base, mono, ..] = parts.map(u64::from);
            let page = ClockPage::start(base, &truth(mono + NS), slope(0.5))
                .next(base, &truth((mono + NS).saturating_add_signed(error)), slope(0.5));
            // Up to 2^61 ticks: decades.
            let (low, high) = ((ticks[0] >> 3).min(ticks[1] >> 3), (ticks[0] >> 3).max(ticks[1] >> 3));
            prop_assert!(page.read(low, MONOTONIC) <= page.read(high, MONOTONIC));
        }

        #[test]
        fn any_page_and_counter_give_a_time(tsc: u64, parts: [u64; 4], bend_ns: u64) {
            let page = ClockPage::arbitrary(parts, bend_ns, 7);
            let read = page.read(tsc, 1);
            prop_assert!(tsc >= parts[0] || parts[2] == 0 || read == 7);
        }

        #[test]
        fn a_difference_is_gone_after_a_second_and_stays_gone(
            error in -4_000_000i64..4_000_000, late_s in 1u64..1_000,
        ) {
            let page = ClockPage::start(0, &truth(NS), slope(0.5));
            let bent = page.next(0, &truth(NS.saturating_add_signed(error)), slope(0.5));
            let wanted = (NS + late_s * NS).saturating_add_signed(error);
            let off = bent.read(2 * late_s * NS, MONOTONIC).abs_diff(wanted);
            prop_assert!(off <= 2, "{off} ns after {late_s} s");
        }
    }

    #[test]
    fn a_year_later_the_clock_is_a_year_later() {
        let page = ClockPage::start(5, &truth(NS), slope(0.25));
        let year = 365 * 86_400 * NS;
        assert_eq!(page.read(5 + 4 * year, MONOTONIC), NS + year);
        assert_eq!(page.read(5 + 4 * year, MONOTONIC_RAW), NS + year + (1 << 30));
    }

    #[test]
    fn a_step_of_the_wall_clock_shows_at_the_next_refresh_and_leaves_the_others_alone() {
        let page = ClockPage::start(0, &truth(NS), slope(1.0));
        let mut stepped = truth(2 * NS);
        stepped.ahead.real_ns -= 3600 * NS;
        let next = page.next(NS, &stepped, slope(1.0));
        assert_eq!(next.read(NS, REALTIME), page.read(NS, REALTIME) - 3600 * NS);
        assert_eq!(next.read(NS, MONOTONIC), 2 * NS);
        assert_eq!(next.read(NS, BOOTTIME), 2 * NS + 50);
    }

    #[test]
    fn a_counter_that_ran_through_a_suspension_spoils_neither_wall_nor_boot_time() {
        let page = ClockPage::start(0, &truth(NS), slope(1.0));
        // Ten seconds of sleep: the counter ran, the monotonic clock did not, boot time did.
        let mut woken = truth(2 * NS);
        woken.ahead.real_ns += 10 * NS;
        woken.ahead.boot_ns += 10 * NS;
        let next = page.next(11 * NS, &woken, slope(1.0));
        assert_eq!(next.read(11 * NS, MONOTONIC), 12 * NS, "ahead, and not going back");
        assert_eq!(next.read(11 * NS, REALTIME), 12 * NS + (1 << 60));
        assert_eq!(next.read(11 * NS, BOOTTIME), 12 * NS + 50);
    }

    #[test]
    fn a_counter_set_to_zero_does_not_stop_the_clock() {
        let page = ClockPage::start(1 << 50, &truth(NS), slope(1.0));
        let next = page.next(100, &truth(3 * NS), slope(1.0));
        assert_eq!(next.read(100, MONOTONIC), 3 * NS);
        assert_eq!(next.read(100 + NS, MONOTONIC), 4 * NS);
        let lagging = page.next((1 << 50) - 1000, &truth(NS), slope(1.0));
        assert_eq!(lagging.base_tsc, 1 << 50, "a little behind: the base stays");
    }

    #[test]
    fn rates_no_counter_has_are_refused() {
        assert_eq!(Slope::from_khz(0), None);
        assert_eq!(Slope::measured(0, 0), None);
        assert_eq!(Slope::measured(0, 5), None);
        assert_eq!(Slope::measured(5, 0), None);
        assert!(Slope::from_khz(2_600_000).is_some());
    }
}
