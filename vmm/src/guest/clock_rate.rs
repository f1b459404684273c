//! The time-stamp counter's rate relative to the host's monotonic clock.
//!
//! Initially the rate stated by KVM is used, which is accurate to some parts per million; after
//! half a second the rate is measured, over the last half minute to a minute, so that it follows
//! the host's own corrections. An interval in which one of the two clocks stopped (the host was
//! suspended) is not part of any measurement.

#![forbid(unsafe_code)]

use super::clock_page::{NS, Slope};

/// Shortest time over which a measurement is of any use.
const MEASURE_MIN_NS: u64 = NS / 100;
/// From here on a measurement is better than the rate stated by KVM.
const MEASURE_GOOD_NS: u64 = NS / 2;
/// A stated rate that deviates more than this from the measured one belongs to another counter.
const STATED_DEVIATION_MAX: f64 = 0.01;
/// No clock drifts this much: an interval with a larger deviation contains a suspension.
const DEVIATION_MAX: f64 = 0.001;
/// Intervals shorter than this are too noisy to evaluate.
const JUDGE_MIN_NS: u64 = NS / 10;
/// Measurements reach back one to two of these.
const WINDOW_NS: u64 = 32 * NS;

/// A consistent snapshot of the host's counter and its monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) tsc: u64,
    pub(crate) ns: u64,
}

impl Moment {
    /// The monotonic clock at counter `tsc`, a little later.
    pub(crate) fn later(&self, tsc: u64, slope: Slope) -> u64 {
        self.ns.wrapping_add(slope.ns(tsc.saturating_sub(self.tsc)))
    }

    fn since(&self, earlier: &Moment) -> (u64, u64) {
        (self.tsc.saturating_sub(earlier.tsc), self.ns.saturating_sub(earlier.ns))
    }

    /// The rate since `earlier`, over at least `min_ns`.
    fn rate_since(&self, earlier: &Moment, min_ns: u64) -> Option<Slope> {
        let (ticks, ns) = self.since(earlier);
        if ns < min_ns { None } else { Slope::measured(ticks, ns) }
    }
}

/// The rate, and the snapshots it is measured from.
#[derive(Debug)]
pub(crate) struct Rate {
    khz: Option<u32>,
    slope: Option<Slope>,
    /// Start of the measurement, and of the one that will replace it.
    older: Moment,
    newer: Moment,
    last: Moment,
    /// Whether the last interval contradicted the rate.
    is_doubted: bool,
}

impl Rate {
    /// Starts measuring; `khz` is the rate stated by KVM.
    pub(crate) fn new(now: Moment, khz: Option<u32>) -> Rate {
        Rate { khz, slope: None, older: now, newer: now, last: now, is_doubted: false }
    }

    /// The initial rate; `None` while no rate is stated and none is measurable yet.
    pub(crate) fn initial(&mut self, now: Moment) -> Option<Slope> {
        let stated = self.khz.and_then(Slope::from_khz);
        let measured = now.rate_since(&self.older, MEASURE_MIN_NS);
        let good = now.rate_since(&self.older, MEASURE_GOOD_NS);
        let fits = |s: &Slope| measured.is_none_or(|m| m.deviation(*s) < STATED_DEVIATION_MAX);
        self.slope = good.or(stated.filter(fits)).or(measured);
        self.last = now;
        self.slope
    }

