//! `spacejmp top`: the VMs that run, and what they do now.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmm::exit_code::ExitCode;

use super::failed;
use super::ps;
use super::seen::Seen;
use crate::errors::{self, Failure};
use crate::run_options::parse_timeout;
use crate::store_options::table;
use crate::style::Colour;

/// Show all running VMs of this user with their processor time and exits, again and again
///
/// On a terminal it redraws until Ctrl-C; elsewhere it prints one table after the other.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spacejmp top
  spacejmp top --interval 0.5
  spacejmp top --iterations 1 --json")]
pub(crate) struct Args {
    /// Time between two looks
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout, default_value = "2")]
    interval: Duration,
    /// End after so many tables
    #[arg(long, value_name = "N")]
    iterations: Option<u64>,
    /// Print one JSON object for each look: the reports of all VMs, with what was done per second
    #[arg(long)]
    json: bool,
}

const HEADING: [&str; 10] =
    ["PID", "NAME", "PROGRAM", "AGE", "THREADS", "MEMORY", "EXITS", "WHERE", "CPU%", "EXITS/S"];
/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What a VM had done at a look.
#[derive(Clone, Copy)]
struct Done {
    cpu_ns: u64,
    exits: u64,
    at: Instant,
}

impl Done {
    fn of(vm: &Seen) -> Done {
        Done { cpu_ns: vm.number("cpu_ns"), exits: vm.sum("exits", "count"), at: Instant::now() }
    }
}

/// What it does per second.
#[derive(Clone, Copy, Default)]
struct Rate {
    cpu_percent: f64,
    exits_per_second: f64,
}

impl Rate {
    fn between(before: Done, now: Done) -> Rate {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
        Rate {
            cpu_percent: now.cpu_ns.saturating_sub(before.cpu_ns) as f64 / seconds / 1e7,
            exits_per_second: now.exits.saturating_sub(before.exits) as f64 / seconds,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let look = || Seen::all().map_err(failed("list the VMs"));
    let redraws = io::stdout().is_terminal() && !args.json;
    let mut before: HashMap<u64, Done> = HashMap::new();
    let note = |vms: &[Seen]| vms.iter().map(|vm| (vm.number("pid"), Done::of(vm))).collect();
    // A rate needs two looks.
    before.extend::<HashMap<_, _>>(note(&look()?));
    let mut left = args.iterations.unwrap_or(u64::MAX);
    while left > 0 {
        std::thread::sleep(args.interval);
        let vms = look()?;
        let now: HashMap<u64, Done> = note(&vms);
        let mut rows: Vec<(Rate, &Seen)> =
            vms.iter().map(|vm| (rate(vm, &before, &now), vm)).collect();
        rows.sort_by(|(one, _), (other, _)| other.cpu_percent.total_cmp(&one.cpu_percent));
        let text = if args.json { as_json(&rows)? } else { as_table(&rows, redraws) };
        let written = errors::write_all(&mut io::stdout().lock(), text.as_bytes())?;
        if written != ExitCode::Program(0) {
            return Ok(written);
        }
        before = now;
        left -= 1;
    }
    Ok(ExitCode::Program(0))
}

fn rate(vm: &Seen, before: &HashMap<u64, Done>, now: &HashMap<u64, Done>) -> Rate {
    let pid = vm.number("pid");
    match (before.get(&pid), now.get(&pid)) {
        (Some(before), Some(now)) => Rate::between(*before, *now),
        _ => Rate::default(),
    }
}

fn as_table(rows: &[(Rate, &Seen)], redraws: bool) -> String {
    let row = |(rate, vm): &(Rate, &Seen)| {
        let mut row = ps::row(vm);
        row.push(format!("{:.1}", rate.cpu_percent));
        row.push(format!("{:.0}", rate.exits_per_second));
        row
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    let table = table(&HEADING, &rows, Colour::of(&io::stdout()));
    match redraws {
        true if rows.is_empty() => format!("{CLEAR}no VM runs\n"),
        true => format!("{CLEAR}{table}"),
        false => table + "\n",
    }
}

fn as_json(rows: &[(Rate, &Seen)]) -> Result<String, Failure> {
    let vms: Vec<Value> = rows
        .iter()
        .map(|(rate, vm)| {
            let mut vm = vm.0.clone();
            vm["cpu_percent"] = json!(rate.cpu_percent);
            vm["exits_per_second"] = json!(rate.exits_per_second);
            vm
        })
        .collect();
    errors::json("print the VMs", &BTreeMap::from([("vms", vms)]))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Done, Rate};

    #[test]
    fn a_rate_is_what_was_done_per_second_between_two_looks() {
        let at = Instant::now();
        let before = Done { cpu_ns: 1_000_000_000, exits: 10, at };
        let now = Done { cpu_ns: 2_000_000_000, exits: 50, at: at + Duration::from_secs(4) };
        let rate = Rate::between(before, now);
        assert!(
            (rate.cpu_percent - 25.0).abs() < 1e-9 && (rate.exits_per_second - 10.0).abs() < 1e-9
        );
        // Another program took its place.
        let rate = Rate::between(now, Done { at: now.at + Duration::from_secs(1), ..before });
        assert!(rate.cpu_percent == 0.0 && rate.exits_per_second == 0.0);
    }
}
