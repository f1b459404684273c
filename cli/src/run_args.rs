//! The command line of `spacejmp run`: its options, what they say of themselves, and their kinds.
//!
//! What is done with them is in the module `run`; how a value of an option is read that is no plain number or path, in
//! `run_options` and beside what it is about.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, ValueHint};
use vmm::confine::Confine;
use vmm::control::VmName;
use vmm::exit_code;
use vmm::gdb::place::Place;
use vmm::linux::net::{ConnectGrant, ListenGrant};
use vmm::store::Name;
use vmm::vas::VasGrant;

use crate::inherited;
use crate::network;
use crate::profiles::{self, ProfileFile, SAMPLES_A_SECOND, SAMPLES_MAX};
use crate::run_options::{
    EnvOption, parse_env, parse_file_size, parse_memory, parse_processors, parse_timeout,
};
use crate::run_tree::{PROCESSES, parse_processes};
use crate::store_options::name_parser;

/// Run a program in a virtual machine of its own
///
/// The program is an ordinary ELF executable for Linux on x86-64, or a script. Its input, output
/// and exit status are its own; of the host it sees nothing but what the options grant, the
/// libraries that a dynamic program needs (--no-libs), and the user's store: unless told otherwise
/// by --no-store, --vas or --store it may use, change and delete every address space and segment
/// that the user may.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "spacejmp run [OPTIONS] PROGRAM [ARGS]...\n       spacejmp run [OPTIONS] --from SNAPSHOT [ARGS]...",
    after_help = EXAMPLES,
    after_long_help = long_help()
)]
pub(crate) struct Args {
    /// Call the VM by this name in `spacejmp ps`, `stats`, `stop` and `kill`
    ///
    /// No other VM of the user has it while this one runs.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<VmName>,
    /// The directory where address spaces and segments are kept
    ///
    /// Made at the program's first call that needs it; a place where there can be none is an error at once. Default: the variable SPACEJMP_STORE, else
    /// spacejmp in the user's data directory ($XDG_DATA_HOME or ~/.local/share).
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Give the program its own empty store, which is removed at the end
    #[arg(long, conflicts_with_all = ["store", "vas"])]
    pub(crate) no_store: bool,
    /// Let the program use only this address space of the store and the segments in it
    ///
    /// It may make, change and delete it; with :ro, only read it. Repeatable. Others it can
    /// neither list nor use. A segment that several list has the least of their rights.
    #[arg(long, value_name = "NAME[:ro|:rw]")]
    pub(crate) vas: Vec<VasGrant>,
    /// Memory the program may hold of the host's: a number with K, M, G or T
    ///
    /// Counts what it touches, its page tables, its files in memory (/dev/shm too) and volatile
    /// segments. Nothing is allocated before the program touches it. What it changes in versioned
    /// segments takes up to half, and more goes to the store's disk. Default: half of the host's
    /// memory, or what is available now or allowed to this cgroup if that is less. At least 16M.
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) memory: Option<u64>,
    /// Give the program a directory of the host, optionally under another name or read-only
    #[arg(long, value_name = "HOST[:GUEST][:ro|:rw]")]
    pub(crate) dir: Vec<String>,
    /// Give the program a whole tree to live in, read-only unless :rw follows
    ///
    /// PROGRAM, its interpreter and its libraries are looked up inside; --dir mounts over it; /proc,
    /// /dev and /sys are the VM's own, and /tmp is the run's private memory, half of --memory. With
    /// `--root /` it sees what the user sees.
    #[arg(long, value_name = "DIR[:ro|:rw]")]
    pub(crate) root: Option<String>,
    /// Do not show a dynamic program the host's libraries
    ///
    /// Without this option and --root, it may read /lib, /lib64, /usr/lib, /usr/lib64,
    /// /usr/local/lib, /etc/alternatives, the list /etc/ld.so.cache, and of the folder it is in what its RUNPATH names
    /// by $ORIGIN. `--log info` says which.
    #[arg(long, conflicts_with = "root")]
    pub(crate) no_libs: bool,
    /// Give the program an open descriptor of the shell's, by its number
    ///
    /// One that an argument of the program names as /dev/fd/N, as the shell does for
    /// <(command), is given without being asked for.
    #[arg(long, value_name = "N", value_parser = inherited::parse)]
    pub(crate) fd: Vec<i32>,
    /// Give the program the terminal by the name /dev/tty, as for reading a password
    #[arg(long)]
    pub(crate) tty: bool,
    /// Let the program use the network as the user may: all addresses, all ports
    ///
    /// Without this option, --connect and --listen it has none. UNIX sockets need no option where a
    /// directory is granted for writing; those with abstract names need this one.
    #[arg(long)]
    pub(crate) net: bool,
    /// Let the program connect and send there
    ///
    /// HOST is an address, a range such as 10.0.0.0/8, `*`, or a name, whose addresses are looked up now
    /// and which the program finds in its /etc/hosts; IPv6 in brackets. PORT may be `*`. Repeatable.
    #[arg(long, value_name = "HOST:PORT", value_parser = network::parse_connect)]
    pub(crate) connect: Vec<ConnectGrant>,
    /// Let the program listen at this port, for this machine only unless ADDR is given
    ///
    /// ADDR is an address of this machine, or `*` for all. A program that wants to listen at all addresses
    /// gets the granted one. Port 0 is one that the host chooses. Repeatable.
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = network::parse_listen)]
    pub(crate) listen: Vec<ListenGrant>,
    /// Set an environment variable, or pass the host's; '*' passes all of the host's
    ///
    /// Without this option the program gets HOME, LANG, LC_*, NO_COLOR, PATH,
    /// RUST_BACKTRACE, TERM, TZ and USER if they are set; with 512 MiB of memory or more also
    /// GLIBC_TUNABLES=glibc.malloc.hugetlb=2, which lets the heaps of threads grow in large
    /// pages; and nothing else.
    #[arg(long, value_name = "K[=V]", value_parser = parse_env)]
    pub(crate) env: Vec<EnvOption>,
    /// The directory to start in, as the program sees it
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// End the program after this time; fractions are allowed
    #[arg(long, value_name = "SECONDS", value_parser = parse_timeout)]
    pub(crate) timeout: Option<Duration>,
    /// Processors that the program may run on, and sees
    ///
    /// As many of those that this process may run on, other ones for each run; so does the VMM. `taskset` before
    /// `spacejmp` says which.
    #[arg(long, value_name = "N", value_parser = parse_processors)]
    pub(crate) cpus: Option<usize>,
    /// Processor time that all processes of the run together may use, the VMMs' work for them included
    ///
    /// Then each that uses more gets SIGXCPU, as with `ulimit -t` (RLIMIT_CPU), which ends it unless it has a handler, and
    /// SIGKILL when they have used a second more.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) cpu_time: Option<u64>,
    /// Size beyond which the program may make no file grow: a number, or one with K, M, G or T
    ///
    /// As `ulimit -f` (RLIMIT_FSIZE): SIGXFSZ, and EFBIG if that does not end it. Segments of the store are
    /// not files of the program's.
    #[arg(long, value_name = "SIZE", value_parser = parse_file_size)]
    pub(crate) file_size: Option<u64>,
    /// What all processes of the run may add to the store and to granted folders together: a number, or one
    /// with K, M, G or T
    ///
    /// Then calls give EDQUOT, as under a quota of the host's. A file counts with its length, its holes as if they
    /// were full, and each new name with 4K; a segment with its size. What was there before is free. Released is what a file is
    /// shortened by, and a removed one when a new file gets its inode.
    #[arg(long, value_name = "SIZE", value_parser = parse_file_size)]
    pub(crate) disk: Option<u64>,
    /// Processes the run may have at one time, the program itself included
    ///
    /// Each is a virtual machine of its own with the same grants, and --memory and --timeout hold
    /// for all of them together. 1 is the program alone.
    #[arg(long, value_name = "N", value_parser = parse_processes, default_value_t = PROCESSES)]
    pub(crate) processes: u32,
    /// Files that all processes of the run may have open together [default: as many as the host lets each
    /// of them have, `ulimit -n`]
    ///
    /// Every descriptor counts, in each process. Beyond that `open` and its kin give ENFILE, and no process
    /// can be started that would inherit more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) open_files: Option<u64>,
    /// What happens when the VMM makes a call that it has no business to make
    ///
    /// `on` ends it, with a report and status 159; `log` tells each such call once, on stderr, and makes
    /// it; with `off`, its threads are not confined. The program's own calls are another matter: they
    /// never reach the host.
    #[arg(long, value_name = "MODE", default_value = "on")]
    pub(crate) confine: ConfineMode,
    /// Let processes that the program leaves behind go on when it has ended
    #[arg(long)]
    pub(crate) detach_children: bool,
    /// Say on stderr what the run did and took: a table, or one JSON object
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "table")]
    pub(crate) stats: Option<StatsFormat>,
    /// Write the statistics to a file instead
    #[arg(long, value_name = "FILE")]
    pub(crate) stats_to: Option<PathBuf>,
    /// Print the program's calls, with their arguments, results and times, as strace does
    ///
    /// A line a call: thread, seconds since the start, the call, how long it took. On stderr, or in
    /// a file. SpaceJMP's calls are among them, and every switch: the guest kernel makes none by
    /// itself then, so they take longer. Calls that the vDSO answers do not leave the program and are
    /// not seen.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
          default_missing_value = STDERR)]
    pub(crate) strace: Option<PathBuf>,
    /// Write where the program spends its time: a flame graph (FILE.svg), or a line a stack (FILE.folded, .txt)
    ///
    /// Samples of all threads of all processes of the run, with the names of functions, and of calls in brackets.
    /// Callers are known as far as functions keep frame pointers. A process that SIGKILL ends is missing.
    #[arg(long, value_name = "FILE", value_parser = profiles::parse, conflicts_with = "gdb",
          value_hint = ValueHint::FilePath)]
    pub(crate) profile: Option<ProfileFile>,
    /// Samples a second that --profile takes of each thread
    #[arg(long, value_name = "N", requires = "profile", default_value_t = SAMPLES_A_SECOND,
          value_parser = clap::value_parser!(u32).range(1..=SAMPLES_MAX))]
    pub(crate) profile_hz: u32,
    /// Write from where the program leaves the guest, and for what, in the same ways
    ///
    /// Every exit is counted: calls, page faults, other exceptions.
    #[arg(long, value_name = "FILE", value_parser = profiles::parse, value_hint = ValueHint::FilePath)]
    pub(crate) profile_exits: Option<ProfileFile>,
    /// If a signal ends the program, write a core file, which gdb opens
    ///
    /// For signals that do so natively: SIGSEGV, SIGABRT and others. A name that ends in `.zst` is that of a compressed
    /// file (`zstd -d --sparse`). Of other processes of the run it has the process's number behind its name. It holds the memory of the program, so only the user may read it, and the
    /// VMM may make and remove files in its directory. A file that was there is replaced once the new one is whole.
    #[arg(long, value_name = "FILE")]
    pub(crate) core: Option<PathBuf>,
    /// Whose callers a report shows when a signal ends the program that leaves core files natively
    ///
    /// `one` is the thread that the signal ended, and only after a fault; `all` shows each thread's, with the call
    /// that it was in.
    #[arg(long, value_name = "THREADS", default_value = "one")]
    pub(crate) backtrace: Backtrace,
    /// Wait for gdb before the program's first instruction, and let it debug the program
    ///
    /// Without PATH, at a socket of its own; the line for gdb is said on stderr. PATH is a socket to be made, only for
    /// the user; PORT a port of this machine, which any of its users can connect to. The
    /// processes that the program starts are not debugged.
    #[arg(long, value_name = "PATH|PORT", num_args = 0..=1, require_equals = true,
          default_missing_value = "")]
    pub(crate) gdb: Option<Place>,
    /// Have the program stand, and wait for gdb, when a signal is about to end it that leaves core files natively
    ///
    /// PATH and PORT as with --gdb. What gdb says becomes of it: `detach` ends it by the signal, `signal 0` has it go on. It waits for as
    /// long as --timeout allows.
    #[arg(long, value_name = "PATH|PORT", num_args = 0..=1, require_equals = true,
          default_missing_value = "", conflicts_with_all = ["gdb", "profile"])]
    pub(crate) gdb_on_crash: Option<Place>,
    /// Go on from a snapshot, instead of starting a program
    ///
    /// Any number of runs can be started from one; each has its own process number, standard streams and grants: what
    /// the program had open has to be granted now. A program that was kept where it called `sj_ready` gets ARGS and the
    /// environment of this run there (give `--` before ARGS that begin with a dash); one that `spacejmp snapshot` has
    /// kept has its own.
    #[arg(long, value_name = "SNAPSHOT", value_parser = name_parser(),
          conflicts_with_all = ["gdb", "gdb_on_crash"])]
    pub(crate) from: Option<Name>,
    /// Make a snapshot of the program when it says that it is ready: at its first call of `sj_ready`
    ///
    /// Of this process of the run, not of those that it starts. The program goes on; copies of it, which `run --from NAME ARGS` starts, come back from that call with
    /// ARGS. If the snapshot cannot be made, that is said on stderr, and the call fails.
    #[arg(long, value_name = "NAME", value_parser = name_parser(), conflicts_with_all = ["no_store", "gdb"])]
    pub(crate) snapshot_at_ready: Option<Name>,
    /// The program and its arguments; a name without a slash is looked up in PATH
    // One list: with two, our options would still be parsed among the program's.
    #[arg(
        required_unless_present = "from",
        trailing_var_arg = true,
        value_name = "PROGRAM [ARGS]"
    )]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backtrace {
    One,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfineMode {
    On,
    Log,
    Off,
}

impl From<ConfineMode> for Confine {
    fn from(mode: ConfineMode) -> Confine {
        match mode {
            ConfineMode::On => Confine::On,
            ConfineMode::Log => Confine::Log,
            ConfineMode::Off => Confine::Off,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatsFormat {
    Table,
    Json,
}

/// Where `--strace` without a file writes.
pub(crate) const STDERR: &str = "/dev/stderr";

const EXAMPLES: &str = "\
Examples:
  spacejmp run ./hello
  spacejmp run --dir . sqlite3 notes.db
  spacejmp run --root / --dir . --env '*' python3 report.py
  spacejmp run --memory 256M --listen 8080 ./server --port 8080
  spacejmp run --connect example.org:443 curl https://example.org
  spacejmp run --no-store ./untrusted
  spacejmp run --vas genome:ro --vas results ./align
  spacejmp run --env GREETING=hello --env EDITOR ./hello
  spacejmp run --stats=json --stats-to stats.json ./hello
  spacejmp run --snapshot-at-ready warm --dir . ./server
  spacejmp run --from warm --dir . -- --port 8081";

fn long_help() -> String {
    format!(
        "{EXAMPLES}\n\nCtrl-C and SIGTERM go to the program's own handler if it has one; without \
         one, they end it,\nand the second time within 2 seconds at once. A thread that is writing in a \
         VAS may leave it\nfirst, for 2 seconds.\n\n{}",
        exit_code::HELP
    )
}

#[cfg(test)]
mod tests {
    use super::{Args, StatsFormat};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["run"], line].concat()).map(|line| line.args)
    }

    #[test]
    fn options_after_the_program_are_the_programs() {
        let args = parse(&["--timeout", "2", "./x", "--timeout", "3", "--", "-v"]).unwrap();
        assert_eq!(args.command, ["./x", "--timeout", "3", "--", "-v"]);
        assert_eq!(args.timeout.unwrap().as_secs(), 2);
    }

    #[test]
    fn stats_takes_its_format_only_after_an_equals_sign() {
        let args = parse(&["--stats", "json"]).unwrap();
        assert_eq!(args.stats, Some(StatsFormat::Table));
        assert_eq!(args.command, ["json"]);
        assert_eq!(parse(&["--stats=json", "./x"]).unwrap().stats, Some(StatsFormat::Json));
        assert!(parse(&["--stats=xml", "./x"]).is_err());
        assert!(parse(&["--stats"]).is_err(), "a program is needed");
    }

    #[test]
    fn a_store_of_ones_own_excludes_all_that_names_another() {
        assert!(parse(&["--no-store", "x"]).unwrap().no_store);
        assert!(parse(&["--no-store", "--store", "/s", "x"]).is_err());
        assert!(parse(&["--no-store", "--vas", "v", "x"]).is_err());
        let args = parse(&["--store", "/s", "--vas", "v:ro", "--vas", "w", "x"]).unwrap();
        assert_eq!(args.vas.len(), 2);
        assert!(parse(&["--vas", "a/b", "x"]).is_err());
    }

    #[test]
    fn what_is_granted_of_the_network_is_checked_before_anything_runs() {
        let line = ["--net", "--connect", "*:53", "--connect", "a.b:*", "--listen", "[::1]:0", "x"];
        let args = parse(&line).unwrap();
        assert!(args.net);
        assert_eq!((args.connect.len(), args.listen.len()), (2, 1));
        for line in [["--connect", "53", "x"], ["--listen", "a:1", "x"]] {
            let error = parse(&line).unwrap_err().to_string();
            assert!(error.contains("--listen 8080"), "{error}");
        }
    }

    #[test]
    fn an_unknown_option_before_the_program_is_an_error() {
        assert!(parse(&["--no-such-option", "./x"]).is_err());
        assert_eq!(parse(&["--", "--x", "-y"]).unwrap().command, ["--x", "-y"]);
    }

    #[test]
    fn repeatable_options_repeat_and_bad_values_are_refused() {
        let args = parse(&["--env", "A=1", "--env", "B", "--dir", "/a", "--dir", "/b:ro", "x"]);
        let args = args.unwrap();
        assert_eq!((args.env.len(), args.dir.len()), (2, 2));
        for line in [&["--memory", "1M", "x"], &["--timeout", "-1", "x"], &["--env", "=1", "x"]] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }
}
