//! Switches into a versioned segment to read, with nothing new, beside a plain switch: instructions of the
//! guest kernel, as they are on record, and time.

use super::{Round, Subjects, peers, push};
use crate::BenchError;
use crate::experiments::Progress;
use crate::experiments::paths::recorded;
use crate::report::Report;
use crate::sample::Environment;

/// Adds the figures.
pub(super) fn measure(
    subjects: &Subjects<'_>,
    progress: Progress<'_>,
    report: &mut Report,
) -> Result<(), BenchError> {
    for (name, section, way) in [
        ("read_enter_over_plain_instructions", "syscall", "by SYSCALL"),
        ("read_enter_over_plain_trap_instructions", "trap", "by UD2"),
    ] {
        let count = |path| recorded(section, path);
        let more = count("switch, 1 versioned, to read").zip(count("switch, no locks"));
        let note = format!(
            "instructions of the guest kernel to enter a versioned segment to read, with nothing new, \
             less those of a plain switch, {way}; not counted in this run: on record from single steps, \
             which are the same on every machine"
        );
        report.push(name, more.map(|(there, plain)| there - plain), "instructions", note);
    }
    let bench = subjects.bench;
    let (rounds, count) = bench.sized((1, "500"), (5, "20000"));
    let mut all = Vec::new();
    for number in 1..=rounds {
        progress(&format!("switches into versioned segments, {number} of {rounds}"));
        bench.remove_store();
        let mut round = Round::default();
        let args = ["store-enter", "enter", "--count", count];
        peers::merge(&mut round, "ours", bench.run(Environment::Vm, &args)?.answer);
        all.push(round);
    }
    let note = format!(
        "entering a versioned segment to read, with nothing new, and coming home, over the same with a \
         plain switch without a tag; medians of {count}, in {rounds} rounds"
    );
    let about = ("read_enter_over_plain", "", note.as_str());
    push(report, &all, about, None, |round| {
        round.over(("ours", "read_p50"), ("ours", "plain_p50"))
    });
    Ok(())
}
