//! Reading while somebody writes; changes that wait for the disk; exits for each request.

use std::path::Path;

use super::sides::{Order, Programs, Side};
use crate::BenchError;
use crate::experiments::Progress;
use crate::experiments::store::Disk;
use crate::report::Report;
use crate::sample::Sample;
use crate::stats::{median, ratio};
use crate::worker::Worker;

const VALUE: usize = 4;

/// Adds the figures.
pub(super) fn measure(
    programs: &Programs<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let keys = programs.bench.sized(1000, 100_000);
    progress("reading while somebody writes");
    programs.bench.remove_store();
    programs.fill(keys, VALUE, "manual")?;
    programs.fill_lmdb(keys, VALUE)?;
    reading(programs, keys, report)?;
    progress("exits for each request");
    exits(programs, keys, report)?;
    progress("changes that wait for the disk");
    durable(programs, keys, report)
}

fn order(keys: u64, sets: u64, millis: u64) -> Order {
    Order { keys, sets, value: VALUE, batch: 1, millis, count: 0, rate: 0 }
}

/// Clients that only read, alone and while one more writes a tenth as often as they read.
fn reading(programs: &Programs<'_>, keys: u64, report: &mut Report) -> Result<(), BenchError> {
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let readers = u32::try_from(processors.saturating_sub(1).clamp(1, 8)).unwrap_or(1);
    let (millis, rounds) = programs.bench.sized((50, 1), (500, 3));
    let (server, served) = programs.serve()?;
    let redis = programs.redis(&["--appendonly", "no"])?;
    if let Some(redis) = &redis {
        programs.fill_served(&redis.at, keys, VALUE)?;
    }
    for side in Side::ALL {
        let name = format!("{}_reads_beside_writer", side.name());
        let note = format!(
            "{}: GETs a second of {readers} client(s), while one more SETs a tenth as often, over those without it; \
             on a processor each",
            side.legend()
        );
        if let Some(why) = programs.why_not(side) {
            report.push(name, None, "", format!("{note}: {why}"));
            continue;
        }
        let at = redis.as_ref().filter(|_| side == Side::Redis).map_or(&served, |redis| &redis.at);
        let mut reading = programs.crowd(side, at, readers, false)?;
        let mut writing = programs.crowd(side, at, 1, false)?;
        let (get, mut ratios) = (order(keys, 0, millis), Vec::new());
        for _ in 0..rounds {
            let alone = reading.obey(&get)?.per_second;
            writing
                .begin(&Order { rate: (alone / 10.0) as u64 + 1, ..order(keys, 100, millis) })?;
            let beside = reading.obey(&get)?.per_second;
            writing.answers()?;
            ratios.extend(ratio(Some(beside), Some(alone)));
        }
        reading.end()?;
        writing.end()?;
        report.push_median(name, &ratios, "", note);
    }
    server.terminate()?;
    redis.map_or(Ok(()), |redis| redis.worker.terminate())
}

