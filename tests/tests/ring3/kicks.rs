//! Kicks make a vCPU exit, wherever it is, and change nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use abi::call::{CALL_HYPER_NULL, CALL_NULL};
use tests::{pace, skip_without_kvm};
use vmm::vm::kick::HostTid;
use vmm::vm::{Exit, kick};

use crate::bench::{Bench, CODE, SYSCALL, call_page, marked, mov_eax};
use crate::switch::{PLACE, switch_to};
use crate::switch_locks::Locked;

/// Kicks a thread, once it has said which, at varying intervals, until `done`; returns how often.
fn kick_until(tid: &OnceLock<HostTid>, done: &AtomicBool) -> u64 {
    let mut kicks = 0;
    while !done.load(Ordering::Relaxed) {
        if let Some(tid) = tid.get() {
            kick::kick(*tid);
            kicks += 1;
        }
        for _ in 0..kicks * 37 % 4001 {
            std::hint::spin_loop();
        }
    }
    kicks
}

#[test]
fn a_kick_gets_a_spinning_vcpu_out_and_it_goes_on_where_it_was() {
    skip_without_kvm!();
    let (tid, done) = (OnceLock::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bench = Bench::new();
            let armed = bench.vcpu.arm();
            // 1: inc rbx; jmp 1b
            bench.load(&[0x48, 0xff, 0xc3, 0xeb, 0xfb]);
            let (mut last, start) = (bench.vcpu.regs.rbx, Instant::now());
            tid.set(HostTid::own()).unwrap();
            let mut advanced = 0;
            for _ in 0..300 {
                let exit = bench.vcpu.run().unwrap();
                if let Exit::Exception { vector: 14, .. } = exit {
                    continue;
                }
                assert!(matches!(exit, Exit::Kicked), "{exit:x?}");
                let regs = bench.vcpu.regs;
                assert!([CODE, CODE + 3].contains(&regs.rip), "{:#x}", regs.rip);
                assert!(regs.rbx >= last);
                advanced += u32::from(regs.rbx > last);
                last = regs.rbx;
                let mut same = marked(regs.rip);
                (same.rbx, same.rflags) = (regs.rbx, regs.rflags);
                assert_eq!(regs, same);
            }
            done.store(true, Ordering::Relaxed);
            assert!(advanced > 10, "it hardly ran: {advanced} in {:?}", start.elapsed());
            drop(armed);
        });
        let kicks = kick_until(&tid, &done);
        assert!(kicks >= 200, "{kicks}");
    });
}

#[test]
fn a_kick_before_the_vcpu_runs_is_not_lost() {
    skip_without_kvm!();
    let mut bench = Bench::new();
    let armed = bench.vcpu.arm();
    for _ in 0..pace::times(100) {
        bench.load(&[0xeb, 0xfe]);
        kick::kick(HostTid::own());
        // Without the kick this would spin forever: a watchdog makes it a failure.
        let began = Instant::now();
        let stop = AtomicBool::new(false);
        let me = HostTid::own();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    if began.elapsed() > pace::limit(Duration::from_secs(5)) {
                        kick::kick(me);
                    }
                }
            });
            let exit = bench.vcpu.run().unwrap();
            stop.store(true, Ordering::Relaxed);
            assert!(matches!(exit, Exit::Kicked | Exit::Exception { vector: 14, .. }), "{exit:x?}");
        });
        assert!(began.elapsed() < pace::limit(Duration::from_secs(5)), "the kick was lost");
    }
    drop(armed);
}

/// Runs a loop of `middle` for `rounds` rounds under a stream of kicks. Each round must be executed
/// exactly once, with the right registers.
fn rain(middle: Vec<u8>, rounds: u64, served: impl Fn(&Exit) -> bool + Sync) {
    rain_on(Bench::new, middle, rounds, served);
}

