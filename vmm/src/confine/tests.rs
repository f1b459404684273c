//! What the filters let pass, as the kernel decides it.

use libc::{
    SECCOMP_RET_ACTION_FULL, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_TRAP, c_long,
};

use super::filter::{AUDIT_ARCH_X86_64, calls, filter};
use super::table::{CHECKS, TABLE, When};
use super::{Confine, Kind, Policy, bpf};
use crate::stats::names::name;

const PID: u32 = 4711;
const STRICT: Policy =
    Policy { mode: Confine::On, children: false, sockets: false, network: false };
const LOOSE: Policy = Policy { mode: Confine::On, children: true, sockets: true, network: true };

/// What becomes of a call with these arguments.
fn asked(kind: Kind, policy: &Policy, call: c_long, arguments: [u64; 6]) -> u32 {
    let mut data = [0; 16];
    (data[0], data[1]) = (call as u32, AUDIT_ARCH_X86_64);
    for (index, argument) in arguments.into_iter().enumerate() {
        (data[4 + 2 * index], data[5 + 2 * index]) = (argument as u32, (argument >> 32) as u32);
    }
    bpf::run(&filter(kind, policy, PID, 0), &data)
}

fn allows(kind: Kind, policy: &Policy, call: c_long, arguments: [u64; 6]) -> bool {
    asked(kind, policy, call, arguments) == SECCOMP_RET_ALLOW
}

/// Whether the call ends the VMM, with the kind of thread that made it.
#[track_caller]
fn assert_forbidden(kind: Kind, policy: &Policy, call: c_long, arguments: [u64; 6]) {
    let result = asked(kind, policy, call, arguments);
    let known = name(call as u64).unwrap_or("?");
    assert_eq!(result, SECCOMP_RET_TRAP | kind as u32, "{kind:?} {known} {arguments:x?}");
}

#[test]
fn what_never_belongs_to_a_vmm_is_forbidden_to_every_thread_whatever_is_granted() {
    for kind in Kind::ALL {
        for policy in [&STRICT, &LOOSE] {
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_vfork,
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_chroot,
                libc::SYS_pivot_root,
                libc::SYS_bpf,
                libc::SYS_perf_event_open,
                libc::SYS_keyctl,
                libc::SYS_io_uring_setup,
                libc::SYS_userfaultfd,
                libc::SYS_setuid,
                libc::SYS_setgroups,
                libc::SYS_capset,
                libc::SYS_kill,
                libc::SYS_tkill,
                libc::SYS_pidfd_getfd,
                libc::SYS_open_by_handle_at,
                libc::SYS_init_module,
                libc::SYS_kexec_load,
                libc::SYS_reboot,
                libc::SYS_pkey_mprotect,
                libc::SYS_process_madvise,
                libc::SYS_personality,
            ] {
                assert_forbidden(kind, policy, call, [0; 6]);
            }
            for number in [500, 1000, 0x4000_0000, 0x4000_0001, 0xffff_fffe] {
                assert_forbidden(kind, policy, number, [0; 6]);
            }
        }
    }
}

#[test]
fn a_call_by_the_interfaces_of_32_bits_is_forbidden() {
    for kind in Kind::ALL {
        // `write`, by i386's number for `exit` and by its own.
        for number in [1, 4] {
            let mut data = [0; 16];
            (data[0], data[1]) = (number, 0x4000_0003);
            let code = filter(kind, &LOOSE, PID, 0);
            assert_eq!(bpf::run(&code, &data), SECCOMP_RET_TRAP | kind as u32);
        }
    }
}

#[test]
fn nothing_that_a_vmm_maps_can_be_run() {
    let (read, write, exec) = (1, 2, 4);
    for kind in Kind::ALL {
        for rights in 0..8 {
            let may = rights & exec == 0;
            let arguments = [0, 4096, rights, 0x22, u64::MAX, 0];
            assert_eq!(allows(kind, &LOOSE, libc::SYS_mmap, arguments), may, "{rights}");
            assert_eq!(allows(kind, &LOOSE, libc::SYS_mprotect, arguments), may, "{rights}");
        }
        let refused = SECCOMP_RET_ERRNO | libc::EACCES.cast_unsigned();
        let arguments = [0, 4096, read | exec, 0, 0, 0];
        assert_eq!(asked(kind, &LOOSE, libc::SYS_mprotect, arguments), refused);
        assert_forbidden(kind, &LOOSE, libc::SYS_mprotect, [0, 4096, write | exec, 0, 0, 0]);
    }
}