/// The difference of two runs with different numbers of requests: starts do not count.
fn exits(programs: &Programs<'_>, keys: u64, report: &mut Report) -> Result<(), BenchError> {
    let requests = programs.bench.sized(200, 2000);
    let stats = programs.bench.programs.file("kv-stats.json");
    for (what, sets) in [("get", 0), ("mix_10", 10), ("mix_50", 50), ("set", 100)] {
        let with = |count: u64| Order { count, ..order(keys, sets, 0) };
        let direct = |count: u64| -> Result<Option<f64>, BenchError> {
            let args = ["direct", "kv"];
            let runner = programs.bench.runner;
            let place = crate::sample::Environment::Vm;
            let command = runner.command(place, &programs.clients, &args, Some(&stats));
            let mut crowd = super::sides::Crowd::of(Worker::start(command)?.0);
            crowd.obey(&with(count))?;
            crowd.end()?;
            Ok(counted(&stats))
        };
        let served = |count: u64| -> Result<Option<f64>, BenchError> {
            let at = programs.file("kv.sock");
            let _ = std::fs::remove_file(&at);
            let args = ["serve", "--port", "0", "--unix", &at];
            let runner = programs.bench.runner;
            let place = crate::sample::Environment::Vm;
            let command = runner.command(place, &programs.kv, &args, Some(&stats));
            let (server, _) = Worker::start(command)?;
            let mut crowd = programs.crowd(Side::Serve, &at, 1, false)?;
            crowd.obey(&with(count))?;
            crowd.end()?;
            server.terminate()?;
            Ok(counted(&stats))
        };
        let per = |few: Option<f64>, many: Option<f64>| Some((many? - few?) / requests as f64);
        let note = format!(
            "exits to the VMM for each request of a client that enters the store, {sets} % SETs"
        );
        let all = per(direct(50)?, direct(50 + requests)?);
        report.push(format!("kv_{what}_exits"), all, "exits/request", note);
        if what.starts_with("mix") {
            continue;
        }
        let note =
            format!("the same of `kv serve`, one client and one {} at a time", what.to_uppercase());
        let all = per(served(50)?, served(50 + requests)?);
        report.push(format!("kv_serve_{what}_exits"), all, "exits/request", note);
    }
    Ok(())
}

fn counted(stats: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(stats).ok()?;
    let stats = serde_json::from_str(&text).ok()?;
    let sample = Sample {
        wall: Default::default(),
        span_ns: (0, 0),
        answer: serde_json::Value::Null,
        stats,
    };
    sample.counts("exits")
}

/// SETs that are on the disk when they are answered.
fn durable(programs: &Programs<'_>, keys: u64, report: &mut Report) -> Result<(), BenchError> {
    let (millis, rounds, most) = programs.bench.sized((50, 1, 2), (300, 2, 8));
    let disk = Disk::of(programs.bench.programs.dir());
    let mut found: Vec<(Side, u32, Vec<f64>)> = Vec::new();
    if disk.why_not().is_none() {
        programs.bench.remove_store();
        programs.fill(keys, VALUE, "each")?;
        let (server, served) = programs.serve()?;
        let redis = programs.redis(&["--appendonly", "yes", "--appendfsync", "always"])?;
        for clients in [1, most] {
            for side in programs.here() {
                let at = redis
                    .as_ref()
                    .filter(|_| side == Side::Redis)
                    .map_or(&served, |redis| &redis.at);
                let mut crowd = programs.crowd(side, at, clients, true)?;
                let mut rates = Vec::new();
                for _ in 0..rounds {
                    rates.push(crowd.obey(&order(keys, 100, millis))?.per_second);
                }
                crowd.end()?;
                found.push((side, clients, rates));
            }
        }
        server.terminate()?;
        if let Some(redis) = redis {
            redis.worker.terminate()?;
        }
        let _ = std::fs::remove_dir_all(programs.bench.programs.file("appendonlydir"));
    }
    for clients in [1, most] {
        let rates = |side: Side| {
            let of = found.iter().find(|(known, number, _)| (*known, *number) == (side, clients));
            of.map_or(&[][..], |(.., rates)| rates)
        };
        for side in Side::ALL {
            let note = format!(
                "{}: SETs a second that are on the disk when they are answered, {clients} client(s){}",
                side.legend(),
                disk.why_not()
                    .or(programs.why_not(side))
                    .map(|why| format!(": {why}"))
                    .unwrap_or_default()
            );
            let name = format!("{}_durable_set_{clients}_per_s", side.name());
            report.push_median(name, rates(side), "1/s", note);
        }
        let over = ratio(median(rates(Side::Serve)), median(rates(Side::Redis)));
        let note = format!("kv serve / Redis with `appendfsync always`, {clients} client(s)");
        report.push(format!("kv_serve_durable_set_{clients}_over_redis"), over, "", note);
    }
    Ok(())
}
