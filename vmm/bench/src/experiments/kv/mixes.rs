//! GETs, SETs and mixes of them: by the number of clients, the size of values, and how many requests are handed
//! over at once.

use std::collections::BTreeMap;

use super::sides::{Order, Programs, Rate, Side};
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::{Axis, Plot, Report, Series, paper};
use crate::stats::{median, ratio};

/// How many requests of a hundred are SETs.
const MIXES: [u64; 4] = [0, 10, 50, 100];
/// Requests in a pipeline.
const PIPELINE: usize = 16;
/// Curves of the paper, in its files and in our legends.
const PAPER: [(&str, &str); 4] = [
    ("RedisJMP", "the paper (M1): RedisJMP"),
    ("RedisJMP tags", "the paper (M1): RedisJMP, tags"),
    ("Redis", "the paper (M1): Redis"),
    ("6 Redis", "the paper (M1): six Redis"),
];

/// What is measured of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    sets: u64,
    value: usize,
    batch: usize,
    clients: u32,
}

struct Sizes {
    keys: u64,
    millis: u64,
    rounds: u32,
    /// The numbers of clients of figure 10.
    clients: &'static [u32],
    /// Those of everything else.
    few: &'static [u32],
    mixes: &'static [u64],
    batches: &'static [usize],
}

impl Sizes {
    fn new(programs: &Programs<'_>) -> Sizes {
        programs.bench.sized(
            Sizes {
                keys: 1000,
                millis: 20,
                rounds: 1,
                clients: &[1, 2],
                few: &[1],
                mixes: &[0, 10, 100],
                batches: &[1, 16, 256],
            },
            Sizes {
                keys: 100_000,
                millis: 200,
                rounds: 2,
                clients: &[1, 2, 4, 8, 16],
                few: &[1, 4],
                mixes: &MIXES,
                batches: &[1, 16, 256, 4096, 65_536],
            },
        )
    }

    fn order(&self, sets: u64, value: usize, batch: usize) -> Order {
        Order { keys: self.keys, sets, value, batch, millis: self.millis, count: 0, rate: 0 }
    }

    /// The cases of a size of values and a number of clients.
    fn cases(&self, value: usize, clients: u32) -> Vec<Case> {
        let few = self.few.contains(&clients);
        let batches: &[usize] = match (value, few) {
            (_, true) => &[1, PIPELINE],
            (4, false) => &[1],
            _ => &[],
        };
        let of =
            |batch: usize| self.mixes.iter().map(move |&sets| Case { sets, value, batch, clients });
        batches.iter().flat_map(|&batch| of(batch)).collect()
    }
}

/// Requests a second and times, by case and side, of all rounds.
type Measured = BTreeMap<(Case, Side), Vec<Rate>>;

/// Adds the figures and plots.
pub(super) fn measure(
    programs: &Programs<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let sizes = Sizes::new(programs);
    let mut measured = Measured::new();
    let mut by_batch = BTreeMap::new();
    for value in [4, 1024] {
        progress(&format!("filling stores, values of {value} bytes"));
        programs.bench.remove_store();
        programs.fill(sizes.keys, value, "manual")?;
        programs.fill_lmdb(sizes.keys, value)?;
        let (server, served) = programs.serve()?;
        let redis = programs.redis(&["--appendonly", "no"])?;
        if let Some(redis) = &redis {
            programs.fill_served(&redis.at, sizes.keys, value)?;
        }
        let at = |side: Side| match (side, &redis) {
            (Side::Redis, Some(redis)) => redis.at.clone(),
            _ => served.clone(),
        };
        for &clients in sizes.clients {
            let cases = sizes.cases(value, clients);
            if cases.is_empty() {
                continue;
            }
            let mut crowds = Vec::new();
            for side in programs.here() {
                let mut crowd = programs.crowd(side, &at(side), clients, false)?;
                // What is touched for the first time is not what is measured.
                crowd.obey(&sizes.order(0, value, 1))?;
                crowds.push((side, crowd));
            }
            for case in cases {
                let Case { sets, batch, .. } = case;
                progress(&format!(
                    "{clients} clients, {value} bytes, {sets} % SET, batches of {batch}"
                ));
                let order = sizes.order(sets, value, batch);
                for _ in 0..sizes.rounds {
                    for (side, crowd) in &mut crowds {
                        measured.entry((case, *side)).or_default().push(crowd.obey(&order)?);
                    }
                }
            }
            if value == 4 && clients == 1 {
                for &batch in sizes.batches {
                    for sets in [0, 100] {
                        progress(&format!("batches of {batch}, {sets} % SET"));
                        let order = sizes.order(sets, value, batch);
                        for (side, crowd) in &mut crowds {
                            let per_second = crowd.obey(&order)?.per_second;
                            by_batch.insert((*side, sets, batch), per_second);
                        }
                    }
                }
            }
            for (_, crowd) in crowds {
                crowd.end()?;
            }
        }
        server.terminate()?;
        if let Some(redis) = redis {
            redis.worker.terminate()?;
        }
    }
    let found = Found { measured, sizes: &sizes, programs };
    found.figures(report);
    found.mixed(report);
    found.plots(report);
    batches(programs, &by_batch, &sizes, report);
    Ok(())
}

