//! What the host's kernel and memory look like: huge pages, free memory, CPUs, clock.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::files::Files;
use super::landlock::landlock_version;

/// Everything about the host that is not KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct System {
    /// Kernel release, as `uname -r`.
    pub kernel: Option<String>,
    /// What the processors are.
    pub processor: Processor,
    /// How many there are.
    pub cpus: Cpus,
    /// Memory.
    pub memory: Memory,
    /// Huge pages.
    pub huge_pages: HugePages,
    /// Time.
    pub clock: Clock,
    /// By what a VMM can confine itself.
    pub confinement: Confinement,
}

/// Which processor this is, as the kernel shows it: under a hypervisor, as the hypervisor shows it.
/// Hosts of one kind differ in details depending on it, and so do measurements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Processor {
    /// `GenuineIntel`, `AuthenticAMD`, ...
    pub vendor: Option<String>,
    /// Its name, such as `Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz`.
    pub model: Option<String>,
    /// Family, model and stepping, such as `25.1.1`.
    pub signature: Option<String>,
}

/// How many processors there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cpus {
    /// Online on this host.
    pub online: Option<u64>,
    /// Usable by us, given affinity and cgroup quota.
    pub usable: Option<u64>,
}

/// How much memory there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it.
    pub total_bytes: Option<u64>,
    /// What can be allocated without swapping.
    pub available_bytes: Option<u64>,
    /// Limit of our own cgroup (v2), when there is one.
    pub cgroup_limit_bytes: Option<u64>,
}

/// How huge pages are set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// Transparent huge pages for anonymous memory: `always`, `madvise`, `never`.
    pub enabled: Option<String>,
    /// The same for shared memory (memfd, tmpfs).
    pub shmem_enabled: Option<String>,
    /// How hard the kernel tries at a fault.
    pub defrag: Option<String>,
    /// Reserved pages by size.
    pub pools: Vec<HugePool>,
}

/// The pool of reserved huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HugePool {
    /// Bytes per page.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total_pages: Option<u64>,
    /// Of those, free.
    pub free_pages: Option<u64>,
}

/// The host kernel's timekeeping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clock {
    /// The clock source in use.
    pub source: Option<String>,
    /// Whether the kernel trusts the time-stamp counter. It removes `tsc` from the list
    /// of available sources once its watchdog has found it unstable.
    pub tsc_stable: Option<bool>,
}

/// By what a VMM can confine itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// To calls: filters that tell of what they forbid.
    pub seccomp: Option<bool>,
    /// To files: the version of Landlock. `None`: there is none.
    pub landlock: Option<i64>,
}

/// Reads everything.
pub(crate) fn read(files: &Files) -> System {
    System {
        kernel: files.text("/proc/sys/kernel/osrelease"),
        processor: processor(files),
        cpus: Cpus {
            online: files.text("/sys/devices/system/cpu/online").and_then(|list| count(&list)),
            usable: std::thread::available_parallelism().ok().map(|count| count.get() as u64),
        },
        memory: memory(files),
        huge_pages: huge_pages(files),
        clock: clock(files),
        confinement: confinement(files),
    }
}

fn processor(files: &Files) -> Processor {
    let info = files.text("/proc/cpuinfo");
    let field = |name: &str| {
        let mut fields = info.as_deref()?.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(key, _)| key.trim_end() == name)?;
        Some(value.trim().to_owned())
    };
    let signature = [field("cpu family"), field("model"), field("stepping")];
    let signature: Option<Vec<String>> = signature.into_iter().collect();
    Processor {
        vendor: field("vendor_id"),
        model: field("model name"),
        signature: signature.map(|parts| parts.join(".")),
    }
}

pub(super) fn memory(files: &Files) -> Memory {
    let info = files.text("/proc/meminfo");
    let field = |name: &str| {
        let line = info.as_deref()?.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Memory {
        total_bytes: field("MemTotal:"),
        available_bytes: field("MemAvailable:"),
        cgroup_limit_bytes: cgroup_limit(files),
    }
}

/// `memory.max` of our own cgroup; "max" (no limit) does not parse and gives `None`.
fn cgroup_limit(files: &Files) -> Option<u64> {
    let groups = files.text("/proc/self/cgroup")?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    files.number(&format!("/sys/fs/cgroup{}/memory.max", group.trim_end_matches('/')))
}

fn huge_pages(files: &Files) -> HugePages {
    const THP: &str = "/sys/kernel/mm/transparent_hugepage";
    const POOLS: &str = "/sys/kernel/mm/hugepages";
    let pool = |name: &String| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(HugePool {
            page_bytes: kib.checked_mul(1024)?,
            total_pages: files.number(&format!("{POOLS}/{name}/nr_hugepages")),
            free_pages: files.number(&format!("{POOLS}/{name}/free_hugepages")),
        })
    };
    let mut pools: Vec<HugePool> = files.names(POOLS).iter().filter_map(pool).collect();
    pools.sort_by_key(|pool| pool.page_bytes);
    HugePages {
        enabled: files.choice(&format!("{THP}/enabled")),
        shmem_enabled: files.choice(&format!("{THP}/shmem_enabled")),
        defrag: files.choice(&format!("{THP}/defrag")),
        pools,
    }
}

