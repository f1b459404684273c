//! `spacejmp run --gdb`, with the distribution's gdb. Needs /dev/kvm, a C compiler and gdb.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn limit() -> Duration {
    pace::limit(Duration::from_secs(120))
}

/// Whether there is a gdb; that there is none is reported.
fn has_gdb(test: &str) -> bool {
    let version = Command::new("gdb").arg("--version").stdout(Stdio::null()).status();
    let is_there = version.is_ok_and(|status| status.success());
    if !is_there {
        kvm::skip(test, "there is no gdb");
    }
    is_there
}

/// A program that waits for gdb.
struct Debuggee {
    vmm: Child,
    at: String,
    said: mpsc::Receiver<String>,
    told: mpsc::Receiver<String>,
}

/// The lines that a stream has, as they come.
fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Who does not listen any more does not receive it.
            let _ = tell.send(line);
        }
    });
    told
}

impl Debuggee {
    fn start(options: &[&str], program: &Path, args: &[&str]) -> Debuggee {
        let seconds = limit().as_secs().to_string();
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.env_remove("SPACEJMP_LOG").args(["run", "--timeout", &seconds]).args(options);
        command.arg(program).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut vmm = command.spawn().expect("the command starts");
        let said = lines(vmm.stdout.take().expect("it is piped"));
        let told = lines(vmm.stderr.take().expect("it is piped"));
        let first = told.recv_timeout(limit()).expect("it says where it waits");
        let at = first.strip_prefix("spacejmp: waiting for gdb: target remote ");
        let at = at.unwrap_or_else(|| panic!("{first}")).to_owned();
        Debuggee { vmm, at, said, told }
    }

    /// The next line that the program prints.
    fn line(&self) -> String {
        self.said.recv_timeout(limit()).expect("the program prints something")
    }

