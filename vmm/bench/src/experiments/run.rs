//! `bench run`: what it costs to run an ordinary program in its own VM.
//!
//! Native and VM runs alternate, so that a machine that gets slower gets slower for both.

use std::io::Write;

use crate::programs::Programs;
use crate::report::Report;
use crate::sample::{Environment, Runner, Sample};
use crate::stats::{median, ratio};
use crate::{BenchError, Size};

const MIB: f64 = 1024.0 * 1024.0;

/// Runs the experiment; `progress` is told what is being done.
///
/// # Errors
/// [`BenchError`]; nothing is reported that was not measured.
pub fn measure(
    runner: &Runner,
    programs: &Programs,
    size: Size,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, BenchError> {
    let mut report = Report::default();
    let bench = Bench { runner, programs, size };
    progress("starting an empty program");
    bench.hello(&mut report)?;
    progress("computing on one thread");
    bench.compute(&mut report, 1, "compute_vm_over_native")?;
    progress("computing on two threads");
    bench.compute(&mut report, 2, "compute_mt_vm_over_native")?;
    progress("touching memory");
    bench.touch(&mut report)?;
    progress("reading a file");
    bench.read(&mut report)?;
    Ok(report)
}

struct Bench<'a> {
    runner: &'a Runner,
    programs: &'a Programs,
    size: Size,
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

impl Bench<'_> {
    fn pairs(&self, rounds: usize, args: &[&str]) -> Result<Pairs, BenchError> {
        let program = self.programs.payload();
        let mut pairs = Pairs { native: Vec::new(), vm: Vec::new() };
        for _ in 0..rounds {
            pairs.native.push(self.runner.run(Environment::Native, &program, args, false)?);
            pairs.vm.push(self.runner.run(Environment::Vm, &program, args, false)?);
        }
        Ok(pairs)
    }

    fn compute(
        &self,
        report: &mut Report,
        threads: usize,
        name: &'static str,
    ) -> Result<(), BenchError> {
        let threads_text = threads.to_string();
        let mut args = vec!["compute", "--threads", &threads_text];
        let mut note = format!("sort, hash, BTreeMap of 10 M entries; {threads} thread(s)");
        if self.size == Size::Quick {
            args.push("--quick");
            note = format!("a tenth of the full size; {threads} thread(s)");
        }
        let rounds = if self.size == Size::Quick { 3 } else { 2 };
        let pairs = self.pairs(rounds, &args)?;
        let sum =
            |s: &Sample| s.answer.get("checksum").map(ToString::to_string).unwrap_or_default();
        for (native, vm) in pairs.native.iter().zip(&pairs.vm) {
            let (native, ours) = (sum(native), sum(vm));
            if native != ours {
                return Err(BenchError::Differs {
                    what: "the computation's checksum",
                    ours,
                    native,
                });
            }
        }
        let (native, vm) = pairs.best("ns");
        report.push(name, ratio(vm, native), "", note);
        Ok(())
    }

    fn touch(&self, report: &mut Report) -> Result<(), BenchError> {
        let bytes: u64 = if self.size == Size::Quick { 256 << 20 } else { 1 << 30 };
        let pairs = self.pairs(3, &["touch", "--bytes", &bytes.to_string()])?;
        let median_of = |samples: &[Sample]| {
            median(&samples.iter().filter_map(|s| s.number("ns")).collect::<Vec<_>>())
        };
        let note = format!("first touch of {} MiB of anonymous memory, page by page", bytes >> 20);
        report.push(
            "touch_1g_vm_over_native",
            ratio(median_of(&pairs.vm), median_of(&pairs.native)),
            "",
            note,
        );
        Ok(())
    }

    fn read(&self, report: &mut Report) -> Result<(), BenchError> {
        let bytes: u64 = if self.size == Size::Quick { 128 << 20 } else { 1 << 30 };
        let path = self.programs.file("data");
        let failed = |source| BenchError::Folder { dir: path.display().to_string(), source };
        let mut file = std::fs::File::create(&path).map_err(failed)?;
        let piece = vec![0x5a; 1 << 20];
        for _ in 0..bytes >> 20 {
            file.write_all(&piece).map_err(failed)?;
        }
        drop(file);
        let path_text = path.to_string_lossy();
        for (name, piece) in
            [("read_1m_vm_over_native", 1 << 20), ("read_64k_vm_over_native", 64 << 10)]
        {
            let piece: u64 = piece;
            let text = piece.to_string();
            let pairs = self.pairs(3, &["read", &path_text, "--piece", &text, "--passes", "3"])?;
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

    fn hello(&self, report: &mut Report) -> Result<(), BenchError> {
        let rounds = if self.size == Size::Quick { 10 } else { 40 };
        let program = self.programs.hello();
        let (mut native, mut plain, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            native.push(self.runner.run(Environment::Native, &program, &[], false)?);
            plain.push(self.runner.run(Environment::Vm, &program, &[], false)?);
            counted.push(self.runner.run(Environment::Vm, &program, &[], true)?);
        }
        let wall = |samples: &[Sample]| {
            let ms: Vec<f64> = samples.iter().map(|s| s.wall.as_secs_f64() * 1e3).collect();
            median(&ms)
        };
        let stat = |path: &str| {
            let values: Vec<f64> = counted.iter().filter_map(|s| s.stat(path)).collect();
            median(&values)
        };
        let ms = |path: &str| stat(path).map(|ns| ns / 1e6);
        let (whole, outside) = (wall(&plain), wall(&native));
        let (kvm, inside) = (ms("kvm_setup_ns"), ms("guest_ns"));
        // From fork to our first line, and from our last line to the parent's noticing
        // the end.
        let edges: Vec<(f64, f64)> = counted
            .iter()
            .filter_map(|s| {
                let ended = s.stat("ended_at_ns")?;
                let began = ended - s.stat("wall_ns")?;
                Some((began - s.span_ns.0 as f64, s.span_ns.1 as f64 - ended))
            })
            .collect();
        let exec = median(&edges.iter().map(|e| e.0 / 1e6).collect::<Vec<_>>());
        let exit = median(&edges.iter().map(|e| e.1 / 1e6).collect::<Vec<_>>());
        let own: Vec<f64> = counted
            .iter()
            .filter_map(|s| {
                let rest = s.stat("wall_ns")? - s.stat("kvm_setup_ns")? - s.stat("guest_ns")?;
                Some(rest / 1e6)
            })
            .collect();
        // Ours: between our first line and our last, without KVM's set-up and the time inside
        // KVM_RUN; and by how much starting our binary takes longer than a complete run of an
        // empty one.
        let slow_start = exec.zip(outside).map(|(exec, outside)| (exec - outside).max(0.0));
        let ours = median(&own).zip(slow_start).map(|(own, start)| own + start);
        report.push(
            "hello_ms",
            whole,
            "ms",
            format!("`spacejmp run` of an empty program, median of {rounds}"),
        );
        report.push(
            "hello_native_ms",
            outside,
            "ms",
            "the same program natively: fork, exec, exit",
        );
        report.push("hello_kvm_setup_ms", kvm, "ms", "in KVM calls before the first instruction");
        report.push(
            "hello_guest_ms",
            inside,
            "ms",
            "in KVM_RUN: the program, its faults and exits",
        );
        report.push(
            "hello_ours_ms",
            ours,
            "ms",
            "our own work: all of the run but KVM's set-up and KVM_RUN",
        );
        report.push("hello_exec_ms", exec, "ms", "from fork to the first line of the VMM");
        report.push("hello_exit_ms", exit, "ms", "the host frees process and VM");
        for (name, path) in [
            ("hello_machine_ms", "phases.machine_ns"),
            ("hello_vcpu_ms", "phases.vcpu_ns"),
            ("hello_load_ms", "phases.load_ns"),
            ("hello_run_ms", "phases.run_ns"),
            ("hello_end_ms", "phases.end_ns"),
        ] {
            report.push(name, ms(path), "ms", "phase of the run, see docs/src/stats.md");
        }
        let exits = counted.first().and_then(|s| {
            let exits = s.stats.get("exits")?.as_array()?;
            Some(exits.iter().filter_map(|e| e.get("count")?.as_f64()).sum())
        });
        report.push(
            "hello_exits",
            exits,
            "exits",
            "exits from start to end, so before `main` at most",
        );
        let rss = stat("rss_peak_bytes").map(|b| b / MIB);
        let touched = stat("memory_touched_bytes").map(|b| b / MIB);
        let overhead = rss.zip(touched).map(|(rss, touched)| rss - touched);
        report.push(
            "overhead_rss_mib",
            overhead,
            "MiB",
            "peak resident memory less the guest memory resident at the end",
        );
        report.push("hello_rss_mib", rss, "MiB", "peak resident memory, guest memory included");
        let binary = std::fs::metadata(&self.runner.spacejmp).ok().map(|m| m.len() as f64 / MIB);
        report.push("binary_mib", binary, "MiB", "size of the spacejmp binary");
        Ok(())
    }
}
