//! `bench run`: what it costs to run an ordinary program in its own VM.
//!
//! Native and VM runs alternate, so that a machine that gets slower gets slower for both.

use super::{Bench, Progress};
use crate::BenchError;
use crate::report::Report;
use crate::sample::{Environment, Sample};
use crate::stats::{median_of, ratio};

const MIB: f64 = 1024.0 * 1024.0;

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(bench: &Bench<'_>, progress: Progress<'_>) -> Result<Report, BenchError> {
    let mut report = Report::default();
    progress("starting an empty program");
    hello(bench, &mut report)?;
    progress("computing on one thread");
    compute(bench, &mut report, 1, "compute_vm_over_native")?;
    progress("computing on two threads");
    compute(bench, &mut report, 2, "compute_mt_vm_over_native")?;
    progress("touching memory");
    touch(bench, &mut report)?;
    progress("reading a file");
    read(bench, &mut report)?;
    Ok(report)
}

/// Native and VM samples of the same thing, taken alternately.
struct Pairs {
    native: Vec<Sample>,
    vm: Vec<Sample>,
}

impl Pairs {
    /// The best of each: noise only ever adds time.
    fn best(&self, key: &str) -> (Option<f64>, Option<f64>) {
        let best = |samples: &[Sample]| {
            samples.iter().filter_map(|s| s.number(key)).min_by(f64::total_cmp)
        };
        (best(&self.native), best(&self.vm))
    }
}

fn pairs(bench: &Bench<'_>, rounds: usize, args: &[&str]) -> Result<Pairs, BenchError> {
    let mut pairs = Pairs { native: Vec::new(), vm: Vec::new() };
    for _ in 0..rounds {
        pairs.native.push(bench.run(Environment::Native, args)?);
        pairs.vm.push(bench.run(Environment::Vm, args)?);
    }
    Ok(pairs)
}

fn compute(
    bench: &Bench<'_>,
    report: &mut Report,
    threads: usize,
    name: &'static str,
) -> Result<(), BenchError> {
    let threads_text = threads.to_string();
    let args = ["compute", "--threads", &threads_text, "--quick"];
    let (rounds, args, what) = bench.sized(
        (3, &args[..], "a tenth of the full size"),
        (2, &args[..3], "sort, hash, BTreeMap of 10 M entries"),
    );
    let pairs = pairs(bench, rounds, args)?;
    let sum = |s: &Sample| s.answer.get("checksum").map(ToString::to_string).unwrap_or_default();
    for (native, vm) in pairs.native.iter().zip(&pairs.vm) {
        let (native, ours) = (sum(native), sum(vm));
        if native != ours {
            return Err(BenchError::Differs { what: "the computation's checksum", ours, native });
        }
    }
    let (native, vm) = pairs.best("ns");
    report.push(name, ratio(vm, native), "", format!("{what}; {threads} thread(s)"));
    Ok(())
}

fn touch(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let bytes: u64 = bench.sized(256 << 20, 1 << 30);
    let pairs = pairs(bench, 3, &["touch", "--bytes", &bytes.to_string()])?;
    let [vm, native] = [&pairs.vm, &pairs.native].map(|side| median_of(side, |s| s.number("ns")));
    let note = format!("first touch of {} MiB of anonymous memory, page by page", bytes >> 20);
    report.push("touch_1g_vm_over_native", ratio(vm, native), "", note);
    Ok(())
}

fn read(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let bytes: u64 = bench.sized(128 << 20, 1 << 30);
    let path = bench.programs.fill("data", bytes)?;
    let path_text = path.to_string_lossy();
    for (name, piece) in
        [("read_1m_vm_over_native", 1_u64 << 20), ("read_64k_vm_over_native", 64 << 10)]
    {
        let text = piece.to_string();
        let pairs = pairs(bench, 3, &["read", &path_text, "--piece", &text, "--passes", "3"])?;
        let (native, vm) = pairs.best("best_pass_ns");
        let note = format!(
            "throughput of read in {} KiB pieces, {} MiB in the page cache",
            piece >> 10,
            bytes >> 20
        );
        // Throughput, so the ratio is the inverse of that of times.
        report.push(name, ratio(native, vm), "", note);
    }
    let _ = std::fs::remove_file(&path);
    Ok(())
}