    /// How the run ended, and what else was printed.
    fn end(mut self) -> (ExitStatus, String, String) {
        let began = Instant::now();
        let status = loop {
            match self.vmm.try_wait().expect("it can be waited for") {
                Some(status) => break status,
                None if began.elapsed() > 2 * limit() => {
                    let _ = self.vmm.kill();
                    panic!("the run does not end");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let all = |lines: mpsc::Receiver<String>| lines.into_iter().collect::<Vec<_>>().join("\n");
        (status, all(self.said), all(self.told))
    }

    /// gdb with these commands, and what it says, errors where they come.
    fn gdb(&self, program: &Path, commands: &[&str]) -> (Child, mpsc::Receiver<String>) {
        let (said, to) = std::io::pipe().expect("the host has descriptors");
        let mut command = Command::new("gdb");
        command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
        command.args(["-ex", "set confirm off", "-ex", "set width 0"]);
        command.arg("-ex").arg(format!("target remote {}", self.at));
        command.args(commands.iter().flat_map(|command| ["-ex", command]));
        command.arg(program).stdin(Stdio::null());
        command.stdout(to.try_clone().expect("the host has descriptors")).stderr(to);
        (command.spawn().expect("gdb starts"), lines(said))
    }
}

/// What gdb says to these commands.
fn debug(debuggee: &Debuggee, program: &Path, commands: &[&str]) -> String {
    output(debuggee.gdb(program, commands))
}

fn output((mut gdb, said): (Child, mpsc::Receiver<String>)) -> String {
    let began = Instant::now();
    let mut is_late = false;
    while !is_late && gdb.try_wait().expect("it can be waited for").is_none() {
        std::thread::sleep(Duration::from_millis(5));
        is_late = began.elapsed() > limit();
    }
    let _ = gdb.kill();
    let said = said.into_iter().collect::<Vec<_>>().join("\n");
    assert!(!is_late, "gdb does not end:\n{said}");
    said
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    let mut rest = said;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("no {part:?} where it belongs in:\n{said}");
        };
        rest = after;
    }
}

/// A static program under gdb: what gdb says, and the status and output of the run.
#[track_caller]
fn run(args: &[&str], commands: &[&str]) -> (String, Option<i32>, String) {
    let program = guests::c("debugged");
    let debuggee = Debuggee::start(&["--no-store", "--gdb"], &program, args);
    let said = debug(&debuggee, &program, commands);
    let (status, printed, told) = debuggee.end();
    println!("{said}\n--- run: {status:?}\n{printed}\n{told}");
    (said, status.code(), printed)
}

#[test]
fn a_program_stands_before_its_first_instruction_and_stops_at_breakpoints() {
    skip_without_kvm!();
    if !has_gdb("a_program_stands_before_its_first_instruction_and_stops_at_breakpoints") {
        return;
    }
    let program = guests::c("debugged");
    let before = std::fs::read(&program).expect("it is there");
    let (said, status, _) = run(
        &[],
        &[
            "print counter",
            "break at_work",
            "continue",
            "backtrace",
            "print n",
            "set var counter = 100",
            "continue",
            "print counter",
            "print twice(21)",
            "x/2i $pc",
            "x/s text",
            "delete",
            "continue",
        ],
    );
    says(
        &said,
        &[
            "_start",
            "$1 = 0",
            "Breakpoint 1, at_work",
            "#0  at_work",
            "main",
            "$2 = 1",
            "Breakpoint 1, at_work",
            "$3 = 101",
            "$4 = 42",
            "=>",
            "in read-only memory",
            "exited with code 07",
        ],
    );
    assert!(!said.contains("int3"), "breakpoints are not seen: {said}");
    assert_eq!(status, Some(7));
    assert_eq!(std::fs::read(&program).expect("it is there"), before, "the file is as it was");
}

#[test]
fn steps_are_of_one_instruction_also_over_calls_and_breakpoints() {
    skip_without_kvm!();
    if !has_gdb("steps_are_of_one_instruction_also_over_calls_and_breakpoints") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let script = dir.path().join("to-the-call");
    std::fs::write(&script, "while *(unsigned short *)$pc != 0x050f\nstepi\nend\n")
        .expect("writable");
    let (said, status, printed) = run(
        &["signal"],
        &[
            "break at_work",
            "continue",
            "set var $at = $pc",
            "stepi",
            "print $pc > $at && $pc < $at + 16",
            "delete",
            // To the system call by which the signal is sent, and over it.
            "break raise",
            "continue",
            &format!("source {}", path(&script)),
            "set var $call = $pc",
            "handle SIGUSR1 nostop noprint pass",
            "stepi",
            "print $pc == $call + 2",
            "print ($eflags & 0x100) == 0",
            "finish",
            "continue",
        ],
    );
    says(&said, &["Breakpoint 1", "= 1", "Breakpoint 2", "= 1", "= 1", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "handled 10"));
}

#[test]
fn threads_have_names_and_all_of_them_come_to_breakpoints_and_none_is_disturbed() {
    skip_without_kvm!();
    if !has_gdb("threads_have_names_and_all_of_them_come_to_breakpoints_and_none_is_disturbed") {
        return;
    }
    let (said, status, printed) = run(
        &["threads"],
        &[
            "set pagination off",
            "break works",
            "continue",
            "info threads",
            "delete",
            "break at_work if n == 1 && $_thread > 1",
            "thread apply all bt 3",
            // Each of the two comes to it 100 times.
            "ignore 2 199",
            "continue",
            "info breakpoints",
            "continue",
        ],
    );
    says(&said, &["Breakpoint 1", "\"debugged", "\"waits\"", "already hit 200 times"]);
    says(&said, &["#0", "read", "waits ("]);
    says(&said, &["exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "undisturbed"));
}

#[test]
fn registers_are_read_and_written_with_vectors() {
    skip_without_kvm!();
    if !has_gdb("registers_are_read_and_written_with_vectors") {
        return;
    }
    let (said, status, _) = run(
        &[],
        &[
            "break at_work",
            "continue",
            "print $xmm1.v2_int64[1] = 0x1122334455667788",
            "print $xmm1.v2_int64[1]",
            "print $r12 = 0x123456789a",
            "print/x $r12",
            "print/x $cs",
            "print $fs_base != 0",
            "print $st0 = 1.5",
            "print $st0",
            "info registers rip eflags",
            "print $ymm2.v4_int64[3] = 77",
            "print $ymm2.v4_int64[3]",
            "print $edi = 50",
            "kill",
        ],
    );
    says(
        &said,
        &["1234605616436508552", "1234605616436508552", "0x123456789a", "0x33", "= 1", "1.5"],
    );
    says(&said, &["<at_work", "77", "killed"]);
    assert_eq!(status, Some(137));
}

#[test]
fn a_fault_stops_before_its_handler_and_a_signal_is_passed_or_not() {
    skip_without_kvm!();
    if !has_gdb("a_fault_stops_before_its_handler_and_a_signal_is_passed_or_not") {
        return;
    }
    let (said, status, _) = run(
        &["segv"],
        &[
            "continue",
            "backtrace",
            "print handled",
            "print $_siginfo.si_signo",
            "print $_siginfo._sifields._sigfault.si_addr",
            "continue",
        ],
    );
    says(&said, &["SIGSEGV", "crash_here", "main", "= 0", "= 11", "0x10", "exited with code 05"]);
    assert_eq!(status, Some(5));
    let (said, status, _) = run(&["die"], &["continue", "signal SIGSEGV"]);
    says(&said, &["SIGSEGV", "Program terminated with signal SIGSEGV"]);
    assert_eq!(status, Some(139));
    // Without the signal, the instruction is done again.
    let commands = ["continue", "set var $rdi = &counter", "signal 0"];
    let (said, status, _) = run(&["die"], &commands);
    says(&said, &["SIGSEGV", "exited with code 07"]);
    assert_eq!(status, Some(7));
    let (said, status, printed) =
        run(&["signal"], &["handle SIGUSR1 stop print", "continue", "signal 0"]);
    says(&said, &["received signal SIGUSR1", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "handled 0"));
}

/// Interrupts a program that does what `how` says once it has printed a line.
fn interrupted(how: &str, commands: &[&str]) -> (String, Option<i32>, String) {
    let program = guests::c("debugged");
    let debuggee = Debuggee::start(&["--no-store", "--gdb"], &program, &[how]);
    let gdb = debuggee.gdb(&program, commands);
    let first = debuggee.line();
    // It waits for the program: what it is sent before, it would take for itself.
    std::thread::sleep(Duration::from_millis(300));
    let pid = gdb.0.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().expect("there is `kill`");
    assert!(sent.success());
    let said = output(gdb);
    let (status, printed, told) = debuggee.end();
    println!("{said}\n--- run: {status:?}\n{first}\n{printed}\n{told}");
    (said, status.code(), printed)
}

#[test]
fn ctrl_c_stops_a_program_that_computes_and_one_that_waits() {
    skip_without_kvm!();
    if !has_gdb("ctrl_c_stops_a_program_that_computes_and_one_that_waits") {
        return;
    }
    let (said, status, printed) =
        interrupted("spin", &["continue", "backtrace", "set var handled = 1", "signal 0"]);
    says(&said, &["SIGINT", "main", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "released"));
    let (said, status, _) = interrupted(
        "sleep",
        &["continue", "backtrace", "print counter", "print twice(4)", "backtrace", "kill"],
    );
    says(&said, &["SIGINT", "nanosleep", "main", "= 6", "= 8", "nanosleep", "main", "killed"]);
    assert_eq!(status, Some(137));
}

#[test]
fn after_detach_the_program_goes_on_and_a_second_gdb_can_come() {
    skip_without_kvm!();
    if !has_gdb("after_detach_the_program_goes_on_and_a_second_gdb_can_come") {
        return;
    }
    let (dir, program) = (tempfile::tempdir().expect("a folder"), guests::c("debugged"));
    let socket = dir.path().join("socket");
    let option = format!("--gdb={}", path(&socket));
    let debuggee = Debuggee::start(&["--no-store", &option], &program, &["spin"]);
    assert_eq!(debuggee.at, path(&socket));
    let said = debug(&debuggee, &program, &["break at_work", "continue", "detach"]);
    says(&said, &["Breakpoint 1", "detached]"]);
    assert_eq!(debuggee.line(), "spinning");
    let commands = ["print counter > 5", "backtrace", "set var handled = 1", "continue"];
    let said = debug(&debuggee, &program, &commands);
    says(&said, &["= 1", "main", "exited with code 07"]);
    let (status, printed, _) = debuggee.end();
    assert_eq!((status.code(), printed.as_str()), (Some(7), "released"));
    assert!(!socket.exists(), "it is removed");
}

#[test]
fn children_run_without_breakpoints_and_execve_is_followed() {
    skip_without_kvm!();
    if !has_gdb("children_run_without_breakpoints_and_execve_is_followed") {
        return;
    }
    let (said, status, printed) =
        run(&["fork"], &["break at_work", "continue", "continue", "continue", "continue"]);
    says(&said, &["Breakpoint 1", "Breakpoint 1", "Breakpoint 1", "exited with code 07"]);
    assert_eq!((status, printed.as_str()), (Some(7), "child 300"));
    // The program must see itself to run itself.
    let program = guests::c("debugged");
    let folder = program.parent().expect("it is in a folder");
    let grant = format!("{}:ro", path(folder));
    let debuggee = Debuggee::start(&["--no-store", "--gdb", "--dir", &grant], &program, &["exec"]);
    let said = debug(
        &debuggee,
        &program,
        &[
            "break at_work",
            "ignore 1 2",
            "continue",
            "catch exec",
            "continue",
            "continue",
            "print counter",
            "delete",
            "continue",
        ],
    );
    println!("{said}");
    says(
        &said,
        &["Breakpoint 1", "executing new program", "Breakpoint 1", "= 0", "exited with code 07"],
    );
    let (status, ..) = debuggee.end();
    assert_eq!(status.code(), Some(7));
}

/// The program, for the distribution's libraries.
fn dynamic(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/c/debugged.c");
    let program = folder.join("debugged");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.arg("-I").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk/include"));
    command.args(["-std=gnu11", "-O1", "-g", "-pthread", "-o"]).arg(&program).arg(source);
    let output = command.output().expect("there is a C compiler");
    assert!(output.status.success(), "{}", text(&output.stderr));
    program
}

#[test]
fn a_dynamic_program_has_its_libraries_and_mappings_also_at_a_port() {
    skip_without_kvm!();
    if !has_gdb("a_dynamic_program_has_its_libraries_and_mappings_also_at_a_port") {
        return;
    }
    let dir: TempDir = tempfile::tempdir().expect("a folder");
    let program = dynamic(&std::fs::canonicalize(dir.path()).expect("it is there"));
    let debuggee = Debuggee::start(&["--no-store", "--gdb=0"], &program, &["signal"]);
    assert!(debuggee.at.starts_with("localhost:"), "{}", debuggee.at);
    let said = debug(
        &debuggee,
        // gdb asks for the program, too.
        Path::new("-q"),
        &[
            "break at_work",
            "continue",
            "info sharedlibrary",
            "info proc mappings",
            "info auxv",
            "delete",
            "handle SIGUSR1 nostop",
            "break raise",
            "continue",
            "bt",
            "delete",
            "continue",
        ],
    );
    let (status, printed, told) = debuggee.end();
    println!("{said}\n{told}");
    says(
        &said,
        &[
            "Breakpoint 1, at_work",
            "libc.so.6",
            "debugged",
            "[stack]",
            "AT_ENTRY",
            "Breakpoint 2",
            "raise",
            "main",
            "exited with code 07",
        ],
    );
    assert_eq!((status.code(), printed.as_str()), (Some(7), "handled 10"));
}

#[test]
fn memory_is_that_of_the_address_space_that_the_thread_is_in() {
    skip_without_kvm!();
    if !has_gdb("memory_is_that_of_the_address_space_that_the_thread_is_in") {
        return;
    }
    let (said, status, printed) = run(
        &["vas"],
        &[
            "monitor vas",
            "monitor nonsense",
            "break inside",
            "break outside",
            "continue",
            "monitor vas",
            "print *(int *)$rdi",
            "set var *(int *)$rdi = 43",
            "print *(int *)$rdi",
            "info proc mappings",
            "break *$rdi",
            "continue",
            "delete 3",
            "continue",
            "print *(int *)$rdi",
            "monitor vas",
            "continue",
            "print *(int *)$rdi",
            "delete",
            "continue",
        ],
    );
    says(
        &said,
        &[
            "* home  threads",
            "`nonsense` is no command",
            "Breakpoint 1, inside",
            "  home",
            "* genome (handle 1)  threads",
            "rw- reads",
            "= 42",
            "= 43",
            "[segment:reads]",
            "Cannot insert breakpoint 3",
            "Breakpoint 2, outside",
            "Cannot access memory at address",
            "* home  threads",
            "  genome (handle 1)",
            "Breakpoint 1, inside",
            "= 43",
            "exited with code 07",
        ],
    );
    // What it had read before, and what gdb has written.
    assert_eq!((status, printed.as_str()), (Some(7), "43 43"));
}

/// A generator of numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // Knuth's constants.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

fn framed(content: &[u8]) -> Vec<u8> {
    let sum = content.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", content, format!("#{sum:02x}").as_bytes()].concat()
}

/// A connection; to another run, if random packets have ended the program: they change its registers and memory, and let
/// it go on.
fn connected(debuggee: &mut Debuggee, program: &Path) -> UnixStream {
    if let Ok(stream) = UnixStream::connect(&debuggee.at) {
        return stream;
    }
    let next = Debuggee::start(&["--no-store", "--gdb"], program, &["spin"]);
    let (status, _, told) = std::mem::replace(debuggee, next).end();
    assert!(status.code().is_some_and(|code| ![101, 124, 125].contains(&code)), "{status}: {told}");
    assert!(!told.contains("panicked") && !told.contains("failed"), "{told}");
    UnixStream::connect(&debuggee.at).expect("it listens")
}

#[test]
fn whatever_comes_by_the_socket_the_vmm_survives() {
    skip_without_kvm!();
    let program = guests::c("debugged");
    let mut debuggee = Debuggee::start(&["--no-store", "--gdb"], &program, &["spin"]);
    const WORDS: [&str; 40] = [
        "?",
        "g",
        "G",
        "p",
        "P0=",
        "m",
        "M",
        "X",
        "H",
        "Hgp-1.-1",
        "T",
        "vCont?",
        "vCont",
        "vCont;s:",
        "vFile:open:",
        "vFile:pread:",
        "vFile:fstat:",
        "vFile:close:",
        "vFile:setfs:0",
        "qXfer:features:read:target.xml:",
        "qXfer:auxv:read::",
        "qXfer:threads:read::",
        "qXfer:siginfo:read::",
        "qXfer:exec-file:read:1:",
        "qSupported:",
        "QPassSignals:",
        "qRcmd,766173",
        "qfThreadInfo",
        "qsThreadInfo",
        "qC",
        "Z0,",
        "z0,",
        "Z2,",
        "ffffffffffffffff",
        "7fffffff",
        ",",
        ";",
        ":",
        "0",
        "40",
    ];
    let mut numbers = Numbers(7);
    for round in 0..24 {
        let mut stream = connected(&mut debuggee, &program);
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a time");
        let mut bytes = vec![0; 1 << 16];
        for _ in 0..60 {
            let mut packet = Vec::new();
            for _ in 0..=numbers.next() % 4 {
                match numbers.next() % 8 {
                    0 => packet.extend((0..numbers.next() % 9).map(|_| 0).collect::<Vec<u8>>()),
                    // But for the one that ends the program.
                    1 => packet.push((numbers.next() as u8).max(b'l')),
                    _ => packet.extend(WORDS[numbers.next() as usize % WORDS.len()].bytes()),
                }
            }
            let packet = match numbers.next() % 8 {
                0 => packet,
                _ => framed(&packet),
            };
            let written = stream.write_all(&packet).and_then(|()| stream.write_all(b"+"));
            // It may have been told to run, and be interrupted again.
            if written.is_err()
                || (numbers.next().is_multiple_of(16) && stream.write_all(b"\x03").is_err())
            {
                break;
            }
            let _ = stream.read(&mut bytes);
        }
        drop(stream);
        assert!(round < 24);
    }
    let mut stream = connected(&mut debuggee, &program);
    stream.set_read_timeout(Some(limit())).expect("a time");
    stream.write_all(&framed(b"qC")).expect("it reads");
    let mut bytes = [0; 64];
    let mut answer = String::new();
    while !answer.contains('#') {
        let read = stream.read(&mut bytes).expect("it answers");
        assert!(read > 0, "it answers: {answer}");
        answer.push_str(&text(&bytes[..read]));
    }
    assert!(answer.starts_with("+$QCp"), "{answer}");
    stream.write_all(&framed(b"k")).expect("it reads");
    let (status, _, told) = debuggee.end();
    assert_eq!(status.code(), Some(137), "{told}");
}

#[test]
fn a_place_where_no_socket_can_be_is_an_error_before_the_program_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = dir.path().join("missing/socket");
    let taken = dir.path().join("taken");
    std::fs::write(&taken, "a file").expect("writable");
    for place in [&missing, &taken] {
        let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
        command.args(["run", "--no-store", &format!("--gdb={}", path(place))]);
        let output = command.arg(guests::c("debugged")).output().expect("it starts");
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        says(&text(&output.stderr), &["listen for gdb"]);
    }
    assert_eq!(std::fs::read(&taken).expect("it is there"), b"a file");
}