fn clock(files: &Files) -> Clock {
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0";
    let available = files.text(&format!("{SOURCE}/available_clocksource"));
    Clock {
        source: files.text(&format!("{SOURCE}/current_clocksource")),
        tsc_stable: available.map(|list| list.split_whitespace().any(|name| name == "tsc")),
    }
}

fn confinement(files: &Files) -> Confinement {
    let actions = files.text("/proc/sys/kernel/seccomp/actions_avail");
    Confinement {
        seccomp: actions.map(|list| list.split_whitespace().any(|action| action == "trap")),
        landlock: landlock_version(),
    }
}

/// How many numbers a kernel list such as `0-3,8` names.
fn count(list: &str) -> Option<u64> {
    list.split(',').try_fold(0_u64, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::testing::host;
    use super::{count, read};

    #[test]
    fn cpu_lists_are_counted_and_nonsense_is_refused() {
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-3,8,10-11"), Some(7));
        assert_eq!(count("3-0"), None);
        assert_eq!(count(""), None);
        assert_eq!(count("0-18446744073709551615"), None);
    }

    #[test]
    fn a_described_host_is_read_in_full() {
        let clocks = "/sys/devices/system/clocksource/clocksource0";
        let (_guard, files) = host(&[
            ("/proc/sys/kernel/osrelease", "6.1.0\n"),
            (
                "/proc/cpuinfo",
                "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n\
                 model name\t: AMD EPYC: 3rd\nstepping\t: 2\n\nprocessor\t: 1\nmodel\t\t: 9\n",
            ),
            ("/proc/meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n"),
            ("/proc/self/cgroup", "1:cpu:/x\n0::/job\n"),
            ("/sys/fs/cgroup/job/memory.max", "4096\n"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
            ("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
            ("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "5\n"),
            ("/proc/sys/kernel/seccomp/actions_avail", "kill_process trap log allow\n"),
            (&format!("{clocks}/current_clocksource"), "kvm-clock\n"),
            (&format!("{clocks}/available_clocksource"), "kvm-clock tsc\n"),
        ]);
        let system = read(&files);
        assert_eq!(system.kernel.as_deref(), Some("6.1.0"));
        assert_eq!(system.processor.vendor.as_deref(), Some("AuthenticAMD"));
        assert_eq!(system.processor.model.as_deref(), Some("AMD EPYC: 3rd"));
        assert_eq!(system.processor.signature.as_deref(), Some("25.1.2"));
        assert_eq!(system.memory.total_bytes, Some(2 << 20));
        assert_eq!(system.memory.available_bytes, Some(1 << 20));
        assert_eq!(system.memory.cgroup_limit_bytes, Some(4096));
        assert_eq!(system.huge_pages.enabled.as_deref(), Some("always"));
        assert_eq!(system.huge_pages.defrag, None);
        let sizes: Vec<u64> = system.huge_pages.pools.iter().map(|pool| pool.page_bytes).collect();
        assert_eq!(sizes, [2 << 20, 1 << 30]);
        assert_eq!(system.huge_pages.pools[0].total_pages, Some(5));
        assert_eq!(system.huge_pages.pools[0].free_pages, None);
        assert_eq!(system.clock.tsc_stable, Some(true));
        assert_eq!(system.confinement.seccomp, Some(true));
    }

    #[test]
    fn a_host_that_shows_nothing_gives_nothing() {
        let (_guard, files) = host(&[]);
        let system = read(&files);
        assert_eq!(system.memory.total_bytes, None);
        assert_eq!(system.cpus.online, None);
        assert_eq!(system.clock.tsc_stable, None);
        assert_eq!(system.confinement.seccomp, None);
        assert!(system.huge_pages.pools.is_empty());
    }
}