/// As [`rain`], on a bench of the caller's.
fn rain_on(
    bench: impl FnOnce() -> Bench + Send,
    middle: Vec<u8>,
    rounds: u64,
    served: impl Fn(&Exit) -> bool + Sync,
) {
    let (tid, done, kicked) = (OnceLock::new(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _done = Done(&done);
            let mut bench = bench();
            let armed = bench.vcpu.arm();
            // 1: middle; add r15, rax; inc r12; dec rbx; jnz 1b; ud2
            let tail = [0x49, 0x01, 0xc7, 0x49, 0xff, 0xc4, 0x48, 0xff, 0xcb, 0x0f, 0x85];
            let mut code = [&middle[..], &tail].concat();
            code.extend_from_slice(&(-(code.len() as i32) - 4).to_le_bytes());
            code.extend_from_slice(&[0x0f, 0x0b]);
            bench.load(&code);
            (bench.vcpu.regs.rbx, bench.vcpu.regs.r12, bench.vcpu.regs.r15) = (rounds, 0, 0);
            let mut calls = 0;
            tid.set(HostTid::own()).unwrap();
            let frame = loop {
                match bench.vcpu.run().unwrap() {
                    Exit::Kicked | Exit::KickedInKernel => {
                        kicked.fetch_add(1, Ordering::Relaxed);
                    }
                    Exit::Exception { vector: 6, frame, .. } => break frame,
                    Exit::Exception { vector: 14, frame, address } => {
                        use vmm::access::{FaultCause, FaultOutcome::Resolved};
                        let outcome = bench.private.fault(address, FaultCause::of(frame.error));
                        assert_eq!(outcome, Resolved, "{frame:x?} {address:#x}");
                    }
                    exit if served(&exit) => {
                        calls += 1;
                        assert_eq!(bench.vcpu.regs.r12 + 1, calls, "a call was made twice or lost");
                        bench.vcpu.regs.rax = 3;
                    }
                    other => panic!("{other:x?} in round {}", bench.vcpu.regs.r12),
                }
            };
            let regs = bench.vcpu.regs;
            assert_eq!(frame.rip, CODE + code.len() as u64 - 2);
            assert_eq!((regs.rbx, regs.r12), (0, rounds));
            let each = if calls == 0 { 0 } else { 3 };
            assert_eq!((regs.r15, regs.rsp), (rounds * each, marked(0).rsp));
            assert_eq!((regs.rdi, regs.r14), (marked(0).rdi, marked(0).r14));
            drop(armed);
        });
        let kicks = kick_until(&tid, &done);
        assert!(kicks > 10, "{kicks}");
    });
    assert!(kicked.load(Ordering::Relaxed) > 0, "no kick met the vCPU running");
}

#[test]
fn ten_thousand_linux_calls_under_a_rain_of_kicks_are_each_made_once() {
    skip_without_kvm!();
    rain(SYSCALL.to_vec(), u64::from(pace::times(10_000)), |exit| matches!(exit, Exit::Syscall(_)));
}

#[test]
fn ten_thousand_null_calls_under_a_rain_of_kicks_are_each_made_once() {
    skip_without_kvm!();
    // The kernel may clobber the caller-saved registers; RDI is restored for the comparison.
    let rdi = [&[0x48, 0xbf][..], &marked(0).rdi.to_le_bytes()].concat();
    rain([mov_eax(CALL_NULL), call_page(), rdi].concat(), u64::from(pace::times(10_000)), |_| {
        false
    });
}

#[test]
fn thousands_of_switches_under_a_rain_of_kicks_are_each_made_once() {
    skip_without_kvm!();
    // Without locks, with two, with one of them, without, home. Each time [rbp] must be the
    // instance's word there.
    let locked = Locked::new(2, &[&[], &[(0, true), (1, false)], &[(0, true)]]);
    let switch = locked.s.bench.kernel.switch.clone();
    let rbp = [&[0x48, 0xbd][..], &PLACE.to_le_bytes()].concat();
    let mut middle = rbp;
    for vh in [1, 2, 3, 1] {
        middle.extend(switch_to(vh));
        // cmp qword [rbp], 0x1111 vh; je +2; ud2
        middle.extend([0x48, 0x81, 0x7d, 0]);
        middle.extend((0x1111 * vh).to_le_bytes());
        middle.extend([0x74, 0x02, 0x0f, 0x0b]);
    }
    middle.extend(switch_to(0));
    middle.extend([&[0x48, 0xbf][..], &marked(0).rdi.to_le_bytes()].concat());
    rain_on(|| locked.s.bench, middle, u64::from(pace::times(3000)), |_| false);
    assert_eq!(switch.held_locks(0).unwrap().1, 0);
    assert_eq!(switch.vcpus_in(0).unwrap(), [0]);
}

#[test]
fn thousands_of_hypercalls_under_a_rain_of_kicks_are_each_made_once() {
    skip_without_kvm!();
    rain(
        [mov_eax(CALL_HYPER_NULL), call_page()].concat(),
        u64::from(pace::times(10_000)),
        |exit| matches!(exit, Exit::Call(_)),
    );
}