struct Found<'a> {
    measured: Measured,
    sizes: &'a Sizes,
    programs: &'a Programs<'a>,
}

impl Found<'_> {
    fn samples(&self, case: Case, side: Side) -> Vec<f64> {
        let rates = self.measured.get(&(case, side)).into_iter().flatten();
        rates.map(|rate| rate.per_second).collect()
    }

    fn rate(&self, case: Case, side: Side) -> Option<f64> {
        median(&self.samples(case, side))
    }

    fn best(&self, sets: u64, side: Side) -> Option<f64> {
        let of = |&clients: &u32| self.rate(Case { sets, value: 4, batch: 1, clients }, side);
        self.sizes.clients.iter().filter_map(of).max_by(f64::total_cmp)
    }

    fn figures(&self, report: &mut Report) {
        let note = |side: Side, text: String| match self.programs.why_not(side) {
            Some(why) => format!("{text}: {why}"),
            None => text,
        };
        for (what, sets) in [("get", 0), ("set", 100)] {
            let one = Case { sets, value: 4, batch: 1, clients: 1 };
            let name = what.to_uppercase();
            for (side, above) in [
                (Side::Redis, Side::Direct),
                (Side::Lmdb, Side::Direct),
                (Side::Redis, Side::Serve),
            ] {
                let (ours, theirs) = (above.name(), side.name());
                let text = format!(
                    "{name}s of 4 bytes a second, one client, one request at a time: {} / {}",
                    above.legend(),
                    side.legend()
                );
                let over = ratio(self.rate(one, above), self.rate(one, side));
                report.push(format!("{ours}_{what}_over_{theirs}"), over, "", note(side, text));
            }
            let text = format!(
                "the same with as many clients as are best for each, up to {}",
                self.sizes.clients.last().unwrap_or(&1)
            );
            let over = ratio(self.best(sets, Side::Direct), self.best(sets, Side::Redis));
            report.push(format!("kv_{what}_best_over_redis"), over, "", note(Side::Redis, text));
            for side in Side::ALL {
                let ours = side.name();
                for &clients in self.sizes.few {
                    let case = Case { clients, ..one };
                    let text = format!(
                        "{}: {name}s a second, {clients} client(s), 4 bytes, one at a time",
                        side.legend()
                    );
                    let samples = self.samples(case, side);
                    report.push_median(
                        format!("{ours}_{what}_{clients}_per_s"),
                        &samples,
                        "1/s",
                        note(side, text),
                    );
                    for percent in [50.0, 99.0] {
                        let all = self.measured.get(&(case, side)).into_iter().flatten();
                        let samples: Vec<f64> =
                            all.filter_map(|rate| rate.quantile_us(percent)).collect();
                        let text = note(
                            side,
                            format!(
                                "of the times of these, within a sixteenth: {percent} % take no longer"
                            ),
                        );
                        report.push_median(
                            format!("{ours}_{what}_{clients}_p{percent}_us"),
                            &samples,
                            "us",
                            text,
                        );
                    }
                }
            }
        }
    }

    /// What a tenth of SETs leaves of the rate of GETs.
    fn mixed(&self, report: &mut Report) {
        let Some(&clients) = self.sizes.few.last() else { return };
        for side in [Side::Direct, Side::Redis] {
            let rate = |sets: u64| self.rate(Case { sets, value: 4, batch: 1, clients }, side);
            let mut note = format!(
                "{}: requests a second with 10 % SETs over those with GETs alone, {clients} clients; 0.3 in the paper, \
                 whose clients have a lock",
                side.legend()
            );
            if let Some(why) = self.programs.why_not(side) {
                note += &format!(": {why}");
            }
            report.push(
                format!("{}_mix_10_over_get", side.name()),
                ratio(rate(10), rate(0)),
                "",
                note,
            );
        }
    }

    fn plots(&self, report: &mut Report) {
        for (what, sets, file) in
            [("get", 0, paper::FIGURE_10_GET), ("set", 100, paper::FIGURE_10_SET)]
        {
            let curve = |side: Side| Series {
                name: side.legend().into(),
                origin: side.origin(),
                points: self
                    .sizes
                    .clients
                    .iter()
                    .filter_map(|&clients| {
                        let case = Case { sets, value: 4, batch: 1, clients };
                        Some((f64::from(clients), self.rate(case, side)?))
                    })
                    .collect(),
            };
            let ours = self.programs.here().map(curve);
            let theirs =
                paper::curves(file, &PAPER).into_iter().filter(|one| !one.points.is_empty());
            report.plots.push(Plot {
                name: format!("kv_{what}").into(),
                title: format!("{}s of 4 bytes, one request at a time", what.to_uppercase()),
                x: Axis::log("clients"),
                y: Axis::log("requests per second"),
                series: ours.chain(theirs).collect(),
                note: "All keep what they have in memory: nothing is synced. Of a server all clients are in one \
                       program; those that enter the store have a VM each, those of LMDB a process each.".into(),
            });
        }
        for (value, batch, name) in [
            (4, 1, "4"),
            (4, PIPELINE, "4_pipelined"),
            (1024, 1, "1k"),
            (1024, PIPELINE, "1k_pipelined"),
        ] {
            let Some(&clients) = self.sizes.few.last() else { continue };
            let curve = |side: Side| Series {
                name: side.legend().into(),
                origin: side.origin(),
                points: self
                    .sizes
                    .mixes
                    .iter()
                    .filter_map(|&sets| {
                        Some((sets as f64, self.rate(Case { sets, value, batch, clients }, side)?))
                    })
                    .collect(),
            };
            report.plots.push(Plot {
                name: format!("kv_mix_{name}").into(),
                title: format!("GETs and SETs mixed: {clients} client(s), {value} bytes, {batch} at a time"),
                x: Axis { label: "SETs, percent".into(), is_log: false },
                y: Axis::log("requests per second"),
                series: self.programs.here().map(curve).collect(),
                note: "What is handed over at once is one visit of a client that enters the store, one \
                       transaction of LMDB's, and a pipeline of a server's.".into(),
            });
        }
    }
}

