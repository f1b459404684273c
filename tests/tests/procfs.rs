//! `/proc`, `/sys`, descriptors by name, attributes and the older file calls, as programs find
//! them: what a program prints in a VM is compared with what it prints natively, its shape
//! where the values are the VM's own.

use std::process::Command;

use tests::guests::{self, Profile};
use tests::skip_without_kvm;
use tests::vm::Run;
use vmm::process::Outcome;

const MEMORY: u64 = 256 << 20;

fn guest(args: &[&str]) -> Run {
    Run::new(guests::c("procfs")).args(args).env("COLOUR", "blue sky").env("EMPTY", "")
}

#[track_caller]
fn in_vm(args: &[&str]) -> String {
    printed(guest(args).memory(MEMORY).in_vm())
}

#[track_caller]
fn natively(args: &[&str]) -> String {
    printed(guest(args).native())
}

#[track_caller]
fn printed(ended: tests::vm::Ended) -> String {
    assert_eq!(ended.outcome, Outcome::Exited(0), "{ended:?}");
    ended.out()
}

/// The content of one file, in a VM and natively.
#[track_caller]
fn both(path: &str) -> (String, String) {
    let content = |text: String| {
        let (head, body) = text.split_once('\n').expect("there is a heading");
        assert_eq!(head, format!("== {path} ok"));
        body.to_owned()
    };
    (content(in_vm(&["cat", path])), content(natively(&["cat", path])))
}

/// In a separate directory, granted under the same name; natively in the same directory.
#[track_caller]
fn same_in_a_directory(what: &str, name: &str) -> String {
    let run = |is_vm: bool| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(name);
        let path = path.to_str().expect("it is text");
        let run = guest(&[what, path]).dir(dir.path().to_str().expect("it is text"));
        let ended = if is_vm { run.in_vm() } else { run.native() };
        printed(ended).replace(dir.path().to_str().expect("it is text"), "DIR")
    };
    let (vm, native) = (run(true), run(false));
    assert_eq!(vm, native);
    vm
}

/// The names before the colons, in order.
fn keys(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(key, _)| key.trim()).collect()
}

/// Whether all of `some` occur in `all`, in that order: kernels add different lines.
#[track_caller]
fn assert_in_order(some: &[&str], all: &[&str]) {
    let mut rest = all.iter();
    for name in some {
        assert!(rest.any(|known| known == name), "{name} of {some:?} in {all:?}");
    }
}

fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
}

fn kib(text: &str, key: &str) -> u64 {
    let number = value(text, key).trim_end_matches(" kB").parse();
    number.unwrap_or_else(|_| panic!("{key} in {text}"))
}

/// Everything that run-time libraries are known to read.
const READ: [&str; 42] = [
    "/proc/self/status",
    "/proc/self/stat",
    "/proc/self/statm",
    "/proc/self/cmdline",
    "/proc/self/smaps",
    "/proc/self/smaps_rollup",
    "/proc/self/maps",
    "/proc/self/auxv",
    "/proc/self/comm",
    "/proc/self/environ",
    "/proc/self/io",
    "/proc/self/limits",
    "/proc/self/mounts",
    "/proc/self/mountinfo",
    "/proc/self/cgroup",
    "/proc/self/oom_score",
    "/proc/self/oom_score_adj",
    "/proc/self/fdinfo/1",
    "/proc/self/exe",
    "/proc/thread-self/status",
    "/proc/thread-self/comm",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/meminfo",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/version",
    "/proc/filesystems",
    "/proc/mounts",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/kernel/random/uuid",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/max_map_count",
    "/proc/sys/fs/nr_open",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/kernel/mm/transparent_hugepage/enabled",
];

#[test]
fn what_run_time_libraries_read_is_there() {
    skip_without_kvm!();
    let args: Vec<&str> = std::iter::once("cat").chain(READ).collect();
    let text = in_vm(&args);
    for path in READ {
        assert!(text.contains(&format!("== {path} ok\n")), "{path}");
    }
    // Nothing about other processes, the host's memory, or its administration.
    let others = [
        "/proc/1/status",
        "/proc/self/mem",
        "/proc/self/pagemap",
        "/proc/kcore",
        "/proc/sysrq-trigger",
        "/proc/self/task/1/status",
        "/sys/kernel/notes",
        &format!("/proc/{}/environ", parent()),
    ];
    let args: Vec<&str> = std::iter::once("cat").chain(others).collect();
    for line in in_vm(&args).lines() {
        assert!(line.starts_with("== ") && line.ends_with(" ENOENT"), "{line}");
    }
}

/// Some process that is not the one that runs the VM.
fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