#[test]
fn a_vcpu_thread_reaches_no_other_process_and_makes_none() {
    let (vcpu, own) = (Kind::Vcpu, u64::from(PID));
    for call in [libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_tgkill] {
        assert!(allows(vcpu, &LOOSE, call, [own; 6]));
        assert_forbidden(vcpu, &LOOSE, call, [own + 1; 6]);
        assert_forbidden(vcpu, &LOOSE, call, [1; 6]);
    }
    let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
    assert!(allows(vcpu, &STRICT, libc::SYS_clone, [thread, 0, 0, 0, 0, 0]));
    for flags in [17, 0, (libc::CLONE_VM | libc::CLONE_VFORK) as u64, libc::CLONE_VM as u64] {
        assert_forbidden(vcpu, &LOOSE, libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
    }
    assert_forbidden(vcpu, &LOOSE, libc::SYS_fork, [0; 6]);
    assert_forbidden(vcpu, &STRICT, libc::SYS_pidfd_send_signal, [0; 6]);
    assert!(allows(vcpu, &LOOSE, libc::SYS_pidfd_send_signal, [0; 6]));
}

#[test]
fn clone3_is_unknown_so_that_the_c_library_makes_a_call_whose_flags_are_seen() {
    for kind in Kind::ALL {
        let unknown = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
        assert_eq!(asked(kind, &LOOSE, libc::SYS_clone3, [0; 6]), unknown);
    }
}

#[test]
fn requests_to_devices_are_those_of_the_list() {
    const KVM_RUN: u64 = 0xae80;
    const KVM_CREATE_VM: u64 = 0xae01;
    const TIOCSTI: u64 = 0x5412;
    let request = |kind, request| allows(kind, &LOOSE, libc::SYS_ioctl, [3, request, 0, 0, 0, 0]);
    assert!(request(Kind::Vcpu, KVM_RUN) && !request(Kind::Vcpu, KVM_CREATE_VM));
    assert!(!request(Kind::Events, KVM_RUN) && request(Kind::Keeper, KVM_CREATE_VM));
    for kind in Kind::ALL {
        assert!(!request(kind, TIOCSTI) && !request(kind, 0));
    }
}

#[test]
fn sockets_are_those_that_the_program_is_granted() {
    let socket =
        |policy, family| asked(Kind::Vcpu, policy, libc::SYS_socket, [family, 1, 0, 0, 0, 0]);
    let refused = SECCOMP_RET_ERRNO | libc::EACCES.cast_unsigned();
    let [unix, inet, packet] = [1, 2, 17];
    assert_eq!(socket(&STRICT, unix), SECCOMP_RET_ALLOW);
    assert_eq!(socket(&STRICT, inet), refused);
    assert_eq!(socket(&LOOSE, inet), SECCOMP_RET_ALLOW);
    assert_eq!(socket(&LOOSE, packet), refused);
    for call in [libc::SYS_connect, libc::SYS_bind] {
        assert_eq!(asked(Kind::Vcpu, &STRICT, call, [0; 6]), refused);
        assert!(allows(Kind::Vcpu, &LOOSE, call, [0; 6]));
        assert_forbidden(Kind::Events, &STRICT, call, [0; 6]);
    }
}

#[test]
fn a_filter_of_the_event_loop_does_not_exist_where_it_makes_processes() {
    assert_eq!(Kind::of_events(&STRICT), Kind::Events);
    assert_eq!(Kind::of_events(&LOOSE), Kind::Keeper);
}

/// What a process inherits must be no obstacle for what it becomes.
#[test]
fn what_makes_processes_may_do_whatever_these_may() {
    let keeper = calls(Kind::Keeper, &LOOSE);
    for kind in Kind::ALL {
        for (call, verdict) in calls(kind, &LOOSE) {
            assert_eq!(keeper.get(&call), Some(&verdict), "{:?}", name(call as u64));
        }
    }
    for check in CHECKS.iter().filter(|check| !check.kinds.has(Kind::Keeper)) {
        // Its arguments are free there, or it is checked in a row of its own.
        assert!(keeper.contains_key(&check.call), "{:?}", name(check.call as u64));
    }
    let requests = |kind| {
        (0..0x1_0000).filter(move |request| {
            asked(kind, &LOOSE, libc::SYS_ioctl, [0, *request, 0, 0, 0, 0]) == SECCOMP_RET_ALLOW
        })
    };
    for kind in [Kind::Vcpu, Kind::Events] {
        for request in requests(kind) {
            assert!(allows(Kind::Keeper, &LOOSE, libc::SYS_ioctl, [0, request, 0, 0, 0, 0]));
        }
    }
}

#[test]
fn every_row_is_of_use_and_every_check_is_of_a_call_that_is_allowed() {
    for group in TABLE {
        assert!(!group.what.is_empty() && Kind::ALL.into_iter().any(|kind| group.kinds.has(kind)));
        for call in group.calls {
            let known = name(*call as u64).unwrap_or_else(|| panic!("{call} has no name"));
            let times = |other: &&super::table::Group| {
                other.kinds.0 & group.kinds.0 != 0 && other.when == When::Always
            };
            let always = TABLE.iter().filter(times).flat_map(|group| group.calls);
            let listed = always.filter(|other| *other == call).count();
            let exempt = [libc::SYS_setsid, libc::SYS_alarm].contains(call);
            assert!(listed <= 1 || exempt, "{known} is listed {listed} times");
        }
    }
    for check in CHECKS {
        let kinds = Kind::ALL.into_iter().filter(|kind| check.kinds.has(*kind));
        let mut allowed = kinds.map(|kind| calls(kind, &LOOSE).contains_key(&check.call));
        assert!(allowed.any(|allowed| allowed), "{:?}", name(check.call as u64));
    }
}

#[test]
fn the_kernel_takes_the_filters_and_a_run_of_the_guest_is_found_early() {
    for kind in Kind::ALL {
        for policy in [STRICT, LOOSE, Policy { mode: Confine::Log, ..LOOSE }] {
            // BPF_MAXINSNS.
            assert!(filter(kind, &policy, PID, u64::MAX).len() <= 4096, "{kind:?}");
        }
    }
    let code = filter(Kind::Vcpu, &LOOSE, PID, 0);
    let runs = code.iter().position(|insn| insn.k == 0xae80);
    assert!(runs.is_some_and(|at| at < 8), "{runs:?}");
}

#[test]
fn where_violations_are_told_they_pass_from_where_they_are_told() {
    let policy = Policy { mode: Confine::Log, ..STRICT };
    let at = 0x7f12_3456_789a_u64;
    let code = filter(Kind::Vcpu, &policy, PID, at);
    let mut data = [0; 16];
    (data[0], data[1]) = (libc::SYS_ptrace as u32, AUDIT_ARCH_X86_64);
    let told = SECCOMP_RET_TRAP | Kind::Vcpu as u32;
    assert_eq!(bpf::run(&code, &data), told);
    (data[2], data[3]) = (at as u32, (at >> 32) as u32);
    assert_eq!(bpf::run(&code, &data), SECCOMP_RET_ALLOW);
    data[3] += 1;
    assert_eq!(bpf::run(&code, &data), told);
    // What makes a process cannot be made by a handler.
    data[0] = libc::SYS_fork as u32;
    assert_eq!(bpf::run(&code, &data) & SECCOMP_RET_ACTION_FULL, libc::SECCOMP_RET_LOG);
}

#[test]
fn the_kernel_comes_to_the_end_of_a_filter_quickly_for_every_call() {
    // It takes each number through a filter when that is installed, at the start of every run.
    for kind in Kind::ALL {
        let code = filter(kind, &LOOSE, PID, 0);
        for number in 0..512 {
            let steps = bpf::steps(&code, number, AUDIT_ARCH_X86_64);
            assert!(steps <= 16, "{kind:?}: {steps} instructions for call {number}");
        }
    }
}
