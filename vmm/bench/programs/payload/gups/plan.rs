//! What is drawn, in which order, how it is timed, and the sum that must come out.
//!
//! An update's value is drawn, and its low bits are the place: `table[value mod words] ^= value`.
//! Exclusive or does not depend on order and does not hide a lost update.

use std::time::Instant;

use super::Engine;
use crate::json::Object;
use crate::random::Random;

/// Updates in a set: the two sizes that are measured.
pub(crate) const SETS: [usize; 2] = [16, 64];

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Most windows.
    pub(crate) windows: u32,
    /// Fewest windows; doubled up to the most.
    pub(crate) from: u32,
    /// Size of a window, a power of two of at least a page.
    pub(crate) window_bytes: u64,
    /// Sets of a round.
    pub(crate) sets: u64,
    /// Rounds; each goes through all numbers of windows.
    pub(crate) rounds: u64,
    /// Whether windows are mapped with pages of 4 KiB, if that can be chosen.
    pub(crate) is_small: bool,
}

impl Plan {
    /// The plan, if it is valid.
    pub(crate) fn checked(self) -> Result<Plan, String> {
        if !self.window_bytes.is_power_of_two() || self.window_bytes < 4096 {
            return Err("a window is a power of two of bytes, at least a page".into());
        }
        if !(1..=1024).contains(&self.windows) || !(1..=self.windows).contains(&self.from) {
            return Err("1 to 1024 windows".into());
        }
        if self.rounds == 0 || self.sets == 0 {
            return Err("at least one round of one set".into());
        }
        Ok(self)
    }

    /// Numbers of windows that are measured.
    fn counts(&self) -> impl Iterator<Item = u32> {
        let (from, most) = (self.from, self.windows);
        std::iter::successors(Some(from), |count| count.checked_mul(2))
            .take_while(move |&count| count <= most)
    }
}

/// Draws a set: its updates into `set`, and the window.
#[inline]
pub(crate) fn draw(random: &mut Random, windows: u32, set: &mut [u64]) -> u32 {
    for update in set.iter_mut() {
        *update = random.next();
    }
    random.below(windows)
}

/// What one word adds to the sum: its place counts, a zero word adds nothing.
#[inline]
pub(crate) fn part(place: u64, value: u64) -> u64 {
    value.wrapping_mul(2 * place + 1)
}

/// Performs the plan and reports times and the sum. Figures of `n` windows and sets of `b` are
/// `wN_sB_ns`, the median of the rounds, with `_low` and `_high`, and `wN_sB_moves`, how often
/// in a round the window drawn differed from the last one. `faults` is of all rounds together.
pub(crate) fn drive(plan: &Plan, engine: &mut impl Engine) -> Result<Object, String> {
    let mut random = Random::new(plan.window_bytes);
    let mut cases: Vec<_> = plan.counts().map(|n| SETS.map(|b| Case::new(n, b))).collect();
    let mut faulted = Some(0);
    for _ in 0..plan.rounds {
        for both in &mut cases {
            engine.begin(both[0].windows)?;
            let before = faults();
            for case in both {
                case.round(plan.sets, &mut random, engine)?;
            }
            faulted = faulted.zip(faults()).zip(before).map(|((sum, now), then)| sum + now - then);
            engine.end()?;
        }
    }
    let mut object = Object::new("gups")
        .number("window_bytes", plan.window_bytes)
        .number("sets", plan.sets)
        .number("rounds", plan.rounds)
        .pattern("sum", engine.sum(plan.windows)?);
    if let Some(faulted) = faulted {
        object = object.number("faults", faulted);
    }
    for mut case in cases.into_iter().flatten() {
        case.ns.sort_unstable();
        let name = format!("w{}_s{}", case.windows, case.set.len());
        object = object
            .number(&format!("{name}_ns"), case.ns[case.ns.len() / 2])
            .number(&format!("{name}_low"), case.ns[0])
            .number(&format!("{name}_high"), case.ns[case.ns.len() - 1])
            .number(&format!("{name}_moves"), case.moves / plan.rounds);
    }
    Ok(object)
}

/// Page faults of this process so far; `None` in a VM, whose statistics count them.
fn faults() -> Option<u64> {
    let line = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may contain anything, minor faults are the eighth field.
    line.rsplit_once(')')?.1.split_whitespace().nth(7)?.parse().ok()
}

