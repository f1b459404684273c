//! A VM's report for people.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde_json::Value;

use super::seen::{Seen, list, number, processes, text};
use crate::errors::one_line;
use crate::store_options::size;

/// Linux calls shown at most.
const CALLS_SHOWN: usize = 10;

/// A text, or a sign that there is none.
pub(super) fn dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), one_line)
}

/// A time since something began.
pub(super) fn age(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0..10 => format!("{}.{} s", seconds, ns / 100_000_000 % 10),
        10..600 => format!("{seconds} s"),
        600..36_000 => format!("{} min", seconds / 60),
        36_000..864_000 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Where a thread is.
pub(super) fn place(thread: &Value) -> String {
    let vas = text(thread, "vas").map_or_else(|| "?".to_owned(), one_line);
    match (thread.get("waits").filter(|waits| !waits.is_null()), text(thread, "call")) {
        (Some(waits), _) => format!("{vas}, waits for {}", dash(text(waits, "vas"))),
        (None, Some(call)) => format!("{vas}, in {}", one_line(call)),
        (None, None) => vas,
    }
}

/// All that a VM tells.
pub(super) fn whole(vm: &Seen) -> String {
    let mut all = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(all, "{label:<10} {value}");
    };
    line("program", dash(vm.text("program")));
    let of = vm.text("name").map(|name| format!(", {}", one_line(name))).unwrap_or_default();
    line("process", format!("{}{of}, started by {}", vm.number("pid"), vm.number("parent")));
    line("store", dash(vm.text("store")));
    line(
        "running",
        format!("{}, processor time {}", age(vm.number("running_ns")), age(vm.number("cpu_ns"))),
    );
    let kinds = vm.list("memory").iter().filter(|kind| number(kind, "bytes") > 0);
    let kinds: Vec<String> = kinds
        .map(|kind| format!("{} {}", size(number(kind, "bytes")), dash(text(kind, "kind"))))
        .collect();
    let held = size(vm.sum("memory", "bytes"));
    line(
        "memory",
        format!("{held} of {}: {}", size(vm.number("memory_limit_bytes")), kinds.join(", ")),
    );
    if let Some(limits) = vm.0.get("limits") {
        let of = |key, unit| {
            let limit = limits.get(key).and_then(Value::as_u64);
            limit.map(|limit| format!("{limit} {unit}"))
        };
        let limits = [
            of("processors", "processors"),
            of("cpu_seconds", "s of processor time"),
            of("file_size_bytes", "bytes a file"),
            of("disk_bytes", "bytes added to disks"),
            of("disk_used_bytes", "bytes of them added"),
        ];
        line("limits", limits.into_iter().flatten().collect::<Vec<_>>().join(", "));
    }
    line("exits", counts(vm.list("exits")));
    line("faults", counts(vm.list("faults")));
    line("calls", calls(vm.list("calls")));
    threads(vm, &mut line);
    match vm.0.get("vases") {
        Some(Value::Array(vases)) => vases.iter().for_each(|vas| spaces(vas, &mut line)),
        _ => line("VASes", "not known: a thread is changing them".to_owned()),
    }
    all
}