#[test]
fn status_tells_of_the_program_in_linuxs_order() {
    skip_without_kvm!();
    let (vm, native) = both("/proc/self/status");
    // `Groups` may be empty, and the text after the colon differs; the names do not.
    assert_in_order(&keys(&vm), &keys(&native));
    for key in [
        "Name",
        "State",
        "Tgid",
        "Pid",
        "PPid",
        "Uid",
        "FDSize",
        "VmPeak",
        "VmSize",
        "VmRSS",
        "VmHWM",
        "VmData",
        "VmStk",
        "Threads",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "Cpus_allowed_list",
        "voluntary_ctxt_switches",
    ] {
        assert!(!value(&vm, key).is_empty(), "{key} in {vm}");
    }
    assert_eq!((value(&vm, "Name"), value(&vm, "Threads")), ("procfs-fixed", "1"));
    assert_eq!(value(&vm, "State"), "R (running)");
    assert_eq!(value(&vm, "Pid"), value(&vm, "Tgid"));
    for key in ["Uid", "Gid"] {
        assert_eq!(value(&vm, key), value(&native, key), "{key}");
    }
    assert!(kib(&vm, "VmRSS") <= kib(&vm, "VmSize") && kib(&vm, "VmRSS") > 0);
    assert!(kib(&vm, "VmRSS") <= kib(&vm, "VmHWM"));
    assert!(kib(&vm, "VmExe") > 0 && kib(&vm, "VmStk") > 0);
}

#[test]
fn files_read_by_position_have_linuxs_fields() {
    skip_without_kvm!();
    let (vm, native) = both("/proc/self/stat");
    let fields = |text: &str| text.trim_end().split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (vm, native) = (fields(&vm), fields(&native));
    assert_eq!((vm.len(), native.len()), (52, 52), "{vm:?}");
    assert_eq!((vm[1].as_str(), vm[2].as_str(), vm[19].as_str()), ("(procfs-fixed)", "R", "1"));
    let number = |at: usize| vm[at].parse::<u64>().unwrap_or_else(|_| panic!("{at} in {vm:?}"));
    // Size, and resident pages; code; stack; arguments before environment.
    assert!(number(22) > 0 && number(23) > 0 && number(23) * 4096 <= number(22));
    assert!(number(25) < number(26) && number(26) < number(27));
    assert!(number(47) < number(48) && number(48) == number(49) && number(49) < number(50));
    let (vm, native) = both("/proc/self/statm");
    assert_eq!(fields(&vm).len(), fields(&native).len());
    let (vm, native) = both("/proc/loadavg");
    assert_eq!((fields(&vm).len(), fields(&native).len()), (5, 5), "{vm}");
    let (vm, native) = both("/proc/uptime");
    assert_eq!((fields(&vm).len(), fields(&native).len()), (2, 2), "{vm}");
    let seconds = |text: &str| text.split('.').next().and_then(|s| s.parse::<u64>().ok()).unwrap();
    assert!(seconds(&native).abs_diff(seconds(&vm)) < 600, "{vm} {native}");
    let (vm, native) = both("/proc/stat");
    let line = |text: &str| text.lines().next().unwrap_or_default().split_whitespace().count();
    assert_eq!(line(&vm), line(&native), "{vm}");
    let (vm, native) = both("/proc/self/io");
    assert_eq!(keys(&vm), keys(&native));
    let (vm, native) = both("/proc/self/limits");
    let columns = |text: &str| {
        let names = text.lines().map(|line| line.get(..26).unwrap_or_default().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(columns(&vm), columns(&native));
}

#[test]
fn arguments_and_environment_are_the_programs() {
    skip_without_kvm!();
    for file in ["cmdline", "environ", "comm", "personality", "cgroup"] {
        let (vm, native) = both(&format!("/proc/self/{file}"));
        if file == "cgroup" {
            assert_eq!(vm, "0::/\n");
            assert!(native.contains(":/"), "{native}");
        } else {
            assert_eq!(vm, native, "{file}");
        }
    }
    let raw = guest(&["cat", "/proc/self/auxv"]).in_vm();
    let words = &raw.stdout["== /proc/self/auxv ok\n".len()..];
    let word = |at: usize| u64::from_le_bytes(words[at * 8..at * 8 + 8].try_into().expect("8"));
    assert_eq!(words.len() % 16, 0);
    assert_eq!(word(words.len() / 8 - 2), 0, "it ends with AT_NULL");
    let page = (0..words.len() / 16).find(|at| word(at * 2) == 6).expect("there is AT_PAGESZ");
    assert_eq!(word(page * 2 + 1), 4096);
}

#[test]
fn the_machine_is_the_vms() {
    skip_without_kvm!();
    let (vm, native) = both("/proc/meminfo");
    let of_native = keys(&native);
    for key in keys(&vm) {
        assert!(of_native.contains(&key), "{key} is no name of Linux's");
    }
    assert_eq!(kib(&vm, "MemTotal"), MEMORY / 1024);
    assert!(kib(&vm, "MemFree") < kib(&vm, "MemTotal"));
    assert_eq!(kib(&vm, "Hugepagesize"), 2048);
    let (vm, native) = both("/proc/cpuinfo");
    assert_in_order(
        &keys(&vm).into_iter().take_while(|key| *key != "power management").collect::<Vec<_>>(),
        &keys(&native),
    );
    assert_eq!(value(&vm, "vendor_id"), value(&native, "vendor_id"));
    assert!(value(&vm, "flags").split(' ').any(|flag| flag == "sse2"), "{vm}");
    let processors = keys(&vm).iter().filter(|key| **key == "processor").count();
    let (online, _) = both("/sys/devices/system/cpu/online");
    let last = online.trim_end().rsplit(['-', ',']).next().and_then(|n| n.parse::<usize>().ok());
    assert_eq!(last.map(|last| last + 1), Some(processors), "{online}");
    for same in ["osrelease", "ostype", "hostname", "random/boot_id"] {
        let (vm, native) = both(&format!("/proc/sys/kernel/{same}"));
        assert_eq!(vm, native, "{same}");
    }
    let uuid = "/proc/sys/kernel/random/uuid";
    let two = in_vm(&["cat", uuid, uuid]);
    let ids: Vec<&str> = two.lines().filter(|line| !line.starts_with('=')).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1] && ids[0].len() == 36, "{two}");
}

