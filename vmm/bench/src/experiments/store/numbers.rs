//! Maps of numbers, 8 bytes a key and a value, keys in random order: loaded in one durable
//! transaction, by the map's way to take many entries and by single insertions, looked up at random, gone through in order, changed one by one, read beside a writer.

use super::{Round, Subjects, peers, push};
use crate::BenchError;
use crate::experiments::Progress;
use crate::report::{Check, Report};
use crate::sample::Environment;

/// Adds the figures.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    let bench = subjects.bench;
    let entries = bench.store.entries.unwrap_or(bench.sized(10_000, 1_000_000));
    let rounds = bench.sized(1, 3);
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for number in 1..=rounds {
        progress(&format!("maps of {entries} numbers, {number} of {rounds}"));
        all.push(one_round(subjects, entries, &mut problems)?);
    }
    subjects.peers.clear();
    check(report, &all);
    let about = About { entries, rounds, problem: problems.first().map(String::as_str) };
    reading(subjects, report, &all, &about);
    writing(subjects, report, &all, &about);
    Ok(())
}

/// What all figures share.
struct About<'a> {
    entries: u64,
    rounds: u32,
    /// Why ours have no answer.
    problem: Option<&'a str>,
}

fn one_round(
    subjects: &Subjects<'_>,
    entries: u64,
    problems: &mut Vec<String>,
) -> Result<Round, BenchError> {
    let Subjects { bench, peers, .. } = subjects;
    let (count, puts) = (entries.to_string(), bench.sized("20", "200"));
    let (batch, millis) = (bench.store.batch.to_string(), bench.sized("200", "2000"));
    let mut round = Round::default();
    bench.remove_store();
    peers.clear();
    let mut ours = |round: &mut Round, whose, args: &[&str]| {
        let args = [args, &["--count", &count]].concat();
        match bench.run(Environment::Vm, &args) {
            Ok(sample) => peers::merge(round, whose, sample.answer),
            Err(error) => problems.push(error.to_string()),
        }
    };
    ours(&mut round, "ours", &["store-load", "tree", "--batch", &batch]);
    peers.each(&mut round, "load", &["--entries", &count])?;
    ours(&mut round, "single", &["store-load", "single", "--one-by-one", "--batch", &batch]);
    ours(&mut round, "hash", &["store-load", "hash", "--hash", "--batch", &batch]);
    ours(&mut round, "ours", &["store-read", "tree"]);
    peers.each(&mut round, "read", &["--entries", &count])?;
    ours(&mut round, "hash", &["store-read", "hash", "--hash"]);
    ours(&mut round, "ours", &["store-put", "tree", "--rounds", puts]);
    peers.each(&mut round, "put", &["--entries", &count, "--count", puts])?;
    ours(&mut round, "ours", &["store-beside", "tree", "--millis", millis]);
    peers.each(&mut round, "beside", &["--entries", &count, "--millis", millis])?;
    Ok(round)
}

/// All must have found the same.
fn check(report: &mut Report, all: &[Round]) {
    let sums = |key: &str| {
        let found = all.iter().flat_map(|round| round.0.values());
        let mut found: Vec<String> =
            found.filter_map(|one| Some(one.get(key)?.to_string())).collect();
        found.sort();
        found.dedup();
        found
    };
    let (get, scan) = (sums("get_sum"), sums("scan_sum"));
    report.checks.push(Check {
        name: "same_numbers".into(),
        rule: "everybody finds the same values, by their keys and in order".into(),
        found: format!("sums {}, in order {}", get.join(" "), scan.join(" ")),
        is_kept: get.len() <= 1 && scan.len() <= 1,
        needs_quiet: false,
    });
}

fn reading(subjects: &Subjects<'_>, report: &mut Report, all: &[Round], about: &About<'_>) {
    let About { entries, rounds, problem } = about;
    let no_peers = problem.or(subjects.peers.why_not());
    let n = *entries as f64;
    let best = format!("{entries} entries, the better of two goes, median of {rounds} rounds");
    for (name, above, below, what) in [
        ("get_hash_over_lmdb", ("lmdb", "get_ns"), ("hash", "get_ns"), "a hash map, against LMDB"),
        ("get_over_lmdb", ("lmdb", "get_ns"), ("ours", "get_ns"), "an ordered map, against LMDB"),
        ("get_over_redb", ("redb", "get_ns"), ("ours", "get_ns"), "the same against redb"),
        ("get_over_sqlite", ("sqlite", "get_ns"), ("ours", "get_ns"), "the same against SQLite"),
    ] {
        let note = format!("point reads in random order a second, {what}; {best}");
        push(report, all, (name, "", &note), no_peers, |round| round.over(above, below));
    }
    for peer in peers::ALL {
        let note = format!("entries a second in order, an ordered map, against {peer}; {best}");
        let name = format!("scan_over_{peer}");
        push(report, all, (&name, "", &note), no_peers, |round| {
            round.over((peer, "scan_ns"), ("ours", "scan_ns"))
        });
    }
    for (whose, what) in SUBJECTS {
        let missing = if ["ours", "hash"].contains(&whose) { *problem } else { no_peers };
        let prefix = prefix(whose);
        let mut add = |kind: &str, key: &str, of: &str| {
            let note = format!("{what}: {of}; {best}");
            let name = format!("{prefix}{kind}_ns");
            push(report, all, (&name, "ns", &note), missing, |r| Some(r.number(whose, key)? / n));
        };
        add("get", "get_ns", "a point read");
        if whose != "hash" {
            add("scan", "scan_ns", "an entry, in order");
        }
    }
}

