//! The counters of VMs in the text format of Prometheus
//! (prometheus.io/docs/instrumenting/exposition_formats).
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde_json::Value;

use super::seen::{Seen, number, text as string};

/// All of them, a family after the other as the format wants it.
pub(super) fn text(vms: &[Seen]) -> String {
    let mut out = String::new();
    let one = |key: &'static str| move |vm: &Seen| vec![(String::new(), vm.number(key))];
    let seconds = 1e-9;
    family(
        &mut out,
        vms,
        "uptime_seconds",
        "gauge",
        "Time since the program started",
        seconds,
        one("running_ns"),
    );
    family(
        &mut out,
        vms,
        "cpu_seconds_total",
        "counter",
        "Processor time of the process",
        seconds,
        one("cpu_ns"),
    );
    family(
        &mut out,
        vms,
        "guest_seconds_total",
        "counter",
        "Time inside of KVM_RUN, over all threads",
        seconds,
        one("guest_ns"),
    );
    family(&mut out, vms, "threads", "gauge", "Threads", 1.0, |vm| {
        vec![(String::new(), vm.list("threads").len() as u64)]
    });
    family(
        &mut out,
        vms,
        "memory_bytes",
        "gauge",
        "Memory held, by kind",
        1.0,
        kinds("memory", "kind", "bytes"),
    );
    family(
        &mut out,
        vms,
        "memory_limit_bytes",
        "gauge",
        "Memory that may be held",
        1.0,
        one("memory_limit_bytes"),
    );
    family(
        &mut out,
        vms,
        "exits_total",
        "counter",
        "Exits of vCPUs, by reason",
        1.0,
        kinds("exits", "kind", "count"),
    );
    family(
        &mut out,
        vms,
        "faults_total",
        "counter",
        "Faults, by kind",
        1.0,
        kinds("faults", "kind", "count"),
    );
    family(
        &mut out,
        vms,
        "calls_total",
        "counter",
        "Linux calls, by name",
        1.0,
        kinds("calls", "name", "count"),
    );
    family(
        &mut out,
        vms,
        "call_seconds_total",
        "counter",
        "Time in Linux calls, by name",
        seconds,
        kinds("calls", "name", "ns"),
    );
    out
}

/// A number for each entry of a list.
fn kinds(
    list: &'static str,
    label: &'static str,
    key: &'static str,
) -> impl Fn(&Seen) -> Vec<(String, u64)> {
    move |vm| {
        let of = |one: &Value| {
            let name = string(one, label).unwrap_or("other");
            (format!(",{label}=\"{}\"", escaped(name)), number(one, key))
        };
        vm.list(list).iter().map(of).collect()
    }
}

fn family(
    out: &mut String,
    vms: &[Seen],
    name: &str,
    kind: &str,
    about: &str,
    unit: f64,
    values: impl Fn(&Seen) -> Vec<(String, u64)>,
) {
    let _ = write!(out, "# HELP spacejmp_{name} {about}.\n# TYPE spacejmp_{name} {kind}\n");
    for vm in vms.iter().filter(|vm| vm.text("silent").is_none()) {
        let pid = vm.number("pid");
        let (given, program) = (vm.text("name").unwrap_or(""), vm.text("program").unwrap_or(""));
        let labels =
            format!("pid=\"{pid}\",vm=\"{}\",program=\"{}\"", escaped(given), escaped(program));
        for (label, value) in values(vm) {
            let value = value as f64 * unit;
            let _ = writeln!(out, "spacejmp_{name}{{{labels}{label}}} {value}");
        }
    }
}

/// The value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::{Seen, text};

    #[test]
    fn each_family_stands_together_and_labels_are_escaped() {
        let json = r#"{"pid": 7, "program": "/a\"b\\c\nd", "name": "web", "running_ns": 1500000000,
            "exits": [{"kind": "syscall", "count": 3}], "calls": [{"name": null, "count": 2, "ns": 5}]}"#;
        let text = text(&[Seen::read(json), Seen::read("{}")]);
        let labels = r#"pid="7",vm="web",program="/a\"b\\c\nd""#;
        for line in [
            format!("spacejmp_uptime_seconds{{{labels}}} 1.5"),
            format!("spacejmp_exits_total{{{labels},kind=\"syscall\"}} 3"),
            format!("spacejmp_calls_total{{{labels},name=\"other\"}} 2"),
        ] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
        let heads = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(heads, 10);
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("spacejmp_")));
    }
}