fn counts(counts: &[Value]) -> String {
    let count = |one: &Value| format!("{} {}", number(one, "count"), dash(text(one, "kind")));
    let counts: Vec<String> = counts.iter().map(count).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

/// The most frequent ones.
fn calls(calls: &[Value]) -> String {
    let mut calls: Vec<&Value> = calls.iter().collect();
    calls.sort_by_key(|call| std::cmp::Reverse(number(call, "count")));
    let one = |call: &&Value| format!("{} {}", number(call, "count"), dash(text(call, "name")));
    let mut shown: Vec<String> = calls.iter().take(CALLS_SHOWN).map(one).collect();
    if let Some(rest) = calls.get(CALLS_SHOWN..).filter(|rest| !rest.is_empty()) {
        let sum = rest.iter().map(|call| number(call, "count")).fold(0, u64::saturating_add);
        shown.push(format!("{sum} others"));
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

fn threads(vm: &Seen, line: &mut impl FnMut(&str, String)) {
    let waits =
        vm.list("threads").iter().any(|thread| thread.get("waits").is_some_and(|w| !w.is_null()));
    // Only then is it worth opening the store.
    let processes = if waits { processes(vm.text("store")) } else { Default::default() };
    for thread in vm.list("threads") {
        let name = text(thread, "name").filter(|name| !name.is_empty());
        let name = name.map(|name| format!(" {}", one_line(name))).unwrap_or_default();
        line("thread", format!("{}{name}: {}", number(thread, "tid"), place(thread)));
        for lock in thread.get("waits").map(|waits| list(waits, "locks")).unwrap_or_default() {
            let how = match lock.get("exclusive").and_then(Value::as_bool) {
                Some(true) => "to write",
                _ => "to read",
            };
            let who = list(lock, "held_by").iter().filter_map(Value::as_str);
            let who: Vec<String> = who
                .map(|lease| match processes.get(lease) {
                    Some(process) => one_line(process),
                    None => format!("VM {}", one_line(lease)),
                })
                .collect();
            line(
                "",
                format!("  {} is held {how} by {}", dash(text(lock, "segment")), who.join(", ")),
            );
        }
    }
}

fn spaces(vas: &Value, line: &mut impl FnMut(&str, String)) {
    line("VAS", format!("{} ({})", dash(text(vas, "name")), number(vas, "handle")));
    for segment in list(vas, "segments") {
        let right = match segment.get("writable").and_then(Value::as_bool) {
            Some(true) => "rw",
            _ => "ro",
        };
        let mut text = format!(
            "  {} {right} at {:#x}: {}, {} mapped",
            dash(text(segment, "name")),
            number(segment, "base"),
            size(number(segment, "bytes")),
            size(number(segment, "mapped_bytes"))
        );
        if let Some(version) = segment.get("version").and_then(Value::as_u64) {
            let _ = write!(text, "; version {version}, ");
            match segment.get("log_bytes").and_then(Value::as_u64) {
                Some(bytes) => text += &format!("log {}", size(bytes)),
                None => text += "log in use",
            }
            let _ = write!(text, ", {} pages copied", number(segment, "copied_pages"));
        }
        line("", text);
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, age, place, whole};

    #[test]
    fn an_age_has_the_unit_that_fits() {
        let of = |seconds: f64| age((seconds * 1e9) as u64);
        assert_eq!(
            [of(0.25), of(59.0), of(600.0), of(86_400.0), of(1e6)],
            ["0.2 s", "59 s", "10 min", "24 h", "11 d"]
        );
    }

    #[test]
    fn a_thread_is_where_it_waits_works_or_calls() {
        let thread = |json| place(&serde_json::from_str(json).unwrap());
        assert_eq!(thread(r#"{"vas": "home", "call": "read"}"#), "home, in read");
        assert_eq!(
            thread(r#"{"vas": "home", "waits": {"vas": "ledger"}}"#),
            "home, waits for ledger"
        );
        assert_eq!(thread(r#"{"vas": "led\u001bger", "call": null}"#), "led?ger");
        assert_eq!(thread("{}"), "?");
    }

    #[test]
    fn what_a_vm_tells_is_shown_in_lines_without_control_characters() {
        let json = r#"{"pid": 7, "program": "/bin/\u001b[2Jx", "threads": [{"tid": 7, "vas": "home",
            "waits": {"vas": "v", "locks": [{"segment": "s", "exclusive": true, "held_by": ["ab"]}]}}],
            "memory": [{"kind": "private", "bytes": 4096}], "memory_limit_bytes": 1048576,
            "limits": {"processors": 2, "cpu_seconds": 60, "file_size_bytes": null},
            "vases": [{"name": "v", "handle": 1, "segments": [{"name": "s", "base": 4096, "bytes": 8192,
            "version": 3, "log_bytes": null}]}]}"#;
        let text = whole(&Seen::read(json));
        assert!(!text.contains('\u{1b}'), "{text}");
        for part in [
            "4 KiB of 1 MiB: 4 KiB private",
            "limits     2 processors, 60 s of processor time\n",
            "s is held to write by VM ab",
            "version 3, log in use",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(whole(&Seen::read("{}")).contains("not known"));
    }
}