/// Whose answers there are, and what they are.
const SUBJECTS: [(&str, &str); 5] = [
    ("ours", "an ordered map in a versioned space"),
    ("hash", "a hash map in a versioned space"),
    ("lmdb", "LMDB"),
    ("redb", "redb"),
    ("sqlite", "SQLite"),
];

/// How maps are loaded: the figure's name, whose answer it is, and what it is. The peers insert one entry
/// after the other.
const LOADS: [(&str, &str, &str); 3] = [
    ("load", "ours", "an ordered map, its entries handed over at once"),
    ("insert", "single", "an ordered map, by single insertions"),
    ("load_hash", "hash", "a hash map with room for all before, by single insertions"),
];

fn prefix(whose: &str) -> String {
    if whose == "ours" { String::new() } else { format!("{whose}_") }
}

fn writing(subjects: &Subjects<'_>, report: &mut Report, all: &[Round], about: &About<'_>) {
    let About { entries, rounds, problem } = about;
    let no_disk = subjects.disk.why_not();
    let durable: &[Round] = if no_disk.is_some() { &[] } else { all };
    let no_peers = no_disk.or(*problem).or(subjects.peers.why_not());
    let n = *entries as f64;
    let of = all.iter().find_map(|round| round.number("ours", "transactions"));
    let how = match of {
        Some(transactions) if transactions > 1.0 => {
            format!("ours in {transactions} transactions, others in one")
        }
        _ => "in one transaction".to_owned(),
    };
    let load = format!(
        "inserting {entries} entries in random order until they are durable, {how}; median \
                 of {rounds} rounds"
    );
    for peer in peers::ALL {
        for (name, whose, what) in LOADS {
            let (name, note) =
                (format!("{name}_over_{peer}"), format!("{what}, against {peer}: {load}"));
            push(report, durable, (&name, "", &note), no_peers, |round| {
                round.over((peer, "load_ns"), (whose, "load_ns"))
            });
        }
    }
    let note = format!("an ordered map, by single insertions: an entry; {load}");
    push(report, durable, ("insert_ns", "ns", &note), no_disk.or(*problem), |round| {
        Some(round.number("single", "load_ns")? / n)
    });
    let put = format!(
        "changing one value of {entries} in a durable transaction; median of {rounds} rounds' medians"
    );
    let note = format!("ours, exits included, over the quickest of the peers: {put}");
    push(report, durable, ("durable_put_over_best", "", &note), no_peers, |round| {
        Some(round.number("ours", "put_p50_ns")? / round.best_peer("put_p50_ns")?)
    });
    let rate = |round: &Round, whose: &str, kind: &str| {
        round.over((whose, &format!("{kind}_gets")), (whose, &format!("{kind}_ns")))
    };
    for (whose, what) in SUBJECTS {
        let missing =
            if ["ours", "hash"].contains(&whose) { no_disk.or(*problem) } else { no_peers };
        let prefix = prefix(whose);
        let (name, note) = (format!("{prefix}load_ns"), format!("{what}: an entry; {load}"));
        push(report, durable, (&name, "ns", &note), missing, |round| {
            Some(round.number(whose, "load_ns")? / n)
        });
        if whose == "hash" {
            continue;
        }
        let (name, note) = (format!("{prefix}durable_put_us"), format!("{what}: {put}"));
        push(report, durable, (&name, "us", &note), missing, |round| {
            round.number(whose, "put_p50_ns").map(|ns| ns / 1e3)
        });
        let name = if whose == "ours" {
            "reads_beside_writer".to_owned()
        } else {
            format!("reads_beside_writer_{whose}")
        };
        let note = format!(
            "{what}: point reads a second in visits of 5 ms, while another thread commits a put a \
             hundred times a second, over those without it; median of {rounds} rounds"
        );
        push(report, durable, (&name, "", &note), missing, |round| {
            Some(rate(round, whose, "beside")? / rate(round, whose, "alone")?)
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn another_sum_than_the_others_breaks_the_check() {
        let round = |lmdb: &str| {
            let one = |sum: &str| serde_json::json!({ "get_sum": sum, "scan_sum": "7" });
            Round([("ours", one("a")), ("lmdb", one(lmdb)), ("hash", Value::Null)].into())
        };
        let kept = |lmdb: &str| {
            let mut report = Report::default();
            check(&mut report, &[round(lmdb)]);
            report.checks[0].is_kept
        };
        assert!(kept("a") && !kept("b"));
    }
}