#[test]
fn maps_name_what_is_mapped() {
    skip_without_kvm!();
    // The inode number of memory has no meaning; everything else is as natively.
    let no_inode = |text: String| text.replace("(deleted) inode", "(deleted)");
    let run = |is_vm: bool| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = dir.path().to_str().expect("it is text");
        let run = guest(&["maps", &format!("{text}/file")]).dir(text);
        let ended = if is_vm { run.in_vm() } else { run.native() };
        no_inode(printed(ended).replace(text, "DIR"))
    };
    let (vm, native) = (run(true), run(false));
    assert_eq!(vm, native);
    assert!(vm.contains("shared-file rw-s 1000 DIR/file inode\n"), "{vm}");
    let (vm, native) = both("/proc/self/maps");
    let program = guests::c("procfs");
    let program = program.to_str().expect("it is text");
    for name in ["[heap]", "[stack]", "[vdso]", program] {
        assert!(native.contains(name), "{name} in {native}");
        let line = vm.lines().find(|line| line.ends_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} in {vm}"));
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((fields.len(), fields[1].len()), (6, 4), "{line}");
        assert_eq!(line.find(name), Some(73), "{line}");
    }
    let (vm, native) = both("/proc/self/smaps");
    let field = |text: &str| {
        let lines = text.lines().filter(|line| line.ends_with(" kB"));
        let names = lines.filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    assert!(field(&vm).is_subset(&field(&native)), "{:?}", field(&vm));
    let (rollup, _) = both("/proc/self/smaps_rollup");
    assert!(kib(&rollup, "Rss") > 0 && rollup.contains("[rollup]"), "{rollup}");
}

#[test]
fn mounts_have_linuxs_form_and_name_no_place_of_the_host() {
    skip_without_kvm!();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let host = dir.path().to_str().expect("it is text");
    let run = guest(&["cat", "/proc/mounts", "/proc/self/mountinfo"]);
    let text = printed(run.dir(format!("{host}:/in side:ro")).in_vm());
    assert!(!text.contains(host), "{text}");
    let (mounts, info) = text.split_once("== /proc/self/mountinfo ok\n").expect("two files");
    let lines: Vec<Vec<&str>> =
        mounts.lines().skip(1).map(|line| line.split(' ').collect()).collect();
    assert!(lines.iter().all(|fields| fields.len() == 6), "{mounts}");
    let at = |path: &str| lines.iter().find(|fields| fields[1] == path);
    assert_eq!(at("/proc").map(|fields| fields[2]), Some("proc"));
    assert_eq!(at("/in\\040side").map(|fields| &fields[3][..2]), Some("ro"), "{mounts}");
    for line in info.lines() {
        let (before, after) = line.split_once(" - ").expect("it has a separator");
        assert_eq!((before.split(' ').count(), after.split(' ').count()), (6, 3), "{line}");
    }
}

#[test]
fn threads_are_listed_and_named_as_natively() {
    skip_without_kvm!();
    let vm = in_vm(&["threads"]);
    assert_eq!(vm, natively(&["threads"]));
    assert_eq!(in_vm(&["reread"]), "Threads:\t1 Threads:\t2 Threads:\t1\n");
    assert_eq!(natively(&["reread"]), "Threads:\t1 Threads:\t2 Threads:\t1\n");
}