/// Curves by the size of a batch, and the largest that one visit has served.
fn batches(
    programs: &Programs<'_>,
    found: &BTreeMap<(Side, u64, usize), f64>,
    sizes: &Sizes,
    report: &mut Report,
) {
    let curve = |side: Side, sets: u64| Series {
        name: format!("{}, {}", side.legend(), if sets == 0 { "GET" } else { "SET" }),
        origin: side.origin(),
        points: sizes
            .batches
            .iter()
            .filter_map(|&batch| Some((batch as f64, *found.get(&(side, sets, batch))?)))
            .collect(),
    };
    for (what, sets) in [("get", 0), ("set", 100)] {
        let of = |side: Side| {
            sizes.batches.iter().rev().find(|&&batch| found.contains_key(&(side, sets, batch)))
        };
        let largest = of(Side::Direct).copied();
        let rate = |side: Side| found.get(&(side, sets, largest?)).copied();
        let note = format!(
            "the largest number of {}s of 4 bytes tried in one visit of a client; it was served",
            what.to_uppercase()
        );
        report.push(
            format!("kv_{what}_largest_batch"),
            largest.map(|batch| batch as f64),
            "",
            note,
        );
        let note = format!(
            "{}s a second in such visits / of one client of Redis with pipelines as long",
            what.to_uppercase()
        );
        let over = ratio(rate(Side::Direct), rate(Side::Redis));
        report.push(format!("kv_{what}_batch_over_redis"), over, "", note);
    }
    report.plots.push(Plot {
        name: "kv_batches".into(),
        title: "One client, 4 bytes, by how many requests are handed over at once".into(),
        x: Axis::log("requests at once"),
        y: Axis::log("requests per second"),
        series: programs.here().flat_map(|side| [curve(side, 0), curve(side, 100)]).collect(),
        note: "The larger the batch, the less of it is entering and leaving, or sending and receiving.".into(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_10_has_all_numbers_of_clients_and_the_rest_a_few() {
        let sizes = Sizes {
            keys: 1,
            millis: 1,
            rounds: 1,
            clients: &[1, 2, 4],
            few: &[1, 4],
            mixes: &MIXES,
            batches: &[1],
        };
        assert_eq!(sizes.cases(4, 2).len(), 4);
        assert_eq!(sizes.cases(4, 4).len(), 8);
        assert_eq!(sizes.cases(1024, 2).len(), 0);
        assert!(sizes.cases(1024, 1).contains(&Case {
            sets: 50,
            value: 1024,
            batch: PIPELINE,
            clients: 1
        }));
    }
}