    /// The rate as of `now`; `None` only before a successful [`Rate::initial`].
    pub(crate) fn update(&mut self, now: Moment) -> Option<Slope> {
        let slope = self.slope?;
        let is_contradicted = match now.rate_since(&self.last, JUDGE_MIN_NS) {
            Some(seen) => slope.deviation(seen) > DEVIATION_MAX,
            // The counter was set back, or this call comes soon after the last.
            None => now.tsc < self.last.tsc,
        };
        if is_contradicted {
            // Twice in a row cannot be a suspension: the rate must be wrong.
            let seen = now.rate_since(&self.last, JUDGE_MIN_NS).filter(|_| self.is_doubted);
            self.slope = seen.or(self.slope);
            self.is_doubted = seen.is_none();
            (self.older, self.newer, self.last) = (now, now, now);
            return self.slope;
        }
        if now.since(&self.last).1 >= JUDGE_MIN_NS {
            (self.is_doubted, self.last) = (false, now);
        }
        self.slope = now.rate_since(&self.older, MEASURE_GOOD_NS).or(self.slope);
        if now.since(&self.newer).1 >= WINDOW_NS {
            (self.older, self.newer) = (self.newer, now);
        }
        self.slope
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::clock_page::{Ahead, ClockPage, Truth};
    use proptest::prelude::*;

    const MONOTONIC: usize = libc::CLOCK_MONOTONIC as usize;

    /// A host: a counter at about 2.6 GHz, a clock off by some parts per million.
    struct Host {
        now: Moment,
        ns_per_tick: f64,
    }

    impl Host {
        fn new() -> Host {
            Host { now: Moment { tsc: 1 << 45, ns: 77 * NS }, ns_per_tick: 1.0 / 2.6 }
        }

        fn pass(&mut self, ns: u64, ppm: f64) {
            let ticks = ns as f64 / (self.ns_per_tick * (1.0 + ppm * 1e-6));
            self.now = Moment { tsc: self.now.tsc + ticks as u64, ns: self.now.ns + ns };
        }

        fn truth(&self) -> Truth {
            Truth { monotonic_ns: self.now.ns, ahead: Ahead::default() }
        }
    }

    fn lag(page: &ClockPage, host: &Host) -> u64 {
        page.read(host.now.tsc, MONOTONIC).abs_diff(host.now.ns)
    }

    proptest! {
        #[test]
        fn the_clock_follows_the_hosts_whatever_the_rhythm_of_refreshes(
            ppm in -400.0..400.0f64,
            rhythm in prop::collection::vec(50u64..5_000, 5..60),
            noise in prop::collection::vec(-200i64..200, 60),
        ) {
            let mut host = Host::new();
            let mut rate = Rate::new(host.now, Some(2_600_000));
            host.pass(2_000_000, ppm);
            let mut page = ClockPage::start(host.now.tsc, &host.truth(), rate.initial(host.now).unwrap());
            let mut passed_ms = 0;
            for (ms, noise) in rhythm.into_iter().zip(noise) {
                host.pass(ms * 1_000_000, ppm);
                passed_ms += ms;
                // 400 ppm for the longest pause, until the first measurement; then noise.
                let bound = if passed_ms < 12_000 { 4_200_000 } else { 20_000 };
                let off = lag(&page, &host);
                prop_assert!(off < bound, "{off} ns off after {passed_ms} ms");
                let seen = Moment { ns: host.now.ns.saturating_add_signed(noise), ..host.now };
                let slope = rate.update(seen).unwrap();
                page = page.next(host.now.tsc, &host.truth(), slope);
            }
        }

        #[test]
        fn a_change_of_the_hosts_correction_is_followed(from in -50.0..50.0f64, to in -50.0..50.0f64) {
            let mut host = Host::new();
            let mut rate = Rate::new(host.now, Some(2_600_000));
            host.pass(2_000_000, from);
            let mut page = ClockPage::start(host.now.tsc, &host.truth(), rate.initial(host.now).unwrap());
            for second in 0..300 {
                host.pass(NS, if second < 100 { from } else { to });
                let bound = if second < 5 || (100..200).contains(&second) { 150_000 } else { 2_000 };
                let off = lag(&page, &host);
                prop_assert!(off < bound, "{off} ns off at second {second}");
                page = page.next(host.now.tsc, &host.truth(), rate.update(host.now).unwrap());
            }
        }
    }

    #[test]
    fn nothing_stated_and_nothing_measured_is_no_rate() {
        let mut host = Host::new();
        let mut rate = Rate::new(host.now, None);
        host.pass(1_000_000, 0.0);
        assert_eq!(rate.initial(host.now), None);
        assert_eq!(rate.update(host.now), None);
        host.pass(20_000_000, 0.0);
        let slope = rate.initial(host.now).unwrap();
        assert!(slope.deviation(Slope::from_khz(2_600_000).unwrap()) < 1e-6);
    }

    #[test]
    fn a_stated_rate_that_does_not_fit_is_not_used() {
        let mut host = Host::new();
        let mut rate = Rate::new(host.now, Some(1_000_000));
        host.pass(20_000_000, 0.0);
        let slope = rate.initial(host.now).unwrap();
        assert!(slope.deviation(Slope::from_khz(2_600_000).unwrap()) < 1e-6);
    }

    #[test]
    fn a_wrong_rate_taken_too_early_is_found_out() {
        let mut host = Host::new();
        let mut rate = Rate::new(host.now, Some(1_000_000));
        host.pass(1_000_000, 0.0);
        rate.initial(host.now);
        for _ in 0..3 {
            host.pass(NS, 0.0);
            rate.update(host.now);
        }
        assert!(rate.slope.unwrap().deviation(Slope::from_khz(2_600_000).unwrap()) < 1e-6);
    }

    #[test]
    fn a_suspension_is_not_measured() {
        let mut host = Host::new();
        let mut rate = Rate::new(host.now, Some(2_600_000));
        host.pass(NS, 0.0);
        let before = rate.initial(host.now).unwrap();
        // The counter runs on for an hour, the monotonic clock for a second.
        host.now.tsc += 3600 * 2_600_000_000;
        host.pass(NS, 0.0);
        assert_eq!(rate.update(host.now), Some(before));
        host.pass(NS, 0.0);
        assert!(rate.update(host.now).unwrap().deviation(before) < 1e-6);
        // And it is set to zero.
        host.now.tsc = 0;
        host.pass(NS / 1000, 0.0);
        assert_eq!(rate.update(host.now), Some(rate.slope.unwrap()));
        host.pass(NS, 0.0);
        assert!(rate.update(host.now).unwrap().deviation(before) < 1e-6);
    }
}