#[test]
fn folders_of_proc_can_be_listed() {
    skip_without_kvm!();
    let folders = ["/proc", "/proc/self", "/proc/self/fd", "/proc/self/task", "/dev/fd", "/sys"];
    let args: Vec<&str> = std::iter::once("list").chain(folders).collect();
    let text = in_vm(&args);
    let (_, proc) = text.split_once("== /proc ok\n").expect("the heading");
    let kind = |name: &str| {
        let line = proc.lines().find(|line| line.split_once(' ').is_some_and(|(_, n)| n == name));
        line.and_then(|line| line.split(' ').next())
    };
    // DT_LNK, DT_REG, DT_DIR.
    assert_eq!((kind("self"), kind("cpuinfo"), kind("sys")), (Some("10"), Some("8"), Some("4")));
    let pid = in_vm(&["links", "/proc/self"]);
    let pid = pid.trim_end().strip_prefix("/proc/self ok ").expect("the link says the number");
    assert!(pid.parse::<u32>().is_ok(), "{pid}");
    // Three streams and the directory that is being read.
    let (_, fds) = text.split_once("== /proc/self/fd ok\n").expect("the heading");
    let fds: Vec<&str> = fds.lines().take_while(|line| !line.starts_with('=')).collect();
    assert_eq!(fds, ["4 .", "4 ..", "10 0", "10 1", "10 2", "10 3"]);
}

#[test]
fn files_are_reached_by_their_descriptors_as_natively() {
    skip_without_kvm!();
    let text = same_in_a_directory("names", "");
    assert!(text.starts_with("link ok\nagain ok 5 hello\nsame 1\n"), "{text}");
}

#[test]
fn attributes_are_refused_or_kept_and_never_unknown_to_the_kernel() {
    skip_without_kvm!();
    let text = same_in_a_directory("attributes", "");
    assert!(text.starts_with("none\n") && !text.contains("ENOSYS"), "{text}");
}

#[test]
fn older_forms_of_calls_answer_as_natively() {
    skip_without_kvm!();
    same_in_a_directory("legacy", "");
}

#[test]
fn devices_answer_as_natively() {
    skip_without_kvm!();
    assert_eq!(in_vm(&["devices"]), natively(&["devices"]));
}

#[test]
fn a_program_reads_its_own_file_without_a_grant() {
    skip_without_kvm!();
    let program = guests::c("procfs");
    let bytes = std::fs::read(&program).expect("it was just built");
    let path = program.to_str().expect("it is text");
    for name in ["/proc/self/exe", path] {
        let ended = guest(&["cat", name]).in_vm();
        let head = format!("== {name} ok\n");
        assert_eq!(ended.stdout.get(..head.len()), Some(head.as_bytes()), "{name}");
        assert!(ended.stdout[head.len()..] == bytes, "{name} is not the program");
    }
}

#[test]
fn a_backtrace_has_names_without_a_grant() {
    skip_without_kvm!();
    let ended = Run::new(guests::rust("panics")).env("RUST_BACKTRACE", "1").in_vm();
    let text = ended.err();
    assert!(text.contains(": main\n") && text.contains("/panics.rs:"), "{ended:?}");
}

/// `spacejmp run` from a shell that has opened descriptor 9 for `file`.
fn from_shell(options: &str, arguments: &str, file: &str) -> std::process::Output {
    let spacejmp = guests::program("spacejmp-cli", "spacejmp", Profile::Dev);
    let script = format!(r#"exec 9<"$2"; exec "$0" run --timeout 60 {options} "$1" {arguments}"#);
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(spacejmp).arg(guests::c("procfs")).arg(file);
    command.output().expect("there is a shell")
}

#[test]
fn a_descriptor_of_the_shell_is_given_when_named_and_else_not() {
    skip_without_kvm!();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "from the shell\n").expect("it can be written");
    let path = file.path().to_str().expect("it is text");
    let out = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    // Named by an argument, as with `<(command)`; by the option; both.
    for (options, name) in
        [("", "/dev/fd/9"), ("--fd 9", "/proc/self/fd/9"), ("--fd 9", "/dev/fd/9")]
    {
        let output = from_shell(options, &format!("cat {name}"), path);
        assert_eq!(out(&output), format!("== {name} ok\nfrom the shell\n"), "{output:?}");
    }
    let unnamed = from_shell("", "list /dev/fd", path);
    assert!(!out(&unnamed).contains("10 9"), "{unnamed:?}");
    let given = from_shell("--fd 9", "list /dev/fd", path);
    assert!(out(&given).contains("10 9"), "{given:?}");
    let closed = from_shell("--fd 8", "pid", path);
    let error = String::from_utf8_lossy(&closed.stderr).into_owned();
    assert_eq!(closed.status.code(), Some(125), "{closed:?}");
    assert!(error.contains("descriptor 8") && error.contains("8<file"), "{error}");
}
