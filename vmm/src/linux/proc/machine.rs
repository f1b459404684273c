//! Files on the VM itself: its processors, its memory, its time.

use std::fmt::Write;

use super::host::Stat;
use super::{Content, Subject, cpu_flags};
use crate::linux::sched;
use crate::vm::machine::leaf;

/// The processors a program may use, by number.
pub(super) fn cpus() -> Vec<usize> {
    // As `sched_getaffinity` numbers them.
    (0..sched::processors().len()).collect()
}

/// As the kernel writes a set of processors: `0-3,8`.
pub(super) fn list(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let run = |&(first, last): &(usize, usize)| match last {
        last if last == first => first.to_string(),
        last => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

/// The same as a mask: 32-bit words in hexadecimal, highest first.
pub(super) fn cpu_mask(cpus: &[usize]) -> String {
    let highest = cpus.last().copied().unwrap_or(0);
    let word = |at: usize| {
        let bit = |&cpu: &usize| (cpu / 32 == at).then(|| 1_u32 << (cpu % 32));
        cpus.iter().filter_map(bit).fold(0, |mask, bit| mask | bit)
    };
    let words = (0..=highest / 32).rev().map(|at| format!("{:08x}", word(at)));
    words.collect::<Vec<_>>().join(",")
}

/// `online`, `possible` and `present`: processors are never added or removed.
pub(super) fn cpu_list(of: &Subject<'_>) -> Content {
    Ok(format!("{}\n", list(&of.process.facts.cpus)).into_bytes())
}

pub(super) fn cpu_max(of: &Subject<'_>) -> Content {
    let highest = of.process.facts.cpus.last().copied().unwrap_or(0);
    Ok(format!("{highest}\n").into_bytes())
}

/// Twelve bytes of a register file of CPUID, as text.
fn text_of(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned()
}

/// One block for each processor, from the VM's `CPUID`: they are all alike.
pub(super) fn cpuinfo(of: &Subject<'_>) -> Content {
    let machine = &of.process.machine;
    let at = |function| leaf(&machine.cpuid, function, 0);
    let word =
        |function, word: fn(&kvm_bindings::kvm_cpuid_entry2) -> u32| at(function).map_or(0, word);
    let vendor = at(0).map_or_else(String::new, |l| text_of(&[l.ebx, l.edx, l.ecx]));
    let name: Vec<u32> = (0x8000_0002..=0x8000_0004)
        .filter_map(at)
        .flat_map(|l| [l.eax, l.ebx, l.ecx, l.edx])
        .collect();
    let version = word(1, |l| l.eax);
    let nibbles = |shift: u32, mask: u32| version >> shift & mask;
    let family = match nibbles(8, 15) {
        15 => 15 + nibbles(20, 255),
        family => family,
    };
    // SDM 2A, CPUID, "Version Information": the extended model applies from family 6 on.
    let model = if family >= 6 { nibbles(16, 15) << 4 | nibbles(4, 15) } else { nibbles(4, 15) };
    let sizes = word(0x8000_0008, |l| l.eax);
    let mhz = of.process.tsc_khz.map_or(0.0, |khz| f64::from(khz) / 1000.0);
    let count = of.process.facts.cpus.len();
    let mut text = String::new();
    for (index, cpu) in of.process.facts.cpus.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "processor\t: {cpu}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n\
             model name\t: {}\nstepping\t: {}\ncpu MHz\t\t: {mhz:.3}\ncache size\t: {} KB\n\
             physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {index}\ncpu cores\t: {count}\n\
             apicid\t\t: {index}\ninitial apicid\t: {index}\nfpu\t\t: yes\nfpu_exception\t: yes\n\
             cpuid level\t: {}\nwp\t\t: yes\nflags\t\t: {}\nbugs\t\t:\nbogomips\t: {:.2}\n\
             clflush size\t: {}\ncache_alignment\t: {}\n\
             address sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
            text_of(&name),
            nibbles(0, 15),
            // Kilobytes of the second-level cache, from AMD's leaf; Intel fills it in, too.
            word(0x8000_0006, |l| l.ecx) >> 16,
            word(0, |l| l.eax),
            cpu_flags::names(&machine.cpuid).join(" "),
            mhz * 2.0,
            (word(1, |l| l.ebx) >> 8 & 0xff) * 8,
            (word(1, |l| l.ebx) >> 8 & 0xff) * 8,
            sizes & 0xff,
            sizes >> 8 & 0xff,
        );
    }
    Ok(text.into_bytes())
}