struct Case {
    windows: u32,
    set: Vec<u64>,
    ns: Vec<u64>,
    moves: u64,
}

impl Case {
    fn new(windows: u32, updates: usize) -> Case {
        Case { windows, set: vec![0; updates], ns: Vec::new(), moves: 0 }
    }

    fn round(
        &mut self,
        sets: u64,
        random: &mut Random,
        engine: &mut impl Engine,
    ) -> Result<(), String> {
        // The first set finds the window; it is made, but neither timed nor counted.
        let mut last = draw(random, self.windows, &mut self.set);
        engine.apply(last, &self.set)?;
        let began = Instant::now();
        for _ in 0..sets {
            let window = draw(random, self.windows, &mut self.set);
            self.moves += u64::from(window != last);
            last = window;
            engine.apply(window, &self.set)?;
        }
        self.ns.push(began.elapsed().as_nanos() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let windows = 4;
        Plan { windows, from: 1, window_bytes: 4096, sets: 50, rounds: 2, is_small: true }
    }

    fn words(plan: &Plan) -> u64 {
        plan.window_bytes / 8
    }

    /// A table in ordinary memory, and how often it was prepared.
    struct Plain {
        table: Vec<u64>,
        words: u64,
        updates: u64,
        ready: u64,
    }

    impl Engine for Plain {
        fn begin(&mut self, _: u32) -> Result<(), String> {
            self.ready += 1;
            Ok(())
        }

        fn apply(&mut self, window: u32, set: &[u64]) -> Result<(), String> {
            for value in set {
                self.table[(u64::from(window) * self.words + value % self.words) as usize] ^= value;
                self.updates += 1;
            }
            Ok(())
        }

        fn window_sum(&mut self, window: u32) -> Result<u64, String> {
            let first = u64::from(window) * self.words;
            let places = first..first + self.words;
            let parts = places.map(|place| part(place, self.table[place as usize]));
            Ok(parts.fold(0, u64::wrapping_add))
        }
    }

    fn plain(plan: &Plan) -> Plain {
        let table = vec![0; (u64::from(plan.windows) * words(plan)) as usize];
        Plain { table, words: words(plan), updates: 0, ready: 0 }
    }

    #[test]
    fn all_sets_of_all_cases_are_made_and_two_runs_draw_the_same() {
        let (mut one, mut other) = (plain(&plan()), plain(&plan()));
        drive(&plan(), &mut one).unwrap();
        drive(&plan(), &mut other).unwrap();
        // 1, 2 and 4 windows, both kinds of sets, two rounds, one set more to begin with.
        assert_eq!((one.ready, one.updates), (6, 2 * 3 * 51 * (16 + 64)));
        assert_eq!(one.table, other.table);
    }

    #[test]
    fn a_lost_and_a_misplaced_update_change_the_sum() {
        let mut table = plain(&plan());
        drive(&plan(), &mut table).unwrap();
        let sum = table.sum(4).unwrap();
        table.table[7] ^= 0x55;
        assert_ne!(table.sum(4).unwrap(), sum);
        table.table[7] ^= 0x55;
        table.table.swap(7, 8);
        assert_ne!(table.sum(4).unwrap(), sum);
    }

    #[test]
    fn faults_of_this_process_are_counted() {
        let before = faults().unwrap();
        let touched: Vec<u8> = vec![1; 64 << 20];
        assert!(std::hint::black_box(touched).len() > 1);
        assert!(faults().unwrap() > before);
    }

    #[test]
    fn a_window_is_a_power_of_two() {
        assert!(Plan { window_bytes: 5000, ..plan() }.checked().is_err());
        assert!(Plan { windows: 0, ..plan() }.checked().is_err());
        assert!(plan().checked().is_ok());
    }

    #[test]
    fn every_update_falls_into_the_drawn_windows() {
        let mut random = Random::new(3);
        let mut set = [0; 16];
        let drawn: Vec<_> = (0..1000).map(|_| draw(&mut random, 8, &mut set)).collect();
        assert!((0..8).all(|window| drawn.contains(&window)) && drawn.iter().all(|&w| w < 8));
    }
}
