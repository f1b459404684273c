//! Statistics as a human-readable table (`--stats`); the numbers come from `stats`.
#![forbid(unsafe_code)]

use std::fmt;

use crate::stats::{CallReport, Count, StatsReport};

/// Calls shown by name; the rest is summed up in one line, and complete in the JSON.
const CALLS_SHOWN: usize = 20;

/// The table. The most expensive calls come first.
impl fmt::Display for StatsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>12}", "wall time", time(self.wall_ns))?;
        let phases = &self.phases;
        for (name, ns) in [
            ("machine", phases.machine_ns),
            ("first vCPU", phases.vcpu_ns),
            ("load", phases.load_ns),
            ("run", phases.run_ns),
            ("end", phases.end_ns),
        ] {
            writeln!(f, "  {name:<18} {:>12}", time(ns))?;
        }
        writeln!(f, "{:<20} {:>12}  all threads together", "guest time", time(self.guest_ns))?;
        match self.memory_touched_bytes.map(|bytes| bytes.div_ceil(1 << 20)) {
            Some(mib) => writeln!(f, "{:<20} {mib:>8} MiB", "memory touched")?,
            None => writeln!(f, "{:<20} not available", "memory touched")?,
        }
        if let Some(limit) = self.memory_limit_bytes {
            writeln!(f, "{:<20} {:>8} MiB", "memory limit", limit >> 20)?;
        }
        if let Some(limits) = &self.limits {
            let seconds = limits.cpu_seconds.map(|seconds| format!("{seconds} s"));
            let size = limits.file_size_bytes.map(|bytes| format!("{bytes} bytes"));
            let all = [
                ("processors", Some(limits.processors.to_string())),
                ("processor time", seconds),
                ("file size", size),
            ];
            let disk = limits.disk_bytes.zip(limits.disk_used_bytes);
            for (name, limit) in
                all.iter().filter_map(|(name, limit)| Some((name, limit.as_ref()?)))
            {
                writeln!(f, "{name:<20} {limit:>12}  at most")?;
            }
            if let Some(used) = limits.run_cpu_ns {
                writeln!(f, "{:<20} {:>12}  all processes together", "used of it", time(used))?;
            }
            if let Some((limit, used)) = disk {
                writeln!(f, "{:<20} {used:>12} bytes  at most {limit}", "added to disks")?;
            }
        }
        for held in self.memory.iter().filter(|held| held.peak_bytes > 0) {
            let [now, peak] = [held.bytes, held.peak_bytes].map(|bytes| bytes.div_ceil(1 << 10));
            writeln!(f, "  {:<18} {now:>8} KiB  at most {peak} KiB", held.kind)?;
        }
        let (started, peak) = (self.threads_started, self.threads_peak);
        writeln!(f, "{:<20} {started:>12}  at most {peak} at once", "threads")?;
        section(f, "exits", &self.exits)?;
        section(f, "faults", &self.faults)?;
        calls(f, &self.calls)
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, counts: &[Count]) -> fmt::Result {
    let total = counts.iter().fold(0_u64, |sum, one| sum.saturating_add(one.count));
    writeln!(f, "{title:<20} {total:>12}")?;
    for Count { kind, count } in counts {
        writeln!(f, "  {kind:<18} {count:>12}")?;
    }
    Ok(())
}

fn calls(f: &mut fmt::Formatter<'_>, calls: &[CallReport]) -> fmt::Result {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| std::cmp::Reverse((call.ns, call.count)));
    let (shown, rest) = calls.split_at(calls.len().min(CALLS_SHOWN));
    let (count, ns) = sum(&calls);
    writeln!(f, "{:<20} {count:>12} {:>12}", "Linux calls", time(ns))?;
    for call in shown {
        let name = match (call.name, call.number) {
            (Some(name), _) => name.to_owned(),
            (None, Some(number)) => format!("call {number}"),
            (None, None) => "other numbers".to_owned(),
        };
        let note = if call.served { "" } else { "  not served (ENOSYS)" };
        writeln!(f, "  {name:<18} {:>12} {:>12}{note}", call.count, time(call.ns))?;
    }
    if !rest.is_empty() {
        let (count, ns) = sum(rest);
        let name = format!("{} others", rest.len());
        writeln!(f, "  {name:<18} {count:>12} {:>12}", time(ns))?;
    }
    Ok(())
}

fn sum(calls: &[CallReport]) -> (u64, u64) {
    calls.iter().fold((0, 0), |(count, ns), call| {
        (call.count.saturating_add(count), call.ns.saturating_add(ns))
    })
}

fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{}.{} us", ns / 1000, ns % 1000 / 100),
        10_000_000..10_000_000_000 => format!("{}.{} ms", ns / 1_000_000, ns % 1_000_000 / 100_000),
        _ => format!("{}.{} s", ns / 1_000_000_000, ns % 1_000_000_000 / 100_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::{CALLS_SHOWN, time};
    use crate::stats::{CallReport, Count, StatsReport};

    fn call(number: u64, ns: u64, served: bool) -> CallReport {
        let name = crate::stats::names::name(number);
        CallReport { number: Some(number), name, count: 1, ns, served }
    }

    #[test]
    fn the_table_puts_the_most_expensive_call_first_and_marks_the_unserved() {
        let report = StatsReport {
            calls: vec![call(0, 5, true), call(1, 50_000, true), call(57, 0, false)],
            exits: vec![Count { kind: "kicked", count: 2 }, Count { kind: "syscall", count: 40 }],
            ..StatsReport::default()
        };
        let text = report.to_string();
        let place = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} in\n{text}"));
        assert!(place("  write") < place("  read"));
        assert!(place("  read") < place("  fork"));
        assert!(text.contains("not served"));
        let exits = text.lines().find(|line| line.starts_with("exits")).unwrap();
        assert!(exits.ends_with(" 42"), "{exits}");
        assert!(text.contains("50.0 us"));
    }

    #[test]
    fn calls_beyond_the_shown_ones_are_summed_and_not_dropped() {
        let calls = (0..CALLS_SHOWN as u64 + 3).map(|number| call(number, 1, true)).collect();
        let text = StatsReport { calls, ..StatsReport::default() }.to_string();
        let last = text.lines().last().unwrap();
        assert_eq!(last.split_whitespace().collect::<Vec<_>>(), ["3", "others", "3", "3", "ns"]);
    }

    #[test]
    fn times_keep_their_size_readable() {
        assert_eq!(time(9_999), "9999 ns");
        assert_eq!(time(10_000), "10.0 us");
        assert_eq!(time(12_345_678), "12.3 ms");
        assert_eq!(time(61_050_000_000), "61.0 s");
    }
}