pub(super) fn meminfo(of: &Subject<'_>) -> Content {
    let private = &of.process.private;
    let total = private.limit_bytes() / 1024;
    let used = private.held_bytes() / 1024;
    let free = total.saturating_sub(used);
    let huge = abi::PAGE_SIZE_2M / 1024;
    // There are no caches, no swap and no pool of huge pages in a VM; memory that a program has
    // touched is in use.
    let rows = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        // The host has it at the end. glibc looks for it at every start, in chunks of 511 bytes,
        // each of which is an exit; programs look for names and ignore the order.
        ("Hugepagesize", huge),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", private.table_bytes() / 1024),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
    ];
    let mut text = String::new();
    for (name, kib) in rows {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:<16}{kib:8} kB");
    }
    for name in ["HugePages_Total:", "HugePages_Free:", "HugePages_Rsvd:", "HugePages_Surp:"] {
        let _ = writeln!(text, "{name:<16}{:8}", 0);
    }
    let _ = writeln!(text, "{:<16}{:8} kB", "Hugetlb:", 0);
    Ok(text.into_bytes())
}

pub(super) fn swaps(_: &Subject<'_>) -> Content {
    Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())
}

/// Hundredths of a second since the host was started, as `sysinfo` counts.
pub(super) fn uptime_ticks() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 100 + now.tv_nsec.unsigned_abs() / 10_000_000
}

/// User and system time of the program, in hundredths of a second, and the time it left its
/// processors idle since the host was started.
fn times(of: &Subject<'_>) -> [u64; 3] {
    let host = Stat::of_process();
    let [user, system] = [14, 15].map(|field| host.number(field).unsigned_abs());
    let all = uptime_ticks() * of.process.facts.cpus.len() as u64;
    [user, system, all.saturating_sub(user + system)]
}

fn seconds(ticks: u64) -> String {
    format!("{}.{:02}", ticks / 100, ticks % 100)
}

pub(super) fn uptime(of: &Subject<'_>) -> Content {
    let [_, _, idle] = times(of);
    Ok(format!("{} {}\n", seconds(uptime_ticks()), seconds(idle)).into_bytes())
}

/// The host's load, which decides how fast a program is; thread counts and the last number are the
/// VM's.
pub(super) fn loadavg(of: &Subject<'_>) -> Content {
    let loads = rustix::system::sysinfo().loads;
    let [one, five, fifteen] = loads.map(|load| {
        // Fixed point with 16 fractional bits (`SI_LOAD_SHIFT`), rounded as Linux does.
        let load = load + (1 << 16) / 200;
        format!("{}.{:02}", load >> 16, ((load & 0xffff) * 100) >> 16)
    });
    let threads = of.process.threads.counts().0;
    Ok(format!("{one} {five} {fifteen} 1/{threads} {}\n", of.process.pid()).into_bytes())
}

/// The times of the VM's processors: what the program used, spread evenly, because the host does
/// not record it for each.
pub(super) fn stat(of: &Subject<'_>) -> Content {
    let [user, system, idle] = times(of);
    let cpus = &of.process.facts.cpus;
    let share = |ticks: u64| ticks / cpus.len().max(1) as u64;
    let line =
        |user: u64, system: u64, idle: u64| format!("{user} 0 {system} {idle} 0 0 0 0 0 0\n");
    let mut text = format!("cpu  {}", line(user, system, idle));
    for cpu in cpus {
        let _ = write!(text, "cpu{cpu} {}", line(share(user), share(system), share(idle)));
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    let boot = now.unsigned_abs().saturating_sub(uptime_ticks() / 100);
    let _ = write!(
        text,
        "intr 0\nctxt 0\nbtime {boot}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n\
         softirq 0 0 0 0 0 0 0 0 0 0 0\n"
    );
    Ok(text.into_bytes())
}

pub(super) fn version(_: &Subject<'_>) -> Content {
    let host = rustix::system::uname();
    let release = host.release().to_string_lossy().into_owned();
    Ok(format!("Linux version {release} (spacejmp) spacejmp\n").into_bytes())
}

pub(super) fn filesystems(_: &Subject<'_>) -> Content {
    Ok(b"nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\n".to_vec())
}

#[cfg(test)]
mod tests {
    use super::{cpu_mask, list};

    #[test]
    fn sets_of_processors_are_written_as_the_kernel_writes_them() {
        assert_eq!((list(&[0]), cpu_mask(&[0])), ("0".into(), "00000001".into()));
        assert_eq!(list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(cpu_mask(&[0, 1, 33]), "00000002,00000003");
        assert_eq!((list(&[]), cpu_mask(&[])), (String::new(), "00000000".into()));
    }
}