fn hello(bench: &Bench<'_>, report: &mut Report) -> Result<(), BenchError> {
    let rounds = bench.sized(10, 40);
    let (runner, program) = (bench.runner, bench.programs.hello());
    let (mut native, mut plain, mut counted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        native.push(runner.run(Environment::Native, &program, &[], false)?);
        plain.push(runner.run(Environment::Vm, &program, &[], false)?);
        counted.push(runner.run(Environment::Vm, &program, &[], true)?);
    }
    let wall = |samples: &[Sample]| median_of(samples, |s| Some(s.wall_ms()));
    let stat = |path: &str| median_of(&counted, |s| s.stat(path));
    let ms = |path: &str| stat(path).map(|ns| ns / 1e6);
    let median_ms =
        |ns: &dyn Fn(&Sample) -> Option<f64>| median_of(&counted, ns).map(|ns| ns / 1e6);
    let (whole, outside) = (wall(&plain), wall(&native));
    // From fork to our first line, and from our last line to the parent's noticing the end.
    let began = |s: &Sample| Some(s.stat("ended_at_ns")? - s.stat("wall_ns")?);
    let exec = median_ms(&|s| Some(began(s)? - s.span_ns.0 as f64));
    let exit = median_ms(&|s| Some(s.span_ns.1 as f64 - s.stat("ended_at_ns")?));
    let own =
        median_ms(&|s| Some(s.stat("wall_ns")? - s.stat("kvm_setup_ns")? - s.stat("guest_ns")?));
    // Ours: between our first line and our last, without KVM's set-up and the time inside
    // KVM_RUN; and by how much starting our binary takes longer than a complete run of an
    // empty one.
    let slow_start = exec.zip(outside).map(|(exec, outside)| (exec - outside).max(0.0));
    let ours = own.zip(slow_start).map(|(own, start)| own + start);
    let note = format!("`spacejmp run` of an empty program, median of {rounds}");
    report.push("hello_ms", whole, "ms", note);
    let phase = "phase of the run, see docs/src/stats.md";
    for (name, value, note) in [
        ("hello_native_ms", outside, "the same program natively: fork, exec, exit"),
        ("hello_kvm_setup_ms", ms("kvm_setup_ns"), "in KVM calls before the first instruction"),
        ("hello_guest_ms", ms("guest_ns"), "in KVM_RUN: the program, its faults and exits"),
        ("hello_ours_ms", ours, "our own work: all of the run but KVM's set-up and KVM_RUN"),
        ("hello_exec_ms", exec, "from fork to the first line of the VMM"),
        ("hello_exit_ms", exit, "the host frees process and VM"),
        ("hello_machine_ms", ms("phases.machine_ns"), phase),
        ("hello_vcpu_ms", ms("phases.vcpu_ns"), phase),
        ("hello_load_ms", ms("phases.load_ns"), phase),
        ("hello_run_ms", ms("phases.run_ns"), phase),
        ("hello_end_ms", ms("phases.end_ns"), phase),
    ] {
        report.push(name, value, "ms", note);
    }
    let exits = counted.first().and_then(|s| s.counts("exits"));
    let note = "exits from start to end, so before `main` at most";
    report.push("hello_exits", exits, "exits", note);
    let rss = stat("rss_peak_bytes").map(|b| b / MIB);
    let touched = stat("memory_touched_bytes").map(|b| b / MIB);
    let overhead = rss.zip(touched).map(|(rss, touched)| rss - touched);
    let binary = std::fs::metadata(&runner.spacejmp).ok().map(|m| m.len() as f64 / MIB);
    let less = "peak resident memory less the guest memory resident at the end";
    for (name, value, note) in [
        ("overhead_rss_mib", overhead, less),
        ("hello_rss_mib", rss, "peak resident memory, guest memory included"),
        ("binary_mib", binary, "size of the spacejmp binary"),
    ] {
        report.push(name, value, "MiB", note);
    }
    Ok(())
}
