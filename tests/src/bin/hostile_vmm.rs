//! `hostile_vmm vcpu|events|keeper`: a VMM one of whose threads, once its VM is set up, makes calls that it
//! has no business to make, and survives being caught: it has a handler of its own for that. A line for each
//! says how far it got.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::raw::{c_int, c_void};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use tests::guests;
use tests::vm::Run;
use vmm::process::{Outcome, Process, Supervise};

static WAS_CAUGHT: AtomicBool = AtomicBool::new(false);
static KVM: AtomicI32 = AtomicI32::new(-1);

extern "C" fn survive(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    WAS_CAUGHT.store(true, Ordering::Relaxed);
    // SAFETY: the interrupted thread's registers, as the kernel passes them.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    registers[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
}

fn survive_being_caught() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid `sigaction` with an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = survive as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler is of the type SA_SIGINFO asks for, and touches an atomic and its frame.
    let failed = unsafe { libc::sigaction(libc::SIGSYS, action, std::ptr::null_mut()) };
    assert_eq!(failed, 0);
}

/// Makes a call and says how far it got.
fn attempt(what: &str, number: i64, arguments: [usize; 6]) {
    WAS_CAUGHT.store(false, Ordering::Relaxed);
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: if one of these calls is made after all, the test has failed, whatever comes of it.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if number == libc::SYS_fork && result == 0 {
        std::process::exit(0);
    }
    let how = match (WAS_CAUGHT.load(Ordering::Relaxed), result) {
        (true, _) => "caught".to_owned(),
        (false, -1) => format!("failed: {}", std::io::Error::last_os_error()),
        (false, result) => format!("DONE: {result}"),
    };
    println!("{what}: {how}");
}

fn attack(only_what_nobody_may: bool) {
    let parent = std::os::unix::process::parent_id() as usize;
    let text = |text: &'static std::ffi::CStr| text.as_ptr() as usize;
    let mut word = 0_u64;
    let iov = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let there = libc::iovec { iov_base: (&raw const KVM).cast_mut().cast(), iov_len: 4 };
    let [iov, there] = [&iov, &there].map(|iov| std::ptr::from_ref(iov) as usize);
    let argv = [text(c"true"), 0];
    let page =
        [0, 4096, 3, libc::MAP_PRIVATE as usize | libc::MAP_ANONYMOUS as usize, usize::MAX, 0];
    let [_, len, _, private, none, _] = page;
    attempt("execve", libc::SYS_execve, [text(c"/bin/true"), argv.as_ptr() as usize, 0, 0, 0, 0]);
    attempt("ptrace", libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, parent, 0, 0, 0, 0]);
    attempt("kill", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]);
    attempt("mmap, writable and executable", libc::SYS_mmap, [0, len, 7, private, none, 0]);
    attempt("mmap, executable", libc::SYS_mmap, [0, len, 5, private, none, 0]);
    // SAFETY: maps a page that nothing else knows.
    let mapped = unsafe { libc::syscall(libc::SYS_mmap, 0, len, 3, private, none, 0) } as usize;
    attempt("mprotect, writable and executable", libc::SYS_mprotect, [mapped, len, 7, 0, 0, 0]);
    attempt("mprotect, executable", libc::SYS_mprotect, [mapped, len, 5, 0, 0, 0]);
    attempt("socket of packets", libc::SYS_socket, [libc::AF_PACKET as usize, 3, 0, 0, 0, 0]);
    attempt("socket of the network", libc::SYS_socket, [libc::AF_INET as usize, 1, 0, 0, 0, 0]);
    attempt("mount", libc::SYS_mount, [0; 6]);
    attempt("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0]);
    attempt("bpf", libc::SYS_bpf, [0; 6]);
    attempt("io_uring_setup", libc::SYS_io_uring_setup, [8, 0, 0, 0, 0, 0]);
    attempt("userfaultfd", libc::SYS_userfaultfd, [0; 6]);
    attempt("keyctl", libc::SYS_keyctl, [0; 6]);
    attempt("setuid", libc::SYS_setuid, [0; 6]);
    attempt("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 6]);
    attempt("perf_event_open", libc::SYS_perf_event_open, [0; 6]);
    attempt("ioctl TIOCSTI", libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0, 0, 0, 0]);
    attempt("a call of the other ABI", 0x4000_0000 | libc::SYS_getpid, [0; 6]);
    attempt("prctl to read the time stamp", libc::SYS_prctl, [26, 1, 0, 0, 0, 0]);
    attempt("another process's limits", libc::SYS_prlimit64, [parent, 0, 0, 0, 0, 0]);
    if only_what_nobody_may {
        return;
    }
    attempt("fork", libc::SYS_fork, [0; 6]);
    attempt("clone of a process", libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]);
    attempt("tgkill", libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0]);
    attempt("seccomp", libc::SYS_seccomp, [0; 6]);
    let kvm = KVM.load(Ordering::Relaxed) as usize;
    attempt("ioctl KVM_CREATE_VM", libc::SYS_ioctl, [kvm, 0xae01, 0, 0, 0, 0]);
    attempt("process_vm_readv", libc::SYS_process_vm_readv, [parent, iov, 1, there, 1, 0]);
}

fn main() -> ExitCode {
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    KVM.store(kvm.as_ref().map_or(-1, AsRawFd::as_raw_fd), Ordering::Relaxed);
    let kind = std::env::args().nth(1).unwrap_or_default();
    let mut run = Run::new(guests::rust(if kind == "vcpu" { "nullcall" } else { "sleeper" }));
    run = run.args(&["1"]).confined();
    if kind == "keeper" {
        run = run.with_children();
    }
    let process = run.prepare().expect("it starts");
    survive_being_caught();
    match kind.as_str() {
        "events" => process.call_every_second(|process: &Process| {
            attack(false);
            process.stop(Outcome::Exited(0));
        }),
        "keeper" => process.call_every_second(|process: &Process| {
            attack(true);
            process.stop(Outcome::Exited(0));
        }),
        _ => {}
    }
    let outcome = process.run_to_end(Supervise::default());
    if kind == "vcpu" {
        // A thread that has run the program stays confined.
        attack(false);
    }
    println!("{outcome:?}");
    ExitCode::SUCCESS
}
