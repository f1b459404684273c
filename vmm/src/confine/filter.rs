//! A filter for a kind of thread, made from the table.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use libc::{
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_LOG, SECCOMP_RET_TRAP, SYS_clone, SYS_clone3,
    SYS_fork, SYS_ioctl, SYS_vfork, c_long, sock_filter,
};

use super::bpf::{ADDRESS, ARCHITECTURE, Code, NUMBER, argument};
use super::table::{CHECKS, Check, TABLE, Value, Verdict, When};
use super::{Confine, Kind, Policy};

/// How the kernel calls the architecture of a call by `SYSCALL` (linux/audit.h).
pub(super) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// The calls that a kind of thread may make, each with whether that is so unconditionally.
pub(super) fn calls(kind: Kind, policy: &Policy) -> BTreeMap<c_long, Verdict> {
    let mut calls = BTreeMap::new();
    for group in TABLE.iter().filter(|group| group.kinds.has(kind)) {
        let verdict = match group.when {
            when if when.holds(policy) => Verdict::Allow,
            When::Sockets => Verdict::Fail(libc::EACCES),
            _ => continue,
        };
        for call in group.calls {
            let known = calls.entry(*call).or_insert(verdict);
            if verdict == Verdict::Allow {
                *known = verdict;
            }
        }
    }
    calls
}

impl When {
    fn holds(self, policy: &Policy) -> bool {
        match self {
            When::Always => true,
            When::Sockets => policy.sockets,
            When::Network => policy.network,
            When::Children => policy.children,
        }
    }
}

/// The filter for `kind` in process `pid`. If violations are only told, calls made at `told_at` pass.
pub(super) fn filter(kind: Kind, policy: &Policy, pid: u32, told_at: u64) -> Vec<sock_filter> {
    // Who violates it is told by the signal's information.
    let forbid = SECCOMP_RET_TRAP | kind as u32;
    let mut code = Code::default();
    code.load(ARCHITECTURE);
    let mut known = Code::default();
    if policy.mode == Confine::Log {
        let halves = [told_at as u32, (told_at >> 32) as u32];
        let mut pass = Code::default();
        pass.result(SECCOMP_RET_ALLOW);
        let mut high = Code::default();
        high.load(ADDRESS + 4);
        high.if_equal(halves[1], &pass);
        known.load(ADDRESS);
        known.if_equal(halves[0], &high);
    }
    known.load(NUMBER);
    let calls = calls(kind, policy);
    let [mut allowed, mut forbidden] = [Code::default(), Code::default()];
    allowed.result(SECCOMP_RET_ALLOW);
    forbidden.result(forbid);
    // What ends otherwise.
    let mut own: BTreeMap<u32, Code> = BTreeMap::new();
    for (call, verdict) in &calls {
        if let Verdict::Fail(_) = verdict {
            let mut fail = Code::default();
            fail.result(result(*verdict, forbid));
            own.insert(*call as u32, fail);
        }
    }
    for check in CHECKS.iter().filter(|check| check.kinds.has(kind)) {
        let Some(Verdict::Allow) = calls.get(&check.call) else { continue };
        let forbid = match policy.mode {
            // What makes a process or a thread cannot be made on its behalf.
            Confine::Log if is_clone(check.call) => SECCOMP_RET_LOG,
            _ => forbid,
        };
        let code = answers(check, policy, pid, forbid);
        if check.call == SYS_ioctl {
            // The one that runs the guest is asked for before all others.
            known.if_equal(SYS_ioctl as u32, &code);
        } else {
            own.insert(check.call as u32, code);
        }
    }
    if policy.mode == Confine::Log {
        let mut logged = Code::default();
        logged.result(SECCOMP_RET_LOG);
        for call in [SYS_fork, SYS_vfork, SYS_clone, SYS_clone3] {
            if !calls.contains_key(&call) {
                own.insert(call as u32, logged.clone());
            }
        }
    }
    // One search for all of them: the kernel takes each number through the filter when it is installed, which
    // is most of what confinement costs at start. The last is the number of no call, which a debugger gives to
    // one that is not to be made (ptrace(2)).
    let numbers = calls.keys().map(|call| *call as u32).chain(own.keys().copied());
    let numbers: BTreeSet<u32> = numbers.chain([u32::MAX]).collect();
    let cases = numbers.iter().map(|number| (*number, own.get(number).unwrap_or(&allowed)));
    known.select(&cases.collect::<Vec<_>>(), &forbidden);
    code.if_equal(AUDIT_ARCH_X86_64, &known);
    code.result(SECCOMP_RET_TRAP | kind as u32);
    code.0
}

fn is_clone(call: c_long) -> bool {
    [SYS_clone, SYS_clone3, SYS_fork, SYS_vfork].contains(&call)
}

fn result(verdict: Verdict, forbid: u32) -> u32 {
    match verdict {
        Verdict::Allow => SECCOMP_RET_ALLOW,
        Verdict::Fail(errno) => SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        Verdict::Forbid => forbid,
    }
}

fn answers(check: &Check, policy: &Policy, pid: u32, forbid: u32) -> Code {
    let mut code = Code::default();
    for question in check.questions.iter().filter(|question| question.when.holds(policy)) {
        let mut yes = Code::default();
        yes.result(result(question.then, forbid));
        code.load(argument(question.argument));
        if question.mask != u32::MAX {
            code.mask(question.mask);
        }
        match question.value {
            Value::Is(value) => code.if_equal(value, &yes),
            Value::OwnPid => code.if_equal(pid, &yes),
            Value::OneOf(values) => code.if_one_of(values, &yes),
        }
    }
    code.result(result(check.otherwise, forbid));
    code
}
